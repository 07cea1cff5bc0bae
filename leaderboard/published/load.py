"""Reading published tables: TOML files, one a table, whose rows may stand in a CSV beside it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import shown
from robustbench_lite.leaderboard.published.records import (
    CLEAN,
    PROVENANCES,
    QUANTITIES,
    Cell,
    PublishedTable,
    Relation,
    Row,
)
from robustbench_lite.leaderboard.published.values import (
    COLUMN,
    LISTS,
    ROW_MORE,
    SOURCE,
    TERMS,
    UNITS,
    Values,
    nearest,
    radius_meant,
    read_number,
    read_toml,
)


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
    return _Reader(path, read_toml(path)).table()


def _unknown(name: str) -> str:
    if name.endswith(".toml"):
        return f"published table {name!r} does not exist"
    near = difflib.get_close_matches(name, published_names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown published table {name!r}; {hint}`rbl reproduce --list` names all"


class _Reader(Values):
    """One file being read."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        super().__init__(path)
        self.data = data
        known = {**SOURCE, **TERMS}
        self.check(data, {*known, *LISTS, "csv"}, "")
        self.source = {key: self.typed(data, key, kind, "") for key, kind in SOURCE.items()}
        self.check_words(data, "")
        for key in LISTS:
            self.data[key] = self.list_of(data, key, str if key == "trends" else dict, "")

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
            column["key"] = column["key"] or column["metric"]
            if not column["metric"] or not column["title"]:
                raise self.refuse(f"{where} needs a metric and a title")
            if column["quantity"] not in QUANTITIES:
                quantity = shown(column["quantity"])
                raise self.refuse(f"{where}: quantity={quantity}; allowed: {QUANTITIES}")
            if column["key"] in [other["key"] for other in found]:
                raise self.refuse(f"{where}: key {shown(column['key'])} is there twice")
            self.texts(data, "protocols", where)
            found.append(column)
        return found

    def rows(self, columns: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
        """Rows that stand in the TOML file itself."""
        for place, data in enumerate(self.data["rows"]):
            where = f"rows[{place}]"
            self.check(data, {*ROW_MORE, *TERMS, "values", "cells"}, where)
            values, cells = data.get("values", []), self.typed(data, "cells", {}, where)
            if not isinstance(values, list) or len(values) not in (0, len(columns)):
                raise self.refuse(f"{where}: values must be a list of {len(columns)} texts")
            if unknown := set(cells) - {column["key"] for column in columns}:
                raise self.refuse(f"{where}: cells has no column {shown(sorted(unknown)[0])}")
            texts = {column["key"]: text for column, text in zip(columns, values, strict=False)}
            yield self.row(data, columns, texts, cells, where, facts={})

    def csv_rows(self, columns: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
        """Rows of a CSV; `[csv]` says which of its fields is what, `[[changes]]` what is added."""
        layout = self.typed(self.data, "csv", {}, "")
        if not layout:
            return
        self.check(layout, {"file", "id", "fields", "values"}, "csv")
        fields, values = self.texts(layout, "fields", "csv"), self.texts(layout, "values", "csv")
        template = self.typed(layout, "id", "", "csv")
        changes = self.changes()
        names = {column["key"] for column in columns}
        for facts in self.csv_facts(self.typed(layout, "file", "", "csv")):
            try:
                data: dict[str, Any] = {key: facts[name] for key, name in fields.items()}
                data["id"] = self.filled(template, facts)
                texts = {key: facts[name] for key, name in values.items() if key in names}
            except KeyError as error:
                raise self.refuse(f"csv: {error} is no key or field") from None
            data |= changes.pop(data["id"], {})
            self.check(data, {*ROW_MORE, *TERMS}, data["id"])
            yield self.row(data, columns, texts, {}, data["id"], facts=facts)
        if changes:
            raise self.refuse(f"changes names no row of the CSV: {shown(sorted(changes)[0])}")

    def changes(self) -> dict[str, dict[str, Any]]:
        """What is added to rows of the CSV, by row."""
        found = {}
        for place, change in enumerate(map(dict, self.data["changes"])):
            name = self.typed(change, "row", "", f"changes[{place}]")
            found[name] = {key: value for key, value in change.items() if key != "row"}
        return found

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
            self.cell(
                data,
                column,
                texts[column["key"]],
                self.typed(overrides, column["key"], {}, f"{where}.cells"),
                where,
            )
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
        also = self.list_of(override, "also", str, where)
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
        notes = (row.get("note", ""), self.typed(override, "note", "", where))
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
            also=tuple(also),
            method=row["method"],
            union=column["union"],
            note=" ".join(filter(None, notes)),
            **terms,
        )

    def relations(self, ids: set[str]) -> Iterator[Relation]:
        """Which row the source says is above which."""
        keys = ("metric", "above", "below", "source")
        for place, data in enumerate(self.data["relations"]):
            where = f"relations[{place}]"
            self.check(data, {*keys}, where)
            texts = {key: self.typed(data, key, "", where) for key in keys}
            for side in ("above", "below"):
                if texts[side] not in ids:
                    raise self.refuse(f"{where}: {side}={shown(texts[side])} is no row")
            yield Relation(**texts)
