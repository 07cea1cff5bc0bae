"""A factory's folder and the current folder are importable, and only for their own code."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model

NET = """
from torch import nn
def load():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {k}))
"""


def project(folder: Path, classes: int, package: str = "models") -> Path:
    """An author's repository: `my_net.py` at its root imports `models/net.py`."""
    (folder / package).mkdir(parents=True)
    (folder / package / "net.py").write_text(NET.format(k=classes))
    (folder / "my_net.py").write_text(f"from {package}.net import load\n")
    return folder


def resolve(spec: object) -> LoadedModel:
    return resolve_model(str(spec), allow_code=True, device="cpu")


def classes(loaded: LoadedModel) -> int:
    return loaded.model(torch.rand(2, 1, 8, 8)).shape[1]


@pytest.mark.parametrize("init", [True, False])
def test_a_file_imports_what_lies_beside_it(init: bool, tmp_path: Path) -> None:
    project(tmp_path, 10)
    if init:
        (tmp_path / "models" / "__init__.py").touch()
    assert classes(resolve(f"{tmp_path}/my_net.py:load")) == 10
    assert "models" not in sys.modules
    assert "models.net" not in sys.modules


def test_a_package_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, 10))
    assert classes(resolve("models.net:load")) == 10
    assert "models" not in sys.modules


def test_two_folders_with_the_same_names_stay_apart(tmp_path: Path) -> None:
    for k in (3, 5):
        project(tmp_path / str(k), k)
    one, two = (resolve(tmp_path / str(k) / "my_net.py:load") for k in (3, 5))
    assert (classes(one), classes(two)) == (3, 5)
    assert one.hash != two.hash


def test_a_module_of_the_same_name_comes_back_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = project(tmp_path / "other", 7, "rbl_test_models")
    monkeypatch.syspath_prepend(other)
    import rbl_test_models.net as installed  # type: ignore[import-not-found]

    mine = project(tmp_path / "mine", 3, "rbl_test_models")
    (mine / "rbl_test_models" / "__init__.py").touch()
    try:
        assert classes(resolve(mine / "my_net.py:load")) == 3
        assert sys.modules["rbl_test_models.net"] is installed
    finally:
        for name in ("rbl_test_models.net", "rbl_test_models"):
            del sys.modules[name]


def test_what_python_finds_itself_stays_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path, 4, "rbl_test_found"))
    (tmp_path / "rbl_test_found" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert classes(resolve("rbl_test_found.net:load")) == 4
    assert sys.modules.pop("rbl_test_found.net") is not None
    del sys.modules["rbl_test_found"]


def test_a_forward_pass_imports_from_the_folder_too(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("K = 6\n")
    (tmp_path / "my_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x):\n"
        "        from late import K\n"
        "        return x.flatten(1)[:, :K]\n"
    )
    loaded = resolve(tmp_path / "my_net.py:Net")
    assert classes(loaded) == 6
    assert copy.deepcopy(loaded.model)(torch.rand(2, 1, 8, 8)).shape == (2, 6)
    assert "late" not in sys.modules


def test_nothing_of_python_or_torch_is_shadowed(tmp_path: Path) -> None:
    for name in ("random", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    (tmp_path / "my_net.py").write_text("import random, torch, numpy\n" + NET.format(k=2))
    assert classes(resolve(tmp_path / "my_net.py:load")) == 2


def test_a_failed_import_leaves_the_import_system_as_it_was(tmp_path: Path) -> None:
    project(tmp_path, 3)
    (tmp_path / "models" / "net.py").write_text("import no_such_module_of_ours\n")
    before = list(sys.meta_path)
    with pytest.raises(ValueError, match="No module named 'no_such_module_of_ours'"):
        resolve(tmp_path / "my_net.py:load")
    assert sys.meta_path == before
    assert "models" not in sys.modules


def test_the_console_script_finds_the_current_folder(tmp_path: Path) -> None:
    """`rbl` has its own folder on Python's path, not the current one."""
    project(tmp_path, 10)
    code = (
        "from robustbench_lite import resolve_model\n"
        "print(resolve_model('models.net:load', allow_code=True, device='cpu').name)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "models.net:load\n", done.stderr
