"""The keys of a published table's file and what they hold; any other key is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import UNSET, UnsetType, field

from robustbench_lite.core.schema import Count, Record, Text, shown
from robustbench_lite.leaderboard.published.records import Provenance, Quantity, Relation
from robustbench_lite.leaderboard.results.radii import read_radius

_DEFAULTS = {"split": "test", "n": 0, "unit": "percent"}  # of every other term: an empty text


class Terms(Record, frozen=True):
    """What a number takes from the nearest that says it: from itself, its row, column, table."""

    dataset: str | UnsetType = UNSET
    split: str | UnsetType = UNSET
    part: str | UnsetType = UNSET
    n: Count | UnsetType = UNSET
    model: str | UnsetType = UNSET
    norm: str | UnsetType = UNSET
    eps_printed: str | UnsetType = UNSET
    eps: str | UnsetType = UNSET
    protocol: str | UnsetType = UNSET
    attack: str | UnsetType = UNSET
    provenance: Literal["", Provenance] | UnsetType = UNSET
    basis: str | UnsetType = UNSET
    unit: Literal["percent", "fraction"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        for key in ("eps", "eps_printed"):
            text = getattr(self, key)
            if text and read_radius(text) is None:
                raise ValueError(f"{key} is {shown(text)}; need a radius such as '8/255'")


class PublishedColumn(Terms, frozen=True, kw_only=True):
    """One column; `key` is `metric` where it is not stated."""

    metric: Text
    title: Text
    key: str = ""
    quantity: Quantity = "accuracy"
    union: bool = False
    protocols: dict[str, str] | UnsetType = UNSET  # by norm

    @property
    def name(self) -> str:
        """What cells and the values of a CSV call it."""
        return self.key or self.metric


class Override(Terms, frozen=True, kw_only=True):
    """What one number states by itself."""

    note: str = ""
    also: tuple[str, ...] = ()


class RowKeys(Terms, frozen=True, kw_only=True):
    """One row, without its numbers."""

    id: Text
    method: Text
    printed: str = ""
    recipe: str = ""
    small_scale: str = ""
    selection: str = ""
    weights: str = ""
    note: str = ""


class TomlRow(RowKeys, frozen=True, kw_only=True):
    """One row that stands in the TOML file itself."""

    values: tuple[str, ...] = ()  # in the order of the columns
    cells: dict[str, Override] = field(default_factory=dict)


class CsvKeys(Record, frozen=True, kw_only=True):
    """Where rows stand that are in a CSV, and which of its fields is what."""

    file: Text
    id: Text  # with {field} in it
    fields: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


class TableKeys(Terms, frozen=True, kw_only=True):
    """A whole file."""

    title: Text
    provenance: Provenance
    paper: str = ""
    where: str = ""
    repository: str = ""
    note: str = ""
    columns: tuple[PublishedColumn, ...] = ()
    rows: tuple[TomlRow, ...] = ()
    csv: CsvKeys | UnsetType = UNSET
    changes: tuple[dict[str, Any], ...] = ()  # `row`, and keys of `RowKeys`
    relations: tuple[Relation, ...] = ()
    trends: tuple[str, ...] = ()


def nearest(key: str, levels: Sequence[Terms]) -> Any:
    """The term of the first level that states it, else its default."""
    stated = (getattr(level, key) for level in levels)
    return next((value for value in stated if value is not UNSET), _DEFAULTS.get(key, ""))


def radius_meant(levels: Sequence[Terms]) -> str:
    """As printed, unless `eps` says otherwise at the same level or at a nearer one."""
    stated = (one for level in levels for one in (level.eps, level.eps_printed))
    return next((text for text in stated if text is not UNSET), "")
