"""Import of weights with other names, extra entries, plain data or a normalisation of their own."""

import argparse
import datetime
import pathlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.checkpoints.import_weights import ImportReport, import_weights
from robustbench_lite.checkpoints.weight_file import read_weight_file
from robustbench_lite.checkpoints.weight_names import NameRules, read_renames
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model

State = dict[str, Tensor]
SIZES = {"num_classes": 10, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return build_model("small_cnn", **SIZES).state_dict()


def bring(tmp_path: Path, content: object, **changes: object) -> ImportReport:
    torch.save(content, tmp_path / "w.pt")
    arguments = {
        "architecture": "small_cnn",
        **SIZES,
        "dataset": "digits",
        "name": "theirs",
        "out": tmp_path / "out",
        "architecture_kwargs": {},
    }
    return import_weights(tmp_path / "w.pt", **(arguments | changes))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def assert_imported(folder: Path, state: State) -> None:
    loaded = load_checkpoint(folder / "out")[0].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["net.", "backbone.", "module.basic_net.", "1.", "a.b.module."])
def test_any_common_prefix_is_recognised(prefix: str, state: State, tmp_path: Path) -> None:
    report = bring(tmp_path, {"net": prefixed(state, prefix), "epoch": 7})
    assert_imported(tmp_path, state)
    assert report.dropped == ()
    assert (f"{prefix}conv1.weight", "conv1.weight") in report.renamed


def test_two_networks_in_one_set_need_a_prefix(state: State, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    content = {**prefixed(other, "teacher."), **prefixed(state, "student.")}
    with pytest.raises(InputError, match=r"fit after each of teacher\., student\.: name one as --"):
        bring(tmp_path, content)
    report = bring(tmp_path, content, rules=NameRules(prefix="student"))
    assert_imported(tmp_path, state)
    assert set(report.dropped) == set(prefixed(state, "teacher."))


def test_a_prefix_of_no_name_is_refused(state: State, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"begins with pupil\.; they begin with conv1\., "):
        bring(tmp_path, state, rules=NameRules(prefix="pupil."))


def test_extra_entries_are_named_and_can_be_dropped(state: State, tmp_path: Path) -> None:
    content = {**prefixed(state, "model."), "criterion.weight": torch.ones(10)}
    with pytest.raises(InputError, match=r"unexpected criterion\.weight; .*--drop PATTERN"):
        bring(tmp_path, content)
    with pytest.raises(InputError, match=r"--drop 'criterium\.\*' matches no name"):
        bring(tmp_path, content, rules=NameRules(drop=("criterium.*",)))
    report = bring(tmp_path, content, rules=NameRules(drop=("criterion.*",)))
    assert report.dropped == ("criterion.weight",)
    assert_imported(tmp_path, state)


def test_renamed_layers_are_mapped(state: State, tmp_path: Path) -> None:
    content = {
        name.replace("conv1.", "features.0.").replace("fc1.", "dense.0."): tensor
        for name, tensor in state.items()
    }
    (tmp_path / "map.toml").write_text('"features.0" = "conv1"\n[dense]\n0 = "fc1"\n')
    renames = read_renames(tmp_path / "map.toml")
    assert renames == {"features.0": "conv1", "dense.0": "fc1"}
    bring(tmp_path, prefixed(content, "net."), rules=NameRules(renames=renames))
    assert_imported(tmp_path, state)
    with pytest.raises(
        InputError, match=r"--map names features\.1, which .* does not hold; it has"
    ):
        bring(
            tmp_path, content, out=tmp_path / "b", rules=NameRules(renames={"features.1": "conv1"})
        )


@pytest.mark.parametrize("text", ["conv1", "conv1 = 3", "", '"a" = ["b"]'])
def test_a_map_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(InputError, match=r"map\.toml (cannot be read|holds)"):
        read_renames(tmp_path / "map.toml")


@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda s, o: {"state_dict": [s, o]}, "state_dict.0"),
        (lambda s, o: {"state_dict": [s]}, "state_dict.0"),
        (lambda s, o: [{"net": o}, {"net": s}], "1.net"),
        (lambda s, o: {"a.b": {"net": s}, "ema": o}, "a.b.net"),
    ],
)
def test_an_entry_reaches_into_lists(
    wrap: Callable[[State, State], object], entry: str, state: State, tmp_path: Path
) -> None:
    other = {name: tensor + 1 for name, tensor in state.items()}
    assert bring(tmp_path, wrap(state, other), entry=entry).weights == entry
    assert_imported(tmp_path, state)


