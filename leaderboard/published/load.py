"""Reading published tables: TOML files, one a table, whose rows may stand in a CSV beside it."""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from msgspec import UNSET

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import dotted, shown, structured
from robustbench_lite.leaderboard.published.records import (
    CLEAN_METRIC,
    Cell,
    PublishedRow,
    PublishedTable,
)
from robustbench_lite.leaderboard.published.stored import (
    Override,
    PublishedColumn,
    RowKeys,
    TableKeys,
    Terms,
    nearest,
    radius_meant,
)
from robustbench_lite.leaderboard.published.values import UNITS, csv_facts, filled, read_number


def published_folder() -> Path:
    """Where the shipped tables lie."""
    return Path(str(files("robustbench_lite.leaderboard.published"))) / "tables"


def published_names() -> list[str]:
    """Ids of the shipped tables, sorted."""
    return sorted(path.stem for path in published_folder().glob("*.toml"))


def load_published(name: str) -> PublishedTable:
    """Read a published table.

    Args:
        name: the id of a shipped table, or the path of a `.toml` file of the same form.

    Returns:
        The table, every number with its settings and source.

    Raises:
        ResultError: for an unknown name, or a file that is not as it must be, with the place.
    """
    path = Path(name) if name.endswith(".toml") else published_folder() / f"{name}.toml"
    if not path.is_file():
        raise ResultError(_unknown(name))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5,000 digits
        raise ResultError(f"{path} is no valid TOML: {error}") from None
    table = structured(TableKeys, data, str(path), error=ResultError)
    try:
        return _table(path, table)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None


def _unknown(name: str) -> str:
    if name.endswith(".toml"):
        return f"published table {name!r} does not exist"
    near = difflib.get_close_matches(name, published_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown published table {name!r}; {hint}`rbl reproduce --list` names all"


def _table(path: Path, table: TableKeys) -> PublishedTable:
    """The whole table; refuses a column or row that is there twice."""
    names = [column.name for column in table.columns]
    _check_once("column", names)
    rows = [*_toml_rows(path.stem, table), *_csv_rows(path, table)]
    ids = [row.id for row in rows]
    _check_once("row id", ids)
    for place, one in enumerate(table.relations):
        for side, row in (("above", one.above), ("below", one.below)):
            if row not in ids:
                raise ResultError(f"relations[{place}].{side} is {shown(row)}; need a row's id")
    return PublishedTable(
        id=path.stem,
        title=table.title,
        paper=table.paper,
        where=table.where,
        repository=table.repository,
        provenance=table.provenance,
        note=table.note,
        columns={column.name: column.title for column in table.columns},
        rows=tuple(rows),
        relations=table.relations,
        trends=table.trends,
    )


def _check_once(what: str, names: Sequence[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise ResultError(f"{what} {shown(name)} is there twice")


def _toml_rows(name: str, table: TableKeys) -> Iterator[PublishedRow]:
    """Rows that stand in the TOML file itself."""
    names = [column.name for column in table.columns]
    for place, data in enumerate(table.rows):
        where = f"rows[{place}]"
        if len(data.values) not in (0, len(names)):
            raise ResultError(f"{where}.values must be a list of {len(names)} texts")
        if unknown := set(data.cells) - set(names):
            raise ResultError(f"{where}.cells has no column {shown(sorted(unknown)[0])}")
        texts = dict(zip(names, data.values, strict=False))
        yield _row(name, table, data, texts, data.cells, where, facts={})


def _csv_rows(path: Path, table: TableKeys) -> Iterator[PublishedRow]:
    """Rows of a CSV; `[csv]` says which of its fields is what, `[[changes]]` what is added."""
    layout = table.csv
    if layout is UNSET:
        return
    changes = {}
    for place, change in enumerate(table.changes):
        changed = structured(
            str, change.get("row"), "", where=f"changes[{place}].row", error=ResultError
        )
        changes[changed] = {key: value for key, value in change.items() if key != "row"}
    names = [column.name for column in table.columns]
    for facts in csv_facts(path.parent / layout.file):
        try:
            data: dict[str, Any] = {key: facts[name] for key, name in layout.fields.items()}
            texts = {key: facts[name] for key, name in layout.values.items() if key in names}
        except KeyError as error:
            raise ResultError(f"csv: {error} is no key or field") from None
        name = filled(layout.id, facts)
        data = {**data, "id": name, **changes.pop(name, {})}
        where = dotted("", name)
        keys = structured(RowKeys, data, "", where=where, error=ResultError)
        yield _row(path.stem, table, keys, texts, {}, where, facts=facts)
    if changes:
        raise ResultError(f"changes names no row of the CSV: {shown(sorted(changes)[0])}")


def _row(
    name: str,
    table: TableKeys,
    data: RowKeys,
    texts: Mapping[str, str],
    overrides: Mapping[str, Override],
    where: str,
    facts: Mapping[str, str],
) -> PublishedRow:
    """One row: a cell for every column that it has a number in."""
    cells = tuple(
        _cell(name, (overrides.get(column.name, Override()), data, column, table), text, where)
        for column in table.columns
        if (text := texts.get(column.name, ""))
    )
    return PublishedRow(
        **{key: getattr(data, key) for key in RowKeys.__annotations__},
        model=nearest("model", (data, table)),
        dataset=nearest("dataset", (data, table)),
        facts=dict(facts),
        cells=cells,
    )


def _cell(
    name: str, levels: tuple[Override, RowKeys, PublishedColumn, TableKeys], text: str, where: str
) -> Cell:
    """One number; of each term the nearest word counts: of cell, row, column, table."""
    override, row, column, _ = levels
    terms = {key: nearest(key, levels) for key in Terms.__struct_fields__}
    number = read_number(text, UNITS[terms.pop("unit")])
    place = dotted(where, column.name)
    if number is None:
        raise ResultError(f"{place} is {shown(text)}; need a number as text, such as '53.10'")
    value, rounding, spread = number
    if value > 1:
        raise ResultError(f"{place} is {shown(text)}, which is more than everything")
    if column.protocols is not UNSET and override.protocol is row.protocol is UNSET:
        terms["protocol"] = column.protocols.get(terms["norm"], "")
    terms["eps"] = radius_meant(levels)
    if column.metric == CLEAN_METRIC:
        terms |= {"protocol": "", "attack": ""}
    return Cell(
        table=name,
        row=row.id,
        key=column.name,
        metric=column.metric,
        title=column.title,
        quantity=column.quantity,
        text=text,
        value=value,
        rounding=rounding,
        spread=spread,
        also=override.also,
        method=row.method,
        union=column.union,
        note=" ".join(filter(None, (row.note, override.note))),
        **terms,
    )
