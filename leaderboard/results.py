"""Stored results: finding the files and reading one into a typed, consistent record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import orjson

from robustbench_lite.leaderboard.collector import resting
from robustbench_lite.leaderboard.entries import SUBMITTED, is_verified_submission
from robustbench_lite.leaderboard.errors import ResultError
from robustbench_lite.leaderboard.fields import Fields, shown
from robustbench_lite.leaderboard.records import (
    Accuracy,
    AttackResult,
    DatasetInfo,
    Flag,
    ModelInfo,
    ProtocolInfo,
    Result,
)
from robustbench_lite.leaderboard.result_checks import (
    check_outcomes,
    check_stages,
    read_accuracy,
)
from robustbench_lite.leaderboard.stored_protocol import read_protocol

__all__ = ["FILE_NAME", "SCHEMA_VERSION", "Result", "find_results", "load_result", "load_results"]

SCHEMA_VERSION = 1
FILE_NAME = "result.json"
MOST_EXAMPLES = 10**9  # beyond any data set; keeps the arithmetic exact


def find_results(paths: Iterable[str | Path]) -> list[Path]:
    """Every stored result in or below some paths.

    Args:
        paths: result files, or folders searched at any depth for `result.json` (links to folders
            are not followed).

    Returns:
        The files, sorted by name, each once.

    Raises:
        ResultError: for a path that does not exist or a folder that cannot be read.
    """
    found: dict[str, str] = {}  # what a name leads to -> the first of its names
    for path in map(Path, paths):
        if path.is_file():
            pairs = [(os.path.realpath(path), str(path))]
        elif path.is_dir():
            pairs = list(_files_below(str(path)))
        else:
            raise ResultError(f"{path}: not found; give a result file or a folder of results")
        for real, name in pairs:
            found[real] = min(name, found.get(real, name))
    return [Path(name) for name in sorted(found.values())]


def _files_below(folder: str) -> Iterator[tuple[str, str]]:
    """Real paths and names; a link in the way is looked up only where there is one."""

    def refuse(error: OSError) -> NoReturn:
        raise ResultError(f"{error.filename}: cannot be read: {error.strerror}")

    root, waiting = os.path.realpath(folder), [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = list(entries)
        except OSError as error:
            refuse(error)
        waiting += [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
        for name in [entry for entry in found if entry.name == FILE_NAME and not entry.is_dir()]:
            if name.is_symlink():
                yield os.path.realpath(name.path), name.path
            else:
                yield os.path.join(root, name.path[len(folder) :].lstrip(os.sep)), name.path


def load_result(path: str | Path) -> Result:
    """Read one result and refuse it unless it agrees with itself.

    Every accuracy is recomputed from its counts, every count from the packed outcomes where there
    are any, and every interval from the counts: an edited number is caught. A submitted result that
    nobody verified (see `entries`) carries a flag that says so.

    Args:
        path: a `result.json`, or the folder that holds it.

    Returns:
        The result.

    Raises:
        ResultError: in one line, naming the file and the key.
    """
    file = str(path)
    try:
        content = _read(file)
    except IsADirectoryError:
        file = os.path.join(file, FILE_NAME)
        content = _read(file)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    result = _result(Fields(_parse(file, content), file), digest)
    if not is_verified_submission(file, result):
        return replace(result, flags=(*result.flags, SUBMITTED), status="unverified")
    return result


def load_results(paths: Iterable[str | Path]) -> list[Result]:
    """Every stored result in or below some paths, in the order of `find_results`.

    Args:
        paths: as of `find_results`.

    Returns:
        The results; empty when there is none.

    Raises:
        ResultError: for the first path or file that is refused, as of `find_results` and
            `load_result`.
    """
    files = find_results(paths)
    with resting():
        return [load_result(file) for file in files]


def _read(file: str) -> bytes:
    try:
        with open(file, "rb", buffering=0) as stream:  # one read of a small file
            return stream.readall()
    except FileNotFoundError:
        raise ResultError(f"{file}: not found; need a result.json or its folder") from None
    except IsADirectoryError:
        raise
    except OSError as error:
        raise ResultError(f"{file}: cannot be read: {error.strerror}") from error


def _parse(file: str, content: bytes) -> object:
    """The JSON value of a file; NaN, numbers beyond a double and lone surrogates are refused."""
    try:
        data: object = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ResultError(f"{file}: not JSON: {error}") from None
    return data


def _result(fields: Fields, file_hash: str) -> Result:
    _check_schema(fields)
    n = fields.integer("n_examples", 1, MOST_EXAMPLES)
    examples = fields.child("examples")
    if examples.integer("count", 1) != n:
        raise examples.refuse("count", f"n_examples, which is {n}")
    protocol = read_protocol(fields.child("protocol"))
    clean = read_accuracy(fields.child("clean_accuracy"), n)
    robust = read_accuracy(fields.child("robust_accuracy"), n)
    attacks = _attacks(fields, protocol, clean)
    by_attack = {name: attack.accuracy for name, attack in attacks.items()}
    flags = tuple(_flag(flag) for flag in fields.children("flags"))
    return Result(
        name=fields.text("name"),
        defense=fields.optional_text("defense"),
        architecture=fields.optional_text("architecture"),
        parameters=fields.integer("parameters", 0),
        extra_data=fields.optional_truth("extra_data"),
        dataset=_dataset(fields.child("dataset")),
        model=_model(fields.child("model")),
        protocol=protocol,
        n_examples=n,
        first_example=examples.integer("first", 0),
        seed=fields.integer("seed", 0),
        clean_accuracy=clean,
        robust_accuracy=robust,
        attacks=attacks,
        outcomes=check_outcomes(fields, clean, robust, by_attack),
        flags=flags,
        status=_status(fields, flags),
        environment=fields.child("environment").data,
        git_commit=fields.optional_text("git_commit"),
        settings=fields.optional_child("settings").data,
        checks=fields.optional_child("checks").data,
        file_hash=file_hash,
    )


def _check_schema(fields: Fields) -> None:
    version = fields.value("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise fields.refuse("schema_version", f"{SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{fields.source}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest "
            "this version reads: upgrade robustbench_lite"
        )


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


def _flag(fields: Fields) -> Flag:
    return Flag(
        name=fields.text("name"),
        value=fields.optional_number("value"),
        threshold=fields.optional_number("threshold"),
        meaning=fields.optional_text("meaning"),
        follow_up=fields.optional_text("follow_up"),
    )


def _status(fields: Fields, flags: tuple[Flag, ...]) -> str:
    status = fields.choice("status", ("verified", "unverified"))
    if flags and status == "verified":
        raise fields.refuse("status", f"'unverified': {len(flags)} flag(s) are raised")
    return status
