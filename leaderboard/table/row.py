"""A row of the leaderboard: built once, read by every table format and by the page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from robustbench_lite.leaderboard.published.reported import ReportedRow, group_reported
from robustbench_lite.leaderboard.results.records import RANKED, REPORTED, STATUSES, Result
from robustbench_lite.leaderboard.statistics.per_class import worst_class
from robustbench_lite.leaderboard.statistics.ranking import (
    UNRANKED,
    GroupKey,
    RankedResult,
    rank_results,
)
from robustbench_lite.leaderboard.table.text import headings


class Row(Struct, frozen=True, kw_only=True):
    """One result or published row. The fields but `origin` are a table's columns, in their order.

    Shares are fractions, never percent. What a paper does not state has its default here.

    Args:
        rank: `"1"`, `"1="` for a tie, or a dash.
        params: number of parameters.
        attacks: stand-alone robust accuracy by title of the attack; one column each.
        worst_case: robust accuracy; `interval_lo` and `interval_hi` are its 95% Wilson bounds.
        worst_class: lowest robust accuracy of a class; `worst_class_label` says which. NaN and None
            where the result stores no labels.
        status: one of `records.STATUSES`.
        flags: why there is no rank: the flags and what the file does not store, joined by commas;
            then the flags that were answered, and by what; `queries only` where no attack of the
            row saw gradients, with `no gradient` where the network gives none.
            Of a published row: which numbers were not read at the source.
        extra_data: None when nobody said.
        cost: forward plus backward passes per example attacked.
        eps_value: NaN when no radius is stated.
        first_example: the smallest id.
        examples: how they were chosen, such as `first 100 of 1000`; empty where not stated.
        examples_hash: SHA-256 of their ids, unless they are consecutive ones.
        source: the paper of a published row.
        origin: what the row shows; None in rows that were read from a table.
    """

    rank: str = UNRANKED
    name: str
    defense: str
    architecture: str
    params: int | None = None
    clean: float = math.nan
    attacks: Mapping[str, float]
    worst_case: float = math.nan
    interval_lo: float = math.nan
    interval_hi: float = math.nan
    n: int | None = None
    worst_class: float = math.nan
    worst_class_label: int | None = None
    protocol_id: str
    engine: str = ""
    status: str = REPORTED
    flags: str
    extra_data: bool | None = None
    cost: float = math.nan
    dataset: str
    split: str
    norm: str
    eps: str
    eps_value: float
    first_example: int | None = None
    examples: str = ""
    examples_hash: str = ""
    seed: int | None = None
    dataset_hash: str = ""
    canonical: bool | None = None
    protocol_hash: str = ""
    model_hash: str = ""
    source: str = ""
    origin: Result | ReportedRow | None = None

    @property
    def measured(self) -> bool:
        """Whether it was measured, instead of copied from a paper: then its network is known."""
        return bool(self.model_hash)

    @property
    def of_prefix(self) -> bool:
        """Whether it is known to be over the first images of a larger split."""
        return self.examples.startswith("first ")

    @property
    def stated_attacks(self) -> list[str]:
        """Titles of the attacks that it has a number for."""
        return [title for title, value in self.attacks.items() if not math.isnan(value)]

    @property
    def key(self) -> GroupKey:
        """What it shares with the other rows of its table."""
        return GroupKey(
            **{name: getattr(self, name) for name in _OF_GROUP},
            first_example=self.first_example or 0,
            n_examples=self.n or 0,
            eps_value=self.eps_value if self.eps else math.inf,
            choice=self.examples,
            # A paper may lack an attack in some of its rows, a protocol never.
            attacks=tuple(self.stated_attacks) if self.measured else (),
        )


_NAMES = [name for name in Row.__struct_fields__ if name != "origin"]
BEFORE_ATTACKS = tuple(_NAMES[: _NAMES.index("attacks")])
AFTER_ATTACKS = tuple(_NAMES[_NAMES.index("attacks") + 1 :])
FIXED_COLUMNS = (*BEFORE_ATTACKS, *AFTER_ATTACKS)
# Texts that the rows of a group share.
_OF_GROUP = (
    *("dataset", "split", "dataset_hash", "examples_hash"),
    *("norm", "eps", "protocol_id", "protocol_hash"),
)


@dataclass(frozen=True)
class Section:
    """One group: its heading, its key, its rows, and the titles of the attacks that any has."""

    heading: str
    key: GroupKey
    rows: list[Row]
    attacks: list[str]

    @property
    def measured(self) -> bool:
        """Whether the rows were measured, instead of copied from a paper."""
        return self.rows[0].measured

    @property
    def has_ties(self) -> bool:
        """Whether rows share a rank."""
        return any(row.rank.endswith("=") for row in self.rows)

    def count_statuses(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many rows of each status there are: those with a rank, those without."""
        counted = Counter(row.status for row in self.rows)
        found = [status for status in STATUSES if counted[status]]
        ranked = {status: counted[status] for status in found if status in RANKED}
        return ranked, {status: counted[status] for status in found if status not in RANKED}


