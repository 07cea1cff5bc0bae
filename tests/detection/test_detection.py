"""Detection: losses, metrics and scores against worked examples, and `rbl detect` end to end."""

import copy
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
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
    DRAWS,
    STANDARD,
    detection_intervals,
    detection_metrics,
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
ALOE, OE = "fpr95_inlier_positive_aloe", "fpr95_outlier_positive_oe"


@pytest.mark.parametrize(
    ("metric", "scores", "expected"),
    [
        ("auroc", SMALL, 0.9375),
        ("auroc_ties_lost", SMALL, 0.9375),
        ("detection_error", SMALL, 0.125),
        ("aupr_inlier_positive", SMALL, 0.95),  # (1 + 1 + 1 + 4/5) / 4
        ("aupr_outlier_positive", SMALL, 0.95),
        ("fpr95_inlier_positive", SMALL, 0.25),
        ("fpr95_outlier_positive", SMALL, 0.25),
        (ALOE, SMALL, 1.0),
        (OE, SMALL, 0.25),
        ("auroc", TWENTY, 0.68),
        ("detection_error", TWENTY, 0.25),
        ("fpr95_inlier_positive", TWENTY, 0.6),
        ("fpr95_outlier_positive", TWENTY, 0.95),
        (ALOE, TWENTY, 0.8),
        ("auroc", FEW_APART, 1.0),
        ("aupr_inlier_positive", FEW_APART, 1.0),
        ("aupr_outlier_positive", FEW_APART, 1.0),
        ("detection_error", FEW_APART, 0.0),
        ("fpr95_inlier_positive", FEW_APART, 0.0),
        ("fpr95_outlier_positive", FEW_APART, 0.0),
        (ALOE, FEW_APART, 1.0),
        (OE, FEW_APART, 0.0),
        (ALOE, MANY_APART, 0.0),
        ("auroc", REVERSED, 0.0),
        ("detection_error", REVERSED, 0.5),
        ("fpr95_inlier_positive", REVERSED, 1.0),
        ("fpr95_outlier_positive", REVERSED, 1.0),
        ("auroc", TIED, 0.5),
        ("auroc_ties_lost", TIED, 0.0),
        ("aupr_inlier_positive", TIED, 20 / 27),
        ("aupr_outlier_positive", TIED, 7 / 27),
        ("detection_error", TIED, 0.5),
        ("fpr95_inlier_positive", TIED, 1.0),
        (ALOE, TIED, 1.0),
        ("auroc", PARTLY_TIED, 0.625),
        ("auroc_ties_lost", PARTLY_TIED, 0.5),
    ],
)
def test_metrics_give_the_worked_examples(metric, scores, expected):
    inliers, outliers = scores
    assert detection_metrics(inliers, outliers)[metric] == pytest.approx(expected, abs=1e-12)
    # scores come in any order
    turned = detection_metrics(inliers[::-1], outliers[::-1])
    assert turned[metric] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "below_1"), [(9, False), (10, True)])
def test_the_fpr95_of_aloes_code_is_1_below_ten_inliers(n, below_1):
    assert (detection_metrics(np.arange(n) + 1.0, [0.0])[ALOE] < 1) is below_1


SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


@given(SCORES, SCORES)
def test_metrics_are_those_of_scikit_learn(inliers, outliers):
    found = detection_metrics(inliers, outliers)
    scores = np.array([*inliers, *outliers])
    inlier = np.repeat([1, 0], [len(inliers), len(outliers)])
    for side, labels, signed in (("inlier", inlier, scores), ("outlier", 1 - inlier, -scores)):
        precision = sklearn.metrics.average_precision_score(labels, signed)
        assert found[f"aupr_{side}_positive"] == pytest.approx(precision, abs=1e-12)
        fpr, tpr, _ = sklearn.metrics.roc_curve(labels, signed, drop_intermediate=False)
        first = np.flatnonzero(tpr >= 0.95 - 1e-12)[0]
        assert found[f"fpr95_{side}_positive"] == pytest.approx(fpr[first], abs=1e-12)
    area = sklearn.metrics.roc_auc_score(inlier, scores)
    assert found["auroc"] == pytest.approx(area, abs=1e-12)