def test_sets_in_a_list_are_listed(state: State, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 sets of weights, state_dict\.0, state_dict\.1: name"):
        bring(tmp_path, {"state_dict": [state, state]})
    with pytest.raises(InputError, match=r"entry='state_dict\.2'; it has state_dict\.0, state_"):
        bring(tmp_path, {"state_dict": [state, state]}, entry="state_dict.2")


@pytest.mark.parametrize(
    "extra",
    [
        np.float64(93.2),
        np.float32(93.2),
        np.int64(3),
        np.arange(3.0),
        np.array(["a", "b"]),
        argparse.Namespace(lr=0.1, inner=argparse.Namespace(a=1)),
        SimpleNamespace(lr=0.1),
        pathlib.Path("/data"),
        datetime.datetime(2024, 1, 2, 3, 4),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("legacy", [False, True])
def test_plain_data_beside_the_weights_is_no_obstacle(
    extra: object, legacy: bool, state: State, tmp_path: Path
) -> None:
    content = {"net": state, "extra": extra, "epoch": 7}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    import_weights(
        tmp_path / "w.pt",
        architecture="small_cnn",
        **SIZES,
        dataset="digits",
        name="w",
        out=tmp_path / "out",
        architecture_kwargs={},
    )
    assert_imported(tmp_path, state)


class _Runs:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


def test_code_inside_plain_data_is_still_refused(state: State, tmp_path: Path) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    options = argparse.Namespace(hook=_Runs(tmp_path / "victim"))
    with pytest.raises(InputError, match="holds pickled code"):
        bring(tmp_path, {"net": state, "args": options})
    assert not (tmp_path / "victim").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(InputError, match="is a Git LFS pointer.*'git lfs pull'"):
        read_weight_file(tmp_path / "w.safetensors")


def test_safetensors_of_another_name_are_read(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.bin")
    assert read_weight_file(tmp_path / "w.bin").keys() == state.keys()


def stored_layer(mean: float, std: float, at: str = "0.") -> State:
    shape = (1, 1, 1, 1)
    return {f"{at}mean": torch.full(shape, mean), f"{at}std": torch.full(shape, std)}


def test_a_stored_identity_agrees_with_no_normalisation(state: State, tmp_path: Path) -> None:
    report = bring(tmp_path, {**prefixed(state, "1."), **stored_layer(0.0, 1.0)})
    assert ("0.std", "std of the card") in report.renamed
    bring(tmp_path, {**state, "normalize.mean": torch.zeros(1)}, out=tmp_path / "mean_only")


def test_a_stored_normalisation_in_conflict_is_refused(state: State, tmp_path: Path) -> None:
    content = {**prefixed(state, "1."), **stored_layer(0.25, 0.5)}
    with pytest.raises(InputError, match=r"holds mean 0\.25 in 0\.mean, 0\.std, you say no norm"):
        bring(tmp_path, content)
    with pytest.raises(InputError, match=r"holds std 0\.5 in .*, you say 0\.75: use --normaliz"):
        bring(tmp_path, content, mean=(0.25,), std=(0.75,))
    bring(tmp_path, content, mean=(0.25,), std=(0.5,))
    bring(tmp_path, content, out=tmp_path / "dropped", rules=NameRules(drop=("0.*",)))


@pytest.mark.parametrize("names", [("mean", "std"), ("mu", "sigma"), ("_mean", "_std")])
def test_a_stored_normalisation_is_used_when_asked(
    names: tuple[str, str], state: State, tmp_path: Path
) -> None:
    layer = {f"0.{names[0]}": torch.tensor([0.25]), f"0.{names[1]}": torch.tensor([0.5])}
    bring(tmp_path, {**prefixed(state, "1."), **layer}, use_stored_normalization=True)
    loaded, card = load_checkpoint(tmp_path / "out")
    assert (card.mean, card.std) == ((0.25,), (0.5,))
    plain = build_model("small_cnn", **SIZES).eval()
    plain.load_state_dict(state)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(x), plain((x - 0.25) / 0.5))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({}, "does not hold both mean and std but neither"),
        ({"mean": torch.tensor([0.5])}, "both mean and std but mean"),
        ({"mean": torch.tensor([125.0]), "std": torch.tensor([62.0])}, "not of images in"),
        ({"a.mean": torch.zeros(1), "b.mean": torch.ones(1)}, r"a\.mean and b\.mean differ"),
    ],
)
def test_a_stored_normalisation_that_cannot_be_used(
    layer: State, message: str, state: State, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        bring(tmp_path, {**state, **layer}, use_stored_normalization=True)


def command(tmp_path: Path, state: State, *more: str) -> int:
    torch.save(state, tmp_path / "w.pt")
    words = ["import", str(tmp_path / "w.pt"), "--arch", "small_cnn", "--dataset", "digits"]
    return main([*words, "--out", str(tmp_path / "out"), *more])


def test_mean_and_std_of_ones_own(state: State, tmp_path: Path) -> None:
    assert command(tmp_path, state, "--mean", "0.25", "--std", "0.5") == 0
    card = load_checkpoint(tmp_path / "out")[1]
    assert (card.mean, card.std) == ((0.25,), (0.5,))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--normalization is missing: none, dataset, stored"),
        (["--mean", "0.5"], "--mean and --std go together"),
        (["--mean", "0.5", "0.5", "--std", "1"], "--mean 0.5 0.5 must be 1 or 1 numbers in"),
        (["--mean", "125", "--std", "62"], "divide by 255"),
        (["--mean", "0.5", "--std", "0"], "--std must be above 0"),
        (["--mean", "0.5", "--std", "1", "--normalization", "none"], "give one of the two"),
    ],
)
def test_a_normalisation_that_is_none_is_one_line(
    more: list[str], message: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path, state, *more) == 2
    assert message in capsys.readouterr().err


def test_the_commands_options_reach_the_import(state: State, tmp_path: Path) -> None:
    content = {**prefixed(state, "a."), **prefixed(state, "b."), **stored_layer(0.25, 0.5, "n.")}
    content = {name.replace("conv1", "first"): tensor for name, tensor in content.items()}
    content["a.extra"] = torch.ones(1)
    (tmp_path / "map.toml").write_text('first = "conv1"')
    words = ["--prefix", "a", "--map", str(tmp_path / "map.toml"), "--drop", "*.extra"]
    assert command(tmp_path, content, *words, "--normalization", "stored") == 0
    assert_imported(tmp_path, state)
