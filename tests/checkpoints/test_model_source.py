"""Where a network comes from, and what is checked before it is trusted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cards import plain_card
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import (
    checkpoint_hash,
    save_checkpoint,
)
from robustbench_lite.checkpoints.model_source import (
    LoadedModel,
    check_model_contract,
    resolve_model,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model

NET = """
from pathlib import Path
import torch
from torch import nn
Path(__file__).with_name("ran").touch()
number = 3

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

def broken():
    raise RuntimeError("no\\nweights here")

def leaves():
    raise SystemExit(1)

def text():
    return "net"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shape = {"num_classes": 5, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
    model = build_model("small_cnn", **shape)
    card = plain_card(model, "trades_digits", defense="trades", seed=0, epoch=1, num_classes=5)
    save_checkpoint(tmp_path / "trades_digits", model, card)
    return tmp_path / "trades_digits"


def resolve(spec: object, *, allow_code: bool = True, **options: int) -> LoadedModel:
    return resolve_model(str(spec), allow_code=allow_code, device="cpu", **options)


def test_checkpoint_folder_is_loaded_without_permission_to_run_code(saved: Path) -> None:
    loaded = resolve(saved, allow_code=False, num_classes=5)
    assert (loaded.kind, loaded.name, loaded.num_classes) == ("checkpoint", "trades_digits", 5)
    assert loaded.hash == checkpoint_hash(saved)
    assert loaded.card is not None
    assert loaded.parameters == loaded.card.parameters
    assert not loaded.model.training


def test_checkpoint_for_another_number_of_classes_says_both(saved: Path) -> None:
    with pytest.raises(InputError, match="has 5 classes, the data set has 10"):
        resolve(saved, num_classes=10)


def test_missing_checkpoint_suggests_near_folders(saved: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint folder .*; did you mean .*trades_digits"):
        resolve(saved.parent / "trades_digit")


def test_pickle_points_to_import(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(InputError, match="rbl import"):
        resolve(tmp_path / "w.pth")


def test_factory_of_a_file_is_called(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute = resolve(f"{file}:net", num_classes=3)
    assert (absolute.kind, absolute.name, absolute.num_classes) == ("factory", "net.py:net", 3)
    assert (absolute.card, absolute.parameters) == (None, 15)
    assert not absolute.model.training
    assert absolute.model(torch.rand(2, 4)).shape == (2, 3)
    monkeypatch.chdir(file.parent)
    relative = resolve("net.py:net")
    assert (relative.hash, relative.num_classes) == (absolute.hash, None)


def test_hash_of_a_factory_sees_an_edited_forward_pass(file: Path) -> None:
    before = resolve(f"{file}:net").hash
    assert resolve(f"{file}:net").hash == before
    file.write_text(NET + "\n# other code, same weights\n")
    assert resolve(f"{file}:net").hash != before


def test_factory_of_a_module_is_called(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.rename(file.with_name("rbl_test_net_module.py"))
    monkeypatch.syspath_prepend(file.parent)
    loaded = resolve("rbl_test_net_module:net")
    assert (loaded.name, loaded.parameters) == ("rbl_test_net_module:net", 15)


@pytest.mark.parametrize("spec", ["{file}:net", "net:net"])
def test_code_runs_only_with_permission(
    spec: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(file.parent)
    with pytest.raises(InputError, match=r"runs code from .*; add --allow-code if you trust it"):
        resolve(spec.format(file=file), allow_code=False)
    assert not file.with_name("ran").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{file}", r"names no factory: write .*net\.py:FACTORY"),
        ("{file}:nett", "has no 'nett'; it has .*net, broken"),
        ("{file}:number", "has nothing callable named 'number'"),
        ("{file}:broken", r"net\.py:broken\(\) fails: RuntimeError: no weights here"),
        ("{file}:leaves", r"leaves\(\) fails: SystemExit: 1"),
        ("{file}:text", r"text\(\) returns a str; it must return an nn\.Module"),
        ("{folder}/ne.py:net", r"no file .*ne\.py; did you mean .*net\.py\?"),
        ("no_such_package_of_ours:net", "cannot be imported: ModuleNotFoundError: No module named"),
        ("no/such folder:net", "is neither a checkpoint folder nor"),
        ("no_such_folder_of_ours", "no checkpoint folder no_such_folder_of_ours"),
        ("", "has no card"),  # the current folder
    ],
)
def test_wrong_source_is_one_line(
    spec: str, message: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(InputError, match=message) as caught:
        resolve(spec.format(file=file, folder=file.parent))
    assert "\n" not in str(caught.value)


def test_file_that_fails_to_run_is_one_line(file: Path) -> None:
    file.write_text("import no_such_module_of_ours")
    with pytest.raises(InputError, match=r"net\.py fails when run: ModuleNotFoundError"):
        resolve(f"{file}:net")
    file.write_text("def net(:\n")
    with pytest.raises(InputError, match=r"net\.py fails when run: SyntaxError"):
        resolve(f"{file}:net")


# The contract


class Function(nn.Module):
    """A module that is one function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


X = torch.rand(2, 1, 8, 8)


def test_honest_network_meets_the_contract(saved: Path) -> None:
    check_model_contract(resolve(saved).model, X, 5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.new_zeros(2, 100), "model gives 100 classes, data set cifar10 has 5"),
        (lambda x: x.new_zeros(3, 5), r"gives \(3, 5\) torch.float32 for 2 images"),
        (lambda x: x.new_zeros(5), r"gives \(5,\) torch.float32"),
        (lambda x: x.new_zeros(2, 5).argmax(1), r"gives \(2,\) torch.int64"),
        (lambda x: x.new_zeros(2, 5).long(), r"must give floating-point logits \(2, 5\)"),
        (lambda x: (x.new_zeros(2, 5),), "returns a tuple; it must return logits"),
        (lambda x: x.new_full((2, 5), float("inf")), "NaN or infinite logits on 2 of 2 images"),
        (lambda x: x.reshape(7, -1), r"fails on images of shape \(2, 1, 8, 8\): RuntimeError"),
    ],
)
def test_other_outputs_are_refused(function: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_model_contract(Function(function), X, 5, dataset="cifar10")
    assert "\n" not in str(caught.value)


def test_nan_weight_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        model[1].bias[2] = float("nan")
    with pytest.raises(InputError, match=r"on 2 of 2 images: its 1\.bias holds NaN"):
        check_model_contract(model, X, 5)


def test_factory_hash_sees_the_files_that_define_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_arch_of_test.py").write_text(
        "from torch import nn\nclass Net(nn.Flatten):\n    sign = 1\n"
    )
    (tmp_path / "my.py").write_text("from my_arch_of_test import Net\ndef make(): return Net()\n")
    spec = f"{tmp_path / 'my.py'}:make"
    before = resolve_model(spec, allow_code=True, device="cpu").hash
    assert resolve_model(spec, allow_code=True, device="cpu").hash == before
    path = tmp_path / "my_arch_of_test.py"
    path.write_text(path.read_text().replace("sign = 1", "sign = -1"))
    assert resolve_model(spec, allow_code=True, device="cpu").hash != before
