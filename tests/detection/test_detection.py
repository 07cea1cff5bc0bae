"""Detection: losses, metrics and scores against worked examples, and `rbl detect` end to end."""

import copy
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_net
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robustbench_lite.attacks.first_order.pgd_int import pgd_int
from robustbench_lite.attacks.losses import attack_loss, entropy, uniform_cross_entropy
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.cli import main
from robustbench_lite.cli.detect import default_file
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.datasets.outliers.sources import load_outliers
from robustbench_lite.detection.evaluate import DetectionSettings, evaluate_detection
from robustbench_lite.detection.scores import msp, odin
from robustbench_lite.leaderboard.statistics.detection import (
    auroc,
    auroc_ties_lost,
    detection_error,
    detection_metrics,
    fpr95_at_least,
    fpr95_nearest,
)

Z = torch.tensor([[2.0, 0, -1], [0, 0, 0], [5, 0, 0]], dtype=torch.float64)
Y = torch.zeros(3, dtype=torch.int64)


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=atol
    )


# Losses


def test_confidence_losses_give_the_worked_example():
    close(uniform_cross_entropy(Z), [1.836513, 1.098612, 3.346719])
    close(entropy(Z), [0.524267, 1.098612, 0.079869])
    close(msp(nn.Identity(), Z), [0.843795, 0.333333, 0.986703])


def test_outlier_loss_is_log_k_plus_the_divergence_from_uniform():
    close(uniform_cross_entropy(Z) - np.log(3), [0.737900, 0, 2.248107])
    p = torch.softmax(Z, dim=1)
    divergence = (1 / 3 * (np.log(1 / 3) - p.log())).sum(dim=1)
    torch.testing.assert_close(uniform_cross_entropy(Z) - np.log(3), divergence)
    floor = uniform_cross_entropy(torch.full((1, 10), 7.0, dtype=torch.float64))
    close(floor, [2.302585])


def test_the_attacks_names_are_these_losses_with_the_sign_of_ascent():
    def loss(name):
        return attack_loss(name, Z, Y, clean_logits=None, kappa=None)

    assert torch.equal(loss("oe"), uniform_cross_entropy(Z))
    assert torch.equal(loss("to_uniform"), -uniform_cross_entropy(Z))
    assert torch.equal(loss("to_one_hot"), -entropy(Z))


def test_confidence_losses_are_finite_with_finite_gradients_at_large_logits():
    z = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    for loss in (uniform_cross_entropy, entropy):
        (gradient,) = torch.autograd.grad(loss(z).sum(), z)
        assert torch.isfinite(loss(z)).all()
        assert torch.isfinite(gradient).all()


# Metrics

SMALL = ([0.9, 0.8, 0.7, 0.6], [0.65, 0.5, 0.4, 0.3])
TWENTY = ((np.arange(1, 21) * 0.05).tolist(), [0.04, 0.06, 0.12, 0.52, 0.97])
FEW_APART, MANY_APART = ([0.9] * 4, [0.1] * 3), (np.linspace(0.5, 0.9, 20), [0.1] * 3)
REVERSED = ([0.1, 0.2], [0.8, 0.9])
TIED = ([0.5] * 20, [0.5] * 7)
PARTLY_TIED = ([1.0] * 10 + [0.9] * 10, [1.0] * 5 + [0.5] * 5)


@pytest.mark.parametrize(
    ("metric", "scores", "expected"),
    [
        (auroc, SMALL, 0.9375),
        (auroc_ties_lost, SMALL, 0.9375),
        (detection_error, SMALL, 0.125),
        (fpr95_at_least, SMALL, 0.25),
        (fpr95_nearest, SMALL, 1.0),
        (auroc, TWENTY, 0.68),
        (detection_error, TWENTY, 0.25),
        (fpr95_at_least, TWENTY, 0.6),
        (fpr95_nearest, TWENTY, 0.8),
        (auroc, FEW_APART, 1.0),
        (detection_error, FEW_APART, 0.0),
        (fpr95_at_least, FEW_APART, 0.0),
        (fpr95_nearest, FEW_APART, 1.0),
        (fpr95_nearest, MANY_APART, 0.0),
        (auroc, REVERSED, 0.0),
        (detection_error, REVERSED, 0.5),
        (fpr95_at_least, REVERSED, 1.0),
        (auroc, TIED, 0.5),
        (auroc_ties_lost, TIED, 0.0),
        (detection_error, TIED, 0.5),
        (fpr95_at_least, TIED, 1.0),
        (fpr95_nearest, TIED, 1.0),
        (auroc, PARTLY_TIED, 0.625),
        (auroc_ties_lost, PARTLY_TIED, 0.5),
    ],
)
def test_metrics_give_the_worked_examples(metric, scores, expected):
    inliers, outliers = scores
    assert metric(inliers, outliers) == pytest.approx(expected, abs=1e-12)
    # scores come in any order
    assert metric(inliers[::-1], outliers[::-1]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "below_1"), [(9, False), (10, True)])
