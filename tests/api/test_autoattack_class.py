"""The authors' interface: verdicts of `aa_standard`, both signatures, settings by their names."""

import pytest
import torch
from torch import nn

import robustbench_lite as rbl
from robustbench_lite.api.pyautoattack import AutoAttack as FromPyPI
from robustbench_lite.attacks.autoattack import ensemble
from robustbench_lite.attacks.autoattack.ensemble import stages
from robustbench_lite.core.errors import InputError

EPS = 0.05


@pytest.fixture(scope="module")
def case():
    """A network of 4 classes and 12 images, of which it has 10 right and AutoAttack breaks some."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    x = torch.rand(12, 1, 6, 6)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[[3, 7]] = (y[[3, 7]] + 1) % 4
    return model, x, y


def quick(model, **given):
    """The custom version, cut short by the authors' own names."""
    adversary = rbl.AutoAttack(model, norm="Linf", eps=EPS, version="custom", **given)
    adversary.attacks_to_run = ["apgd-ce", "square"]
    adversary.apgd.n_restarts, adversary.apgd.n_iter = 2, 5
    adversary.square.n_queries = 20
    return adversary


def test_verdicts_are_those_of_the_protocol_on_the_same_images(case, monkeypatch):
    model, x, y = case
    monkeypatch.setitem(ensemble._SQUARE, "queries", 200)  # seconds
    report = rbl.evaluate(model, (x, y), "aa_standard", eps=EPS)
    adversary = rbl.AutoAttack(model, norm="Linf", eps=EPS, verbose=False)
    adversary.square.n_queries = 200
    x_adv, y_adv = adversary.run_standard_evaluation(x, y, bs=5, return_labels=True)
    assert torch.equal(x_adv, report.adversarial("aa_standard"))
    rows = report.examples
    broken = rows[(rows["attack"] == "aa_standard") & rows["broken"]]["example_id"].tolist()
    assert 0 < len(broken) < 10
    assert [i for i in range(12) if y_adv[i] != y[i]] == sorted([*broken, 3, 7])
    assert torch.equal(model(x_adv).argmax(1), y_adv)
    assert (x_adv - x).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_versions_are_set_as_in_our_protocols(case, norm, version):
    adversary = rbl.AutoAttack(case[0], norm=norm, eps=EPS, version=version, verbose=False)
    assert adversary._stages(adversary.attacks_to_run) == stages(version, norm)


THEIR_NAMES = {
    "apgd": ("n_restarts", "n_iter", "eot_iter", "thr_decr", "use_largereps"),
    "apgd_targeted": ("n_restarts", "n_iter", "thr_decr", "use_largereps", "n_target_classes"),
    "fab": ("n_restarts", "n_iter", "alpha_max", "eta", "beta", "n_target_classes"),
    "square": ("n_queries", "n_restarts", "p_init"),
}


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand", "custom"])
def test_what_a_script_reads_and_changes_is_as_in_their_code(case, norm, version):
    from pyautoattack import AutoAttack as Theirs

    mine = rbl.AutoAttack(case[0], norm=norm, eps=0.1, version=version, verbose=False)
    theirs = Theirs(case[0], norm=norm, eps=0.1, version=version)
    assert mine.attacks_to_run == list(theirs.attacks_to_run or ())
    for attack, names in THEIR_NAMES.items():
        for name in names:
            here, there = (getattr(getattr(one, attack), name) for one in (mine, theirs))
            assert here == there, (attack, name)


def test_both_signatures_return_what_theirs_return(case):
    model, x, y = case
    x_adv = quick(model, verbose=False).run_standard_evaluation(x, y, bs=250)
    assert isinstance(x_adv, torch.Tensor)
    pair = quick(model, verbose=False).run_standard_evaluation(x, y, batch_size=4)
    assert torch.equal(pair[0], x_adv)
    assert torch.equal(pair[1], model(x_adv).argmax(1))
    theirs = FromPyPI(model, attacks=["square"], eps=EPS, seed=0, version="custom", device="cpu")
    theirs.square.n_queries = 20
    x_adv, y_adv = theirs.run_standard_evaluation(x, y)
    assert torch.equal(y_adv, model(x_adv).argmax(1))


