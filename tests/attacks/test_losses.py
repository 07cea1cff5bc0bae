"""Attack losses against formulas recomputed in numpy float64."""

import numpy as np
import pytest
import torch

from robustbench_lite.attacks.losses import (
    attack_loss,
    clipped_margin,
    cross_entropy,
    dlr,
    kl_to_clean,
    margin,
)
from robustbench_lite.core.errors import InputError

Z = torch.tensor([[2.0, 0, -1], [0, 1, 3], [1, 1.5, 0]], dtype=torch.float64)
CLEAN = torch.tensor([[3.0, 0, -1], [0, 2, 1], [1.5, 1, 0]], dtype=torch.float64)
Y = torch.tensor([0, 1, 0])


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_cross_entropy_gives_the_sheet_values():
    expected = torch.tensor([0.1698460196, 2.1698460196, 1.1041306053], dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(Z, Y), expected, rtol=0, atol=1e-9)


def test_kl_is_of_the_clean_output_first():
    expected = torch.tensor([0.0402016677, 0.9380240688, 0.1075252134], dtype=torch.float64)
    torch.testing.assert_close(kl_to_clean(Z, CLEAN), expected, rtol=0, atol=1e-9)
    p, q = softmax(CLEAN.numpy()), softmax(Z.numpy())
    np.testing.assert_allclose(kl_to_clean(Z, CLEAN), (p * np.log(p / q)).sum(1), atol=1e-12)


def test_margin_is_above_zero_exactly_when_misclassified():
    assert margin(Z, Y).tolist() == [-2.0, 2.0, 0.5]


def test_margin_is_right_when_all_other_logits_are_negative():
    # (1 - onehot) * logits, as some implementations mask, would say 0 - 5 here.
    z = torch.tensor([[5.0, -3.0, -7.0]])
    assert margin(z, torch.tensor([0])).item() == -8.0


def test_clipped_margin_saturates_at_kappa():
    assert clipped_margin(Z, Y, kappa=1.0).tolist() == [-2.0, 1.0, 0.5]


def test_dlr_is_the_published_ratio():
    # -(z_y - max others) / (z_(1) - z_(3))
    expected = [-(2 - 0) / 3, -(1 - 3) / 3, -(1 - 1.5) / 1.5]
    np.testing.assert_allclose(dlr(Z, Y), expected, atol=1e-9)


def test_dlr_is_invariant_to_shift_and_scale():
    np.testing.assert_allclose(dlr(10 * Z + 3, Y), dlr(Z, Y), atol=1e-9)


def test_dlr_refuses_two_classes():
    with pytest.raises(InputError, match="at least 3 classes, got 2"):
        dlr(Z[:, :2], Y)


@pytest.mark.parametrize(
    ("name", "message"),
    [("hinge", "unknown loss 'hinge'"), ("margin", "needs kappa"), ("kl", "needs the clean")],
)
def test_attack_loss_says_what_is_missing(name, message):
    with pytest.raises(InputError, match=message):
        attack_loss(name, Z, Y, clean_logits=None, kappa=None)
