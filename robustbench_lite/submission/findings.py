"""What checking found: each finding with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from robustbench_lite.core.messages import LONGEST, shortened
from robustbench_lite.core.plain_text import plain
from robustbench_lite.core.schema import structured

Level = Literal["error", "warning", "ok"]
_LEVELS: tuple[Level, ...] = ("error", "warning", "ok")


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Args:
        level: `"error"` refuses, `"warning"` is a remark, `"ok"` tells what was checked.
        what: what was seen.
        fix: what to do; empty for `"ok"`.
    """

    level: Level
    what: str
    fix: str = ""

    def line(self) -> str:
        """As printed: `error    what: fix`, shortened as every line."""
        level = f"{self.level:8} "
        text = f"{self.what}: {self.fix}" if self.fix else self.what
        return level + shortened(plain(text), LONGEST - len(level))


def verdict(findings: Sequence[Finding]) -> str:
    """`"refused"`, `"accepted with remarks"` or `"accepted"`."""
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return "refused"
    return "accepted with remarks" if "warning" in levels else "accepted"


def render(findings: Sequence[Finding], *, accepted: str = "accepted") -> str:
    """All findings, the errors last, where they are seen; then the verdict.

    Args:
        findings: in any order.
        accepted: the word for a verdict that is no refusal.
    """
    order = sorted(findings, key=lambda finding: -_LEVELS.index(finding.level))
    words = verdict(findings).replace("accepted", accepted)
    return "\n".join([*(each.line() for each in order), f"verdict: {words}"])


def as_records(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Plain data, to pass between processes."""
    return [asdict(finding) for finding in findings]


def from_records(records: Sequence[Mapping[str, str]]) -> list[Finding]:
    """The findings that `as_records` gave.

    Raises:
        InputError: for anything else.
    """
    return structured(list[Finding], records, "findings of the checking process")
