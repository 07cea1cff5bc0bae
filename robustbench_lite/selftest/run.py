"""Run the gate: the engine on every case, and crippled engines that must fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import torch

from robustbench_lite.attacks.contract import Attack
from robustbench_lite.core.numerics import deterministic, plain_numerics
from robustbench_lite.selftest.case import Case, compared
from robustbench_lite.selftest.cases import short_cases
from robustbench_lite.selftest.engines import APGD_ONLY, CLEAN, ENGINE, ONE_TARGET, broken_by
from robustbench_lite.selftest.published import Published, load_case, present

_WIDER = Fraction(103, 100)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        case: name of the case, or of the crippled engine and the case it must fail on.
        images: N.
        lower: images that stay robust whatever the attack is, at least.
        ours: images that the engine left.
        upper: images that stay robust, at most.
        ok: the engine agrees with what is known; of a crippled engine: it does not.
        must_fail: whether this is a crippled engine.
        proof: where the bounds come from.
        seconds: of the attack and of making the case.
    """

    case: str
    images: int
    lower: int
    ours: int
    upper: int
    ok: bool
    must_fail: bool
    proof: str
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Crippled:
    """An engine that lacks something, and how much too wide its ball is."""

    title: str
    engine: Attack
    wider: Fraction = Fraction(1)


# Name of a case -> the crippled engine that must fail on it.
CRIPPLED = {
    "linear, 2 classes, Linf": Crippled("ball 3 % too wide", ENGINE, _WIDER),
    "linear, unlikeliest of 10, Linf": Crippled("one target instead of nine", ONE_TARGET),
    "staircase, Linf": Crippled("no FAB, no Square", APGD_ONLY),
}


def run_selftest(
    *,
    device: torch.device,
    seed: int,
    threads: int,
    weights: Path | None = None,
    data: Path | None = None,
) -> Iterator[Row]:
    """Run every case, one row each as soon as it is known.

    Args:
        device: where attacks and verifier compute; certificates are computed on the CPU.
        seed: of the networks made here, their images and the attacks' draws.
        threads: CPU threads.
        weights: folder of released networks; None for the cases that need no files.
        data: folder of their images; None takes `weights`.

    Raises:
        InputError: for missing or damaged files, before anything is computed; see `present`.
    """
    released = [] if weights is None else present(weights)
    jobs: list[tuple[Callable[[], Case], Attack, Crippled | None]] = [
        (make, ENGINE, CRIPPLED.get(name)) for name, make in short_cases(seed).items()
    ]
    for row in released:
        assert weights is not None
        make = _loading(row, weights, weights if data is None else data)
        attack: Attack = CLEAN if row.attack == "clean" else ENGINE
        crippled = Crippled("no FAB, no Square", APGD_ONLY) if row.crippled else None
        jobs.append((make, attack, crippled))
    for make, engine, crippled in jobs:
        begin = time.perf_counter()
        with deterministic(threads=threads, seed=seed), plain_numerics():
            case = make()
            rows = [_row(case, Crippled("", engine), device, seed, begin)]
            if crippled is not None:
                rows.append(_row(case, crippled, device, seed, time.perf_counter()))
        yield from rows  # outside of the block: torch's settings are put back meanwhile


def _loading(row: Published, weights: Path, data: Path) -> Callable[[], Case]:
    return lambda: load_case(row, weights, data)


def _row(case: Case, engine: Crippled, device: torch.device, seed: int, begin: float) -> Row:
    broken = broken_by(engine.engine, case, device=device, seed=seed, wider=engine.wider)
    ours, agrees = compared(case, broken)
    must_fail = bool(engine.title)
    return Row(
        case=f"{engine.title}: {case.name}" if must_fail else case.name,
        images=len(broken),
        lower=case.lower,
        ours=ours,
        upper=case.upper,
        ok=agrees != must_fail,
        must_fail=must_fail,
        proof=case.proof,
        seconds=time.perf_counter() - begin,
    )