def test_the_authors_fpr95_is_1_below_ten_inliers(n, below_1):
    assert (fpr95_nearest(np.arange(n) + 1.0, [0.0]) < 1) is below_1


SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_metrics_are_what_a_sweep_over_all_thresholds_says(inliers, outliers):
    ours, theirs = np.array(inliers), np.array(outliers)
    thresholds = [*sorted({*inliers, *outliers}), np.inf]
    tpr = np.array([np.mean(ours >= t) for t in thresholds])
    fpr = np.array([np.mean(theirs >= t) for t in thresholds])
    area = -np.trapezoid(tpr, fpr)
    assert auroc(inliers, outliers) == pytest.approx(area, abs=1e-12)
    assert detection_error(inliers, outliers) == pytest.approx(np.min(1 - tpr + fpr) / 2, abs=1e-12)
    largest = max(i for i in range(len(tpr)) if tpr[i] >= 0.95)
    assert fpr95_at_least(inliers, outliers) == pytest.approx(fpr[largest], abs=1e-12)
    pairs = np.mean([[a > b for b in outliers] for a in inliers])
    assert auroc_ties_lost(inliers, outliers) == pytest.approx(pairs, abs=1e-12)


@given(SCORES, SCORES)
def test_auroc_is_the_same_with_sides_swapped_or_scores_stretched(inliers, outliers):
    value = auroc(inliers, outliers)
    assert auroc(-np.array(outliers), -np.array(inliers)) == pytest.approx(value, abs=1e-12)
    stretched = [np.exp(np.array(scores)) for scores in (inliers, outliers)]
    assert detection_metrics(*stretched) == detection_metrics(inliers, outliers)


@pytest.mark.parametrize(
    ("inliers", "outliers", "message"),
    [
        ([], [1.0], "inliers have shape"),
        ([1.0], [[1.0]], "outliers have shape"),
        ([np.nan], [1.0], "inliers hold NaN"),
        ([1.0], [np.inf], "outliers hold NaN or infinity"),
    ],
)
def test_metrics_refuse_scores_that_say_nothing(inliers, outliers, message):
    with pytest.raises(ValueError, match=message):
        detection_metrics(inliers, outliers)


# Scores


