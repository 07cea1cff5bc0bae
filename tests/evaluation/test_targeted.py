"""Targeted protocols in the harness: verdicts, what parts and results say, flags, recheck."""

import json

import pandas
import pytest
import torch

from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.attacks.targets import choose_targets
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation import evaluate as evaluate_module
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.evaluation.evidence import compress, decompress
from robustbench_lite.evaluation.flags.outcome_checks import outcome_checks
from robustbench_lite.evaluation.flags.thresholds import Check, NetworkChecks
from robustbench_lite.evaluation.header import read_header
from robustbench_lite.evaluation.ledger import COLUMNS, Ledger
from robustbench_lite.leaderboard import load_result
from robustbench_lite.leaderboard.statistics.ranking import rank_results
from robustbench_lite.submission.entry import _write_evidence
from robustbench_lite.submission.recheck import Recheck, Sample
from robustbench_lite.submission.review import RunOptions
from robustbench_lite.transfer.evaluate import evaluate_transfer
from robustbench_lite.verifier import verify

CPU, N = torch.device("cpu"), 24
KIND = {
    "pgd20_ce_least_likely": "least_likely",
    "apgd_least_likely": "least_likely",
    "apgd_random": "random",
    "square_random": "random",
}


@pytest.fixture
def digits():
    return load_split("digits", "test")


@pytest.fixture
def source(checkpoint):
    return resolve_model(str(checkpoint), allow_code=False, device="cpu")


@pytest.fixture
def protocol(tmp_path):
    """`linf_targeted` with shorter attacks."""
    text = protocol_files()["linf_targeted"].read_text()
    text = text.replace("steps = 100", "steps = 10").replace("queries = 5000", "queries = 40")
    (tmp_path / "few.toml").write_text(text)
    return load_protocol(str(tmp_path / "few.toml"), eps="0.3")


def run(source, digits, protocol, out, **options):
    settings = Settings(**{"batch_size": 20, "chunk_size": 20, "threads": 1} | options)
    return evaluate(source, digits, protocol, out=out, n=N, seed=3, settings=settings, device=CPU)


def test_broken_is_taken_for_the_target(source, digits, protocol, tmp_path):
    result = run(source, digits, protocol, tmp_path / "r", evidence="float32")
    rows = pandas.read_parquet(tmp_path / "r/examples.parquet")
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    untargeted = 0
    for name, kind in KIND.items():
        mine = rows[rows.attack == name]
        ids, y = (torch.tensor(mine[key].to_numpy()) for key in ("example_id", "label"))
        x, where = digits.subset(ids).pixels(slice(None)), {"seed": 3, "batch_size": 20}
        aims = choose_targets(kind, source.model, x, y, ids=ids, **where)
        stored = [ledger.read_targets(name, chunk) for chunk in range(2)]
        assert [*stored[0], *stored[1]] == aims.tolist()
        prediction = torch.tensor(mine.prediction.to_numpy())
        assert mine.broken.tolist() == (prediction == aims).tolist()
        untargeted += int(((prediction != y) & (prediction != aims)).sum())
        images = torch.cat([ledger.read_evidence(name, chunk)["x_adv"] for chunk in range(2)])
        options = {"threat": protocol.threat, "batch_size": 20, "target_labels": aims}
        again = verify(source.model, x, images, y, **options)
        assert again.broken.tolist() == mine.broken.tolist()
        found, hit = result["attacks"][name]["targeted"], int(mine.broken.sum())
        assert found["target"] == kind
        assert (found["success"]["correct"], found["success"]["n"]) == (hit, len(mine))
        assert found["misclassified"] == int((prediction != y).sum())
        assert result["attacks"][name]["correct"] == len(mine) - hit
    assert untargeted > 0, "an image taken for a third class stands, or the test says little"
    assert 0 < result["robust_accuracy"]["correct"] < result["clean_accuracy"]["correct"]
    assert ledger.read_targets("clean", 0) is None


def test_a_targeted_result_is_read_and_its_row_has_an_id_of_its_own(
    source, digits, protocol, tmp_path
):
    run(source, digits, protocol, tmp_path / "r")
    result = load_result(tmp_path / "r/result.json")
    assert result.protocol.id == "linf_targeted@0.3.v1"
    assert [one.target for one in result.protocol.attacks] == list(KIND.values())
    assert result.notes == ("targeted",)
    stored = json.loads((tmp_path / "r/result.json").read_text())
    check = stored["checks"]["black_box_beats_white_box"]
    assert check["points"] == N, "Square is held against APGD, which aims at the same class"
    assert stored["checks"]["transfer_beats_white_box"] == {"value": 0.0, "points": 0}


