"""Candidates as 8-bit images: on the grid, inside ball and box, and as near as that allows."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.transfer.eight_bit_images import round_to_8bit


def eight_bit(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator).float() / 255.0


@pytest.mark.parametrize("eps", ["8/255", "0.1", "1/7", "0.3", "1/510"])
def test_rounded_images_are_8_bit_and_inside_the_linf_ball(eps: str) -> None:
    threat, x = ThreatModel("Linf", Fraction(eps)), eight_bit()
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1
    x_adv = (x + noise.sign() * noise.abs().sqrt() * float(threat.eps)).clamp(0, 1)
    x_adv[:, :, 0] = (x + float(threat.eps)).clamp(0, 1)[:, :, 0]
    rounded = round_to_8bit(x_adv, x, threat)
    levels = rounded.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert torch.equal(rounded, levels.round().float() / 255)
    moved = (levels.round() - (x.double() * 255).round()).abs()
    assert moved.max() == int(threat.eps * 255), "the wall is reached and not passed"
    nearest = (x_adv.double() * 255).round()
    allowed = (nearest - (x.double() * 255).round()).abs() <= float(threat.eps) * 255
    assert torch.equal(levels.round()[allowed], nearest[allowed])


def test_rounding_restores_levels_that_float_arithmetic_missed_by_a_hair() -> None:
    x = torch.full((1, 1, 1, 2), 100.0) / 255
    x_adv = x + torch.tensor([[[[15.9999, -7.0001]]]]) / 255
    rounded = round_to_8bit(x_adv, x, ThreatModel("Linf", Fraction(16, 255)))
    assert torch.equal(rounded, torch.tensor([[[[116.0, 93.0]]]]) / 255)


def test_rounding_brings_candidates_back_into_the_box() -> None:
    x = torch.tensor([[[[0.0, 255.0]]]]) / 255
    rounded = round_to_8bit(x + torch.tensor([-0.03, 0.03]), x, ThreatModel("Linf", Fraction(1, 9)))
    assert rounded.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("eps", [0.05, 0.5, 2.0])
def test_rounded_images_are_inside_the_l2_ball(eps: float) -> None:
    threat, x = ThreatModel("L2", Fraction(eps).limit_denominator(1000)), eight_bit()
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * eps * (1 - 1e-6)
    x_adv = (x + delta).clamp(0, 1)
    rounded = round_to_8bit(x_adv, x, threat)
    levels = rounded.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    size = (rounded.double() - x.double()).flatten(1).norm(dim=1)
    assert size.max() <= eps + 1e-6
    assert (rounded - x_adv).abs().max() <= 1.0 / 255


def test_rounded_images_are_inside_the_l1_ball() -> None:
    threat, x = ThreatModel("L1", Fraction(2)), eight_bit()
    delta = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    delta = delta / delta.flatten(1).abs().sum(dim=1).view(-1, 1, 1, 1) * 2 * (1 - 1e-6)
    rounded = round_to_8bit((x + delta).clamp(0, 1), x, threat)
    levels = rounded.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    size = (rounded.double() - x.double()).flatten(1).abs().sum(dim=1)
    assert size.max() <= 2 * (1 + 1e-6)
    assert size.min() > 1, "most of the perturbation is still there"
