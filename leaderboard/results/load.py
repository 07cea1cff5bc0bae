"""Stored results: finding the files and reading one into a typed, consistent record."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import orjson

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.consistency import (
    check_outcomes,
    check_stages,
    read_accuracy,
)
from robustbench_lite.leaderboard.results.fields import Fields, shown
from robustbench_lite.leaderboard.results.find import FILE_NAME, find_results, found_files
from robustbench_lite.leaderboard.results.flags import check_black_box, read_flags
from robustbench_lite.leaderboard.results.protocol import read_protocol
from robustbench_lite.leaderboard.results.records import (
    FLAGGED,
    MEASURED,
    Accuracy,
    AttackResult,
    DatasetInfo,
    ModelInfo,
    ProtocolInfo,
    Result,
)
from robustbench_lite.leaderboard.results.stored_bytes import is_sealed, read_bytes
from robustbench_lite.leaderboard.results.submitted import SUBMITTED, is_rechecked, is_submission

__all__ = [
    "FILE_NAME",
    "SCHEMA_VERSION",
    "Result",
    "find_results",
    "load_readable",
    "load_result",
    "load_results",
]

SCHEMA_VERSION = 2
SEALED_SCHEMA = 2  # since it results carry a checksum, and the status in today's words
STORED_STATUS = {1: ("verified", "unverified"), 2: (MEASURED, FLAGGED)}  # without and with flags
MOST_EXAMPLES = 10**9  # beyond any data set; keeps the arithmetic exact

logger = logging.getLogger(__name__)
Loaded = TypeVar("Loaded")


def load_result(path: str | Path) -> Result:
    """Read one result and refuse it unless it agrees with itself.

    The checksum has to be that of the file (results before schema 2 have none). Every accuracy is
    recomputed from its counts, every count from the packed outcomes where there are any, every
    interval from the counts and every flag from the checks: an edited number is caught. A submitted
    result that nobody verified (see `entries`) carries a flag that says so.

    Args:
        path: a `result.json`, or the folder that holds it.

    Returns:
        The result.

    Raises:
        ResultError: in one line, naming the file and the key.
    """
    file = str(path)
    try:
        content = read_bytes(file)
    except ResultError:
        if not os.path.isdir(file):
            raise
        file = os.path.join(file, FILE_NAME)
        content = read_bytes(file)
    sealed = is_sealed(file, content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return _result(Fields(_parse(file, content), file), digest, sealed=sealed)


def load_results(paths: Iterable[str | Path]) -> list[Result]:
    """Every stored result in or below some paths, in the order of `find_results`.

    Args:
        paths: as of `find_results`.

    Returns:
        The results; empty when there is none.

    Raises:
        ResultError: for the first path or file that is refused, as of `find_results` and
            `load_result`; `load_readable` leaves such files out.
    """
    files = find_results(paths)
    with gc_paused():
        return [load_result(file) for file in files]


def load_readable(paths: Iterable[str | Path], load: Callable[[Path], Loaded]) -> list[Loaded]:
    """What can be read of the results in or below some paths; a warning names each of the others.

    Args:
        paths: as of `find_results`. A file named itself has to be readable.
        load: of one file, such as `load_result`.

    Returns:
        What `load` gave, in the order of `find_results`; empty when there is no result.

    Raises:
        ResultError: for a path that does not exist, for a file named itself that is refused, and
            for the first file when there are files and none can be read.
    """
    problems: list[ResultError] = []
    files = found_files(paths, problems.append)
    loaded = []
    with gc_paused():
        for name, is_named in files:
            try:
                loaded.append(load(Path(name)))
            except ResultError as error:
                if is_named:
                    raise
                problems.append(error)
    if problems and not loaded:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ResultError(f"{problems[0]}{others}")
    for problem in problems:
        logger.warning("left out: %s", problem)
    return loaded


def _parse(file: str, content: bytes) -> object:
    """The JSON value of a file; NaN, numbers beyond a double and lone surrogates are refused."""
    try:
        data: object = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ResultError(f"{file}: not JSON: {error}") from None
    return data


def _result(fields: Fields, file_hash: str, *, sealed: bool) -> Result:
    version = _schema(fields, sealed=sealed)
    n = fields.integer("n_examples", 1, MOST_EXAMPLES)
    examples = fields.child("examples")
    if examples.integer("count", 1) != n:
        raise examples.refuse("count", f"n_examples, which is {n}")
    protocol = read_protocol(fields.child("protocol"))
    clean = read_accuracy(fields.child("clean_accuracy"), n)
    robust = read_accuracy(fields.child("robust_accuracy"), n)
    attacks = _attacks(fields, protocol, clean)
    by_attack = {name: attack.accuracy for name, attack in attacks.items()}
    outcomes = check_outcomes(fields, clean, robust, by_attack)
    checks = fields.optional_child("checks").data
    if outcomes is None and not checks:
        raise ResultError(
            f"{fields.source}: holds neither 'outcomes' nor 'checks', so nothing in it can be "
            "counted again; evaluate again"
        )
    check_black_box(fields, protocol, attacks, outcomes, n)
    flags, unchecked = read_flags(fields, protocol)
    _check_status(fields, version, flagged=bool(flags))
    model = _model(fields.child("model"))
    submitted = is_submission(fields.source, model.kind)
    rechecked = submitted and is_rechecked(fields.source, file_hash, robust.correct)
    return Result(
        name=fields.text("name"),
        defense=fields.optional_text("defense"),
        architecture=fields.optional_text("architecture"),
        parameters=fields.integer("parameters", 0),
        extra_data=fields.optional_truth("extra_data"),
        dataset=_dataset(fields.child("dataset")),
        model=model,
        protocol=protocol,
        n_examples=n,
        first_example=examples.integer("first", 0),
        seed=fields.integer("seed", 0),
        clean_accuracy=clean,
        robust_accuracy=robust,
        attacks=attacks,
        outcomes=outcomes,
        flags=(*flags, SUBMITTED) if submitted and not rechecked else flags,
        rechecked=rechecked,
        unchecked=unchecked,
        environment=fields.child("environment").data,
        git_commit=fields.optional_text("git_commit"),
        settings=fields.optional_child("settings").data,
        checks=checks,
        examples_hash=_examples_hash(fields),
        file_hash=file_hash,
    )


def _schema(fields: Fields, *, sealed: bool) -> int:
    version = fields.value("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise fields.refuse("schema_version", f"1 to {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{fields.source}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest "
            "this version reads: upgrade robustbench_lite"
        )
    if version >= SEALED_SCHEMA and not sealed:
        raise ResultError(
            f"{fields.source}: has no checksum at its end, as schema_version {version} has: it was "
            "cut or edited; restore the file, or write it anew with the command that made it"
        )
    return version


def _check_status(fields: Fields, version: int, *, flagged: bool) -> None:
    """The stored word follows from the flags; what is shown is derived again (`Result.status`)."""
    allowed = STORED_STATUS[version]
    if fields.choice("status", allowed) != allowed[flagged]:
        raise fields.refuse("status", f"'{allowed[flagged]}', from the flags")


def _examples_hash(fields: Fields) -> str:
    """As `examples_sha256` says, without the algorithm's name; empty in results that lack it."""
    if fields.data.get("examples_sha256") is None:
        return ""
    return fields.text("examples_sha256").removeprefix("sha256:")


