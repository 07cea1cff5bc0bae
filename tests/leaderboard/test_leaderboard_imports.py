from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import robustbench_lite.leaderboard as leaderboard

HEAVY = ("torch", "pandas", "scipy", "jinja2", "matplotlib", "numpy")
FOLDER = Path(leaderboard.__file__).parent
FILES = sorted(file.relative_to(FOLDER) for file in FOLDER.rglob("*.py"))


def _loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert _loaded_after("import robustbench_lite.leaderboard") == set()


def test_importing_every_module_loads_numpy_at_most() -> None:
    names = [".".join(file.with_suffix("").parts) for file in FILES if file.name != "__init__.py"]
    assert len(names) > 30
    imports = [f"import robustbench_lite.leaderboard.{name}" for name in names]
    assert _loaded_after("\n".join(imports)) <= {"numpy"}


def test_using_everything_never_loads_torch() -> None:
    statement = (
        "from robustbench_lite.leaderboard import *\n"
        "render(build_table([]), 'markdown'); render_page([], title='x'); accuracy(1, 2)"
    )
    assert "torch" not in _loaded_after(statement)


def test_every_name_is_exported_and_listed() -> None:
    for name in leaderboard.__all__:
        assert getattr(leaderboard, name).__name__ == name
    assert set(leaderboard.__all__) <= set(dir(leaderboard))
    with pytest.raises(AttributeError, match="no_such_name"):
        leaderboard.no_such_name  # noqa: B018


@pytest.mark.parametrize("file", FILES, ids=str)
def test_modules_import_only_themselves_and_the_allowed(file: Path) -> None:
    libraries = {"numpy", "pandas", "scipy", "jinja2", "markupsafe", "msgspec"}
    allowed = {*libraries, *sys.stdlib_module_names}
    late = {"pyarrow", "matplotlib"}  # to read examples.parquet, and for plots
    tree = ast.parse((FOLDER / file).read_text())
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [str(node.module)]
        for name in names:
            own = name.startswith(("robustbench_lite.leaderboard.", "robustbench_lite.core."))
            lazily = node not in tree.body and name.split(".")[0] in late
            assert own or lazily or name.split(".")[0] in allowed
