"""A case: a network, images, a radius, and what is known of them without any attack."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.attacks.threat_model import ThreatModel


@dataclass(frozen=True, eq=False)
class Case:
    """A network on which the number of robust images is known, or known to lie between two.

    Args:
        name: what the table calls it.
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: images (N, C, H, W) in [0, 1], float32.
        y: labels (N,), int64.
        threat: norm and radius.
        lower: images that stay robust whatever the attack is, at least.
        upper: images that stay robust, at most; a strong engine leaves no more.
        proof: where the two come from, in a few words.
        unbreakable: bool (N,), which images are known to be robust; None where only counts are.
        breakable: bool (N,), which are known to have an adversarial image; None likewise.
    """

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel
    lower: int
    upper: int
    proof: str
    unbreakable: Tensor | None = None
    breakable: Tensor | None = None


def known_case(
    name: str,
    model: nn.Module,
    images: tuple[Tensor, Tensor],
    threat: ThreatModel,
    *,
    unbreakable: Tensor,
    breakable: Tensor,
    proof: str,
) -> Case:
    """A case in which it is known of single images whether they can be broken.

    Args:
        images: x (N, C, H, W) and y (N,).
        unbreakable: bool (N,).
        breakable: bool (N,); an image that is neither is not known.
    """
    lower, upper = int(unbreakable.sum()), len(breakable) - int(breakable.sum())
    return Case(name, model, *images, threat, lower, upper, proof, unbreakable, breakable)


def compared(case: Case, broken: Tensor) -> tuple[int, bool]:
    """How many images an engine left robust, and whether that agrees with what is known.

    Args:
        case: the case.
        broken: bool (N,), as the verifier decided.
    """
    ours = len(broken) - int(broken.sum())
    ok = case.lower <= ours <= case.upper
    if case.unbreakable is not None:
        ok = ok and not bool((broken & case.unbreakable).any())
    if case.breakable is not None:
        ok = ok and not bool((~broken & case.breakable).any())
    return ours, ok