@given(SCORES, SCORES)
def test_metrics_are_what_a_sweep_over_all_thresholds_says(inliers, outliers):
    ours, theirs = np.array(inliers), np.array(outliers)
    found = detection_metrics(inliers, outliers)
    thresholds = [*sorted({*inliers, *outliers}), np.inf]
    tpr = np.array([np.mean(ours >= t) for t in thresholds])
    fpr = np.array([np.mean(theirs >= t) for t in thresholds])
    assert found["detection_error"] == pytest.approx(np.min(1 - tpr + fpr) / 2, abs=1e-12)
    pairs = np.mean([[a > b for b in outliers] for a in inliers])
    assert found["auroc_ties_lost"] == pytest.approx(pairs, abs=1e-12)


@given(SCORES, SCORES)
def test_the_authors_fpr95_is_what_their_procedures_give(inliers, outliers):
    """ALOE removes scores one by one; Outlier Exposure goes through the distinct ones."""
    found = detection_metrics(inliers, outliers)
    both = [(score, 0) for score in inliers] + [(score, 1) for score in outliers]
    kept, passed = len(inliers), len(outliers)
    states = [(kept, passed)]
    for _, is_outlier in sorted(both):
        kept, passed = kept - (1 - is_outlier), passed - is_outlier
        states.append((kept, passed))
    distances = [abs(kept / len(inliers) - 0.95) for kept, _ in states]
    nearest = states[distances.index(min(distances))]
    assert found[ALOE] == pytest.approx(nearest[1] / len(outliers), abs=1e-12)

    places = []  # by falling threshold of the outlier's score, the negated one
    for level in sorted({*inliers, *outliers}):
        detected = sum(score <= level for score in outliers)
        places.append((detected / len(outliers), sum(score <= level for score in inliers)))
        if detected == len(outliers):
            break
    recalls = [abs(recall - 0.95) for recall, _ in reversed(places)]
    refused = places[len(places) - 1 - recalls.index(min(recalls))][1]
    assert found[OE] == pytest.approx(refused / len(inliers), abs=1e-12)


@given(SCORES, SCORES)
def test_metrics_are_the_same_with_sides_swapped_or_scores_stretched(inliers, outliers):
    found = detection_metrics(inliers, outliers)
    swapped = detection_metrics(-np.array(outliers), -np.array(inliers))
    assert swapped["auroc"] == pytest.approx(found["auroc"], abs=1e-12)
    for metric in ("aupr", "fpr95"):
        assert swapped[f"{metric}_inlier_positive"] == found[f"{metric}_outlier_positive"]
    stretched = [np.exp(np.array(scores)) for scores in (inliers, outliers)]
    assert detection_metrics(*stretched) == found


def test_intervals_are_the_quantiles_of_a_stratified_bootstrap():
    """Each metric of each resample by the plain function, on the same draws."""
    ours, theirs = np.arange(12) / 12, np.arange(9) / 18
    found = detection_intervals(ours, theirs, seed=5)
    assert set(found) == set(STANDARD)
    random = np.random.RandomState([5, 0])
    inlier_draws = [ours[random.randint(12, size=12)] for _ in range(DRAWS)]
    outlier_draws = [theirs[random.randint(9, size=9)] for _ in range(DRAWS)]
    drawn = [detection_metrics(*both) for both in zip(inlier_draws, outlier_draws, strict=True)]
    for name, (low, high) in found.items():
        quantiles = np.quantile([row[name] for row in drawn], [0.025, 0.975])
        assert (low, high) == pytest.approx(quantiles, abs=1e-12)
        assert low <= detection_metrics(ours, theirs)[name] <= high


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """AUROC of two uniform laws, on [0, 1] and on [0, 1/2]: 3/4."""
    random, held = np.random.RandomState(0), 0
    for seed in range(60):
        low, high = detection_intervals(
            random.uniform(size=60), random.uniform(size=60) / 2, seed=seed
        )["auroc"]
        held += low <= 0.75 <= high
    assert 52 <= held <= 60  # binomial(60, 0.95) below 52: 1 in 400


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


