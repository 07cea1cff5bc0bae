"""The arrows of the design, read from the sources: who may import whom, and who may do what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = "robustbench_lite"

# Room -> the rooms that it imports, all of them and no other. `attacks/`, `defenses/` and
# `leaderboard/` are rooms, and so is each folder and loose module in `robustbench_lite/`.
ARROWS = {
    "core": "",
    "attacks": "core",
    "datasets": "core",
    "models": "core",
    "leaderboard": "core",
    "defenses": "attacks core",
    "verifier": "attacks core",
    "checkpoints": "core models",
    "training": "attacks checkpoints core datasets defenses models verifier",
    "evaluation": "attacks checkpoints core datasets defenses leaderboard verifier",
    "transfer": "attacks checkpoints core datasets leaderboard verifier",
    "detection": "attacks checkpoints core datasets leaderboard",
    "selftest": "attacks checkpoints core datasets verifier",
    "reproduction": "attacks checkpoints core datasets evaluation leaderboard training",
    "submission": "attacks checkpoints core datasets evaluation leaderboard models verifier",
    "api": "attacks checkpoints core datasets defenses evaluation leaderboard verifier",
    "export": "checkpoints core leaderboard",
    "cli": (
        "attacks checkpoints core datasets defenses detection evaluation export leaderboard models "
        "reproduction selftest submission training transfer"
    ),
    "__main__": "cli core",
}
OUTSIDE = {"__init__"}  # loads everything by name, on first use; only its version is imported
# The only files that may touch the global generators, each of which restores or scopes them.
MAY_SEED = {
    "robustbench_lite/core/random_numbers.py",  # its `seeded`
    "robustbench_lite/core/numerics.py",
    "robustbench_lite/training/loop.py",
    "robustbench_lite/transfer/measurement.py",
}
ADAPTERS = {
    "attacks/adapters/torchattacks.py": {"torchattacks"},
    "attacks/adapters/pyautoattack.py": {"pyautoattack"},
}
ATTACK_PACKAGES = {
    *("torchattacks", "pyautoattack", "autoattack", "robustbench", "foolbox", "art"),
    *("adv_lib", "advertorch", "cleverhans"),
}
GLOBAL_SEED = re.compile(r"torch(\.\w+)*\.(manual_seed|manual_seed_all|seed)")
MODULE_NAME = re.compile(rf"{OURS}(\.\w+)+(:\w+)?")


def _files() -> list[str]:
    tops = ("robustbench_lite", "attacks", "defenses", "leaderboard")
    paths = [path for top in tops for path in (ROOT / top).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


def violations(source: str, file: str) -> list[str]:
    """Every rule that a file breaks, one line each; functions' own imports count too."""
    tree = ast.parse(source)
    found = [*_imports(tree, file), *_uses(tree, file)]
    return [f"{file}:{line}: {what}" for line, what in found]


def _imports(tree: ast.Module, file: str) -> Iterator[tuple[int, str]]:
    here = room(file)
    allowed = {here, "__version__", *ARROWS.get(here, "").split()}
    for line, name in _imported_names(tree):
        first = name.split(".")[0]
        if first == "":
            yield line, "relative import: attacks/ is mapped, so write the whole name"
        elif first == OURS and here not in OUTSIDE and (there := _target(name)) not in allowed:
            yield line, f"{here} must not import {there}"
        elif first in ATTACK_PACKAGES and first not in ADAPTERS.get(file, ()):
            yield line, f"{first} belongs in its adapter"


def room(file: str) -> str:
    """The room of a file: `attacks` of `attacks/first_order/pgd.py`, `verifier` of its module."""
    return next(part for part in Path(file).with_suffix("").parts if part != OURS)


def _target(name: str) -> str:
    """The room that a dotted name of ours lies in, or the name of what the package exports."""
    return ".".join(name.split(".")[1:2]) or OURS


def _arrows(files: list[str]) -> dict[str, str]:
    """Room -> the rooms that its files import."""
    found: dict[str, set[str]] = {room(file): set() for file in files}
    for file in files:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        ours = {name for _, name in _imported_names(tree) if name.startswith(f"{OURS}.")}
        found[room(file)] |= {_target(name) for name in ours} - {room(file), "__version__"}
    return {name: " ".join(sorted(rooms)) for name, rooms in found.items() if name not in OUTSIDE}


def _imported_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Dotted names of imports, and strings that name a module of ours, as registries hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and MODULE_NAME.fullmatch(str(node.value)):
            yield node.lineno, str(node.value).partition(":")[0]


