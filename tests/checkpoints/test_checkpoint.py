"""Checkpoints: round trip, identity, atomic replacement, every way a folder can be wrong."""

import errno
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import reseal
from msgspec.structs import asdict, replace
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import (
    Card,
    checkpoint_hash,
    load_checkpoint,
    model_hash,
    parameter_count,
    read_card,
    save_checkpoint,
)
from robustbench_lite.core import folder_swap, provenance
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.core.schema import structured
from robustbench_lite.models import build_model

ARCHITECTURE = {
    "num_classes": 5,
    "in_channels": 1,
    "image_size": (8, 8),
    "mean": (0.3,),
    "std": (0.2,),
}


FILES = ["README.md", "card.json", "config.json", "model.safetensors"]


def build(name: str = "small_cnn", seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, **ARCHITECTURE, **options)


def card_of(model: nn.Module, name: str = "small_cnn", **changes: object) -> Card:
    values = {
        "name": "pgd_at_digits",
        "defense": "pgd_at",
        "architecture": name,
        "architecture_kwargs": {},
        **ARCHITECTURE,
        "dataset": "digits",
        "dataset_hash": "sha256:00",
        "recipe": {"train": {"epochs": 3, "eps": "8/255"}},
        "seed": 0,
        "versions": {"torch": "2"},
        "git_commit": "",
        "epoch": 2,
        "selection": "best validation robust accuracy",
        "metrics": {"clean_accuracy": 0.9},
        "notes": "ε = 8/255",
        "parameters": parameter_count(model),
    }
    return Card(**(values | changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build()
    save_checkpoint(tmp_path / "ckpt", model, card_of(model))
    return tmp_path / "ckpt"


def edit_card(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    values = json.loads((folder / "card.json").read_text())
    change(values)
    (folder / "card.json").write_text(with_checksum(values))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    reseal(folder)


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18", "resnet18_wide_map"])
def test_reloaded_network_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.train()(torch.rand(8, 1, 8, 8))  # moves the batch-norm statistics
    save_checkpoint(tmp_path / "ckpt", model, card_of(model, name))
    loaded, card = load_checkpoint(tmp_path / "ckpt")
    assert not loaded.training
    assert card == card_of(model, name)
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))


def test_architecture_options_come_back(tmp_path: Path) -> None:
    options = {"final_bn": False, "shortcut_input": "input"}
    model = build("preact_resnet18", **options)
    card = card_of(model, "preact_resnet18", architecture_kwargs=options)
    save_checkpoint(tmp_path / "ckpt", model, card)
    loaded, _ = load_checkpoint(tmp_path / "ckpt")
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))


def test_loading_draws_no_random_numbers_of_the_caller(saved: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_checkpoint(saved)
    assert torch.equal(torch.rand(4), expected)


def test_channels_last_and_shared_weights_are_stored_plainly(tmp_path: Path) -> None:
    parameters = parameter_count(build("resnet18"))
    model = build("resnet18").eval().to(memory_format=torch.channels_last)
    model.layer1[1].conv1.weight = model.layer1[0].conv1.weight  # one parameter, two names
    model.bn1.bias = nn.Parameter(model.layer2[0].bn1.bias.detach()[:64])  # one storage
    save_checkpoint(tmp_path / "a", model, card_of(model, "resnet18", parameters=parameters))
    loaded, _ = load_checkpoint(tmp_path / "a")
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x))


def test_folder_holds_its_files_and_nothing_is_left_beside_it(saved: Path) -> None:
    assert sorted(os.listdir(saved)) == FILES
    assert os.listdir(saved.parent) == ["ckpt"]
    assert "ε = 8/255" in (saved / "card.json").read_text(encoding="utf-8")


# Replacing


def no_exchange(_first: Path, _second: Path) -> bool:
    return False


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_keeps_other_files_and_leaves_no_rest(
    saved: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folder_swap, "_exchange", no_exchange)
    (saved / "metrics.jsonl").write_text("{}\n")
    (saved / "plots").mkdir()
    (saved / "plots" / "a.svg").write_text("<svg/>")
    before = checkpoint_hash(saved)
    log = (saved / "metrics.jsonl").open("a")  # as a training loop holds it
    model = build(seed=1)
    save_checkpoint(saved, model, card_of(model, name="small_cnn", epoch=3))
    with log:
        log.write("{}\n")
    assert checkpoint_hash(saved) != before
    assert read_card(saved / "card.json").epoch == 3
    assert (saved / "metrics.jsonl").read_text() == "{}\n{}\n"
    assert (saved / "plots" / "a.svg").read_text() == "<svg/>"
    assert os.listdir(saved.parent) == ["ckpt"]


