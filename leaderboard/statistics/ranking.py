"""Who may be compared with whom, and which differences are more than chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.results.follow_ups import with_follow_ups
from robustbench_lite.leaderboard.results.records import FLAGGED, REPORTED, VERIFIED, Result
from robustbench_lite.leaderboard.statistics.accuracy import LEVEL, holm_rejects, mcnemar_p_values

UNRANKED = "–"


@dataclass(frozen=True, order=True)
class GroupKey:
    """What results have to share to be ranked together; its order is the order of the tables."""

    dataset: str
    split: str
    dataset_hash: str
    first_example: int
    n_examples: int
    examples_hash: str  # of ids that were drawn or listed; empty for consecutive ones
    norm: str
    eps_value: float
    eps: str
    protocol_id: str
    protocol_hash: str
    attacks: tuple[str, ...]  # follows from the hash, unless a file lies about it
    choice: str = field(default="", compare=False)  # how its first row's examples were chosen


@dataclass(frozen=True)
class RankedResult:
    """A result with its rank as shown: `"1"`, `"1="` for a tie, or a dash where it has none."""

    rank: str
    result: Result


@dataclass(frozen=True)
class RankGroup:
    """One table: comparable results, best first, those without a rank last."""

    key: GroupKey
    rows: tuple[RankedResult, ...]

    def attack_titles(self, taken: Collection[str]) -> dict[str, str]:
        """Attack names in protocol order and their titles, made unique and none of `taken`."""
        titles: dict[str, str] = {}
        for attack in self.rows[0].result.protocol.attacks:
            title = attack.title
            while title in taken or title in titles.values():
                title = f"{title} ({attack.name})"
            titles[attack.name] = title
        return titles


def rank_results(results: Iterable[Result]) -> list[RankGroup]:
    """Group comparable results, drop duplicates, sort and rank.

    Results share a group, hence a rank, only with equal data hash, split, examples, norm, eps and
    protocol (id, content hash, attacks). Inside a group the best row leads a tie group. It is
    compared with every row below it by the exact McNemar test on the examples that withstand all
    attacks, Holm-corrected over these comparisons at 5%; the rows down to the first one it is
    separated from share its rank, and that one leads the next tie group. Flags that another result
    of the same network has answered go, and open ones stay (see `with_follow_ups`). Rows that may
    hold no rank (see `Result.status`) come last.

    Args:
        results: in any order.

    Returns:
        Groups in a fixed order, whatever the order of `results`.
    """
    groups: dict[GroupKey, list[Result]] = defaultdict(list)
    for (_, _, key), result in _without_duplicates(with_follow_ups(results)).items():
        groups[key].append(result)
    return [RankGroup(key, _ranked(groups[key])) for key in sorted(groups)]


def group_key(result: Result) -> GroupKey:
    """The group a result belongs to."""
    dataset, protocol = result.dataset, result.protocol
    return GroupKey(
        dataset=dataset.name,
        split=dataset.split,
        dataset_hash=dataset.hash,
        first_example=result.examples.first,
        n_examples=result.n_examples,
        examples_hash=result.examples.digest,
        choice=result.examples.choice,
        norm=protocol.norm,
        eps_value=protocol.eps_value,
        eps=protocol.eps,
        protocol_id=protocol.id,
        protocol_hash=protocol.hash,
        attacks=tuple(attack.name for attack in protocol.attacks),
    )


def _without_duplicates(results: Iterable[Result]) -> dict[tuple[str, int, GroupKey], Result]:
    """One result per model, seed and group: the least favourable one."""
    kept: dict[tuple[str, int, GroupKey], Result] = {}
    for result in results:
        identity = (result.model.hash, result.seed, group_key(result))
        other = kept.get(identity)
        if other is None or _caution(result) < _caution(other):
            kept[identity] = result
    return kept


def _caution(result: Result) -> tuple[object, ...]:
    """Least for the one to keep: of two that may hold a rank the lower; a flagged one before both;
    a merely reported one last, since any other says more."""
    robust, clean = result.robust_accuracy.correct, result.clean_accuracy.correct
    weight = {FLAGGED: 0, REPORTED: 2}.get(result.status, 1)
    unchecked = result.status != VERIFIED
    return (weight, robust, clean, unchecked, result.name, result.defense, repr(result))


def _order(result: Result) -> tuple[object, ...]:
    robust, clean = result.robust_accuracy.correct, result.clean_accuracy.correct
    return (-robust, -clean, result.name, result.model.hash, result.seed)


def _ranked(results: list[Result]) -> tuple[RankedResult, ...]:
    ranked = sorted((result for result in results if result.ranked), key=_order)
    others = sorted((result for result in results if not result.ranked), key=_order)
    rows: list[RankedResult] = []
    for start, end in tie_groups(ranked):
        rank = f"{start + 1}=" if end - start > 1 else f"{start + 1}"
        rows += [RankedResult(rank, result) for result in ranked[start:end]]
    return (*rows, *(RankedResult(UNRANKED, result) for result in others))


def tie_groups(rows: Sequence[Result]) -> list[tuple[int, int]]:
    """Split sorted rows into runs `[start, end)` that the first of each run does not beat.

    Args:
        rows: comparable results with outcomes, best first.

    Returns:
        The runs, in order; together they cover all rows.
    """
    packed = np.array([_bits(row) for row in rows], dtype=np.uint8)  # (rows, bytes)
    runs, start = [], 0
    while start < len(rows):
        separated = _beaten(packed[start], packed[start + 1 :])
        end = start + 1 + int(np.argmax(separated)) if separated.any() else len(rows)
        runs.append((start, end))
        start = end
    return runs


def _bits(row: Result) -> NDArray[np.uint8]:
    assert row.robust_bits is not None, "a result without outcomes has no rank"
    return np.frombuffer(row.robust_bits, dtype=np.uint8)


def _beaten(leader: NDArray[np.uint8], rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows the leader is separated from: exact McNemar, Holm over these rows."""
    only_leader = np.bitwise_count(leader & ~rows).sum(axis=1, dtype=np.int64)
    only_row = np.bitwise_count(rows & ~leader).sum(axis=1, dtype=np.int64)
    return holm_rejects(mcnemar_p_values(only_leader, only_row), LEVEL)
