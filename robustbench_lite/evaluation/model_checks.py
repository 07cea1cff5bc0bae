"""What a network must do to be attacked at all, looked at before the first part of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.checkpoints.model_source import check_model_contract
from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split


def check_attackable(model: nn.Module, data: Split) -> None:
    """Check a network on the first eight images, before hours of attacks on it.

    Shape, classes and finite logits, also for one image; that gradients reach the input; and
    that the network leaves its input as it was.

    Args:
        model: in eval mode, on the device of the data.
        data: the examples to come.

    Raises:
        InputError: for the first thing that is wrong, in one line.

    Cost:
        Three forwards and one backward of at most eight images.
    """
    x = data.pixels(slice(0, 8))
    given = x.clone()
    check_model_contract(model, x, data.num_classes, dataset=data.name)
    if not torch.equal(x, given):
        low, high = x.min().item(), x.max().item()
        raise InputError(
            "the model changes its input images in place (they were in [0, 1], now in "
            f"[{low:.3g}, {high:.3g}]): normalise a copy, as in (x - mean) / std"
        )
    check_model_contract(model, x[:1], data.num_classes, dataset=data.name)
    _check_gradients(model, x)


def _check_gradients(model: nn.Module, x: Tensor) -> None:
    """Attacks need gradients on the input."""
    images = x.clone().requires_grad_(True)
    with torch.enable_grad(), attacked(model):
        logits = model(images)
        if not logits.requires_grad:
            raise InputError(
                "the model's logits carry no gradient (torch.no_grad or .detach() in its "
                "forward?): gradient attacks cannot run on it"
            )
        try:
            torch.autograd.grad(logits.float().sum(), images)
        except RuntimeError as error:
            raise InputError(
                f"no gradient reaches the model's input: {first_line(error)}"
            ) from error
