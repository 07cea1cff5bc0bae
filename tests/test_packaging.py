"""What an installed package must hold and must not load: setup.cfg, constraints and imports."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TOPS = ("robustbench_lite", "attacks", "defenses", "leaderboard")
DATA_SUFFIXES = {".toml", ".j2", ".css", ".js", ".csv"}
HEAVY = ("torch", "torchattacks", "pyautoattack", "torchvision", "matplotlib", "pyarrow")

# Modules whose distribution we do not list, because one that we do list cannot work without it.
BROUGHT_BY = {"urllib3": "requests", "markupsafe": "jinja2"}

FORBIDDEN = re.compile(
    r"sys\.path\.insert|^[ \t]*(import|from)[ \t]+"
    r"(attacks|defenses|leaderboard|torchvision|timm|torchmetrics|lightning|lightning_fabric"
    r"|pytorch_lightning|robustbench|autoattack)\b",
    re.MULTILINE,
)


def _setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def _lines(section: str, option: str) -> list[str]:
    return _setup()[section][option].split("\n")[1:]


def _mapping() -> dict[str, Path]:
    pairs = (line.split("=") for line in _lines("options", "package_dir"))
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


def _folder_of(package: str) -> Path:
    """Where setup.cfg's package_dir puts a package: its own line or its nearest parent's."""
    mapping, rest = _mapping(), []
    name = package
    while name not in mapping:
        name, _, last = name.rpartition(".")
        rest.insert(0, last)
    return mapping[name].joinpath(*rest)


def _package_of(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "robustbench_lite" else ("robustbench_lite", *parts))


def _source_files() -> list[Path]:
    files = [file for top in TOPS for file in (ROOT / top).rglob("*.py")]
    return sorted(file for file in files if "__pycache__" not in file.parts)


def _modules() -> list[str]:
    names = []
    for file in _source_files():
        if file.name == "__main__.py":
            continue
        package = _package_of(file.parent)
        names.append(package if file.name == "__init__.py" else f"{package}.{file.stem}")
    return names


def _requirements(*extras: str) -> list[Requirement]:
    lines = _lines("options", "install_requires")
    for extra in extras:
        lines += _lines("options.extras_require", extra)
    return [Requirement(line) for line in lines]


def _pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def _run(code: str, *options: str, cwd: Path | None = None) -> str:
    """What a fresh interpreter prints; the checkout is on its path."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what setup.cfg ships ------------------------------------------------------------------------


def test_every_folder_with_modules_is_a_listed_package() -> None:
    folders = {_package_of(file.parent) for file in _source_files()}
    listed = _lines("options", "packages")
    assert len(listed) == len(set(listed))
    assert set(listed) == folders


def test_every_package_is_mapped_to_its_folder_and_has_an_init_file() -> None:
    for package in _lines("options", "packages"):
        folder = _folder_of(package)
        assert (folder / "__init__.py").is_file(), package
        assert _package_of(folder) == package


def test_every_data_file_is_covered_by_package_data() -> None:
    covered = {
        file
        for package, patterns in _setup()["options.package_data"].items()
        for pattern in patterns.split(",")
        for file in _folder_of(package).glob(pattern.strip())
    }
    shipped = {
        file for top in TOPS for file in (ROOT / top).rglob("*") if file.suffix in DATA_SUFFIXES
    }
    assert len(shipped) > 5
    assert shipped - covered == set()
    assert ROOT / "robustbench_lite" / "py.typed" in covered


# -- what our sources may not say ----------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.path.insert(0, '.')",
        "import attacks",
        "from attacks.pgd import pgd",
        "def f():\n    import torchvision.transforms",
        "from robustbench.utils import load_model",
        "import autoattack",
        "from timm import create_model",
    ],
)
def test_the_search_for_forbidden_imports_finds(source: str) -> None:
    assert FORBIDDEN.search(source)


@pytest.mark.parametrize(
    "source",
    [
        "from robustbench_lite.attacks.first_order.pgd import pgd",
        "import robustbench_lite",
        "from pyautoattack import AutoAttack",
        "import torchattacks",
        "attacks = 3",
    ],
)
def test_the_search_for_forbidden_imports_leaves_alone(source: str) -> None:
    assert not FORBIDDEN.search(source)


def test_no_source_file_has_a_forbidden_import() -> None:
    ours = [*_source_files(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}: {match.group().strip()}"
        for file in ours
        if file != Path(__file__)
        for match in FORBIDDEN.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_imported_package_is_a_declared_requirement() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in _requirements()}
    for dependency, parent in BROUGHT_BY.items():
        assert canonicalize_name(parent) in declared
        needs = [Requirement(line) for line in importlib.metadata.requires(parent) or []]
        assert dependency in {canonicalize_name(need.name) for need in needs if not need.marker}
    owners = importlib.metadata.packages_distributions()
    undeclared = {}
    for file in _source_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for top in {name.split(".")[0] for name in names}:
                if top in sys.stdlib_module_names or top in {"robustbench_lite", *BROUGHT_BY}:
                    continue
                if not {canonicalize_name(owner) for owner in owners.get(top, [])} & declared:
                    undeclared[top] = str(file.relative_to(ROOT))
    assert undeclared == {}


