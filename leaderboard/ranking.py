"""Who may be compared with whom, and which differences are more than chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.records import Result
from robustbench_lite.leaderboard.statistics import holm_rejects, mcnemar_p_values

LEVEL = 0.05
UNRANKED = "–"


@dataclass(frozen=True, order=True)
class GroupKey:
    """What results have to share to be ranked together; its order is the order of the tables."""

    dataset: str
    split: str
    dataset_hash: str
    first_example: int
    n_examples: int
    norm: str
    eps_value: float
    eps: str
    protocol_id: str
    protocol_hash: str
    attacks: tuple[str, ...]  # follows from the hash, unless a file lies about it


@dataclass(frozen=True)
class RankedResult:
    """A result with its rank as shown: `"1"`, `"1="` for a tie, or a dash when unverified."""

    rank: str
    result: Result


@dataclass(frozen=True)
class RankGroup:
    """One table: comparable results, best first, unverified ones last."""

    key: GroupKey
    rows: tuple[RankedResult, ...]

    def attack_titles(self, taken: Collection[str] = ()) -> dict[str, str]:
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
    separated from share its rank, and that one leads the next tie group. Where outcomes are
    missing, two rows are separated when their intervals do not overlap.

    Args:
        results: in any order.

    Returns:
        Groups in a fixed order, whatever the order of `results`.
    """
    groups: dict[GroupKey, list[Result]] = defaultdict(list)
    for (_, _, key), result in _without_duplicates(results).items():
        groups[key].append(result)
    return [RankGroup(key, _ranked(groups[key])) for key in sorted(groups)]


def group_key(result: Result) -> GroupKey:
    """The group a result belongs to."""
    dataset, protocol = result.dataset, result.protocol
    return GroupKey(
        dataset=dataset.name,
        split=dataset.split,
        dataset_hash=dataset.hash,
        first_example=result.first_example,
        n_examples=result.n_examples,
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
    robust, clean = result.robust_accuracy.correct, result.clean_accuracy.correct
    return (result.verified, robust, clean, result.name, result.defense, repr(result))


def _order(result: Result) -> tuple[object, ...]:
    robust, clean = result.robust_accuracy.correct, result.clean_accuracy.correct
    return (-robust, -clean, result.name, result.model.hash, result.seed)


def _ranked(results: list[Result]) -> tuple[RankedResult, ...]:
    verified = sorted((result for result in results if result.verified), key=_order)
    unverified = sorted((result for result in results if not result.verified), key=_order)
    rows: list[RankedResult] = []
    for start, end in tie_groups(verified):
        rank = f"{start + 1}=" if end - start > 1 else f"{start + 1}"
        rows += [RankedResult(rank, result) for result in verified[start:end]]
    return (*rows, *(RankedResult(UNRANKED, result) for result in unverified))


def tie_groups(rows: Sequence[Result]) -> list[tuple[int, int]]:
    """Split sorted rows into runs `[start, end)` that the first of each run does not beat.

    Args:
        rows: comparable results, best first.

    Returns:
        The runs, in order; together they cover all rows.
    """
    bits = [_bits(row) for row in rows]
    known = np.array([row.robust_bits is not None for row in rows], dtype=np.bool_)
    packed: NDArray[np.uint8] = np.array(bits, dtype=np.uint8)  # (rows, bytes)
    intervals = np.array([row.robust_accuracy.interval for row in rows]).reshape(-1, 2)
    runs, start = [], 0
    while start < len(rows):
        below = slice(start + 1, len(rows))
        separated = intervals[below, 1] < intervals[start, 0]
        if known[start]:
            tested = known[below]
            separated[tested] = _beaten(packed[start], packed[below][tested])
        end = start + 1 + int(np.argmax(separated)) if separated.any() else len(rows)
        runs.append((start, end))
        start = end
    return runs


def _bits(row: Result) -> NDArray[np.uint8]:
    if row.robust_bits is None:
        return np.zeros((row.n_examples + 7) // 8, dtype=np.uint8)
    return np.frombuffer(row.robust_bits, dtype=np.uint8)


def _beaten(leader: NDArray[np.uint8], rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows the leader is separated from: exact McNemar, Holm over these rows."""
    only_leader = np.bitwise_count(leader & ~rows).sum(axis=1, dtype=np.int64)
    only_row = np.bitwise_count(rows & ~leader).sum(axis=1, dtype=np.int64)
    return holm_rejects(mcnemar_p_values(only_leader, only_row), LEVEL)