class Linear(nn.Module):
    """f(x) = W x on two pixels."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def pixels(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_odin_gives_the_worked_example():
    model, x = Linear([[1.0, -2], [0, 1]]), pixels(0.5, 0.1)
    close(odin(model, x, temperature=1000.0, eta=0.0014), [0.500051400], atol=1e-9)
    close(odin(model, x, temperature=1000.0, eta=0.0), [0.500050000], atol=1e-9)
    close(msp(model, x), [0.549834])
    # the step to (0.5014, 0.0986)
    close(odin(model, x, temperature=1.0, eta=0.0014), msp(model, pixels(0.5014, 0.0986)).tolist())


def test_odin_without_temperature_and_step_is_msp(images):
    net = small_net()
    assert torch.equal(odin(net, images[0], temperature=1.0, eta=0.0), msp(net, images[0]))


def test_odin_takes_a_gradient_of_zero_as_positive_and_does_not_clip():
    model = Linear([[0.0, 1.0], [0.0, 0.0]])  # the first pixel has no effect
    seen = []
    model.register_forward_hook(lambda module, args, out: seen.append(args[0].detach().clone()))
    odin(model, pixels(0.0, 1.0), temperature=1.0, eta=0.25)
    assert seen[-1].flatten().tolist() == [-0.25, 1.25]


def test_scores_do_not_saturate_where_float32_would():
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0]])
    assert torch.softmax(logits, dim=1).amax(dim=1).unique().numel() == 1
    low, high = msp(nn.Identity(), logits).tolist()
    assert low < high < 1.0


@pytest.mark.parametrize("score", [msp, lambda net, x: odin(net, x, temperature=1000.0, eta=0.1)])
def test_scores_are_of_eval_mode_and_leave_the_network_as_it_was(score, images):
    x, _ = images
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = score(net, x)
    assert first.dtype == torch.float64
    assert torch.equal(score(net, x), first)  # dropout is off
    torch.testing.assert_close(score(net, x[2:3]), first[2:3])
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_logit_that_is_not_finite_has_no_score():
    with pytest.raises(InputError, match="NaN or infinite logits"):
        msp(nn.Identity(), torch.tensor([[1.0, torch.nan]]))


# The whole


def settings(**changes):
    arguments = {
        "score": "msp",
        "eps": Fraction(16, 255),
        "alpha": Fraction(4, 255),
        "steps": 5,
        "seed": 0,
        "batch_size": 20,
        "threads": 1,
    }
    return DetectionSettings(**(arguments | changes))


def detect(checkpoint, names=("gaussian", "jigsaw"), n=48, **changes):
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    data = load_split("digits", "test")
    like = data.subset(range(n))
    outliers = {name: load_outliers(name, like) for name in names}
    cpu = torch.device("cpu")
    return evaluate_detection(
        source, data, outliers, n=n, settings=settings(**changes), device=cpu
    ), (source.model, data, outliers)


def test_numbers_are_those_of_the_scores_and_the_average_is_plain(checkpoint):
    result, (model, data, outliers) = detect(checkpoint)
    ours = msp(model, data.pixels(slice(0, 48)))
    for name, images in outliers.items():
        expected = detection_metrics(ours.numpy(), msp(model, images.float() / 255.0).numpy())
        assert result["outliers"][name]["clean"] == pytest.approx(expected, abs=1e-3)
    for kind in ("clean", "attacked"):
        rows = [row[kind]["auroc"] for row in result["outliers"].values()]
        assert result["average"][kind]["auroc"] == pytest.approx(sum(rows) / 2)


@pytest.mark.parametrize("score", ["msp", "odin"])
def test_an_attack_on_both_sides_makes_detection_worse(checkpoint, score):
    result, _ = detect(checkpoint, score=score)
    clean, attacked = (result["average"][kind] for kind in ("clean", "attacked"))
    assert attacked["auroc"] < clean["auroc"] - 0.1
    assert attacked["detection_error"] >= clean["detection_error"]
    still, _ = detect(checkpoint, score=score, eps=Fraction(0))
    assert still["average"]["attacked"] == still["average"]["clean"]


def test_inliers_lose_confidence_and_outliers_gain_it(checkpoint, monkeypatch):
    calls = []

    def recorded(model, x, y, **arguments):
        x_adv = pgd_int(model, x, y, **arguments)
        calls.append((arguments, msp(model, x), msp(model, x_adv)))
        return x_adv

    monkeypatch.setattr("robustbench_lite.detection.evaluate.pgd_int", recorded)
    result, _ = detect(checkpoint, names=["jigsaw"], n=24, batch_size=12)
    assert [call[0]["loss"] for call in calls] == ["to_uniform"] * 2 + ["to_one_hot"] * 2
    assert [call[0]["ids"].tolist() for call in calls[:2]] == [[*range(12)], [*range(12, 24)]]
    assert len({call[0]["stream"] for call in calls}) == 2
    for _, before, after in calls[:2]:
        assert after.mean() < before.mean()
    for _, before, after in calls[2:]:
        assert after.mean() > before.mean()
    clean, attacked = (
        [torch.cat([call[kind] for call in side]).numpy() for side in (calls[:2], calls[2:])]
        for kind in (1, 2)
    )
    assert result["outliers"]["jigsaw"]["clean"] == detection_metrics(*clean)
    assert result["outliers"]["jigsaw"]["attacked"] == detection_metrics(*attacked)


def test_results_do_not_depend_on_the_batch_size(checkpoint):
    (first, _), (second, _) = (detect(checkpoint, n=16, batch_size=size) for size in (20, 7))
    for name in first["outliers"]:
        one, other = (run["outliers"][name] for run in (first, second))
        assert one["hash"] == other["hash"]
        assert one["attacked"]["auroc"] == pytest.approx(other["attacked"]["auroc"], abs=2e-3)


def test_against_fewer_outliers_only_as_many_inliers_count(checkpoint):
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    data = load_split("digits", "test")
    few = {"few": load_outliers("gaussian", data, count=10)}
    cpu = torch.device("cpu")
    still = settings(steps=0, eps=Fraction(0))
    runs = [
        evaluate_detection(source, data, few, n=n, settings=still, device=cpu) for n in (10, 40)
    ]
    assert runs[0]["outliers"] == runs[1]["outliers"]
    assert runs[0]["outliers"]["few"]["n"] == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "energy"}, "score='energy' is unknown; available: msp, odin"),
        ({"eps": Fraction(31, 1000)}, "eps=0.031 is 7.905/255"),
        ({"steps": -1}, "steps=-1 must be at least 0"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings(**changes)


QUICK = ["--n", "24", "--steps", "2", "--threads", "1", "--device", "cpu"]


def test_rbl_detect_prints_a_table_and_writes_everything_behind_it(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    names = ["--outliers", "gaussian", "--outliers", "blobs"]
    assert main(["detect", str(checkpoint), *names, *QUICK]) == 0
    printed = capsys.readouterr().out
    (path,) = Path("results").rglob("*.json")
    assert f"result: {path}" in printed
    lines = printed.splitlines()
    assert "eps 1/255, 2 steps" in lines[0]
    assert [line.split()[0] for line in lines[3:6]] == ["gaussian", "blobs", "average"]
    stored = json.loads(path.read_text())
    shown = [float(number) for number in lines[3].split()[1:]]
    row = stored["outliers"]["gaussian"]
    expected = [
        100 * row[kind][key]
        for kind in ("clean", "attacked")
        for key in ("auroc", "fpr95_at_least")
    ]
    assert shown == pytest.approx(expected, abs=5e-3)
    assert stored["schema_version"] == 1
    assert stored["examples"] == {"first": 0, "count": 24}
    assert stored["attack"]["loss"] == {"inlier": "to_uniform", "outlier": "to_one_hot"}
    assert stored["dataset"]["canonical"] is True
    hashes = [stored["model"]["hash"], stored["dataset"]["hash"], row["hash"]]
    assert all(text.startswith("sha256:") for text in hashes)
    assert {"torch", "robustbench_lite"} <= set(stored["environment"]["versions"])
    # the same command finds its own file, with the same bytes; another command another
    before = path.read_bytes()
    assert main(["detect", str(checkpoint), *names, *QUICK]) == 0
    assert path.read_bytes() == before
    assert main(["detect", str(checkpoint), *names, *QUICK, "--eps", "2/255"]) == 0
    assert len(list(Path("results").rglob("*.json"))) == 2
    assert main(["detect", str(checkpoint), *names, *QUICK, "--out", "mine.json"]) == 0
    assert json.loads(Path("mine.json").read_text())["outliers"] == stored["outliers"]


def test_results_of_other_terms_never_share_a_file(checkpoint):
    result, _ = detect(checkpoint, n=4, steps=0)
    names = {default_file(result)}
    for path, value in (
        (("model", "hash"), "sha256:0"),
        (("dataset", "hash"), "sha256:0"),
        (("outliers", "jigsaw", "hash"), "sha256:0"),
        (("examples", "count"), 5),
        (("score", "name"), "odin"),
        (("attack", "steps"), 1),
        (("seed",), 1),
    ):
        other = copy.deepcopy(result)
        place = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        names.add(default_file(other))
    assert len(names) == 8
    # what only moves bits does not count
    assert default_file(result | {"environment": {}, "settings": {}}) in names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--outliers"),
        (["--outliers", "gausian"], "did you mean gaussian"),
        (["--outliers", "rgb_shift"], "needs RGB images"),
        (["--outliers", "blobs", "--outliers", "blobs"], "--outliers blobs is given twice"),
        (["--outliers", "blobs", "--eps", "8"], "did you mean 8/255?"),
        (["--outliers", "blobs", "--eps", "0.031"], "whole number of 1/255"),
        (["--outliers", "blobs", "--n", "1"], "--n 1: digits has 2 to 364 test images"),
        (["--outliers", "blobs", "--n", "365"], "--n 365: digits has 2 to 364 test images"),
        (["--outliers", "blobs", "--score", "mps"], "did you mean msp?"),
        (["--outliers", "blobs", "--dataset", "cifar"], "did you mean cifar10"),
        (["--outliers", "blobs", "--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["--outliers", "blobs", "--threads", "0"], "threads=0 must be at least 1"),
    ],
)
def test_wrong_arguments_are_one_line(checkpoint, capsys, arguments, words):
    assert main(["detect", str(checkpoint), *arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("rbl: error: ")
    assert line.count("\n") == 1
    assert words in line


def test_what_is_no_checkpoint_is_one_line(checkpoint, capsys):
    for folder, words in (
        (checkpoint.parent, "is a run folder: give"),
        ("x.py:f", "no checkpoint"),
    ):
        assert main(["detect", str(folder), "--outliers", "blobs"]) == 2
        assert words in capsys.readouterr().err


def test_list_outliers_names_every_source(capsys):
    assert main(["list", "outliers"]) == 0
    out = capsys.readouterr().out
    assert "blobs" in out
    assert "dataset:NAME" in out