def test_each_attack_by_itself(case):
    model, x, y = case
    adversary = quick(model, verbose=False)
    found = adversary.run_standard_evaluation_individual(x, y, bs=5, return_labels=True)
    assert set(found) == {"apgd-ce", "square"}
    together = adversary.run_standard_evaluation(x, y, return_labels=True)[1] != y
    union = torch.stack([labels != y for _, labels in found.values()]).any(dim=0)
    assert torch.equal(together, union)
    assert set(adversary.run_standard_evaluation_individual(x, y)) == set(found)
    assert adversary.clean_accuracy(x, y) == 10 / 12


def test_lines_go_to_stdout_and_to_the_log(case, capsys, tmp_path):
    model, x, y = case
    quick(model, log_path=tmp_path / "log.txt").run_standard_evaluation(x, y)
    out = capsys.readouterr().out
    assert "initial accuracy: 83.33%\nrobust accuracy after APGD-CE: " in out
    assert (tmp_path / "log.txt").read_text() == out
    quick(model, verbose=False).run_standard_evaluation(x, y)
    assert capsys.readouterr().out == ""


def test_nothing_right_and_one_image(case):
    model, x, y = case
    wrong = (model(x).argmax(1) + 1) % 4
    adversary = quick(model, verbose=False)
    x_adv, y_adv = adversary.run_standard_evaluation(x, wrong, return_labels=True)
    assert torch.equal(x_adv, x)
    assert torch.equal(y_adv, model(x).argmax(1))
    assert adversary.run_standard_evaluation(x[:1], y[:1]).shape == x[:1].shape


def test_a_randomised_network_is_judged_as_the_protocol_judges(case):
    model, x, y = case

    class Noisy(nn.Module):
        def forward(self, images):
            return model(nn.functional.dropout(images, 0.1, training=True))

    adversary = rbl.AutoAttack(Noisy(), eps=EPS, version="rand", verbose=False)
    adversary.apgd.n_iter, adversary.apgd.eot_iter = 2, 2
    assert adversary.run_standard_evaluation(x[:4], y[:4]).shape == x[:4].shape


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attacks_to_run": ["square"]}, "use version='custom'"),
        ({"version": "fast"}, "unknown version of AutoAttack 'fast'"),
        ({"is_tf_model": True}, "only networks of torch"),
        ({"eps": 8}, r"did you mean 8/255\?"),
        ({"norm": "linf"}, "norm='linf' is unknown"),
        ({"log_path": "/no/such/folder/log"}, "cannot be written"),
    ],
)
def test_wrong_arguments_are_refused(case, given, message):
    with pytest.raises(InputError, match=message):
        rbl.AutoAttack(case[0], **given)


def test_wrong_calls_are_refused(case):
    model, x, y = case
    adversary = quick(model, verbose=False)
    for call, message in (
        (lambda: adversary.run_standard_evaluation(x * 255, y), "divide by 255"),
        (lambda: adversary.run_standard_evaluation(x, y + 4), "but there are 4 classes"),
        (lambda: adversary.run_standard_evaluation(x, y, state_path="s"), "state_path"),
        (lambda: adversary.run_standard_evaluation(x, y, bs=0), "bs=0 must be at least 1"),
        (lambda: adversary.run_standard_evaluation(x, y, bs=-1), "bs=-1 must be at least 1"),
        (lambda: adversary.run_standard_evaluation(x, y, batch_size=0), "bs=0 must be"),
        (lambda: adversary.clean_accuracy(x, y, bs=2.5), "bs=2.5 is a float"),
        (lambda: quick(model, seed=1.5).run_standard_evaluation(x, y), "seed=1.5 is a float"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    adversary.attacks_to_run = ["apgd_ce"]
    with pytest.raises(InputError, match="did you mean apgd-ce"):
        adversary.run_standard_evaluation(x, y)
    adversary.attacks_to_run = []
    with pytest.raises(InputError, match="choose of apgd-ce"):
        adversary.run_standard_evaluation(x, y)
