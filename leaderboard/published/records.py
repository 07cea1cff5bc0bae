"""Published numbers: every one with its settings, its source and how far it was checked."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import Record

Provenance = Literal["verified", "secondary", "memory", "this project"]
PROVENANCES: Mapping[str, str] = {
    "verified": "read in the authors' code, logs, README or manuscript, or on RobustBench",
    "secondary": "reported or quoted by somebody else",
    "memory": "recalled, not verified: shown, and never a target",
    "this project": "measured here",
}
MARKED = ("secondary", "memory")
"""What a number has to be shown with."""

CLEAN_METRIC = "clean"
"""The metric that no attack belongs to."""

ACCURACIES = ("accuracy", "error")
"""Quantities that `rbl reproduce` measures; an error is 1 - accuracy."""

Quantity = Literal["accuracy", "error", "auroc", "aupr", "fpr95", "attack_success", "difference"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)


@dataclass(frozen=True)
class Cell:
    """One published number.

    Args:
        table: the table's id.
        row: the row's id in it.
        key: the column's, unique in the table.
        metric: what was measured: `clean`, `pgd20`, `cw20`, `aa`, ...; a name, not settings.
        title: how the column is headed.
        quantity: one of `QUANTITIES`.
        text: as printed.
        value: of `text`, as a fraction of 1.
        rounding: half a unit of the last digit printed, as a fraction of 1.
        spread: what the source prints behind +-, as a fraction of 1; None when it prints none.
        also: other values that the same source prints for the same thing, as printed.
        dataset: registered name where there is one; likewise `model` as printed.
        split: of the data set.
        part: what the number is over when that is not the whole split, in words; else empty.
        n: the first n examples; 0 is all of them.
        norm: `"Linf"`, `"L2"`; empty when the source does not say.
        eps_printed: radius as printed; empty when the source does not say.
        eps: radius as meant; the same unless somebody found out otherwise.
        protocol: name of the protocol that has the source's settings; empty when the source does
            not state them, or none of ours fits.
        attack: name within the protocol; empty for its only attack.
        union: correct under all attacks of the protocol together.
        provenance: one of `PROVENANCES`.
        basis: where it was read.
        note: what a reader must know besides.
    """

    table: str
    row: str
    key: str
    metric: str
    title: str
    quantity: str
    text: str
    value: Fraction
    rounding: Fraction
    spread: Fraction | None
    also: tuple[str, ...]
    method: str
    model: str
    dataset: str
    split: str
    part: str
    n: int
    norm: str
    eps_printed: str
    eps: str
    protocol: str
    attack: str
    union: bool
    provenance: Provenance
    basis: str
    note: str

    @property
    def is_target(self) -> bool:
        """Whether a number of ours may be held against it."""
        return self.provenance != "memory"

    @property
    def mark(self) -> str:
        """`" (memory)"` or `" (secondary)"`: goes with the number wherever it is shown."""
        return f" ({self.provenance})" if self.provenance in MARKED else ""

    @property
    def shown(self) -> str:
        """The number as printed, with its mark."""
        return f"{self.text}{self.mark}"

    @property
    def accuracy(self) -> Fraction:
        """The value as an accuracy; of other quantities the value itself."""
        return 1 - self.value if self.quantity == "error" else self.value

    @property
    def protocol_id(self) -> str:
        """The protocol and the radius meant: `aa_standard@0.031`; empty without a protocol."""
        return f"{self.protocol}@{self.eps or '?'}" if self.protocol else ""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Args:
        id: unique in the table.
        printed: the row's name as printed.
        method: the method in our words; the same words in two tables mean the same method.
        model: the architecture as printed.
        dataset: see `Cell`.
        recipe: the shipped recipe that is this row; empty when there is none.
        small_scale: a small recipe of the same method, for a quick look; empty when there is none.
        selection: the checkpoint published: `"best"`, `"last"`, or in words; empty if unknown.
        weights: hash of the published weights, where it is known.
        note: what a reader must know besides.
        facts: further fields of the source, as printed.
        cells: the numbers, in column order; missing ones are left out.
    """

    id: str
    printed: str
    method: str
    model: str
    dataset: str
    recipe: str
    small_scale: str
    selection: str
    weights: str
    note: str
    facts: Mapping[str, str]
    cells: tuple[Cell, ...]


class Relation(Record, frozen=True, kw_only=True):
    """An order that a source claims, `above` over `below` (row ids) in one column."""

    metric: str = ""
    above: str
    below: str
    source: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A published table with its source.

    Args:
        id: the file's stem.
        title: one line.
        paper: authors, title, venue, identifier.
        where: table or figure, and in what document.
        repository: address of the code or data; empty when there is none.
        provenance: of its numbers, unless one says otherwise.
        note: what a reader must know besides.
        columns: key and heading of each column, in order.
        rows: in order; empty for a table that could not be read.
        relations: orders that the source claims without numbers.
        trends: what a run may be held to where there are no numbers, in words.
    """

    id: str
    title: str
    paper: str
    where: str
    repository: str
    provenance: Provenance
    note: str
    columns: Mapping[str, str]
    rows: tuple[PublishedRow, ...]
    relations: tuple[Relation, ...] = ()
    trends: tuple[str, ...] = field(default=())

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All numbers, row by row."""
        return tuple(cell for row in self.rows for cell in row.cells)

    def choose(self, patterns: Sequence[str]) -> tuple[PublishedRow, ...]:
        """The rows that match any pattern, in the table's order.

        Args:
            patterns: row ids, the last part of an id with slashes, or globs such as `lbgat*`;
                none chooses all rows.

        Raises:
            ResultError: for a pattern that matches nothing.
        """
        if not patterns:
            return self.rows
        chosen = set()
        for pattern in patterns:
            found = {row.id for row in self.rows if _matches(row.id, pattern)}
            if not found:
                raise ResultError(_no_such_row(self, pattern))
            chosen |= found
        return tuple(row for row in self.rows if row.id in chosen)


def _matches(name: str, pattern: str) -> bool:
    names = (name, name.rpartition("/")[2])
    return any(fnmatch.fnmatchcase(one, pattern) for one in names)


def _no_such_row(table: PublishedTable, pattern: str) -> str:
    import difflib

    names = [row.id.rpartition("/")[2] for row in table.rows]
    if not names:
        return f"table {table.id} has no rows: {table.note}"
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"rows: {', '.join(names[:8])}"
    return f"table {table.id} has no row {pattern!r}; {hint}"
