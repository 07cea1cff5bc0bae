"""`--model KIND:NAME`: networks of other libraries, of files of other formats, of a server."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from cards import plain_card
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.checkpoints.checkpoint import parameter_count, save_checkpoint
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.checkpoints.sources import RUN_CODE, SOURCES
from robustbench_lite.core.errors import InputError
from robustbench_lite.models import build_model

LIBRARIES = ("timm", "torchvision", "huggingface_hub", "robustbench", "onnx", "onnxruntime")
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def resolve(spec: object, *, allow_code: bool = False) -> LoadedModel:
    return resolve_model(str(spec), allow_code=allow_code, device="cpu")


def network(classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, classes)).eval()


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **contents: object) -> None:
    """Put a module into the place of a library."""
    module = ModuleType(name)
    module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def absent(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let libraries be missing."""
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in names else real(name)
    )


# -- of all --------------------------------------------------------------------------------------


def test_resolving_a_checkpoint_imports_no_library_of_a_source(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom robustbench_lite.checkpoints.model_source import resolve_model\n"
        "from robustbench_lite.checkpoints.sources import SOURCES\nlist(SOURCES.items())\n"
        f"print([name for name in {LIBRARIES!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("timm:resnet18", "timm", "timm"),
        ("torchvision:resnet18", "torchvision", "torchvision"),
        ("hub:owner/repo", "huggingface_hub", "hub"),
        ("onnx:{file}", "onnx", "onnx"),
    ],
)
def test_a_missing_library_says_what_to_install(
    spec: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").touch()
    absent(monkeypatch, package)
    with pytest.raises(InputError) as caught:
        resolve(spec.format(file=tmp_path / "net.onnx"))
    assert f"needs {package}, which is not installed" in str(caught.value)
    assert str(caught.value).endswith(f"pip install 'robustbench-lite[{extra}]'")


def test_every_source_is_named_where_nothing_is_found() -> None:
    with pytest.raises(InputError) as caught:
        resolve("no_such_folder_of_ours")
    assert all(f"{kind}:" in str(caught.value) for kind in SOURCES)
    assert set(SOURCES) > RUN_CODE


# -- timm and torchvision ------------------------------------------------------------------------


class FakeTimm:
    """What of timm is used: names, construction, and what it states of weights."""

    def list_models(self) -> list[str]:
        return ["tiny_net", "other_net"]

    def create_model(
        self, name: str, *, pretrained: bool, num_classes: int = 7, **options: object
    ) -> nn.Module:
        model = network(num_classes)
        tag = "a1" if pretrained else None
        facts = {"mean": (0.5,), "std": (0.25,), "input_size": (1, 8, 8), "tag": tag}
        model.pretrained_cfg = facts  # type: ignore[assignment]
        return model


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeTimm()
    fake(
        monkeypatch,
        "timm",
        list_models=library.list_models,
        create_model=library.create_model,
    )


@pytest.mark.usefixtures("timm")
def test_timm_is_normalised_and_pinned_by_its_tag() -> None:
    loaded = resolve("timm:tiny_net")
    assert (loaded.kind, loaded.name) == ("timm", "timm:tiny_net.a1")
    assert loaded.identity["source"] == "timm:tiny_net.a1"
    assert loaded.image_shape == (1, 8, 8)
    assert torch.equal(loaded.model(X), network(7)((X - 0.5) / 0.25))
    assert loaded.parameters == parameter_count(network(7))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("prefix", ["", "module."])
def test_timm_takes_weights_of_a_file_with_its_own_classes(prefix: str, tmp_path: Path) -> None:
    weights = {f"{prefix}{name}": value + 1 for name, value in network(4).state_dict().items()}
    save_file(weights, tmp_path / "mine.safetensors")
    loaded = resolve(f"timm:tiny_net@{tmp_path / 'mine.safetensors'}")
    assert loaded.name == "timm:tiny_net@mine.safetensors"
    assert loaded.model(X).shape == (3, 4)
    other = {name: value + 2 for name, value in network(4).state_dict().items()}
    save_file(other, tmp_path / "mine.safetensors")
    assert resolve(f"timm:tiny_net@{tmp_path / 'mine.safetensors'}").hash != loaded.hash


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:tiny_nat", "timm has no network 'tiny_nat'; did you mean tiny_net"),
        ("timm:tiny_net@none.pt", r"no weights file none\.pt"),
        ("timm:tiny_net@{folder}/other.safetensors", "does not fit the architecture: missing"),
    ],
)
def test_timm_refuses_in_one_line(spec: str, message: str, tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        resolve(spec.format(folder=tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("timm")
def test_a_failing_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str, **options: object) -> nn.Module:
        raise OSError("We couldn't connect\nto the server")

    monkeypatch.setattr(sys.modules["timm"], "create_model", fails)
    with pytest.raises(InputError, match=r"timm:tiny_net cannot be loaded: OSError: We could"):
        resolve("timm:tiny_net")


def test_timm_itself(tmp_path: Path) -> None:
    _with_torchvision("timm")
    import timm  # type: ignore[import-not-found]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
    save_file(theirs.state_dict(), tmp_path / "mine.safetensors")
    loaded = resolve(f"timm:mobilenetv3_small_050@{tmp_path / 'mine.safetensors'}")
    x = torch.rand(2, 3, 64, 64)
    facts = theirs.pretrained_cfg
    mean, std = (torch.tensor(facts[key])[None, :, None, None] for key in ("mean", "std"))
    assert torch.allclose(loaded.model(x), theirs((x - mean) / std))
    assert loaded.image_shape == (3, 224, 224)


def test_torchvision_itself(tmp_path: Path) -> None:
    _with_torchvision("torchvision")
    from torchvision import models  # type: ignore[import-not-found]

    theirs = models.squeezenet1_1(num_classes=5).eval()
    torch.save(theirs.state_dict(), tmp_path / "mine.pt")
    loaded = resolve(f"torchvision:squeezenet1_1@{tmp_path / 'mine.pt'}")
    x = torch.rand(2, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]
    assert torch.allclose(loaded.model(x), theirs((x - mean) / std))
    assert loaded.image_shape == (3, 224, 224)
    with pytest.raises(InputError, match="squeezenet1_1 has no network 'V9'"):
        resolve("torchvision:squeezenet1_1.V9")
    with pytest.raises(InputError, match="did you mean squeezenet1_1"):
        resolve("torchvision:squeezenet1_2")


def _with_torchvision(wanted: str) -> None:
    import importlib.util

    import torchvision_operators

    for name in {wanted, "torchvision"}:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    torchvision_operators.declare()


# -- TorchScript ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_needs_permission_and_has_gradients(tmp_path: Path) -> None:
    torch.jit.trace(network(), X).save(str(tmp_path / "net.pt"))
    with pytest.raises(InputError, match=r"runs code from .*net\.pt; add --allow-code"):
        resolve(f"torchscript:{tmp_path / 'net.pt'}")
    loaded = resolve(f"torchscript:{tmp_path / 'net.pt'}", allow_code=True)
    assert (loaded.kind, loaded.name) == ("torchscript", "torchscript:net.pt")
    assert torch.allclose(loaded.model(X), network()(X))
    assert loaded.parameters == parameter_count(network())
    images = X.clone().requires_grad_(True)
    assert torch.autograd.grad(loaded.model(images).sum(), images)[0].abs().sum() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["traced", "scripted", "frozen"])
def test_torchscript_can_be_attacked_as_any_network(how: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    with torch.random.fork_rng(devices=[]):
        model = model.eval() if how != "scripted" else model.train()
        scripted = torch.jit.trace(model, X) if how == "traced" else torch.jit.script(model)
    if how == "frozen":
        scripted = torch.jit.freeze(scripted)
    torch.jit.save(scripted, tmp_path / "net.pt")
    network = resolve(f"torchscript:{tmp_path / 'net.pt'}", allow_code=True).model
    network.to("cpu").eval()
    copied = copy.deepcopy(network)
    with attacked(copied):
        images = X.clone().requires_grad_(True)
        assert torch.autograd.grad(copied(images).sum(), images)[0].abs().sum() > 0
    assert torch.allclose(network(X), model.eval()(X), atol=1e-5)
    assert len(list(network.buffers())) == (0 if how == "frozen" else 9)


def test_torchscript_of_the_same_weights_and_other_code_is_another_network(tmp_path: Path) -> None:
    hashes = set()
    for active in (nn.ReLU(), nn.Tanh()):
        layers = [*network()]
        model = nn.Sequential(*layers[:2], active, *layers[3:]).eval()
        torch.jit.trace(model, X).save(str(tmp_path / "net.pt"))
        hashes.add(resolve(f"torchscript:{tmp_path / 'net.pt'}", allow_code=True).hash)
    assert len(hashes) == 2


def test_what_is_no_torchscript_is_one_line(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match="is no TorchScript archive"):
        resolve(f"torchscript:{tmp_path / 'net.pt'}", allow_code=True)
    with pytest.raises(InputError, match=r"no file .*nett\.pt; did you mean .*net\.pt"):
        resolve(f"torchscript:{tmp_path / 'nett.pt'}", allow_code=True)


# -- ONNX ----------------------------------------------------------------------------------------


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    pytest.importorskip("onnxruntime")
    return write_onnx(tmp_path / "net.onnx", batch="batch")


def write_onnx(path: Path, batch: str | int) -> Path:
    """`network()` as an ONNX file."""
    onnx = pytest.importorskip("onnx")
    make, numpy_helper = onnx.helper, onnx.numpy_helper
    constants = [
        numpy_helper.from_array(value.numpy(), name)
        for name, value in network().state_dict().items()
    ]
    steps = [
        make.make_node("Flatten", ["x"], ["flat"], axis=1),
        make.make_node("Gemm", ["flat", "1.weight", "1.bias"], ["hidden"], transB=1),
        make.make_node("Relu", ["hidden"], ["active"]),
        make.make_node("Gemm", ["active", "3.weight", "3.bias"], ["logits"], transB=1),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        steps,
        "net",
        [make.make_tensor_value_info("x", kind, [batch, 1, 8, 8])],
        [make.make_tensor_value_info("logits", kind, [batch, 10])],
        constants,
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_onnx_without_onnx2torch_only_answers_queries(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent(monkeypatch, "onnx2torch")
    loaded = resolve(f"onnx:{onnx_file}")
    assert (loaded.kind, loaded.name) == ("onnx", "onnx:net.onnx (queries only)")
    assert (loaded.parameters, loaded.image_shape) == (parameter_count(network()), (1, 8, 8))
    logits = loaded.model(X.clone().requires_grad_(True))
    assert torch.allclose(logits, network()(X), atol=1e-5)
    assert not logits.requires_grad


def test_onnx2torch_gives_gradients_and_is_another_network(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_torchvision("onnx2torch")
    converted = resolve(f"onnx:{onnx_file}")
    assert converted.name == "onnx:net.onnx (onnx2torch)"
    images, expected = X.clone().requires_grad_(True), X.clone().requires_grad_(True)
    gradient = torch.autograd.grad(converted.model(images)[:, 0].sum(), images)[0]
    theirs = torch.autograd.grad(network()(expected)[:, 0].sum(), expected)[0]
    assert torch.allclose(gradient, theirs, atol=1e-5)
    absent(monkeypatch, "onnx2torch")
    assert resolve(f"onnx:{onnx_file}").hash != converted.hash


class Other(nn.Module):
    """Other logits than those of the file."""

    def forward(self, x: Tensor) -> Tensor:
        return network()(x) * 2


def test_a_conversion_that_gives_other_logits_is_not_used(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake(monkeypatch, "onnx2torch", convert=lambda graph: Other())
    loaded = resolve(f"onnx:{onnx_file}")
    assert loaded.name.endswith("(queries only)")
    assert "queries only, no gradients: onnx2torch does not convert it" in caplog.text


def test_onnx_with_a_fixed_batch_size_takes_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    absent(monkeypatch, "onnx2torch")
    loaded = resolve(f"onnx:{write_onnx(tmp_path / 'two.onnx', batch=2)}")
    assert torch.allclose(loaded.model(X), network()(X), atol=1e-5)


def test_onnx_weights_in_a_file_beside_it_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    absent(monkeypatch, "onnx2torch")
    whole = onnx.load(str(write_onnx(tmp_path / "net.onnx", batch="batch")))
    beside = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    onnx.save(whole, str(tmp_path / "net.onnx"), **beside)
    first = resolve(f"onnx:{tmp_path / 'net.onnx'}").hash
    assert resolve(f"onnx:{tmp_path / 'net.onnx'}").hash == first
    data = tmp_path / "net.data"
    data.write_bytes((np.frombuffer(data.read_bytes(), np.float32) * 2).tobytes())
    assert resolve(f"onnx:{tmp_path / 'net.onnx'}").hash != first


def test_what_is_no_onnx_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "net.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"net\.onnx is no ONNX file"):
        resolve(f"onnx:{tmp_path / 'net.onnx'}")


# -- Hugging Face Hub ----------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """A server that answers as the Hub does for one repository, `owner/repo`."""

    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.partition(f"/owner/repo/resolve/{COMMIT}/")[2]
        if path.startswith("/api/models/owner/repo/revision/"):
            known = path.rpartition("/")[2] in ("main", COMMIT)
            siblings = [{"rfilename": file} for file in self.files]
            text = json.dumps({"id": "owner/repo", "sha": COMMIT, "siblings": siblings})
            content, status = text.encode(), 200 if known else 404
        elif path.startswith("/api/models/owner/repo/tree/"):
            tree = [
                {"type": "file", "path": file, "size": len(data), "oid": f"{len(data):040x}"}
                for file, data in self.files.items()
            ]
            content, status = json.dumps(tree).encode(), 200
        else:
            content, status = self.files.get(name, b""), 200 if name in self.files else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{len(content):040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The files of the repository on a server of this machine."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants  # type: ignore[import-not-found]

    handler = type("Handler", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    from huggingface_hub import _snapshot_download

    monkeypatch.setattr(_snapshot_download, "HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    yield handler.files
    server.shutdown()
    thread.join()
    server.server_close()


def checkpoint_files(folder: Path) -> dict[str, bytes]:
    torch.manual_seed(0)
    shape = {"num_classes": 5, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
    model = build_model("small_cnn", **shape)
    card = plain_card(model, defense="trades", seed=0, epoch=1, num_classes=5)
    save_checkpoint(folder, model, card)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_hub_gives_a_checkpoint_with_its_commit(hub: dict[str, bytes], tmp_path: Path) -> None:
    hub |= checkpoint_files(tmp_path / "mine")
    hub["evil.py"] = b"raise SystemExit"
    loaded = resolve("hub:owner/repo")
    assert (loaded.kind, loaded.name) == ("hub", f"hub:owner/repo@{COMMIT}")
    assert loaded.hash == resolve(tmp_path / "mine").hash
    assert loaded.card is not None
    assert loaded.identity["source"] == f"hub:owner/repo@{COMMIT}"
    fetched = {path.name for path in (tmp_path / "cache").rglob("*")}
    assert "model.safetensors" in fetched
    assert "evil.py" not in fetched


@pytest.mark.usefixtures("timm")
def test_hub_gives_a_network_in_the_layout_of_timm(hub: dict[str, bytes], tmp_path: Path) -> None:
    save_file(network(4).state_dict(), tmp_path / "model.safetensors")
    facts = {"mean": [0.5], "std": [0.25], "input_size": [1, 8, 8]}
    hub["model.safetensors"] = (tmp_path / "model.safetensors").read_bytes()
    hub["config.json"] = json.dumps(
        {"architecture": "tiny_net", "num_classes": 4, "pretrained_cfg": facts}
    ).encode()
    loaded = resolve(f"hub:owner/repo@{COMMIT}")
    assert loaded.image_shape == (1, 8, 8)
    assert torch.equal(loaded.model(X), network(4)((X - 0.5) / 0.25))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained", "pretrained_cfg_overlay"])
def test_a_config_on_the_hub_cannot_name_other_files(key: str, hub: dict[str, bytes]) -> None:
    config = {"architecture": "tiny_net", "model_args": {key: "/tmp/evil.pth"}}
    hub |= {"model.safetensors": b"", "config.json": json.dumps(config).encode()}
    with pytest.raises(InputError, match=f"must not set {key} in model_args"):
        resolve("hub:owner/repo")


@pytest.mark.parametrize(
    ("spec", "files", "message"),
    [
        ("hub:repo", {}, "must be hub:OWNER/REPO"),
        ("hub:owner/repo", {"pytorch_model.bin": b""}, "only safetensors are read"),
        ("hub:owner/repo", {"model.safetensors": b"", "config.json": b"{}"}, "'architecture'"),
        ("hub:owner/repo@gone", {}, "hub:owner/repo@gone cannot be fetched"),
    ],
)
def test_hub_refuses_in_one_line(
    spec: str, files: dict[str, bytes], message: str, hub: dict[str, bytes]
) -> None:
    hub |= files
    with pytest.raises(InputError, match=message) as caught:
        resolve(spec)
    assert "\n" not in str(caught.value)


# -- RobustBench ---------------------------------------------------------------------------------


class Name(SimpleNamespace):
    """A member of an enumeration of theirs."""

    def __hash__(self) -> int:
        return hash(self.value)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their package, with two networks, one of them in two lists."""
    from importlib import metadata

    def load_model(
        name: str, *, model_dir: str, dataset: str, threat_model: str, custom_checkpoint: str
    ) -> nn.Module:
        model = network(3)
        assert custom_checkpoint
        model.load_state_dict(torch.load(Path(model_dir, dataset, threat_model, f"{name}.pt")))
        return model

    linf, l2 = {"Both2020": {}, "One2021_Small": {}}, {"Both2020": {}}
    threats = {Name(value="Linf"): linf, Name(value="L2"): l2}
    fake(monkeypatch, "robustbench")
    fake(monkeypatch, "robustbench.model_zoo")
    contents = {"model_dicts": {Name(value="cifar10"): threats}}
    fake(monkeypatch, "robustbench.model_zoo.models", **contents)
    fake(monkeypatch, "robustbench.utils", load_model=load_model)
    real = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "1.1.1" if name == "robustbench" else real(name)
    )


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize("name", ["One2021_Small", "cifar10/Linf/One2021_Small"])
def test_robustbench_takes_weights_of_a_file(name: str, tmp_path: Path) -> None:
    weights = {name: value + 1 for name, value in network(3).state_dict().items()}
    torch.save(weights, tmp_path / "mine.pt")
    loaded = resolve(f"robustbench:{name}@{tmp_path / 'mine.pt'}")
    assert loaded.name == "robustbench:cifar10/Linf/One2021_Small@mine.pt"
    expected = network(3)
    expected.load_state_dict(weights)
    assert torch.equal(loaded.model(X), expected(X))
    assert loaded.image_shape == (3, 32, 32)


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Both2020", "several lists: name one of cifar10/Linf/Both2020, cifar10/L2/Both2020"),
        ("One2021_Smal", "RobustBench has no network 'One2021_Smal'; did you mean One2021_Small"),
        ("cifar10/L2/One2021_Small", "RobustBench has no network"),
    ],
)
def test_robustbench_checks_the_id(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(f"robustbench:{name}")


def test_the_old_folder_that_torchattacks_brings_is_not_taken_for_robustbench(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib import metadata

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(InputError, match="needs robustbench, which is not installed"):
        resolve("robustbench:Carmon2019Unlabeled")