def _uses(tree: ast.Module, file: str) -> Iterator[tuple[int, str]]:
    for line, name in _used_names(tree):
        if name == "sys.path":
            yield line, "sys.path"
        elif name == "print" and not file.startswith("robustbench_lite/cli/"):
            yield line, "print: log, or leave it to the command line"
        elif GLOBAL_SEED.fullmatch(name) and file not in MAY_SEED:
            yield line, f"{name}: take a seed or a torch.Generator"


def _used_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.lineno, _dotted(node)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _dotted(node: ast.expr) -> str:
    """`torch.cuda.manual_seed` for that chain; "" when it starts with anything but a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = _dotted(node.value)
        return f"{start}.{node.attr}" if start else ""
    return ""


@pytest.mark.parametrize("file", _files())
def test_a_file_keeps_to_its_layer(file: str) -> None:
    assert violations((ROOT / file).read_text(encoding="utf-8"), file) == []


def test_the_arrows_between_rooms_are_all_drawn_and_point_down() -> None:
    assert _arrows(_files()) == ARROWS
    below: set[str] = set()
    for name, rooms in ARROWS.items():  # listed from the lowest up, so there is no circle
        assert below.issuperset(rooms.split()), name
        below.add(name)


def test_the_lists_of_exceptions_name_files_that_exist_and_need_them() -> None:
    for file in MAY_SEED:
        assert "manual_seed(" in (ROOT / file).read_text(encoding="utf-8"), file
    for file, packages in ADAPTERS.items():
        source = (ROOT / file).read_text(encoding="utf-8")
        assert {name.split(".")[0] for _, name in _imported_names(ast.parse(source))} >= packages


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("attacks/a.py", "from robustbench_lite.training.loop import train"),
        ("attacks/a.py", "from robustbench_lite import training"),
        ("attacks/a.py", "import robustbench_lite"),
        (
            "attacks/a.py",
            "def f():\n    from robustbench_lite.defenses.methods.trades import Trades",
        ),
        ("attacks/a.py", "X = 'robustbench_lite.defenses.methods.trades:Trades'"),
        ("attacks/a.py", "from robustbench_lite.attacks_of_another import x"),
        ("attacks/a.py", "from . import pgd"),
        ("attacks/a.py", "from .pgd import pgd"),
        ("defenses/d.py", "import robustbench_lite.leaderboard.table.build"),
        ("defenses/d.py", "from robustbench_lite.models import build_model"),
        ("leaderboard/l.py", "from robustbench_lite.attacks.protocol import Protocol"),
        ("robustbench_lite/r.py", "import torchattacks"),
        ("robustbench_lite/cli/r.py", "def f():\n    import torchattacks"),
        ("attacks/adapters/torchattacks.py", "import pyautoattack"),
        ("attacks/adapters/pyautoattack.py", "from autoattack import AutoAttack"),
        ("robustbench_lite/r.py", "import sys\nsys.path.append('x')"),
        ("robustbench_lite/r.py", "from sys import path"),
        ("robustbench_lite/r.py", "print('x')"),
        ("robustbench_lite/client.py", "log = print"),
        ("defenses/d.py", "import torch\ntorch.manual_seed(0)"),
        ("defenses/d.py", "import torch\ntorch.cuda.manual_seed_all(0)"),
        ("defenses/d.py", "from torch import manual_seed"),
    ],
)
def test_a_breach_is_found(file: str, source: str) -> None:
    assert len(violations(source, file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("attacks/a.py", "from robustbench_lite.attacks.first_order.pgd import pgd"),
        ("attacks/a.py", "import robustbench_lite.attacks"),
        ("attacks/a.py", '"""Not for robustbench_lite.training.loop."""'),
        ("defenses/d.py", "from robustbench_lite.attacks import pgd"),
        ("leaderboard/l.py", "from robustbench_lite.leaderboard.table.build import Table"),
        ("robustbench_lite/cli/e.py", "from robustbench_lite.leaderboard import build_table"),
        ("robustbench_lite/core/c.py", "from robustbench_lite import __version__"),
        ("attacks/adapters/torchattacks.py", "import torch, torchattacks"),
        ("robustbench_lite/core/random_numbers.py", "import torch\ntorch.manual_seed(0)"),
        ("robustbench_lite/cli/c.py", "print('x')"),
        ("defenses/d.py", "import torch\ng = torch.Generator().manual_seed(0)\ng.manual_seed(1)"),
        ("robustbench_lite/r.py", "import sys\nsys.modules, sys.stderr"),
    ],
)
def test_no_breach_is_found_where_there_is_none(file: str, source: str) -> None:
    assert violations(source, file) == []
