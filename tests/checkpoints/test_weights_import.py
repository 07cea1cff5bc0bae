"""Import of published weights: names, wrappers, and every file that must be refused."""

import importlib.util
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.checkpoints.import_weights import ImportReport, import_weights
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model
from robustbench_lite.models.wide_resnet import WideResNet

SIZES = {"num_classes": 5, "in_channels": 1, "image_size": (8, 8), "mean": (0.3,), "std": (0.2,)}
CIFAR = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32), "mean": None, "std": None}


def build(name: str = "small_cnn", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, **SIZES, **options).eval()


def bring(path: Path, architecture: str = "small_cnn", **changes: object) -> ImportReport:
    arguments = {
        "architecture": architecture,
        **SIZES,
        "dataset": "digits",
        "name": "theirs",
        "out": path.parent / "out",
        "architecture_kwargs": {},
    }
    return import_weights(path, **(arguments | changes))


def stored(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def public(
    state: dict[str, Tensor], ours: str = "head", theirs: str = "linear"
) -> dict[str, Tensor]:
    return {name.replace(f"{ours}.", f"{theirs}."): tensor for name, tensor in state.items()}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPINGS: list[tuple[str, Callable[[dict[str, Tensor]], object], str]] = [
    ("plain", lambda s: s, ""),
    ("state_dict", lambda s: {"state_dict": s, "epoch": 3}, "state_dict"),
    ("net", lambda s: {"net": s, "acc": 93.1, "epoch": 3}, "net"),
    ("model", lambda s: {"model": s}, "model"),
    ("model_state_dict", lambda s: {"model_state_dict": s, "best": torch.tensor(1.0)}, None),
    ("class weights beside", lambda s: {"model": s, "class_weight": torch.ones(5)}, "model"),
    ("list", lambda s: [s], ""),
    ("nested", lambda s: {"model": [{"state_dict": s}]}, "model.state_dict"),
    ("DataParallel", lambda s: prefixed(s, "module."), ""),
    ("compiled DataParallel", lambda s: {"ema": prefixed(s, "_orig_mod.module.")}, "ema"),
    ("wrapped", lambda s: prefixed(s, "module.model."), ""),
]


@pytest.mark.parametrize(
    ("wrap", "place"), [w[1:] for w in WRAPPINGS], ids=[w[0] for w in WRAPPINGS]
)
def test_usual_wrappings_are_opened(
    wrap: Callable[[dict[str, Tensor]], object], place: str | None, tmp_path: Path
) -> None:
    model = build()
    report = bring(stored(tmp_path / "w.pt", wrap(model.state_dict())))
    loaded, card = load_checkpoint(tmp_path / "out")
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert report.weights == ("model_state_dict" if place is None else place)
    assert report.dropped == report.added == report.cast == ()
    assert (card.selection, card.epoch, card.seed, card.recipe) == ("imported", None, None, {})
    assert card.notes.startswith("imported from w.pt")
    assert "sha256:" in card.notes


def test_optimizer_beside_the_weights_is_no_second_set(tmp_path: Path) -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.rand(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    assert bring(stored(tmp_path / "w.pt", content)).weights == "model"


def test_averaged_model_drops_only_its_counter(tmp_path: Path) -> None:
    averaged = AveragedModel(build())
    report = bring(stored(tmp_path / "w.pt", averaged.state_dict()))
    assert report.dropped == ("n_averaged",)
    lines = str(report).splitlines()
    assert lines[0].endswith(f"written to {tmp_path / 'out'}")
    assert lines[1].startswith("renamed: module.conv1.weight -> conv1.weight, ")
    assert lines[1].endswith("and 4 more")
    assert lines[2:] == [
        "dropped, unused: n_averaged",
        "added, counters only: nothing",
        "cast to float32: nothing",
    ]


def test_two_sets_of_weights_need_a_choice(tmp_path: Path) -> None:
    first, second = build().state_dict(), build().state_dict()
    second = {name: tensor + 1 for name, tensor in second.items()}
    path = stored(tmp_path / "w.pt", {"model": first, "model_ema": second})
    with pytest.raises(InputError, match="holds 2 sets of weights, model, model_ema: name one"):
        bring(path)
    with pytest.raises(InputError, match="no weights at entry='ema'; it has model, model_ema"):
        bring(path, entry="ema")
    bring(path, entry="model_ema")
    loaded, card = load_checkpoint(tmp_path / "out")
    assert torch.equal(loaded.conv1.bias, second["conv1.bias"])
    assert "[model_ema]" in card.notes


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(build().state_dict(), tmp_path / "w.safetensors")
    report = bring(tmp_path / "w.safetensors")
    assert report.parameters == sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("architecture", "last"),
    [
        ("resnet18", "linear"),
        ("preact_resnet18", "fc"),
        ("preact_resnet18", "linear"),
        ("wrn28_10", "fc"),
        ("densenet_bc_100_12", "fc"),
        ("trades_small_cnn", "classifier.fc3"),
    ],
)
def test_the_public_name_of_the_last_layer_is_mapped(
    architecture: str, last: str, tmp_path: Path
) -> None:
    sizes = SIZES | {"image_size": (16, 16)}
    torch.manual_seed(0)
    model = build_model(architecture, **sizes).eval()
    content = prefixed(public(model.state_dict(), theirs=last), "module.")
    report = bring(stored(tmp_path / "w.pt", content), architecture, image_size=(16, 16))
    loaded, _ = load_checkpoint(tmp_path / "out")
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert (f"module.{last}.weight", "head.weight") in report.renamed


def test_sequential_of_the_small_cnn_is_mapped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 2 * 2, 100),
        nn.ReLU(),
        nn.Linear(100, 5),
    )
    bring(stored(tmp_path / "w.pt", theirs.state_dict()), mean=None, std=None)
    loaded, _ = load_checkpoint(tmp_path / "out")
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(loaded(x), theirs(x))


