"""A network in ONNX, by the command line alone: attacked by queries, and its row says so."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from robustbench_lite.attacks.protocol import protocol_files
from robustbench_lite.cli import main
from robustbench_lite.core.flag_rules import OF_GRADIENTS
from robustbench_lite.datasets import load_split
from robustbench_lite.leaderboard.results.load import load_result
from robustbench_lite.leaderboard.table.row import build_rows

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def nearest_mean() -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the linear network that takes the digit of the nearest mean image."""
    data = load_split("digits", "train")
    pixels = data.pixels(slice(None)).flatten(1)
    means = torch.stack([pixels[data.labels == k].mean(dim=0) for k in range(10)])
    return 2.0 * means, -means.square().sum(dim=1)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight, bias = nearest_mean()
    steps = [
        make.make_node("Flatten", ["x"], ["flat"], axis=1),
        make.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    graph = make.make_graph(
        steps,
        "net",
        [make.make_tensor_value_info("x", kind, ["batch", 1, 8, 8])],
        [make.make_tensor_value_info("logits", kind, ["batch", 10])],
        [
            onnx.numpy_helper.from_array(weight.numpy(), "w"),
            onnx.numpy_helper.from_array(bias.numpy(), "b"),
        ],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "net.onnx"))
    return tmp_path / "net.onnx"


@pytest.fixture
def command(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`rbl evaluate` of the file, where onnx2torch is not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx2torch" else real(name)
    )
    network = ["evaluate", "--model", f"onnx:{onnx_file}", "--dataset", "digits", "--eps", "0.15"]
    return [*network, "--threads", "1", "--device", "cpu", "--n", "24"]


def test_onnx_under_linf_black_box(command: list[str], tmp_path: Path) -> None:
    text = protocol_files()["linf_black_box"].read_text().replace("10000", "80")
    (tmp_path / "few.toml").write_text(text)
    command += ["--protocol", str(tmp_path / "few.toml"), "--out", str(tmp_path / "results")]
    assert main(command) == 0
    (file,) = (tmp_path / "results").rglob("result.json")
    result = json.loads(file.read_text())
    data, (weight, bias) = load_split("digits", "test"), nearest_mean()
    x, y = data.pixels(slice(0, 24)).flatten(1), data.labels[:24]
    clean = int(((x @ weight.T + bias).argmax(dim=1) == y).sum())
    assert result["clean_accuracy"]["correct"] == clean >= 20
    assert result["robust_accuracy"]["correct"] < clean
    assert result["attacks"]["square"]["backwards"] == 0.0
    assert {result["checks"][name]["points"] for name in OF_GRADIENTS} == {0}
    assert result["model"]["kind"] == "onnx"
    (row,) = build_rows([load_result(file)])
    assert (row.rank, row.flags) == ("1", "queries only, no gradient")
    first = file.read_bytes()
    assert main(command) == 0  # nothing left to do
    assert file.read_bytes() == first


def test_onnx_under_gradient_attacks_is_sent_to_linf_black_box(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--protocol", "linf_quick"]) == 2
    err = capsys.readouterr().err
    assert "linf_black_box" in err
    assert err.count("\n") == 1
