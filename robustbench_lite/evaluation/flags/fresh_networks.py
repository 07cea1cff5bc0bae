"""Networks that have seen nothing: copies taken before the first pass, and their verdicts."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustbench_lite.core.messages import described
from robustbench_lite.core.numerics import is_out_of_memory
from robustbench_lite.core.random_numbers import seeded
from robustbench_lite.verifier import Verdict

logger = logging.getLogger(__name__)


class FreshNetworks:
    """Copies of a network as it was before its first pass.

    Args:
        model: not run yet. A deep copy of it is held and never run. A network that cannot be
            copied has no fresh ones.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pristine = _copied(model)

    def one(self) -> nn.Module | None:
        """A network that has seen nothing; None where the network cannot be copied."""
        return None if self._pristine is None else _copied(self._pristine)


def judged_twice(
    model: nn.Module, fresh: FreshNetworks, judge: Callable[[nn.Module], Verdict]
) -> tuple[Verdict, Tensor | None]:
    """The verdict of a network and of one that has seen nothing else, with the same draws.

    Args:
        model: the network that the attack ran on.
        fresh: of the same network before its first pass.
        judge: the verifier on the images to judge.

    Returns:
        What both say (see `confirmed`), and where they differ, bool (N,); None for the latter where
        there is no fresh network.

    Cost:
        Twice that of `judge`.
    """
    draws = int(torch.randint(2**62, ()))  # from the caller's generator: a function of the part
    with seeded(draws):
        used = judge(model)
    other = fresh.one()
    if other is None:
        return used, None
    with seeded(draws):
        return confirmed(used, judge(other))


def _copied(model: nn.Module) -> nn.Module | None:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a user's network may fail to be copied in any way
        if is_out_of_memory(error):
            raise
        logger.warning("no check of history: the network cannot be copied: %s", described(error))
        return None


def confirmed(used: Verdict, fresh: Verdict) -> tuple[Verdict, Tensor]:
    """The verdict of two networks, and where they differ.

    An example is robust only if both call it so: the network that the attack ran on, and one that
    has seen nothing else.

    Args:
        used: of the network that the attack ran on, N examples.
        fresh: of the other, on the same images.

    Returns:
        The verdict, whose prediction and loss are the fresh network's unless only the used one was
        broken; and bool (N,), where predictions differ.
    """
    only_used = used.broken & ~fresh.broken
    verdict = replace(
        fresh,
        broken=used.broken | fresh.broken,
        prediction=torch.where(only_used, used.prediction, fresh.prediction),
        loss=torch.where(only_used, used.loss, fresh.loss),
    )
    differs = (used.broken != fresh.broken) | (used.prediction != fresh.prediction)
    return verdict, differs