@pytest.mark.parametrize("count", [10, 90])
def test_all_outliers_count_against_all_inliers(checkpoint, count):
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    data = load_split("digits", "test")
    images = load_outliers("gaussian", data, count=count)
    result = evaluate_detection(
        source,
        data,
        {"some": images},
        n=40,
        settings=settings(steps=0, eps=Fraction(0), batch_size=count),
        device=torch.device("cpu"),
    )
    row = result["outliers"]["some"]
    assert (result["examples"]["count"], row["n"]) == (40, count)
    x = data.images[:40].float() / torch.full((), 255.0)
    theirs = msp(source.model, images.float() / torch.full((), 255.0)).numpy()
    ours = torch.cat([msp(source.model, part) for part in x.split(count)]).numpy()
    assert row["clean"] == pytest.approx(detection_metrics(ours, theirs), abs=1e-12)
    low, high = row["intervals"]["clean"]["auroc"]
    assert low <= row["clean"]["auroc"] <= high


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
    assert [line.split()[0] for line in lines[2:17:5]] == ["gaussian", "blobs", "average"]
    stored = json.loads(path.read_text())
    row = stored["outliers"]["gaussian"]
    for line, key in zip(lines[2:7], STANDARD, strict=True):
        shown = [float(number) for number in re.findall(r"\d+\.\d\d", line)]
        expected = [
            100 * number
            for kind in ("clean", "attacked")
            for number in (row[kind][key], *row["intervals"][kind][key])
        ]
        assert shown == pytest.approx(expected, abs=5.001e-3)
    assert stored["schema_version"] == 2
    assert row["n"] == 24
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


def test_n_limits_the_outliers_of_a_source_too(checkpoint, tmp_path, monkeypatch):
    """A folder gives all it has, here six images, and with `--n 4` four of them."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("others").mkdir()
    for shade in range(6):
        Image.new("L", (8, 8), 40 * shade).save(f"others/{shade}.png")
    found = []
    for limit in ([], ["--n", "4"]):
        call = ["detect", str(checkpoint), "--outliers", "folder:others", "--steps", "0"]
        assert main([*call, "--eps", "0", *limit, "--threads", "1", "--out", "r.json"]) == 0
        stored = json.loads(Path("r.json").read_text())
        found.append((stored["examples"]["count"], stored["outliers"]["folder:others"]["n"]))
    assert found == [(364, 6), (4, 4)]


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
        (["--outliers", "blobs", "--n", "1"], "one image of digits is chosen; at least 2"),
        (["--outliers", "blobs", "--n", "365"], "n=365: digits test has 1 to 364 examples"),
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
        ("x.py:f", "no file x.py"),
        ("nowhere", "no checkpoint"),
    ):
        assert main(["detect", str(folder), "--outliers", "blobs"]) == 2
        assert words in capsys.readouterr().err


NETWORK_FILE = """
import torch
from torch import nn


def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such pass")
"""


def test_a_network_of_the_users_own_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK_FILE)
    call = ["detect", "--model", "net.py:flat", "--dataset", "digits", "--outliers", "blobs"]
    assert main([*call, *QUICK]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert main([*call, "--allow-code", *QUICK]) == 0
    (path,) = Path("results").rglob("*.json")
    assert json.loads(path.read_text())["model"]["kind"] == "factory"
    capsys.readouterr()
    call[2] = "net.py:Broken"
    assert main([*call, "--allow-code", *QUICK]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "scores: model net.py:Broken fails on images of shape" in line
    assert main(["detect", "--outliers", "blobs"]) == 2
    assert "give either a CHECKPOINT folder or --model" in capsys.readouterr().err


def test_list_outliers_names_every_source(capsys):
    assert main(["list", "outliers"]) == 0
    out = capsys.readouterr().out
    assert "blobs" in out
    assert "dataset:NAME" in out
