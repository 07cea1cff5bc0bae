"""The composite: the authors' stages and parameters, their verdicts, and no trace of the batch."""

from dataclasses import asdict
from importlib.metadata import version

import pytest
import torch
from conftest import as_function
from pyautoattack import AutoAttack
from torch import nn

from robustbench_lite.attacks.adapters.pyautoattack import ReferenceAutoAttack
from robustbench_lite.attacks.autoattack import ensemble as autoattack_module
from robustbench_lite.attacks.autoattack.ensemble import AutoAttack as OurAutoAttack
from robustbench_lite.attacks.autoattack.ensemble import stages
from robustbench_lite.attacks.protocol import OUR_ENGINE, load_protocol
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.verifier import verify


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
def test_stages_and_parameters_are_those_of_the_authors_code(version, norm):
    theirs = AutoAttack(nn.Identity(), norm=norm, eps=0.1, version=version, seed=0)
    ours = {name: asdict(stage) for name, stage in stages(version, norm).items()}
    # None of them aims at one class.
    assert all(parameters.pop("target", None) is None for parameters in ours.values())
    assert [name.replace("_", "-") for name in ours] == theirs.attacks_to_run
    apgd, targeted = theirs.apgd, theirs.apgd_targeted
    for name in ours.keys() & {"apgd_ce", "apgd_dlr"}:
        assert ours[name] == {
            "steps": apgd.n_iter,
            "rho": apgd.thr_decr,
            "restarts": apgd.n_restarts,
            "eot": apgd.eot_iter,
            "staged_eps": apgd.use_largereps,
        }
    if "apgd_t" in ours:
        assert ours["apgd_t"] == {
            "steps": targeted.n_iter,
            "rho": targeted.thr_decr,
            "targets": targeted.n_target_classes,
            "restarts": targeted.n_restarts,
            "eot": targeted.eot_iter,
            "staged_eps": targeted.use_largereps,
        }
    fab = {"steps": theirs.fab.n_iter, "alpha_max": theirs.fab.alpha_max}
    fab |= {"eta": theirs.fab.eta, "beta": theirs.fab.beta}
    if "fab" in ours:
        assert ours["fab"] == fab | {"restarts": theirs.fab.n_restarts}
    if "fab_t" in ours:  # the authors set one restart for it when they come to it
        assert ours["fab_t"] == fab | {"restarts": 1, "targets": theirs.fab.n_target_classes}
    if "square" in ours:
        assert ours["square"] == {
            "queries": theirs.square.n_queries,
            "restarts": theirs.square.n_restarts,
            "p_init": theirs.square.p_init,
        }


@pytest.fixture(scope="module")
def digits(checkpoint):
    """A robust little network and the first test images."""
    data = load_split("digits", "test")
    model = resolve_model(str(checkpoint), allow_code=False, device="cpu").model.eval()
    return model, data.pixels(slice(0, 60)), data.labels[:60]


def attack(model, x, y, *, ids=None, **options):
    options = {"eps": 0.1, "norm": "Linf", "version": "standard", "batch_size": 30} | options
    ids = torch.arange(len(x)) if ids is None else ids
    given = {"few_classes": "margin", "ids": ids, "seed": 0} | options
    return as_function(OurAutoAttack, "autoattack")(model, x, y, **given)


def broken(model, x, x_adv, y, eps="0.1", norm="Linf"):
    return verify(
        model, x, x_adv, y, threat=ThreatModel(norm, parse_eps(eps)), batch_size=30
    ).broken


@pytest.fixture
def short(monkeypatch):
    """Fewer steps and queries: what these tests look at does not depend on how many."""
    monkeypatch.setitem(autoattack_module._APGD, "steps", 20)
    monkeypatch.setitem(autoattack_module._FAB, "steps", 10)
    monkeypatch.setitem(autoattack_module._SQUARE, "queries", 200)


def test_verdicts_are_those_of_the_authors_code(digits):
    model, x, y = digits
    ids = torch.arange(len(x))
    options = {"norm": "Linf", "eps": 0.15, "version": "standard"}
    reference = as_function(ReferenceAutoAttack, "reference")
    theirs = reference(model, x, y, ids=ids, seed=0, batch_size=60, **options)
    ours = attack(model, x, y, **options)
    pair = [broken(model, x, x_adv, y, eps="0.15") for x_adv in (ours, theirs)]
    clean = broken(model, x, x, y, eps="0.15")
    assert (pair[0] & ~clean).any(), "the case shows nothing: no example is broken"
    assert (~pair[0]).any(), "the case shows nothing: every example is broken"
    assert int((pair[0] != pair[1]).sum()) <= 1


