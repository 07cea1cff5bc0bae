"""The defense success rate: what a target makes of images crafted on a source."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_lite.leaderboard.statistics.accuracy import accuracy


@dataclass(frozen=True)
class TransferCounts:
    """What one target makes of images crafted on one source, or on several.

    The images counted, I, are those that the source has right when clean and wrong when crafted,
    and the target right when clean. Of several sources one such source is enough, and the target
    must have the versions of all of them right.

    Args:
        counted: size of I.
        kept: images of I that the target still has right.
        repeated: images of I to which the target gives the source's wrong label.
        correct: images, of all, that the target has right as crafted.
        n: all images.
    """

    counted: int
    kept: int
    repeated: int
    correct: int
    n: int

    def as_dict(self) -> dict[str, object]:
        """Plain JSON data, with 95% Wilson intervals; a share of no images at all is None."""
        none = self.counted == 0
        return {
            "counted": self.counted,
            "defense_success_rate": None if none else accuracy(self.kept, self.counted),
            "repeat_label_share": None if none else self.repeated / self.counted,
            "accuracy": accuracy(self.correct, self.n),
        }


def count_transfer(
    labels: Tensor,
    *,
    source_clean: Tensor,
    source_adv: Tensor,
    target_clean: Tensor,
    target_adv: Tensor,
) -> TransferCounts:
    """Count for the defense success rate of Luo et al. ("Random Mask", arXiv:2007.14249).

    With I = {i : s(x_i) = y_i, s(x'_i) != y_i, t(x_i) = y_i} the rate is the share of I with
    t(x'_i) = y_i. It does not punish a target that is wrong when clean, so it is not comparable
    with `correct / n`, the plain accuracy of the target over all crafted images.

    Over several sources S that is the share of the union of their I on which no source's x'_i,
    of those that count, fools the target: the rate against an attacker who tries each of them.

    Args:
        labels: y (N,), int64, like all that follow.
        source_clean: the source's predictions for x, (N,); of several sources (S, N).
        source_adv: for x', likewise.
        target_clean: the target's predictions for x, (N,).
        target_adv: for x', like the source's.
    """
    counted = (source_clean == labels) & (source_adv != labels) & (target_clean == labels)
    right = target_adv == labels
    counted, right, repeated = (
        each.view(-1, len(labels)) for each in (counted, right, target_adv == source_adv)
    )
    return TransferCounts(
        counted=int(counted.any(dim=0).sum()),
        kept=int((counted.any(dim=0) & (right | ~counted).all(dim=0)).sum()),
        repeated=int((counted & repeated).any(dim=0).sum()),
        correct=int(right.all(dim=0).sum()),
        n=len(labels),
    )
