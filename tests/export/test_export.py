"""Results and checkpoints in the formats of others, read back by their libraries if installed."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs

from robustbench_lite.checkpoints.checkpoint import checkpoint_hash, load_checkpoint
from robustbench_lite.checkpoints.import_weights import import_weights
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.export import onnx_file
from robustbench_lite.export.every_eval_ever import (
    Evaluator,
    every_eval_ever_record,
    record_path,
)
from robustbench_lite.export.hub import eval_results_text, write_hub_folder
from robustbench_lite.export.robustbench import Paper, model_info, model_info_path
from robustbench_lite.leaderboard import Result, load_result
from robustbench_lite.leaderboard.results.records import Accuracy, EvaluatedData, RaisedFlag
from robustbench_lite.models import build_model

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "example_submission" / "entry" / "result.json"
EVALUATOR = Evaluator("My Lab", "first_party", 1_700_000_000)
FLAG = RaisedFlag("gradient_masking", 0.5, 0.1, "m", "f")
# `ModelInfo` in robustbench/utils.py without the fields of corruptions, and `ACC_FIELDS`.
MODEL_INFO = {
    *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue"),
    *("architecture", "eps", "clean_acc", "reported", "autoattack_acc", "footnote", "external"),
}


@pytest.fixture(scope="module")
def result() -> Result:
    return load_result(EXAMPLE)


@pytest.fixture(scope="module")
def of_cifar10(result: Result) -> Result:
    return replace(result, dataset=EvaluatedData("cifar10", "test", "sha256:00", True))


@pytest.fixture
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of digits."""
    sizes = {"num_classes": 10, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
    torch.manual_seed(0)
    state = build_model("small_cnn", **sizes).state_dict()
    folder = tmp_path_factory.mktemp("network")
    torch.save(state, folder / "w.pt")
    import_weights(
        folder / "w.pt",
        architecture="small_cnn",
        **sizes,
        dataset="digits",
        name="untrained",
        out=folder / "c",
        architecture_kwargs={},
    )
    return folder / "c"


# RobustBench


def test_model_info_has_robustbench_s_keys_in_its_units(of_cifar10: Result) -> None:
    paper = Paper("https://arxiv.org/abs/1706.06083", "A title", "A, B", "ICLR 2018", "80.1")
    entry = model_info(of_cifar10, paper)
    assert set(entry) < MODEL_INFO
    assert entry == {
        "link": "https://arxiv.org/abs/1706.06083",
        "name": "A title",
        "authors": "A, B",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "ICLR 2018",
        "architecture": "small_cnn",
        "eps": "0.15",
        "clean_acc": "98.63",
        "reported": "80.1",
        "autoattack_acc": "79.95",
        "footnote": "Evaluated on n=364 of test.",
    }
    assert model_info_path(of_cifar10).parts[:3] == ("model_info", "cifar10", "Linf")


def test_what_other_attacks_break_more_is_the_external_accuracy(of_cifar10: Result) -> None:
    lower = replace(of_cifar10, robust_accuracy=Accuracy.of(100, 364), flags=(FLAG,))
    entry = model_info(lower, Paper())
    assert (entry["autoattack_acc"], entry["external"]) == ("79.95", "27.47")
    assert str(entry["footnote"]).endswith("Flags: gradient_masking.")
    assert entry["link"] is None


def test_a_result_that_robustbench_has_no_place_for_is_refused(
    result: Result, of_cifar10: Result
) -> None:
    with pytest.raises(InputError, match="no table of 'digits', only of cifar10, cifar100"):
        model_info(result, Paper())
    with pytest.raises(InputError, match="no table of norm L1"):
        model_info(replace(of_cifar10, protocol=replace(of_cifar10.protocol, norm="L1")), Paper())
    quick = replace(of_cifar10.protocol, attacks=of_cifar10.protocol.attacks[:2])
    with pytest.raises(InputError, match="holds no standard AutoAttack"):
        model_info(replace(of_cifar10, protocol=quick), Paper())


# Every Eval Ever


def test_a_record_holds_every_accuracy_with_its_interval(result: Result) -> None:
    record: Any = every_eval_ever_record(result, EVALUATOR)
    rows = {row["evaluation_result_id"]: row for row in record["evaluation_results"]}
    protocol = result.protocol.id
    assert list(rows) == [
        f"{protocol}/{name}"
        for name in ("clean", "pgd20_ce", "cwinf30_k50", "aa_standard", "robust")
    ]
    details = rows[f"{protocol}/robust"]["score_details"]
    assert details["score"] == result.robust_accuracy.value
    assert details["uncertainty"] == {
        "confidence_interval": {
            "lower": result.robust_accuracy.interval[0],
            "upper": result.robust_accuracy.interval[1],
            "confidence_level": 0.95,
            "method": "Wilson",
        },
        "num_samples": 364,
    }
    assert rows[f"{protocol}/pgd20_ce"]["metric_config"]["metric_parameters"]["steps"] == "20"
    assert record["model_info"]["id"] == "My-Lab/digits_pgd_at_example"


def test_a_flag_is_in_the_record(result: Result) -> None:
    record: Any = every_eval_ever_record(replace(result, flags=(FLAG,)), EVALUATOR)
    clean, *attacked = (row["score_details"]["details"] for row in record["evaluation_results"])
    assert all("gradient_masking" in details["flags"] for details in attacked)
    assert {details["status"] for details in (clean, *attacked)} == {"flagged"}


def test_one_result_is_one_file_of_the_data_store(result: Result) -> None:
    path = record_path(result, EVALUATOR)
    assert path == record_path(result, replace(EVALUATOR, timestamp=1))
    assert path.parts[:-1] == ("data", "robustbench_lite", "My-Lab", "digits_pgd_at_example")
    assert path != record_path(replace(result, file_hash="sha256:" + "1" * 64), EVALUATOR)


def test_every_eval_ever_accepts_the_record(result: Result, tmp_path: Path) -> None:
    types = pytest.importorskip("every_eval_ever.eval_types", reason="needs Python 3.12")
    jsonschema = pytest.importorskip("jsonschema", reason="comes with every-eval-ever")
    record = every_eval_ever_record(result, EVALUATOR)
    schema = resources.files("every_eval_ever.schemas").joinpath("eval.schema.json").read_text()
    jsonschema.validate(record, json.loads(schema))
    assert json.loads(schema)["version"] == record["schema_version"]
    log = types.EvaluationLog.model_validate(record)
    assert log.evaluation_results[-1].score_details.score == result.robust_accuracy.value


# Hugging Face Hub


@pytest.fixture
def of_checkpoint(result: Result, checkpoint: Path) -> Result:
    return replace(result, model=structs.replace(result.model, hash=checkpoint_hash(checkpoint)))


def test_the_hub_folder_is_a_checkpoint_with_its_results(
    of_checkpoint: Result, checkpoint: Path, tmp_path: Path
) -> None:
    out, best = tmp_path / "hub", checkpoint
    twice = [of_checkpoint, replace(of_checkpoint, seed=1)]
    write_hub_folder(best, twice, out, hub_dataset="me/digits")
    assert checkpoint_hash(out) == checkpoint_hash(best)
    assert sorted(path.name for path in (out / ".eval_results").iterdir()) == [
        "digits-linf_standard-0.15.v2.2.yaml",
        "digits-linf_standard-0.15.v2.yaml",
    ]
    readme = (out / "README.md").read_text()
    row = (
        "| digits, n=364 | linf_standard@0.15.v2 | 98.63 (96.83 to 99.41) | 79.95 (75.53 to 83.74)"
    )
    assert row in readme
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
    with pytest.raises(InputError, match="hub exists: choose another folder"):
        write_hub_folder(best, [], out, hub_dataset=None)


def test_a_page_written_by_hand_goes_along(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "README.md").write_text("# Mine\n")
    write_hub_folder(checkpoint, [], tmp_path / "hub", hub_dataset=None)
    assert (tmp_path / "hub" / "README.md").read_text() == "# Mine\n"


def test_results_of_another_network_are_refused(
    result: Result, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is of another network"):
        write_hub_folder(checkpoint, [result], tmp_path / "hub", hub_dataset="me/digits")
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_without_a_place_on_the_hub_needs_one(result: Result) -> None:
    with pytest.raises(InputError, match="'digits' has no usual place on the Hub: give --hub-d"):
        eval_results_text(result, None)


def test_other_pixels_under_a_known_name_need_a_place_too(of_cifar10: Result) -> None:
    own = replace(of_cifar10, dataset=structs.replace(of_cifar10.dataset, canonical=False))
    with pytest.raises(InputError, match="'cifar10' has other pixels than"):
        eval_results_text(own, None)
    assert "me/mine" in eval_results_text(own, "me/mine")


def test_hugging_face_reads_the_results(result: Result, of_cifar10: Result) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    yaml = pytest.importorskip("yaml", reason="comes with huggingface_hub")
    stored = yaml.safe_load(eval_results_text(replace(of_cifar10, flags=(FLAG,)), None))
    clean, robust = hub.parse_eval_result_entries(stored)
    assert (clean.dataset_id, clean.task_id, clean.value) == (
        "uoft-cs/cifar10",
        "clean_accuracy",
        98.63,
    )
    assert (robust.task_id, robust.value) == ("linf_standard@0.15.v2", 79.95)
    assert "n=364, 95% interval 75.53 to 83.74, flagged: gradient_masking" in robust.notes
    assert stored == hub.eval_result_entries_to_yaml([clean, robust])


# ONNX


def test_a_missing_package_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_PACKAGES", ("no_such_package_a", "json"))
    with pytest.raises(InputError, match=r"needs no_such_package_a: pip install no_such_package_a"):
        onnx_file.write_onnx(checkpoint, tmp_path / "net.onnx")


@pytest.mark.parametrize("difference", [0.1, float("nan")])
def test_a_file_with_other_logits_is_not_written(
    difference: float, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "_PACKAGES", ())
    monkeypatch.setattr(onnx_file, "_exported", lambda *_: b"")
    monkeypatch.setattr(onnx_file, "_largest_difference", lambda *_: difference)
    with pytest.raises(InputError, match=r"gives other logits as ONNX \(by .*\): not written"):
        onnx_file.write_onnx(checkpoint, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnxruntime_gives_the_same_logits(checkpoint: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tmp_path / "net.onnx"
    assert main(["export", str(checkpoint), "--to", "onnx", "--out", str(out)]) == 0
    onnx.checker.check_model(onnx.load(out), full_check=True)
    facts = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert facts["checkpoint"] == checkpoint_hash(checkpoint)
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    model, _ = load_checkpoint(checkpoint)
    for batch in (1, 7):  # another batch size than at export
        x = torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        logits = torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-4)


# The command


def test_the_command_writes_records_and_is_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    words = ["export", str(EXAMPLE), "--to", "every-eval-ever", "--out", str(tmp_path)]
    assert main([*words, "--organization", "My Lab", "--relationship", "first_party"]) == 0
    (file,) = tmp_path.rglob("*.json")
    assert capsys.readouterr().out == f"{file}\n"
    assert json.loads(file.read_text()) == every_eval_ever_record(load_result(EXAMPLE), EVALUATOR)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "every-eval-ever"], "needs --organization and --relationship"),
        (["--to", "robustbench"], "RobustBench has no table of 'digits'"),
        (["--to", "hub"], "is a file, not a checkpoint folder"),
        (["--to", "paperswithcode"], "invalid choice"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(EXAMPLE), *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_results_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = ["export", str(tmp_path / "empty"), "--to", "robustbench", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "holds no result" in capsys.readouterr().err