# -- what importing loads ------------------------------------------------------------------------


def test_every_module_imports_without_torchvision() -> None:
    modules = _modules()
    assert len(modules) > 40
    code = (
        "import importlib, sys\n"
        "sys.modules['torchvision'] = None\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print('imported')"
    )
    assert _run(code) == "imported\n"


def test_listing_configuring_and_help_load_nothing_heavy() -> None:
    """One process: what an earlier step loaded, a later one would be blamed for, so stop there."""
    code = f"""
import contextlib, io, json, sys
heavy = lambda: [name for name in {HEAVY!r} if name in sys.modules]
loaded = {{}}
for module in (
    "robustbench_lite", "robustbench_lite.leaderboard", "robustbench_lite.cli",
    "robustbench_lite.attacks.protocol", "robustbench_lite.training.recipe",
):
    __import__(module)
    loaded[module] = heavy()
from robustbench_lite.cli import main
for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments)
    loaded[" ".join(arguments)] = heavy()
for kind in ("defenses", "attacks", "datasets", "protocols", "recipes", "models"):
    with contextlib.redirect_stdout(io.StringIO()) as listed:
        assert main(["list", kind]) == 0
    assert listed.getvalue().strip()
    loaded[f"list {{kind}}"] = heavy()
print(json.dumps(loaded))
"""
    loaded = json.loads(_run(code))
    assert len(loaded) == 14
    assert {step: modules for step, modules in loaded.items() if modules} == {}


def test_help_exits_0_and_a_wrong_command_2() -> None:
    for arguments, code in ((["--help"], 0), (["no-such-command"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "robustbench_lite", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert bool(done.stdout) == (code == 0)


# -- constraints ---------------------------------------------------------------------------------


def test_constraints_pin_every_requirement_and_extra_within_its_range() -> None:
    pins = {canonicalize_name(name): version for name, version in _pins().items()}
    extras = _setup()["options.extras_require"]
    for requirement in _requirements(*extras):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pins[name]), requirement


def _installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def test_constraints_pin_what_the_requirements_bring_along() -> None:
    """Over what is installed here; CUDA builds of torch pin their own libraries exactly."""
    pins = {canonicalize_name(name) for name in _pins()}
    extras = [
        extra
        for extra in _setup()["options.extras_require"]
        if extra != "audit" and all(_installed(one.name) for one in _requirements(extra))
    ]
    waiting = [requirement.name for requirement in _requirements(*extras)]
    seen: set[str] = set()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    assert len(seen) > 30
    assert seen - pins == set()


def test_the_two_chosen_pins_are_spelled_as_chosen() -> None:
    assert _pins()["torch"] == "2.13.0"  # no +cpu: a CUDA build must satisfy it too
    assert _pins()["torchattacks"] == "3.3.0"  # 3.5.x declares requests 2.25.1 and torchvision


def test_the_page_on_dependencies_has_a_row_with_the_pin_of_each() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w.-]+) \| (\d[\w.]*) \|", text, re.MULTILINE))
    pins = {canonicalize_name(name): version for name, version in _pins().items()}
    for requirement in _requirements(*_setup()["options.extras_require"]):
        assert requirement.name in rows, f"docs/dependencies.md lacks {requirement.name}"
    assert {name: pins[name] for name in rows} == rows
    for name, version in re.findall(r"\b(setuptools|filelock)\s(\d\S+\d)", text):
        assert pins[canonicalize_name(name)] == version


# -- the checkout's shim -------------------------------------------------------------------------


def test_a_bare_checkout_imports_the_mapped_packages(tmp_path: Path) -> None:
    """-S: without site-packages, so no installed or editable copy can help."""
    code = (
        "import robustbench_lite.attacks.catalogue as a, robustbench_lite.defenses.catalogue as d\n"
        "import robustbench_lite.leaderboard as l\n"
        "print(a.__file__, d.__file__, l.__file__, sep='\\n')"
    )
    found = _run(code, "-S", cwd=tmp_path).split()
    assert [Path(file).parent for file in found] == [ROOT / top for top in TOPS[1:]]


def test_without_setup_cfg_beside_it_the_package_looks_nowhere_else(tmp_path: Path) -> None:
    package = tmp_path / "robustbench_lite"
    package.mkdir()
    (package / "__init__.py").write_text((ROOT / "robustbench_lite" / "__init__.py").read_text())
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        "import robustbench_lite; print(*robustbench_lite.__path__)"
    )
    assert _run(code, "-S").split() == [str(package)]
