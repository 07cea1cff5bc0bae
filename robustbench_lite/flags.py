"""Signs that a number cannot be trusted: measured on every evaluation, one table of thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.errors import InputError
from robustbench_lite.verifier import plain_numerics

EXAMPLES = 64  # images the checks look at


@dataclass(frozen=True)
class Flag:
    """A check: raised when its value is above the threshold, which makes a row unverified.

    Args:
        name: in results and on pages.
        threshold: largest value that is still fine.
        meaning: what a raised flag says of the number.
        follow_up: what to do about it.
        source: where the check comes from.
    """

    name: str
    threshold: float
    meaning: str
    follow_up: str
    source: str


FLAGS = (
    Flag(
        "batch_dependent",
        1e-3,
        "an image's logits depend on the other images of its batch, so an attack on a batch and "
        "the verdict on it see different networks",
        "look for batch statistics at test time (BatchNorm in train mode, or without running "
        "statistics)",
        "design of robustbench_lite; float rounding is about 1e-6 of the logits' size",
    ),
    Flag(
        "randomised",
        1e-4,
        "two passes of the same image give different logits, so single-pass verdicts are luck",
        "use a protocol with passes > 1 and gradients averaged over draws",
        "AutoAttack, checks.py, check_randomized",
    ),
    Flag(
        "probabilities",
        0.0,
        "the outputs are probabilities, not logits: losses computed from them have vanishing "
        "gradients and overstate robustness",
        "return the logits before the softmax",
        "AutoAttack, checks.py, check_range_output",
    ),
    Flag(
        "outside_ball",
        0.01,
        "an attack's misclassified images lie outside the ball, so its column says little of this "
        "threat model",
        "give the attack the protocol's norm and eps, or leave it out",
        "design of robustbench_lite; attacks that respect the ball have none",
    ),
)
_THRESHOLDS = {flag.name: flag.threshold for flag in FLAGS}
MEASURED = ("batch_dependent", "randomised", "probabilities")  # on the network, before attacks


def measure_flags(model: nn.Module, x: Tensor) -> dict[str, float]:
    """The value of every check on a few images.

    Args:
        model: the network, on the device of `x`.
        x: images (B, C, H, W) in [0, 1], B at least 1.

    Returns:
        Value by flag name: for the first two the largest difference of a logit between two ways
        of computing it, relative to the largest logit; 1 or 0 for the third.
    """
    half = -(-len(x) // 2)
    with torch.no_grad(), attacked(model), plain_numerics():
        whole, again = model(x).double(), model(x).double()
        parts = torch.cat([model(part).double() for part in (x[:half], x[half:]) if len(part)])
    if not bool(torch.isfinite(torch.cat([whole, again, parts])).all()):
        raise InputError(
            f"the network gives NaN or infinite logits on one of the first {len(x)} images: no "
            "verdict is possible"
        )
    size = whole.abs().max().clamp_min(1e-30)
    randomised = (whole - again).abs().max() / size
    batch = (whole - parts).abs().max() / size
    if randomised > _THRESHOLDS["randomised"]:
        batch = torch.zeros_like(batch)  # its logits differ anyway: nothing can be said of batches
    sums = (whole.sum(dim=1) - 1.0).abs().max()
    probabilities = (whole.min() > -1e-5) & (whole.max() < 1.0 + 1e-5) & (sums < 1e-5)
    return {
        "batch_dependent": batch.item(),
        "randomised": randomised.item(),
        "probabilities": float(probabilities),
    }


def raised(values: dict[str, float]) -> list[dict[str, object]]:
    """The flags whose value is above their threshold, as stored in `result.json`."""
    return [
        {
            "name": flag.name,
            "value": values[flag.name],
            "threshold": flag.threshold,
            "meaning": flag.meaning,
            "follow_up": flag.follow_up,
        }
        for flag in FLAGS
        if values[flag.name] > flag.threshold
    ]