def test_evidence_of_broken_images_still_hits_the_target(source, digits, protocol, tmp_path):
    run(source, digits, protocol, tmp_path / "r", evidence="int8")
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    part = ledger.read_part("apgd_random", 0)
    x = digits.subset(torch.tensor(part.example_id.to_numpy())).pixels(slice(None))
    rows, images = decompress(ledger.read_evidence("apgd_random", 0), x)
    assert rows.tolist() == part.index[part.broken].tolist()
    assert len(rows) > 0
    aims = torch.tensor(ledger.read_targets("apgd_random", 0))[rows]
    assert torch.equal(source.model(images).argmax(dim=1), aims)


def test_rounded_images_are_judged_by_the_same_targets(
    source, digits, protocol, tmp_path, monkeypatch
):
    aims = []

    def watched(*given, target_labels, **options):
        aims.append(target_labels.tolist())
        return compress(*given, target_labels=target_labels, **options)

    monkeypatch.setattr(evaluate_module, "compress", watched)
    run(source, digits, protocol, tmp_path / "r", evidence="int8")
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    assert aims
    assert aims[: len(protocol.attacks)] == [
        ledger.read_targets(spec.name, 0) for spec in protocol.attacks
    ]


def test_an_untargeted_result_says_nothing_of_targets_and_shares_no_rank(
    source, digits, protocol, tmp_path
):
    run(source, digits, protocol, tmp_path / "targeted")
    result = run(source, digits, load_protocol("linf_quick", eps="0.3"), tmp_path / "r")
    both = [load_result(tmp_path / name / "result.json") for name in ("targeted", "r")]
    assert [len(group.rows) for group in rank_results(both)] == [1, 1]
    assert all("targeted" not in attack for attack in result["attacks"].values())
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    assert ledger.read_targets("pgd20_ce", 0) is None
    assert "targets" not in ledger._read("pgd20_ce", 0)[1]


def part(broken, n=20):
    values = {name: [0] * n for name in COLUMNS} | {"example_id": list(range(n))}
    values |= {"broken": [i in broken for i in range(n)], "stage": [""] * n}
    return pandas.DataFrame(values)


APGD = {"steps": 3, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False, "targets": 1}
SQUARE = {"attack": "square", "queries": 3, "restarts": 1, "p_init": 0.8}


@pytest.mark.parametrize(
    ("white", "black", "found"),
    [
        ("random", "random", Check(0.1, 20)),
        ("least_likely", "random", Check(0.0, 0)),
        ("random", None, Check(0.0, 0)),
    ],
)
def test_attacks_that_aim_at_different_classes_are_not_compared(white, black, found):
    square = SQUARE if black is None else SQUARE | {"target": black}
    attacks = {"white": {"attack": "apgd_t", **APGD, "target": white}, "black": square}
    stated = [{"name": name, "title": name, **attack} for name, attack in attacks.items()]
    protocol = {"norm": "Linf", "eps_value": 0.1, "attacks": stated}
    parts = {"clean": part([]), "white": part([0, 1]), "black": part([1, 2, 3])}
    checks = outcome_checks(protocol, parts, NetworkChecks({}, 5, (7, 8)))
    assert checks["black_box_beats_white_box"] == found
    assert checks["transfer_beats_white_box"] == Check(0.0, 0)


def test_transfer_refuses_a_targeted_attack(source, digits, protocol, tmp_path):
    options = {"n": 4, "seed": 0, "pixels": "float", "batch_size": 4, "threads": 1, "device": CPU}
    with pytest.raises(InputError, match="'apgd_random' is targeted .* choose an untargeted"):
        evaluate_transfer(
            [source], [source], digits, protocol, protocol.attacks[2], out=tmp_path, **options
        )


def test_an_entry_is_computed_again_towards_the_same_classes(source, digits, protocol, tmp_path):
    run(source, digits, protocol, tmp_path / "r", evidence="int8")
    ledger = Ledger(tmp_path / "r", read_header(tmp_path / "r"))
    for name in KIND:
        _write_evidence(ledger, name, N, tmp_path / f"{name}.safetensors")
    place = RunOptions(data_dir=None, device="cpu", batch_size=20, threads=1)
    result = load_result(tmp_path / "r/result.json")
    bench = Recheck(source.model, protocol, result, digits, place)
    found = [bench.evidence(name, tmp_path) for name in KIND]
    assert [finding.level for finding in found] == ["ok"] * 4, found
    assert bench.attack_again(Sample(k=5, seed=1)).level == "ok"
    assert [finding.level for finding in bench.flags()] == ["ok"]
    bench.stands["apgd_random"] = ~bench.stands["apgd_random"]
    assert bench.evidence("apgd_random", tmp_path).level == "error"