def test_exchange_never_leaves_the_place_empty(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if not folder_swap._exchange(saved, other):
        pytest.skip("this file system cannot exchange two folders")
    assert (other / "card.json").is_file()
    assert os.listdir(saved) == []


def test_failed_second_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, staged = tmp_path / "t", tmp_path / "missing"
    target.mkdir()
    (target / "f").write_text("old")
    (staged.with_name("s")).mkdir()
    with pytest.raises(OSError, match="missing"):
        folder_swap._swap_by_two_renames(staged, target)
    assert (target / "f").read_text() == "old"


def test_run_folder_without_a_checkpoint_receives_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    model = build()
    save_checkpoint(tmp_path, model, card_of(model))
    load_checkpoint(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "metrics.jsonl"])


def test_link_to_a_folder_is_followed(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    model = build(seed=1)
    save_checkpoint(tmp_path / "link", model, card_of(model))
    assert (tmp_path / "link").is_symlink()
    assert checkpoint_hash(saved) == checkpoint_hash(tmp_path / "link")


@pytest.mark.parametrize("there_before", [True, False])
def test_full_disk_loses_nothing_and_leaves_no_rest(
    there_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    if there_before:
        save_checkpoint(tmp_path / "ckpt", model, card_of(model))
        before = checkpoint_hash(tmp_path / "ckpt")

    def full(path: Path, _data: bytes) -> int:
        with path.open("wb") as file:
            file.write(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    other = build(seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(InputError, match=r"No space left on device.*unchanged; free space"):
            save_checkpoint(tmp_path / "ckpt", other, card_of(other))
    assert os.listdir(tmp_path) == (["ckpt"] if there_before else [])
    if there_before:
        assert checkpoint_hash(tmp_path / "ckpt") == before
        load_checkpoint(tmp_path / "ckpt")


def test_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = build()
    with pytest.raises(InputError, match=r"cannot write checkpoint .*Not a directory"):
        save_checkpoint(tmp_path / "file" / "ckpt", model, card_of(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, "card says num_classes=4, the network was built with 5"),
        ({"mean": (0.5,)}, r"card says mean=\(0.5,\), the network was built with \(0.3,\)"),
        ({"mean": None, "std": None}, "card says mean=None"),
        ({"parameters": 7}, "card says 7 parameters, small_cnn has"),
        ({"metrics": {"loss": float("nan")}}, "metrics.loss is nan; need a finite number"),
        ({"seed": "x"}, "card of 'pgd_at_digits': seed is 'x'; need an integer or null"),
        ({"recipe": {"out": Path("x")}}, "cannot be written as JSON"),
    ],
)
def test_card_that_does_not_describe_the_network_is_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    model = build()
    with pytest.raises(InputError, match=message):
        save_checkpoint(tmp_path / "ckpt", model, card_of(model, **changes))
    assert os.listdir(tmp_path) == []


def test_diverged_network_never_replaces_a_good_one(saved: Path) -> None:
    before = checkpoint_hash(saved)
    model = build()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(InputError, match=r"conv2\.weight holds NaN or infinite"):
        save_checkpoint(saved, model, card_of(model))
    assert checkpoint_hash(saved) == before


def test_double_network_is_refused(tmp_path: Path) -> None:
    model = build().double()
    with pytest.raises(InputError, match=r"torch\.float64, the architecture needs .*float32"):
        save_checkpoint(tmp_path / "ckpt", model, card_of(model))


# Identity


def test_hash_ignores_the_name_and_the_place(saved: Path, tmp_path: Path) -> None:
    model = build()
    card = card_of(model, notes="other", metrics={}, seed=None, epoch=None)
    save_checkpoint(tmp_path / "elsewhere", model, replace(card, name="renamed"))
    assert checkpoint_hash(saved) == checkpoint_hash(tmp_path / "elsewhere")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", checkpoint_hash(saved))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", [0.31]),
        ("std", [0.21]),
        ("image_size", [9, 9]),
        ("architecture", "resnet18"),
        ("num_classes", 6),
        ("in_channels", 2),
        ("architecture_kwargs", {"a": 1}),
    ],
)
def test_hash_counts_what_determines_the_function(saved: Path, field: str, value: object) -> None:
    before = checkpoint_hash(saved)
    edit_card(saved, lambda card: card.update({field: value}))
    assert checkpoint_hash(saved) != before


