"""Signs that a number cannot be trusted: what was measured of a network. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.errors import DamagedFileError
from robustbench_lite.core.flag_rules import AFTER_ATTACKS, FLAGS, MEASURED, Check, Flag, may_raise
from robustbench_lite.core.schema import Count, structured
from robustbench_lite.core.storage import read_sealed_json

__all__ = [
    "AFTER_ATTACKS",
    "FLAGS",
    "MEASURED",
    "Check",
    "Flag",
    "NetworkChecks",
    "raised",
    "read_measured",
]


@dataclass(frozen=True)
class NetworkChecks:
    """What is known of a network before the attacks of a protocol: the content of `checks.json`.

    Args:
        checks: one for each of `MEASURED`.
        crafted_points: examples attacked by way of altered copies of the network.
        crafted_broken: ids of those that broke the network itself.
    """

    checks: Mapping[str, Check]
    crafted_points: int
    crafted_broken: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "checks": {name: vars(self.checks[name]) for name in MEASURED},
            "crafted_on_copies": {
                "points": self.crafted_points,
                "broken": list(self.crafted_broken),
            },
        }


class _Crafted(Struct, frozen=True):
    points: Count
    broken: tuple[Count, ...]


class _StoredChecks(Struct, frozen=True):
    """The keys of `checks.json`; folders of older versions state no terms."""

    checks: dict[str, Check]
    crafted_on_copies: _Crafted
    terms: str = ""


def read_measured(path: Path, *, terms: str | None) -> NetworkChecks:
    """What `NetworkChecks.as_dict` gave, from `checks.json`.

    Args:
        path: the file.
        terms: what the file has to say of the evaluation it belongs to, under a checksum; None for
            a folder of an older version, whose file has neither.

    Raises:
        DamagedFileError: when the file is missing or damaged, or lacks a check of this version.
    """
    try:
        data, sealed = read_sealed_json(path)
        stored = structured(_StoredChecks, data, "", error=ValueError)
        if terms is not None and not (sealed and stored.terms == terms):
            raise ValueError("it has no checksum, or is of another evaluation")
        checks = {name: stored.checks[name] for name in MEASURED}
        crafted = stored.crafted_on_copies
        return NetworkChecks(checks, crafted.points, crafted.broken)
    except (ValueError, KeyError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({first_line(error)}); run the same rbl evaluate command again"
        ) from error


def raised(checks: Mapping[str, Check], *, passes: int) -> list[dict[str, object]]:
    """The flags whose value is above their threshold, as stored in `result.json`.

    Args:
        checks: one for each of `FLAGS`.
        passes: forward passes of the protocol's verifier. Above 1 the protocol is for randomised
            networks, and being one is no flaw.
    """
    return [
        {
            "name": flag.name,
            "value": checks[flag.name].value,
            "points": checks[flag.name].points,
            "threshold": flag.threshold,
            "meaning": flag.meaning,
            "follow_up": flag.follow_up,
        }
        for flag in FLAGS
        if flag.is_raised(checks[flag.name]) and may_raise(flag, passes=passes)
    ]
