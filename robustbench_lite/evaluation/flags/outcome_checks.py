"""What the flags are raised by that is known only when the row's attacks are done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from robustbench_lite.attacks.contract import Target
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.evaluation.flags.thresholds import Check, NetworkChecks
from robustbench_lite.leaderboard.results.records import CLEAN
from robustbench_lite.verifier import largest_norm

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]


def outcome_checks(
    protocol: Mapping[str, Any], parts: Mapping[str, pandas.DataFrame], measured: NetworkChecks
) -> dict[str, Check]:
    """The checks of `flags.AFTER_ATTACKS`.

    Args:
        protocol: as `Protocol.as_dict` gives it.
        parts: rows of the ledger (see `ledger.COLUMNS`) by attack, and of the clean pass.
        measured: of the network.

    Returns:
        A check by name. Those of two kinds of attack have 0 points where the row lacks one kind:
        without a black-box attack nothing can be said of it. Only attacks that aim at the same
        class (or at none) are compared with each other.
    """
    return {
        "transfer_beats_white_box": _transfer(protocol, parts, measured),
        "black_box_beats_white_box": _black_box(protocol, parts),
        "outside_ball": _outside(protocol, parts),
    }


def _transfer(
    protocol: Mapping[str, Any], parts: Mapping[str, pandas.DataFrame], measured: NetworkChecks
) -> Check:
    white, _ = _broken(protocol, parts, None)  # the copies' images aim at no class
    points = measured.crafted_points
    if white is None or points == 0:
        return Check(0.0, 0)
    return Check(len(set(measured.crafted_broken) - white) / points, points)


def _black_box(protocol: Mapping[str, Any], parts: Mapping[str, pandas.DataFrame]) -> Check:
    targets = {AttackSpec.from_dict(attack).target for attack in protocol["attacks"]}
    pairs = [_broken(protocol, parts, target) for target in targets]
    alone = [black - white for white, black in pairs if not (white is None or black is None)]
    if not alone:
        return Check(0.0, 0)
    n = len(parts[CLEAN])
    return Check(len(set[int]().union(*alone)) / n, n)


def _broken(
    protocol: Mapping[str, Any], parts: Mapping[str, pandas.DataFrame], target: Target | None
) -> tuple[set[int] | None, set[int] | None]:
    """Ids broken by a white-box and by a black-box attack that aims at `target` (None: untargeted);
    None where the row has no such attack.

    A composite attack that sees gradients is both when one of its stages uses none, as Square in
    AutoAttack. What that stage broke, the stages before it did not; in version `plus` those after
    it were not tried on it, so that the share is an upper bound there. Of an attack that reports no
    stages (the authors' AutoAttack, torchattacks') nobody knows which of them broke an example.
    """
    white: set[int] | None = None
    black: set[int] | None = None
    for spec in map(AttackSpec.from_dict, protocol["attacks"]):
        if spec.target != target:
            continue
        rows = parts[spec.name]
        rows = rows[rows["broken"]]
        ids = set(rows["example_id"])
        if not spec.contract.uses_gradients:
            black = (black or set()) | ids
            continue
        stages = spec.contract.stages(protocol["norm"])
        without = [name for name, stage in stages.items() if not stage.uses_gradients]
        blind = set(rows["example_id"][rows["stage"].isin(without)])
        if without:
            black = (black or set()) | blind
        white = (white or set()) | (ids - blind)
    return white, black


def _outside(protocol: Mapping[str, Any], parts: Mapping[str, pandas.DataFrame]) -> Check:
    """Largest share, over attacks, of candidates misclassified but outside the ball.

    They count as robust, rightly, but an attack with many of them was not this threat model's.
    Minimal-norm attacks, which know no ball, are left out.
    """
    limit = largest_norm(protocol["norm"], protocol["eps_value"])
    largest = Check(0.0, 0)
    for spec in map(AttackSpec.from_dict, protocol["attacks"]):
        rows = parts[spec.name]
        if spec.contract.minimises_norm or len(rows) == 0:
            continue
        outside = (rows["prediction"] != rows["label"]) & (rows[protocol["norm"].lower()] > limit)
        if largest.points == 0 or float(outside.mean()) > largest.value:
            largest = Check(float(outside.mean()), len(rows))
    return largest
