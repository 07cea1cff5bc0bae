"""The typed record of one stored result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from robustbench_lite.core.flag_rules import AUTOATTACK, BLACK_BOX, NAN_GRADIENTS
from robustbench_lite.core.schema import Count, Finite, Text
from robustbench_lite.leaderboard.results.examples import Examples
from robustbench_lite.leaderboard.statistics.accuracy import wilson_interval

# The status of a row. Only the first two may hold a rank.
MEASURED = "measured"  # no flag; whoever ran it
VERIFIED = "verified"  # an entry whose evidence `rbl verify` checked again
FLAGGED = "flagged"  # a flag is raised
REPORTED = "reported"  # a number without what it was counted from
RANKED = (MEASURED, VERIFIED)
STATUSES = (*RANKED, FLAGGED, REPORTED)
EXAMPLES_FILE = "examples.parquet"  # beside a result: a row for each example and attack
CLEAN = "clean"  # what its column `attack` holds in the rows of the clean pass


class Accuracy(msgspec.Struct, frozen=True):
    """A fraction of examples with its counts and 95% Wilson interval."""

    value: Finite
    correct: Count
    n: Annotated[int, Meta(ge=1)]
    interval: tuple[float, float]

    @classmethod
    def of(cls, correct: int, n: int) -> Accuracy:
        """The accuracy that follows from its counts."""
        return Accuracy(correct / n, correct, n, wilson_interval(correct, n))

    @classmethod
    def of_outcomes(cls, outcomes: NDArray[np.bool_]) -> Accuracy:
        """The accuracy of some examples, from one boolean each."""
        return cls.of(int(outcomes.sum()), len(outcomes))


class EvaluatedData(msgspec.Struct, frozen=True):
    """The pixels evaluated: name, split, content hash, and whether that hash is the canonical one
    (None when no canonical hash is known)."""

    name: Text
    split: Text
    hash: Text
    canonical: bool | None


class ModelInfo(msgspec.Struct, frozen=True):
    """The network evaluated: where it came from, hash of its weights, how its epoch was chosen.

    `source` is what `--model` named, with the commit or tag of the weights; empty for the first
    three kinds.
    """

    # fmt: off
    kind: Literal[
        "checkpoint", "factory", "submission",
        "timm", "torchvision", "hub", "robustbench", "torchscript", "onnx",
    ]
    # fmt: on
    hash: Text
    selection: str | None
    source: str = ""


@dataclass(frozen=True)
class ProtocolAttack:
    """One attack of a protocol: registered name, title for tables, every parameter as text."""

    name: str
    title: str
    parameters: tuple[tuple[str, str], ...]

    @cached_property
    def attack(self) -> str:
        """The registered name of what runs, which `name` calls by another name."""
        return dict(self.parameters).get("attack", "")

    @cached_property
    def target(self) -> str:
        """How a targeted attack chooses the class that it aims at; empty for an untargeted one."""
        return dict(self.parameters).get("target", "")


@dataclass(frozen=True)
class ProtocolInfo:
    """The protocol: full id, its parts, content hash, and its attacks in order.

    `passes` are the forward passes of its verifier, more than 1 for randomised networks.
    """

    id: str
    name: str
    version: int
    norm: str
    eps: str
    eps_value: float
    engine: str
    engine_version: str
    passes: int
    hash: str
    attacks: tuple[ProtocolAttack, ...]

    @cached_property
    def may_hold_black_box(self) -> bool:
        """Whether an attack uses no gradient, or may have a stage that uses none."""
        return any(one.attack in BLACK_BOX or one.attack == AUTOATTACK for one in self.attacks)

    @property
    def engine_text(self) -> str:
        """Whose code ran, and which version of it: `ours 1`, `torchattacks 3.3.0`."""
        if " " in self.engine_version:  # it names the packages itself
            return self.engine_version
        return f"{self.engine} {self.engine_version}".strip()


@dataclass(frozen=True)
class AttackResult:
    """Stand-alone robust accuracy under one attack and its mean cost per example attacked.

    `stages` holds, of a composite attack, the accuracy left after each of its attacks, in order.
    """

    accuracy: Accuracy
    forwards: float
    backwards: float
    stages: tuple[tuple[str, Accuracy], ...]


class RaisedFlag(msgspec.Struct, frozen=True):
    """A raised warning: the value measured, the threshold it passed, what it means, what to run."""

    name: Text
    value: float | None
    threshold: float | None
    meaning: str
    follow_up: str


@dataclass(frozen=True)
class Outcomes:
    """What happened to each example: one bit per example (`np.packbits` order).

    Args:
        clean: set when the clean example is classified correctly.
        attacks: by attack: and when this attack alone does not break it.
        robust: and when no attack of the protocol breaks it.
        labels: one label per example, little-endian uint16; None when the file stores none.
    """

    clean: bytes
    attacks: Mapping[str, bytes]
    robust: bytes
    labels: bytes | None


@dataclass(frozen=True)
class Result:
    """One evaluation of one model under one protocol, checked against itself.

    Args:
        examples: which of the split, as many as `n_examples`.
        outcomes: per example; None when the file stores none.
        flags: raised by the checks; and `submitted`, of an entry that nobody verified.
        rechecked: an entry whose evidence `rbl verify` checked again.
        unchecked: names of the checks that the file should hold and does not: nothing says that
            their flags did not rise.
        settings: what fixed the bits of the run (batch size, threads, ...); empty when not stored.
        checks: of every check that could have raised a flag, as stored; empty when not stored.
        examples_hash: SHA-256 of the `examples.parquet` written with it, 64 digits; empty when not
            stored.
        file_hash: of the file's bytes.
        answered: flags that rose and that another result, or this one, has answered, with how; only
            where results are read together (see `follow_ups`).
    """

    name: str
    defense: str
    architecture: str
    parameters: int
    extra_data: bool | None  # None when nobody said
    dataset: EvaluatedData
    model: ModelInfo
    protocol: ProtocolInfo
    n_examples: int
    examples: Examples
    seed: int
    clean_accuracy: Accuracy
    robust_accuracy: Accuracy
    attacks: Mapping[str, AttackResult]
    outcomes: Outcomes | None
    flags: tuple[RaisedFlag, ...]
    rechecked: bool
    unchecked: tuple[str, ...]
    environment: Mapping[str, object]
    git_commit: str
    settings: Mapping[str, object]
    checks: Mapping[str, object]
    examples_hash: str
    file_hash: str
    answered: tuple[str, ...] = ()

    @property
    def robust_bits(self) -> bytes | None:
        """One bit per example, set when it withstands every attack; None without outcomes."""
        return None if self.outcomes is None else self.outcomes.robust

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        if self.outcomes is None:
            return REPORTED
        if self.flags:
            return FLAGGED
        if self.unchecked:
            return REPORTED
        return VERIFIED if self.rechecked else MEASURED

    @property
    def ranked(self) -> bool:
        """Whether the row may hold a rank."""
        return self.status in RANKED

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the row has no rank: its flags, and what is missing; empty for a ranked row."""
        return (*(flag.name for flag in self.flags), *self.missing)

    @property
    def gives_no_gradient(self) -> bool:
        """Whether the network gave no gradient at all, so that nothing could be said of them."""
        stored = self.checks.get(NAN_GRADIENTS)
        return isinstance(stored, Mapping) and stored.get("points") == 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the row says of itself beside its status: that no attack of it saw gradients, and
        that attacks of it aim at one class."""
        notes = []
        if all(one.attack in BLACK_BOX for one in self.protocol.attacks):
            notes += ["queries only", *(["no gradient"] if self.gives_no_gradient else [])]
        if any(one.target for one in self.protocol.attacks):
            notes.append("targeted")
        return tuple(notes)

    @property
    def missing(self) -> tuple[str, ...]:
        """What the file does not store and a rank needs, in words."""
        missing = [] if self.outcomes is not None else ["no outcomes stored"]
        if self.unchecked:
            few = len(self.unchecked) <= 3
            names = ", ".join(self.unchecked) if few else f"{len(self.unchecked)} flags"
            missing.append(f"no check of {names} stored")
        return tuple(missing)

    @property
    def cost(self) -> float:
        """Forward plus backward passes per example attacked, summed over the attacks."""
        return sum(attack.forwards + attack.backwards for attack in self.attacks.values())