@pytest.fixture
def whole(digits, short):
    model, x, y = digits
    return broken(model, x[:24], attack(model, x[:24], y[:24]), y[:24])


@pytest.mark.parametrize("batch_size", [7, 500])
def test_the_batch_size_changes_no_verdict(digits, whole, batch_size):
    model, x, y = digits
    x, y = x[:24], y[:24]
    assert torch.equal(whole, broken(model, x, attack(model, x, y, batch_size=batch_size), y))


def test_order_and_shards_change_no_verdict(digits, whole):
    model, x, y = digits
    x, y = x[:24], y[:24]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    shuffled = attack(model, x[order], y[order], ids=order)
    assert torch.equal(whole[order], broken(model, x[order], shuffled, y[order]))
    late = attack(model, x[11:], y[11:], ids=torch.arange(11, 24))
    assert torch.equal(whole[11:], broken(model, x[11:], late, y[11:]))


def test_every_broken_row_has_one_stage_and_a_candidate(digits, short):
    model, x, y = digits
    seen = {}
    x_adv = attack(model, x, y, on_stage=lambda name, mine: seen.update({name: mine}))
    assert next(iter(seen)) == "apgd_ce"
    counted = torch.stack(list(seen.values())).int().sum(dim=0)
    moved = (x_adv != x).flatten(1).any(dim=1)
    assert torch.equal(counted, moved.int())
    assert torch.equal(moved, broken(model, x, x_adv, y) & (model(x).argmax(dim=1) == y))


class Pixel(nn.Module):
    """K classes from the first pixels: broken beyond 0.05 in Linf, needs no training."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        first = 10.0 * (x[:, 0, 0, 0] - 0.5)
        others = torch.stack([-first - k for k in range(self.classes - 1)], dim=1)
        return torch.cat([first[:, None], others], dim=1)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes(classes, short):
    x = torch.full((3, 1, 3, 4), 0.56)
    x[1] = 0.7  # out of reach
    x[2] = 0.45  # wrong when clean
    y = torch.zeros(3, dtype=torch.int64)
    x_adv = attack(Pixel(classes), x, y)
    assert broken(Pixel(classes), x, x_adv, y).tolist() == [True, False, True]
    assert torch.equal(x_adv[1:], x[1:])


def test_a_protocol_runs_it_and_the_reference_engine_is_another_protocol():
    model = Pixel(4)
    x = torch.tensor([0.56, 0.52, 0.7]).view(3, 1, 1, 1).expand(3, 1, 6, 6).contiguous()
    y = torch.zeros(3, dtype=torch.int64)
    ids, ours = torch.arange(3), load_protocol("aa_standard", eps="0.1")
    theirs = load_protocol("aa_standard", eps="0.1", engine="reference")
    assert (ours.id, theirs.id) == ("aa_standard@0.1.v1", "aa_standard@0.1.v1.reference")
    assert ours.hash != theirs.hash
    assert theirs.engine_version == f"pyautoattack {version('pyautoattack')}"
    assert (ours.engine, ours.engine_version) == ("ours", OUR_ENGINE)
    torchattacks = load_protocol("aa_torchattacks10", eps="0.1")
    assert torchattacks.id == "aa_torchattacks10@0.1.v1"
    assert torchattacks.engine_version == f"torchattacks {version('torchattacks')}"
    verdicts = []
    for protocol in (ours, theirs):
        (spec,) = protocol.attacks
        spec.check(protocol.threat, num_classes=4)
        x_adv = run_attack(
            spec, model, x, y, threat=protocol.threat, ids=ids, seed=0, batch_size=20
        )
        verdicts.append(broken(model, x, x_adv, y).tolist())
    assert verdicts == [[True, True, False]] * 2


def test_the_reference_engine_needs_an_autoattack_to_run():
    with pytest.raises(InputError, match="has no AutoAttack"):
        load_protocol("linf_quick", eps="0.1", engine="reference")
    with pytest.raises(InputError, match="unknown engine 'theirs'"):
        load_protocol("aa_standard", eps="0.1", engine="theirs")


def test_unknown_versions_and_stand_ins_are_refused(digits):
    model, x, y = digits
    with pytest.raises(InputError, match="version is 'best'; need one of"):
        attack(model, x, y, version="best")
    with pytest.raises(InputError, match="few_classes is 'dlr'; need one of"):
        attack(model, x, y, few_classes="dlr")
