"""Pixels outside [0, 1] are refused wherever images come in, by every attack of ours."""

import pytest
import torch
from conftest import as_function, small_net

from robustbench_lite.attacks.autoattack.apgd import ApgdCe
from robustbench_lite.attacks.autoattack.ensemble import AutoAttack
from robustbench_lite.attacks.autoattack.square import Square
from robustbench_lite.attacks.first_order.cw_l2 import CwL2
from robustbench_lite.attacks.first_order.fgsm import Fgsm
from robustbench_lite.attacks.first_order.pgd import Pgd
from robustbench_lite.attacks.first_order.pgd_int import PgdInt
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.pixels import check_pixels

PGD = {"loss": "ce", "alpha": 0.1, "steps": 1, "restarts": 1, "start": "none", "keep": "last"}
APGD = {"steps": 1, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False}
CW = {"kappa": 0.0, "lr": 0.01, "steps": 1, "search_steps": 1, "initial_c": 0.1}
GRID = {"loss": "ce", "alpha": 1 / 255, "steps": 1, "rounding": "round", "start": "none"}


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Pgd, PGD),
        (Fgsm, {}),
        (PgdInt, GRID),
        (CwL2, CW),
        (ApgdCe, APGD),
        (Square, {"queries": 1, "restarts": 1, "p_init": 0.8}),
        (AutoAttack, {"version": "standard", "few_classes": "margin"}),
    ],
)
def test_no_attack_takes_images_that_are_not_in_the_box(kind, given):
    x, y = torch.rand(2, 2, 6, 5), torch.tensor([0, 1])
    attack = as_function(kind, "test")
    norm = "L2" if kind is CwL2 else "Linf"
    for images in (x * 255, (x - 0.5) / 0.2):
        with pytest.raises(InputError, match=r"^images are in .* they must be in \[0, 1\]: "):
            attack(
                small_net(),
                images,
                y,
                norm=norm,
                eps=4 / 255,
                ids=torch.arange(2),
                seed=0,
                **given,
            )


def test_the_message_says_which_mistake_it_probably_is():
    for pixels, message in (
        ([0.0, 200.0], "divide by 255"),
        ([-1.5, 2.0], "normalised"),
        ([0.0, torch.nan], "NaN"),
        ([0.0, torch.inf], "infinite"),
    ):
        with pytest.raises(InputError, match=message):
            check_pixels(torch.tensor(pixels), "mine")
    for fine in (torch.tensor([0.0, 1.0]), torch.tensor([0, 255]), torch.zeros(0)):
        check_pixels(fine)
