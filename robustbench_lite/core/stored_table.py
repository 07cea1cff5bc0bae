"""Parquet files that carry a checksum of their rows, and facts about what they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.integrity import ChecksumError

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    import pyarrow  # type: ignore[import-untyped]

_KEY = b"robustbench_lite"


def write_table(
    path: Path, rows: pandas.DataFrame, columns: Mapping[str, str], facts: Mapping[str, str]
) -> None:
    """Write rows, what they belong to, and a checksum of both, to a file that is not there yet.

    Args:
        path: the file; use a temporary name and rename it.
        rows: without empty cells.
        columns: name and Arrow type (a number, bool or string) of each, in order.
        facts: what the rows belong to, by name.

    Raises:
        ValueError: for an empty cell or another type of column.
    """
    import pyarrow
    import pyarrow.parquet  # type: ignore[import-untyped]

    schema = pyarrow.schema(list(columns.items()))
    table = pyarrow.Table.from_pandas(rows, schema=schema, preserve_index=False)
    described = json.dumps({"facts": dict(facts), "sha256": table_digest(table, facts)})
    pyarrow.parquet.write_table(
        table.replace_schema_metadata({_KEY: described.encode()}), path, compression="zstd"
    )


def read_table(path: Path) -> tuple[pandas.DataFrame, dict[str, str] | None]:
    """Rows and facts of a file that `write_table` wrote, after checking the checksum.

    Returns:
        The rows, and the facts; None for the facts of a file without a checksum, as older versions
        wrote.

    Raises:
        ChecksumError: for anything that is wrong with the file, in one line.
    """
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read()
        # What pandas would believe of its own metadata is not covered by the checksum.
        rows = table.to_pandas(ignore_metadata=True)
        described = (table.schema.metadata or {}).get(_KEY)
        if described is None:
            return rows, None
        stored = json.loads(described)
        facts = {str(name): str(fact) for name, fact in stored["facts"].items()}
        found = table_digest(table, facts)
        whole = bool(stored["sha256"] == found)
    except Exception as error:  # a damaged file raises nearly anything in pyarrow and pandas
        raise ChecksumError(f"cannot be decoded: {first_line(error)[:120]}") from error
    if not whole:
        raise ChecksumError("its rows do not fit its checksum")
    return rows, facts


def table_digest(table: pyarrow.Table, facts: Mapping[str, str]) -> str:
    """SHA-256 over facts, names, types and values, as 64 hexadecimal digits.

    Raises:
        ValueError: for an empty cell or a type of column that has no bytes of its own.
    """
    import numpy as np
    import pyarrow.types  # type: ignore[import-untyped]

    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in table.column_names:
        column = table.column(name)
        if column.null_count:
            raise ValueError(f"column {name!r} has an empty cell")
        digest.update(f"\n{name} {column.type} {len(column)}\n".encode())
        if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
            digest.update(json.dumps(column.to_pylist()).encode())
        elif pyarrow.types.is_primitive(column.type):
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        else:
            raise ValueError(f"column {name!r} is of type {column.type}")
    return digest.hexdigest()
