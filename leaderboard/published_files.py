"""Reading published tables: TOML files, one a table, whose rows may stand in a CSV beside it."""

from __future__ import annotations

import csv
import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from robustbench_lite.leaderboard.errors import ResultError
from robustbench_lite.leaderboard.fields import shown
from robustbench_lite.leaderboard.published_numbers import (
    CLEAN,
    PROVENANCES,
    QUANTITIES,
    Cell,
    PublishedTable,
    Relation,
    Row,
)
from robustbench_lite.leaderboard.published_terms import (
    COLUMN,
    LISTS,
    ROW_MORE,
    SOURCE,
    TERMS,
    UNITS,
    nearest,
    radius_meant,
    read_number,
    read_radius,
)


def published_folder() -> Path:
    """Where the shipped tables lie."""
    return Path(str(files("robustbench_lite.leaderboard.published")))


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is no valid TOML: {error}") from None
    return _Reader(path, data).table()


def _unknown(name: str) -> str:
    if name.endswith(".toml"):
        return f"published table {name!r} does not exist"
    near = difflib.get_close_matches(name, published_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown published table {name!r}; {hint}`rbl reproduce --list` names all"


class _Reader:
    """One file being read."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data = path, data
        known = {**SOURCE, **TERMS}
        self.check(data, {*known, *LISTS, "csv"}, "")
        self.source = {key: self.typed(data, key, kind, "") for key, kind in SOURCE.items()}
        self.check_words(data, "")
        for key in LISTS:
            value = data.get(key, [])
            item = str if key == "trends" else dict
            if not isinstance(value, list) or not all(isinstance(one, item) for one in value):
                raise self.refuse(f"{key} must be a list of {item.__name__}")
            self.data.setdefault(key, [])

    def table(self) -> PublishedTable:
        """The whole table; refuses a row id that is there twice."""
        columns = self.columns()
        rows = [*self.rows(columns), *self.csv_rows(columns)]
        ids = [row.id for row in rows]
        if repeated := sorted({one for one in ids if ids.count(one) > 1}):
            raise self.refuse(f"row id {repeated[0]!r} is there twice")
        provenance: Any = self.data.get("provenance")
        if provenance not in PROVENANCES or not self.source["title"]:
            raise self.refuse("a table needs a title and a provenance")
        return PublishedTable(
            id=self.path.stem,
            provenance=provenance,
            columns={column["key"]: column["title"] for column in columns},
            rows=tuple(rows),
            relations=tuple(self.relations(set(ids))),
            trends=tuple(self.data["trends"]),
            **self.source,
        )

    def columns(self) -> list[dict[str, Any]]:
        """The columns, with defaults for the keys that a column may leave out."""
        found: list[dict[str, Any]] = []
        for place, data in enumerate(self.data["columns"]):
            where = f"columns[{place}]"
            self.check(data, {*COLUMN, *TERMS, "protocols"}, where)
            self.check_words(data, where)
            column = {
                **data,
                **{key: self.typed(data, key, kind, where) for key, kind in COLUMN.items()},
            }
            column["quantity"] = data.get("quantity", "accuracy")
            column["key"] = column["key"] or column["metric"]
            if not column["metric"] or not column["title"]:
                raise self.refuse(f"{where} needs a metric and a title")
            if column["quantity"] not in QUANTITIES:
                raise self.refuse(
                    f"{where}: quantity={column['quantity']!r}; allowed: {QUANTITIES}"
                )
            if column["key"] in [other["key"] for other in found]:
                raise self.refuse(f"{where}: key {column['key']!r} is there twice")
            found.append(column)
        return found

    def rows(self, columns: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
        """Rows that stand in the TOML file itself."""
        for place, data in enumerate(self.data["rows"]):
            where = f"rows[{place}]"
            self.check(data, {*ROW_MORE, *TERMS, "values", "cells"}, where)
            values, cells = data.get("values", []), data.get("cells", {})
            if not isinstance(values, list) or len(values) not in (0, len(columns)):
                raise self.refuse(f"{where}: values must be a list of {len(columns)} texts")
            if unknown := set(cells) - {column["key"] for column in columns}:
                raise self.refuse(f"{where}: cells has no column {sorted(unknown)[0]!r}")
            texts = {column["key"]: text for column, text in zip(columns, values, strict=False)}
            yield self.row(data, columns, texts, cells, where, facts={})

    def csv_rows(self, columns: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
        """Rows of a CSV; `[csv]` says which of its fields is what, `[[changes]]` what is added."""
        layout = self.data.get("csv")
        if layout is None:
            return
        self.check(layout, {"file", "id", "fields", "values"}, "csv")
        changes = {change.pop("row", ""): change for change in map(dict, self.data["changes"])}
        names = {column["key"] for column in columns}
        for facts in self.csv_facts(layout):
            try:
                data = {key: facts[name] for key, name in layout["fields"].items()}
                data["id"] = layout["id"].format(**facts)
                texts = {key: facts[name] for key, name in layout["values"].items() if key in names}
            except KeyError as error:
                raise self.refuse(f"csv: {error} is no key or field") from None
            data |= changes.pop(data["id"], {})
            yield self.row(data, columns, texts, {}, data["id"], facts=facts)
        if changes:
            raise self.refuse(f"changes names no row of the CSV: {sorted(changes)[0]!r}")

    def csv_facts(self, layout: Mapping[str, Any]) -> list[dict[str, str]]:
        """Every line of the CSV, by its field names."""
        file = self.path.parent / self.typed(layout, "file", "", "csv")
        try:
            with file.open(encoding="utf-8", newline="") as lines:
                return list(csv.DictReader(lines))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise self.refuse(f"csv file {file} cannot be read: {error}") from None

    def row(
        self,
        data: Mapping[str, Any],
        columns: Sequence[Mapping[str, Any]],
        texts: Mapping[str, Any],
        overrides: Mapping[str, Any],
        where: str,
        facts: Mapping[str, str],
    ) -> Row:
        """One row: a cell for every column that it has a number in."""
        about = {key: self.typed(data, key, kind, where) for key, kind in ROW_MORE.items()}
        self.check_words(data, where)
        if not about["id"] or not about["method"]:
            raise self.refuse(f"{where} needs an id and a method")
        cells = tuple(
            self.cell(data, column, texts[column["key"]], overrides.get(column["key"], {}), where)
            for column in columns
            if texts.get(column["key"], "") != ""
        )
        levels = (data, self.data)
        return Row(
            **about,
            model=str(nearest("model", levels)),
            dataset=str(nearest("dataset", levels)),
            facts=dict(facts),
            cells=cells,
        )

    def cell(
        self,
        row: Mapping[str, Any],
        column: Mapping[str, Any],
        text: object,
        override: Mapping[str, Any],
        where: str,
    ) -> Cell:
        """One number; of each term the nearest word counts: of cell, row, column, table."""
        where = f"{where}.{column['key']}"
        self.check(override, {*TERMS, "note", "also"}, where)
        self.check_words(override, where)
        levels = (override, row, column, self.data)
        terms = {key: nearest(key, levels) for key in TERMS}
        number = read_number(text, UNITS[terms.pop("unit")])
        if number is None:
            raise self.refuse(f"{where}: {shown(text)} is no number as text, such as '53.10'")
        value, rounding, spread = number
        if value > 1:
            raise self.refuse(f"{where}: {shown(text)} is more than everything")
        if "protocols" in column and "protocol" not in {**row, **override}:
            terms["protocol"] = column["protocols"].get(terms["norm"], "")
        terms["eps"] = radius_meant(levels)
        if column["metric"] == CLEAN:
            terms |= {"protocol": "", "attack": ""}
        notes = (row.get("note", ""), override.get("note", ""))
        return Cell(
            table=self.path.stem,
            row=row["id"],
            key=column["key"],
            metric=column["metric"],
            title=column["title"],
            quantity=column["quantity"],
            text=str(text),
            value=value,
            rounding=rounding,
            spread=spread,
            also=tuple(override.get("also", [])),
            method=row["method"],
            union=column["union"],
            note=" ".join(filter(None, notes)),
            **terms,
        )

    def relations(self, ids: set[str]) -> Iterator[Relation]:
        """Which row the source says is above which."""
        for place, data in enumerate(self.data["relations"]):
            where = f"relations[{place}]"
            self.check(data, {"metric", "above", "below", "source"}, where)
            for side in ("above", "below"):
                if data.get(side) not in ids:
                    raise self.refuse(f"{where}: {side}={data.get(side)!r} is no row")
            yield Relation(**data)

    def check(self, data: Mapping[str, Any], known: set[str], where: str) -> None:
        """Refuse a key that nobody reads, naming the nearest known one."""
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(key, sorted(known), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise self.refuse(f"{where or 'the table'} has an unknown key {key!r}{hint}")

    def check_words(self, data: Mapping[str, Any], where: str) -> None:
        """The values that are not free text."""
        for key, kind in TERMS.items():
            self.typed(data, key, kind, where)
        for key, allowed in (("provenance", PROVENANCES), ("unit", UNITS)):
            if data.get(key, "") and data[key] not in allowed:
                raise self.refuse(f"{where}: {key}={data[key]!r}; allowed: {', '.join(allowed)}")
        for key in ("eps", "eps_printed"):
            if data.get(key, "") and read_radius(data[key]) is None:
                raise self.refuse(f"{where}: {key}={data[key]!r} is no radius such as 8/255")

    def typed(self, data: Mapping[str, Any], key: str, default: object, where: str) -> Any:
        """A value of the kind of its default, which stands in where the key is absent."""
        value = data.get(key, default)
        if type(value) is not type(default):
            kind = type(default).__name__
            raise self.refuse(f"{where or 'the table'}: {key}={shown(value)} is no {kind}")
        return value

    def refuse(self, what: str) -> ResultError:
        """The exception that names the file."""
        return ResultError(f"{self.path}: {what}")