def test_trades_wide_resnet_loses_only_its_unused_stage(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = build_model("wrn28_10", **SIZES).state_dict()
    # One stored number per tensor keeps the file small; the released files hold the same names.
    content = {
        name: torch.ones((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in public(shapes, theirs="fc").items()
    }
    unused = {
        name.replace("block1", "sub_block1"): tensor
        for name, tensor in content.items()
        if name.startswith("block1.")
    }
    report = bring(stored(tmp_path / "w.pt", prefixed(content | unused, "module.")), "wrn28_10")
    assert set(report.dropped) == {f"module.{name}" for name in unused}
    assert len(report.renamed) == len(content)
    assert report.parameters == sum(t.numel() for n, t in shapes.items() if is_parameter(n))


def is_parameter(name: str) -> bool:
    return name.rsplit(".")[-1] in ("weight", "bias")


def test_weights_older_than_batch_counters_are_completed(tmp_path: Path) -> None:
    state = {n: t for n, t in build("resnet18").state_dict().items() if "num_batches" not in n}
    report = bring(stored(tmp_path / "w.pt", state), "resnet18")
    assert len(report.added) == 20  # one for each batch norm
    loaded, _ = load_checkpoint(tmp_path / "out")
    assert loaded.bn1.num_batches_tracked.item() == 0


def test_half_weights_become_float32_and_are_reported(tmp_path: Path) -> None:
    state = build().half().state_dict()
    report = bring(stored(tmp_path / "w.pt", state))
    assert set(report.cast) == set(state)
    loaded, _ = load_checkpoint(tmp_path / "out")
    assert loaded.conv1.weight.dtype == torch.float32


def test_stored_things_that_are_no_tensors_are_reported(tmp_path: Path) -> None:
    report = bring(stored(tmp_path / "w.pt", {**build().state_dict(), "epoch": 3}))
    assert report.dropped == ("epoch",)


# Files to refuse


class Malicious:
    """A pickle of it creates a file when it is loaded naively."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "pickle 0", "in a state_dict"])
def test_pickled_code_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "w.pt"
    evil = Malicious(victim)
    if kind == "zip":
        torch.save(evil, path)
    elif kind == "legacy":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif kind == "in a state_dict":
        torch.save({**build().state_dict(), "extra": evil}, path)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=0 if kind == "pickle 0" else None))
    with pytest.raises(InputError, match=r"w\.pt holds pickled code.*; not loaded\.") as caught:
        bring(path)
    assert "Ask the author for a state_dict or safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not victim.exists()
    assert not (tmp_path / "out").exists()
    pickle.loads(pickle.dumps(evil))  # the trap itself works
    assert victim.exists()


@pytest.mark.parametrize("version", ["2.4.0", "2.9.1+cu128"])
def test_torch_with_a_hole_opens_no_pickle(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "w.pt", build().state_dict())
    save_file(build().state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(InputError, match=r"can be made to run code.*upgrade to torch>=2\.10"):
        bring(path)
    bring(tmp_path / "w.safetensors")  # tensors only: safe everywhere


def test_whole_pickled_network_names_its_class(tmp_path: Path) -> None:
    path = stored(tmp_path / "w.pt", nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"pickled code \(torch\.nn\.modules\.linear\.Linear\)"):
        bring(path)


def test_other_objects_of_a_training_script_are_pickled_code_too(tmp_path: Path) -> None:
    content = {"state_dict": build().state_dict(), "args": Fraction(1, 10)}
    with pytest.raises(InputError, match=r"pickled code \(fractions\.Fraction\)"):
        bring(stored(tmp_path / "w.pt", content))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_torchscript_archive_is_sent_to_its_own_source(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), str(path))
    with pytest.raises(InputError, match="is a TorchScript archive") as refusal:
        bring(path)
    assert str(refusal.value).endswith(f"--model torchscript:{path}")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_one_line(legacy: bool, part: float, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(build().state_dict(), path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"w\.pt is truncated or empty: fetch it again") as caught:
        bring(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html>", b"hello world\n", bytes(range(4, 200))])
def test_file_that_is_no_checkpoint_is_one_line(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"w\.pt is not a weights file") as caught:
        bring(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)


def test_damaged_safetensors_are_one_line(tmp_path: Path) -> None:
    save_file(build().state_dict(), tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-10])
    with pytest.raises(InputError, match="is damaged or incomplete"):
        bring(tmp_path / "w.safetensors")


def test_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    stored(tmp_path / "weights.pt", {})
    with pytest.raises(InputError, match=r"no weights file .*did you mean .*weights\.pt\?"):
        bring(tmp_path / "weight.pt")
    with pytest.raises(InputError, match="is a folder: name the weights file"):
        bring(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), r"holds no weights by name \(a state_dict\) but a Tensor"),
        ({"acc": 1.0, "epoch": 2}, "but keys acc, epoch"),
        ({}, "but a dict"),
        ([{}, {}], "but a list"),
    ],
)
def test_file_without_weights_says_what_it_holds(
    content: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        bring(stored(tmp_path / "w.pt", content))


def wrong_state(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    state = dict(build().state_dict())
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.bias"), "missing conv1.bias; unexpected nothing"),
        (lambda s: s.update(extra=torch.ones(1)), "missing nothing; unexpected extra"),
        (lambda s: s.update({"fc1.bias": torch.ones(7)}), r"fc1.bias is \(7,\) .*needs \(100,\)"),
        (lambda s: s["fc1.bias"].fill_(float("nan")), "fc1.bias holds NaN or infinite"),
        (lambda s: s.update({"module.fc1.bias": torch.ones(100)}), "two entries are fc1.bias"),
        (lambda s: s.update({"fc1.bias": torch.ones(100).long()}), "fc1.bias is .*int64"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        bring(stored(tmp_path / "w.pt", wrong_state(change)))
    assert "w.pt" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_number_of_classes_says_both(tmp_path: Path) -> None:
    path = stored(tmp_path / "w.pt", public(build("resnet18").state_dict()))
    with pytest.raises(InputError, match="weights for K=5 classes, num_classes is 10"):
        bring(path, "resnet18", num_classes=10)


def test_other_architecture_lists_the_first_names_only(tmp_path: Path) -> None:
    path = stored(tmp_path / "w.pt", build("resnet18").state_dict())
    with pytest.raises(InputError, match=r"missing conv1.bias, .* and \d+ more") as caught:
        bring(path, "small_cnn")
    assert len(str(caught.value)) < 500
    with pytest.raises(InputError, match="unknown architecture 'resnet19'; did you mean resnet18"):
        bring(path, "resnet19")


def test_checkpoint_already_there_is_not_overwritten(tmp_path: Path) -> None:
    path = stored(tmp_path / "w.pt", build().state_dict())
    bring(path)
    with pytest.raises(InputError, match="out holds a checkpoint already"):
        bring(path)


# Other people's networks as references, loaded by file path (neither package is imported).


def reference_module(distribution: str, file: str) -> ModuleType:
    """A file of an installed distribution as a module, or a visible skip."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent.parent / distribution / file
    if not path.is_file():
        pytest.skip(f"{distribution}/{file} is not installed")
    found = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_checkpoint_of_the_autoattack_authors_gives_their_logits(tmp_path: Path) -> None:
    module = reference_module("pyautoattack", "examples/resnet.py")
    path = Path(module.__file__ or "").with_name("model_test.pt")
    if not path.is_file():
        pytest.skip("pyautoattack ships no model_test.pt here")
    theirs = module.ResNet18()
    theirs.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    report = bring(path, "resnet18", out=tmp_path / "out", **CIFAR)
    assert report.dropped == report.added == report.cast == ()
    loaded, _ = load_checkpoint(tmp_path / "out")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # 4x4 average pool there, mean over all positions here: the last bits may differ
        torch.testing.assert_close(loaded(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)


def shaken(model: nn.Module) -> nn.Module:
    """Batch-norm statistics and scales away from 0 and 1, so that a swapped layer shows."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
        assert name
    return model.eval()


@pytest.mark.parametrize(
    ("final_bn", "shortcut_input"), [(True, "activation"), (True, "input"), (False, "activation")]
)
def test_preact_resnet_computes_what_robustbench_computes(
    final_bn: bool, shortcut_input: str, tmp_path: Path
) -> None:
    module = reference_module("robustbench", "model_zoo/architectures/resnet.py")
    theirs = shaken(
        module.PreActResNet(
            module.PreActBlock,
            [2, 2, 2, 2],
            bn_before_fc=final_bn,
            out_shortcut=shortcut_input == "activation",
        )
    )
    options = {"final_bn": final_bn, "shortcut_input": shortcut_input}
    path = stored(tmp_path / "w.pt", theirs.state_dict())
    bring(path, "preact_resnet18", architecture_kwargs=options, **CIFAR)
    loaded, _ = load_checkpoint(tmp_path / "out")
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_wide_resnet_computes_what_robustbench_computes() -> None:
    module = reference_module("robustbench", "model_zoo/architectures/wide_resnet.py")
    theirs = shaken(module.WideResNet(depth=16, widen_factor=2))
    ours = WideResNet(
        16, 2, num_classes=10, in_channels=3, image_size=(32, 32), mean=None, std=None
    ).eval()
    ours.load_state_dict(public(theirs.state_dict(), "fc", "head"))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)