def test_hash_counts_one_bit_of_one_weight(saved: Path) -> None:
    before = checkpoint_hash(saved)

    def flip(tensors: dict[str, Tensor]) -> None:
        tensors["fc1.bias"].view(torch.int32)[3] ^= 1

    edit_weights(saved, flip)
    assert checkpoint_hash(saved) != before


def test_model_hash_sees_weights_buffers_and_classes() -> None:
    def net(activation: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 2), activation)

    base = model_hash(net(nn.ReLU()))
    assert model_hash(net(nn.ReLU())) == base
    assert model_hash(net(nn.Tanh())) != base
    changed = net(nn.ReLU())
    with torch.no_grad():
        changed[0].bias[0] += 1
    assert model_hash(changed) != base
    assert model_hash(build()) != model_hash(_renormalized())  # mean is outside the state_dict
    assert model_hash(nn.Sequential()) != base  # no tensors at all is no error


def _renormalized() -> nn.Module:
    torch.manual_seed(0)
    return build_model("small_cnn", **(ARCHITECTURE | {"mean": (0.1,)}))


# Wrong folders


def test_missing_folder_suggests_a_near_one(saved: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint folder .*ckpd; did you mean .*ckpt\?"):
        load_checkpoint(saved.parent / "ckpd")


@pytest.mark.parametrize("name", ["card.json", "model.safetensors"])
def test_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}: a checkpoint folder holds"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin"])
def test_pickle_instead_of_a_folder_points_to_import(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"is a pickled file, not a checkpoint .*rbl import"):
        load_checkpoint(tmp_path / name)


