"""Evidence: int8 perturbations that break what they broke, and what refuses to be evidence."""

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.core.errors import InputError
from robustbench_lite.evaluation.evidence import _FACTORS, compress, decompress
from robustbench_lite.verifier import verify

SHAPE = (1, 6, 6)


class Linear(nn.Module):
    """Two classes, z = +-(w.x - b): the smallest breaking perturbation is known."""

    def __init__(self, seed=0):
        super().__init__()
        w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
        self.w = nn.Parameter(w)

    def forward(self, x):
        lead = ((x - 0.5) * self.w).flatten(1).sum(dim=1)
        return torch.stack([lead, -lead], dim=1)


def minimal(norm, overshoot, n=60):
    """Images with labels, and candidates just over the boundary in the norm's direction."""
    model = Linear()
    x = 0.3 + 0.4 * torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(dim=1)
        lead = logits[:, 0].view(-1, 1, 1, 1)
        w = model.w.detach()
        if norm == "Linf":
            delta = -lead * w.sign() / w.abs().sum()
        elif norm == "L2":
            delta = -lead * w / w.square().sum()
        else:
            peak = (w.abs() == w.abs().max()).float()
            delta = -lead * peak / w[peak.bool()]
    return model, x, (x + (1.0 + overshoot) * delta).clamp(0, 1), y


def judge(model, x, x_adv, y, threat):
    return verify(model, x, x_adv, y, threat=threat, batch_size=20).broken


@pytest.mark.parametrize("overshoot", [1e-5, 0.001, 0.05])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.2"), ("L2", "0.9"), ("L1", "3")])
def test_no_broken_verdict_is_lost(norm, eps, overshoot):
    model, x, x_adv, y = minimal(norm, overshoot)
    threat = ThreatModel(norm, parse_eps(eps))
    broken = judge(model, x, x_adv, y, threat)
    assert broken.sum() > 30
    evidence = compress(model, x, x_adv, y, broken, threat=threat, batch_size=20)
    rows, images = decompress(evidence, x)
    assert rows.tolist() == broken.nonzero().flatten().tolist()
    assert bool(judge(model, x[rows], images, y[rows], threat).all())
    assert len(evidence["int8"]) >= 0.9 * len(rows), "hardly anything became smaller"


def test_rounding_alone_would_lose_verdicts(monkeypatch):
    """Without the outward push minimal perturbations do not survive int8: the push is needed."""
    monkeypatch.setattr("robustbench_lite.evaluation.evidence._FACTORS", _FACTORS[:1])
    model, x, x_adv, y = minimal("L2", 1e-5)
    threat = ThreatModel("L2", parse_eps("0.9"))
    broken = judge(model, x, x_adv, y, threat)
    evidence = compress(model, x, x_adv, y, broken, threat=threat, batch_size=20)
    assert len(evidence["int8"]) < 0.9 * int(broken.sum())
    rows, images = decompress(evidence, x)
    assert bool(judge(model, x[rows], images, y[rows], threat).all())


def test_a_perturbation_at_the_edge_of_the_ball_is_kept_as_it_is_when_int8_cannot():
    """The minimal perturbation is all of eps: no room outward, so another precision keeps it."""
    model, x, x_adv, y = minimal("L2", 1e-5, n=8)
    size = (x_adv - x).flatten(1).norm(dim=1)
    x, x_adv, y = (values[size.argmax() : size.argmax() + 1] for values in (x, x_adv, y))
    threat = ThreatModel("L2", parse_eps(f"{float(size.max()):.7f}"))
    broken = judge(model, x, x_adv, y, threat)
    assert bool(broken.all())
    evidence = compress(model, x, x_adv, y, broken, threat=threat, batch_size=20)
    assert len(evidence["int8"]) == 0
    rows, images = decompress(evidence, x)
    assert bool(judge(model, x[rows], images, y[rows], threat).all())


def test_only_broken_rows_are_kept():
    model, x, x_adv, y = minimal("Linf", 0.05)
    threat = ThreatModel("Linf", parse_eps("0.2"))
    none = torch.zeros(len(x), dtype=torch.bool)
    evidence = compress(model, x, x_adv, y, none, threat=threat, batch_size=20)
    rows, images = decompress(evidence, x)
    assert (len(rows), images.shape) == (0, (0, *SHAPE))


def forged(change):
    model, x, x_adv, y = minimal("Linf", 0.05)
    threat = ThreatModel("Linf", parse_eps("0.2"))
    broken = judge(model, x, x_adv, y, threat)
    return x, change(compress(model, x, x_adv, y, broken, threat=threat, batch_size=20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {k: v for k, v in e.items() if k != "int8_scale"}, "int8_scale"),
        (lambda e: e | {"int8": e["int8"].float()}, "type torch.float32"),
        (lambda e: e | {"int8": e["int8"][:, :, :3]}, "shape"),
        (lambda e: e | {"int8_rows": e["int8_rows"] + 1000}, "does not fit"),
        (lambda e: e | {"int8_rows": e["int8_rows"] * 0}, "twice"),
        (lambda e: e | {"int8_rows": e["int8_rows"][1:]}, "is no list of"),
        (lambda e: e | {"int8_scale": e["int8_scale"][1:]}, "no evidence"),
    ],
)
def test_what_is_no_evidence_is_refused(change, message):
    x, evidence = forged(change)
    with pytest.raises(InputError, match=message):
        decompress(evidence, x)