def build_rows(results: Iterable[Result], reported: Iterable[ReportedRow] = ()) -> list[Row]:
    """Every row of the leaderboard, group by group, best first.

    Args:
        results: in any order; grouped, sorted, ranked and freed of duplicates by `rank_results`.
        reported: published rows, which come last.
    """
    rows = []
    for group in rank_results(results):
        titles = group.attack_titles(taken=FIXED_COLUMNS)
        rows += [_measured_row(row, group.key, titles) for row in group.rows]
    return [*rows, *(_reported_row(row) for g in group_reported(reported).values() for row in g)]


def split_groups(rows: Iterable[Row]) -> list[Section]:
    """The groups of some rows, in the order in which they first appear."""
    groups: dict[GroupKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key, []).append(row)
    sections = []
    for heading, (key, members) in zip(headings(list(groups)), groups.items(), strict=True):
        found = {title for row in members for title in row.stated_attacks}
        order = dict.fromkeys(title for row in members for title in row.attacks)
        sections.append(Section(heading, key, members, [one for one in order if one in found]))
    return sections


def _measured_row(row: RankedResult, key: GroupKey, titles: Mapping[str, str]) -> Row:
    result = row.result
    low, high = result.robust_accuracy.interval
    label, share = worst_class(result) or (None, math.nan)
    return Row(
        **{name: getattr(key, name) for name in (*_OF_GROUP, "eps_value", "first_example")},
        rank=row.rank,
        name=result.name,
        defense=result.defense,
        architecture=result.architecture,
        params=result.parameters,
        clean=result.clean_accuracy.value,
        attacks={title: result.attacks[name].accuracy.value for name, title in titles.items()},
        worst_case=result.robust_accuracy.value,
        interval_lo=low,
        interval_hi=high,
        n=result.n_examples,
        examples=result.examples.choice,
        worst_class=share,
        worst_class_label=label,
        engine=result.protocol.engine_text,
        status=result.status,
        flags=", ".join((*result.reasons, *result.answered, *result.notes)),
        extra_data=result.extra_data,
        cost=result.cost,
        seed=result.seed,
        canonical=result.dataset.canonical,
        model_hash=result.model.hash,
        origin=result,
    )


def _reported_row(row: ReportedRow) -> Row:
    key = row.key
    return Row(
        name=row.name,
        defense=row.method,
        architecture=row.model,
        clean=math.nan if row.clean is None else row.clean,
        attacks={
            f"{heading} (reported)" if heading in FIXED_COLUMNS else heading: value
            for heading, value in row.attacks.items()
        },
        protocol_id=key.protocol_id,
        flags=row.marks,
        dataset=key.dataset,
        split=key.split,
        norm=key.norm,
        eps=key.eps,
        eps_value=key.eps_value if key.eps else math.nan,
        source=row.paper,
        origin=row,
    )
