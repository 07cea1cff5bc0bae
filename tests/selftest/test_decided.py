"""What is demanded of an engine: only images that are clearly inside or outside the radius."""

import pytest
import torch

from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.selftest.bounds import Affine
from robustbench_lite.selftest.case import compared
from robustbench_lite.selftest.cases import digits_case
from robustbench_lite.selftest.complete import decided
from robustbench_lite.selftest.digits_network import EPS


def pair_network(gain, threshold):
    """Logits relu(gain * (first pixel - second pixel)) and gain * threshold.

    Class 1 wins where the difference of the pixels is below `threshold`, so an image (p, q) of
    class 0 has the Linf radius (p - q - threshold) / 2 exactly. With a small threshold the ReLU
    switches within the ball, with a large one it does not.
    """
    hidden = Affine(gain * torch.tensor([[1.0, -1.0]]).double(), torch.zeros(1).double())
    head = Affine(torch.eye(2, 1).double(), torch.tensor([0.0, gain * threshold]).double())
    return [hidden, head]


@pytest.mark.parametrize("gain", [0.5, 5.0])
@pytest.mark.parametrize("threshold", [0.001, 0.3])
def test_an_image_that_can_be_broken_only_by_a_hair_is_not_known(gain, threshold):
    """A gradient attack that ends in another local minimum misses it: no fault of the engine."""
    wrong, inside, hair, border, outside = -0.5, 0.97, 0.993, 1.0005, 1.01
    radii = EPS * torch.tensor([wrong, inside, hair, border, outside]).double()
    x = 0.5 + (radii + threshold / 2)[:, None] * torch.tensor([1.0, -1.0]).double()
    known = decided(pair_network(gain, threshold), x, torch.zeros(5, dtype=torch.int64), EPS)
    assert known.breakable.tolist() == [True, True, False, False, False]
    assert known.unbreakable.tolist() == [False, False, False, False, True]


@pytest.mark.slow
def test_the_digits_case_knows_most_images_and_fails_a_weak_attack():
    case = digits_case()
    assert case.upper - case.lower <= 10
    assert min(case.lower, len(case.x) - case.upper) >= 10
    assert not (case.unbreakable & case.breakable).any()
    x_adv = pgd(
        case.model,
        case.x,
        case.y,
        norm="Linf",
        eps=EPS,
        alpha=EPS,
        steps=1,
        restarts=1,
        loss="ce",
        start="uniform",
        keep="first_success",
        ids=torch.arange(len(case.x)),
        seed=0,
    )
    with torch.no_grad():
        broken = case.model(x_adv).argmax(dim=1) != case.y
    assert compared(case, case.breakable) == (case.upper, True)
    ours, agrees = compared(case, broken)
    assert not agrees
    assert ours > case.upper
