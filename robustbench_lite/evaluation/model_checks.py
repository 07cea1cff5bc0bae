"""What a network must do to be attacked at all, looked at before the first part of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.checkpoints.model_source import check_model_contract
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import is_out_of_memory
from robustbench_lite.core.random_numbers import seeded
from robustbench_lite.datasets import Split
from robustbench_lite.evaluation.flags.forward_watch import StateWatch
from robustbench_lite.evaluation.flags.input_gradient import missing_gradient


def check_attackable(model: nn.Module, data: Split, attacks: Sequence[AttackSpec]) -> None:
    """Check a network on the first eight images, before hours of attacks on it.

    Shape, classes and finite logits, also for one image; that gradients reach the input, if an
    attack uses any; that the network leaves its input as it was; and that it is the same with
    frozen parameters, as attacks and verifier run it.

    Args:
        model: in eval mode, on the device of the data.
        data: the examples to come.
        attacks: of the protocol.

    Raises:
        InputError: for the first thing that is wrong, in one line.

    Cost:
        Six forwards and one backward of at most eight images.
    """
    x = data.pixels(slice(0, 8))
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError(
            "the model's weights were made under torch.inference_mode(), so no gradient passes "
            "them: build the model outside of it (torch.no_grad() does not matter)"
        )
    _check_not_frozen(model, x)
    given = x.clone()
    check_model_contract(model, x, data.num_classes, dataset=data.name)
    if not torch.equal(x, given):
        low, high = x.min().item(), x.max().item()
        raise InputError(
            "the model changes its input images in place (they were in [0, 1], now in "
            f"[{low:.3g}, {high:.3g}]): normalise a copy, as in (x - mean) / std"
        )
    check_model_contract(model, x[:1], data.num_classes, dataset=data.name)
    _check_gradients(model, x, attacks)


def _check_not_frozen(model: nn.Module, x: Tensor) -> None:
    """A network that trains its own weights in forward must not be evaluated with frozen ones.

    Compared bit for bit, from the same state and with the same draws; a network that is not even
    equal to itself says nothing.
    """
    state = StateWatch(model)
    passes: list[Tensor | None] = []
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        for frozen in (False, False, True):
            with attacked(model) if frozen else nullcontext(), seeded(0):
                try:
                    passes.append(model(x.clone()))
                except Exception as error:  # of a user's network: any
                    if is_out_of_memory(error):
                        raise
                    passes.append(None)
            state.restore()
    first, again, frozen_pass = passes
    if first is None or again is None or not torch.equal(first, again):
        return  # what is wrong with it, others say
    if frozen_pass is None or not torch.equal(first, frozen_pass):
        raise InputError(
            "the model gives other logits when its parameters do not require gradients: it trains "
            "its own weights in forward, and attacks would see another network; adapt a copy of "
            "the input instead, or evaluate the network that results"
        )


def _check_gradients(model: nn.Module, x: Tensor, attacks: Sequence[AttackSpec]) -> None:
    """Attacks that use gradients need one on the input; those that only query do not."""
    using = [spec.name for spec in attacks if spec.contract.uses_gradients]
    if using and (fault := missing_gradient(model, x)):
        raise InputError(
            f"{fault}; {using[0]} needs one: use --protocol linf_black_box, which only queries the "
            "network, or declare the step without gradient by Bpda (docs/bpda.md)"
        )
