"""Stored results: finding the files and reading one into a typed, consistent record."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.schema import from_json, shown
from robustbench_lite.leaderboard.results.consistency import (
    check_accuracy,
    check_outcomes,
    check_stages,
    refusal,
)
from robustbench_lite.leaderboard.results.examples import read_examples
from robustbench_lite.leaderboard.results.find import RESULT_FILE, find_results, found_files
from robustbench_lite.leaderboard.results.flags import check_black_box, read_checks, read_flags
from robustbench_lite.leaderboard.results.protocol import read_protocol
from robustbench_lite.leaderboard.results.records import (
    FLAGGED,
    MEASURED,
    Accuracy,
    AttackResult,
    ProtocolInfo,
    Result,
)
from robustbench_lite.leaderboard.results.stored import StoredAttack, StoredResult, Versioned
from robustbench_lite.leaderboard.results.stored_bytes import is_sealed, read_bytes
from robustbench_lite.leaderboard.results.submitted import SUBMITTED, is_rechecked, is_submission

__all__ = [
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
        file = os.path.join(file, RESULT_FILE)
        content = read_bytes(file)
    sealed = is_sealed(file, content)
    version = from_json(Versioned, content, file, error=ResultError).schema_version
    _check_version(file, version, sealed=sealed)
    stored = from_json(StoredResult, content, file, error=ResultError)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    try:
        return _result(file, stored, version, digest)
    except ResultError as error:
        raise ResultError(f"{file}: {error}") from None


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


def _result(file: str, stored: StoredResult, version: int, file_hash: str) -> Result:
    n = stored.n_examples
    if stored.examples.count != n:
        raise refusal("examples.count", stored.examples.count, f"n_examples, which is {n}")
    examples = read_examples(stored.examples)
    protocol = read_protocol(stored.protocol)
    clean = check_accuracy("clean_accuracy", stored.clean_accuracy, n)
    robust = check_accuracy("robust_accuracy", stored.robust_accuracy, n)
    attacks = _attacks(stored.attacks, protocol, clean)
    by_attack = {name: attack.accuracy for name, attack in attacks.items()}
    outcomes = check_outcomes(stored, clean, by_attack)
    if outcomes is None and not stored.checks:
        raise ResultError(
            "holds neither 'outcomes' nor 'checks', so nothing in it can be counted "
            "again; evaluate again"
        )
    checks = read_checks(stored.checks or {})
    check_black_box(checks, protocol, attacks, outcomes)
    flags, unchecked = read_flags(stored.flags, checks, passes=protocol.passes)
    status = STORED_STATUS[version][bool(stored.flags)]
    if stored.status != status:
        raise refusal("status", stored.status, f"'{status}', from the flags")
    submitted = is_submission(file, stored.model.kind)
    rechecked = submitted and is_rechecked(file, file_hash, robust.correct)
    return Result(
        name=stored.name,
        defense=stored.defense or "",
        architecture=stored.architecture or "",
        parameters=stored.parameters,
        extra_data=stored.extra_data,
        dataset=stored.dataset,
        model=stored.model,
        protocol=protocol,
        n_examples=n,
        examples=examples,
        seed=stored.seed,
        clean_accuracy=clean,
        robust_accuracy=robust,
        attacks=attacks,
        outcomes=outcomes,
        flags=(*flags, SUBMITTED) if submitted and not rechecked else flags,
        rechecked=rechecked,
        unchecked=unchecked,
        environment=stored.environment,
        git_commit=stored.git_commit or "",
        settings=stored.settings or {},
        checks=stored.checks or {},
        examples_hash=(stored.examples_sha256 or "").removeprefix("sha256:"),
        file_hash=file_hash,
    )


def _check_version(file: str, version: int, *, sealed: bool) -> None:
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{file}: schema_version {shown(version)} is newer than {SCHEMA_VERSION}, the newest "
            "this version reads: upgrade robustbench_lite"
        )
    if version >= SEALED_SCHEMA and not sealed:
        raise ResultError(
            f"{file}: has no checksum at its end, as schema_version {version} has: it was cut or "
            "edited; restore the file, or write it anew with the command that made it"
        )


def _attacks(
    stored: Mapping[str, StoredAttack], protocol: ProtocolInfo, clean: Accuracy
) -> dict[str, AttackResult]:
    """Results per attack, in protocol order; exactly the attacks of the protocol."""
    names = [attack.name for attack in protocol.attacks]
    for name in stored:
        if name not in names:
            raise ResultError(
                f"attacks.{name} is no attack of the protocol, which has {shown(', '.join(names))}"
            )
    attacks = {}
    for name in names:
        key = f"attacks.{name}"
        if name not in stored:
            raise ResultError(f"missing key {key}")
        attack = stored[name]
        attacks[name] = AttackResult(
            accuracy=check_accuracy(key, attack, clean.n),
            forwards=attack.forwards or 0.0,
            backwards=attack.backwards or 0.0,
            stages=check_stages(key, attack, clean),
        )
    return attacks


@contextmanager
def gc_paused() -> Iterator[None]:
    """No collection inside the block: walking all records again and again takes a quarter."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