def _dataset(fields: Fields) -> DatasetInfo:
    return DatasetInfo(
        name=fields.text("name"),
        split=fields.text("split"),
        hash=fields.text("hash"),
        canonical=fields.optional_truth("canonical"),
    )


def _model(fields: Fields) -> ModelInfo:
    return ModelInfo(
        kind=fields.choice("kind", ("checkpoint", "factory", "submission")),
        hash=fields.text("hash"),
        selection=fields.optional_text("selection"),
    )


def _attacks(fields: Fields, protocol: ProtocolInfo, clean: Accuracy) -> dict[str, AttackResult]:
    """Results per attack, in protocol order; exactly the attacks of the protocol."""
    stored = fields.child("attacks")
    names = [attack.name for attack in protocol.attacks]
    for name in stored.data:
        if name not in names:
            raise ResultError(
                f"{fields.source}: {shown(stored.path(name))} is no attack of the protocol, "
                f"which has {shown(', '.join(names))}"
            )
    attacks = {}
    for name in names:
        attack = stored.child(name)
        accuracy = read_accuracy(attack, clean.n)
        attacks[name] = AttackResult(
            accuracy=accuracy,
            forwards=attack.cost("forwards"),
            backwards=attack.cost("backwards"),
            stages=check_stages(attack, clean, accuracy),
        )
    return attacks


@contextmanager
def gc_paused() -> Iterator[None]:
    """No collection inside the block: walking all records again and again takes a fifth."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