def test_weights_file_instead_of_its_folder_points_to_import(saved: Path) -> None:
    with pytest.raises(InputError, match=r"is a file, not a checkpoint folder.*rbl import"):
        load_checkpoint(saved / "model.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_weights_are_one_line(saved: Path, keep: int) -> None:
    data = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(InputError, match=r"model.safetensors is damaged or incomplete") as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no valid JSON"),
        ("{", "no valid JSON"),
        ("[1]", r"is \[1\]; need a table"),
        ('{"a": NaN}', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_card_that_is_no_json_object_is_refused(saved: Path, text: str, message: str) -> None:
    (saved / "card.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_checkpoint(saved)


def test_card_that_is_no_text_is_refused(saved: Path) -> None:
    (saved / "card.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no valid JSON"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("mean"), "card.json: missing key mean"),
        (lambda c: c.update(meen=1), "unknown key meen; did you mean mean"),
        (lambda c: c.update(schema_version=3, new=1), r"schema_version=3; .*reads 2: upgrade"),
        (lambda c: c.pop("schema_version"), "schema_version is None; need one of 1, 2"),
        (lambda c: c.update(schema_version=0), "schema_version is 0; need one of 1, 2"),
        (lambda c: c.pop("weights_sha256"), "weights_sha256 is None; need 64 hexadecimal"),
        (lambda c: c.update(weights_sha256="0" * 63), "weights_sha256 is .*; need 64 hexadecimal"),
        (lambda c: c.update(weights_sha256="0" * 64), "not the weights that card.json describes"),
        (lambda c: c.update(num_classes=2**70), "cannot be built with num_classes=1180591620"),
        (lambda c: c.update(image_size=[2**70, 8]), "cannot be built with"),
        (lambda c: c.update(num_classes="5"), "num_classes is '5'; need an integer"),
        (lambda c: c.update(num_classes=True), "num_classes is True; need an integer"),
        (lambda c: c.update(seed="x"), "seed is 'x'; need an integer or null"),
        (lambda c: c.update(mean=["a"]), r"mean\[0\] is 'a'; need a finite number"),
        (lambda c: c.update(image_size=[8.5, 8]), r"image_size\[0\] is 8.5; need an integer"),
        (lambda c: c.update(image_size=[8]), "image_size is .*; need a list of length 2"),
        (lambda c: c.update(std=[0]), "std above 0"),
        (lambda c: c.update(architecture="small_cn"), "unknown architecture 'small_cn'; did you"),
        (lambda c: c.update(architecture_kwargs={"mean": 1}), "may not hold mean"),
        (lambda c: c.update(architecture_kwargs={"depth": 1}), "has no option 'depth'"),
        (lambda c: c.update(architecture="resnet18"), "does not fit the architecture: missing"),
        (lambda c: c.update(num_classes=7), "weights for K=5 classes, num_classes is 7"),
        (
            lambda c: c.update(in_channels=3, mean=None, std=None),
            r"conv1.weight is \(16, 1, 4, 4\)",
        ),
        (lambda c: c.update(num_classes=10**9), "weights for K=5 classes, num_classes is 10000000"),
        (lambda c: c.update(parameters=3), "the card says 3 parameters, small_cnn has"),
    ],
)
def test_wrong_card_is_one_line(
    saved: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    edit_card(saved, change)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["fc1.bias"].fill_(float("nan")), "fc1.bias holds NaN or infinite weights"),
        (lambda t: t.pop("fc1.bias"), "missing fc1.bias; unexpected nothing"),
        (lambda t: t.update(extra=torch.ones(1)), "missing nothing; unexpected extra"),
        (lambda t: t.update({"fc1.bias": torch.ones(3)}), r"fc1.bias is \(3,\) .* needs \(100,\)"),
        (lambda t: t.update({"fc1.bias": t["fc1.bias"].half()}), "fc1.bias is .*float16"),
    ],
)
def test_wrong_weights_are_one_line(
    saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_weights(saved, change)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_no_flipped_bit_of_a_card_or_its_weights_changes_the_network(saved: Path) -> None:
    honest = checkpoint_hash(saved)
    for name in ("card.json", "model.safetensors"):
        content = (saved / name).read_bytes()
        for bit in range(0, 8 * len(content), max(1, len(content) // 40)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            (saved / name).write_bytes(damaged)
            try:
                assert checkpoint_hash(saved) == honest, (name, bit)
            except InputError as error:
                assert name in str(error)  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017
        (saved / name).write_bytes(content)


def test_the_card_of_another_network_is_refused(saved: Path, tmp_path: Path) -> None:
    other = build()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    save_checkpoint(tmp_path / "other", other, card_of(other))
    (saved / "card.json").write_bytes((tmp_path / "other" / "card.json").read_bytes())
    with pytest.raises(InputError, match="not the weights that card.json describes"):
        load_checkpoint(saved)


def test_an_edited_card_is_refused_unless_its_checksum_is_removed(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved / "card.json"
    path.write_text(path.read_text().replace("ε = 8/255", "mine"))
    with pytest.raises(InputError, match='edited it on purpose, remove its line "checksum"'):
        load_checkpoint(saved)
    path.write_text(path.read_text().rpartition(',\n  "checksum"')[0] + "\n}\n")
    assert load_checkpoint(saved)[1].notes == "mine"
    assert "has no checksum" in caplog.text


def test_a_card_of_an_older_version_loads_and_says_that_nothing_was_checked(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    honest = checkpoint_hash(saved)
    values = json.loads((saved / "card.json").read_text())
    del values["weights_sha256"], values["checksum"]
    (saved / "card.json").write_text(json.dumps({**values, "schema_version": 1}))
    assert checkpoint_hash(saved) == honest
    load_checkpoint(saved)
    assert caplog.text.count("has no checksum") == 1


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_device_that_is_not_there_is_one_line(saved: Path, device: str) -> None:
    with pytest.raises(InputError, match=f"device '{device}' cannot be used"):
        load_checkpoint(saved, device=device)


def test_card_is_immutable_and_survives_json(saved: Path) -> None:
    card = read_card(saved / "card.json")
    assert structured(Card, json.loads(json.dumps(asdict(card))), "card") == card
    with pytest.raises(AttributeError):
        card.name = "other"  # type: ignore[misc]


# Provenance


def test_versions_name_what_computes_numbers() -> None:
    versions = provenance.current_versions()
    assert list(versions) == [
        "robustbench_lite",
        "python",
        "torch",
        "numpy",
        "pandas",
        "pyarrow",
        "pyautoattack",
        "torchattacks",
    ]
    assert versions["python"] == platform.python_version()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_absent_distribution_is_said_to_be_absent() -> None:
    assert provenance._version("no-such-distribution-of-ours") == "not installed"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_git_commit_follows_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "robustbench_lite" / "core" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(module))
    assert provenance.git_commit() == ""  # not a checkout
    (tmp_path / "setup.cfg").write_text("")
    git(tmp_path, "init", "-q")
    assert provenance.git_commit() == ""  # no commit yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.git_commit() == commit
    (tmp_path / "untracked").write_text("")
    assert provenance.git_commit() == commit
    (tmp_path / "setup.cfg").write_text("changed")
    dirty = provenance.git_commit()
    assert dirty.startswith(f"{commit}+dirty.")
    (tmp_path / "setup.cfg").write_text("changed otherwise")
    assert provenance.git_commit() not in (commit, dirty)
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() == ""  # no git
