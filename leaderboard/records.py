"""The typed record of one stored result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """A fraction of examples with its counts and 95% Wilson interval."""

    value: float
    correct: int
    n: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class DatasetInfo:
    """The pixels evaluated: name, split, content hash, and whether that hash is the canonical one
    (None when no canonical hash is known)."""

    name: str
    split: str
    hash: str
    canonical: bool | None


@dataclass(frozen=True)
class ModelInfo:
    """The network evaluated: where it came from, hash of its weights, how its epoch was chosen."""

    kind: str
    hash: str
    selection: str


@dataclass(frozen=True)
class AttackSpec:
    """One attack of a protocol: registered name, title for tables, every parameter as text."""

    name: str
    title: str
    parameters: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ProtocolInfo:
    """The protocol: full id, its parts, content hash, and its attacks in order."""

    id: str
    name: str
    version: int
    norm: str
    eps: str
    eps_value: float
    engine: str
    hash: str
    attacks: tuple[AttackSpec, ...]


@dataclass(frozen=True)
class AttackResult:
    """Stand-alone robust accuracy under one attack and its mean cost per example attacked."""

    accuracy: Accuracy
    forwards: float
    backwards: float


@dataclass(frozen=True)
class Flag:
    """A raised warning: the value measured, the threshold it passed, what it means, what to run."""

    name: str
    value: float | None
    threshold: float | None
    meaning: str
    follow_up: str


@dataclass(frozen=True)
class Result:
    """One evaluation of one model under one protocol, checked against itself.

    `robust_bits` holds one bit per example (`np.packbits` order), set when the example is correct
    when clean and broken by no attack; None when the file stores no outcomes.
    """

    name: str
    defense: str
    architecture: str
    parameters: int
    extra_data: bool | None  # None when nobody said
    dataset: DatasetInfo
    model: ModelInfo
    protocol: ProtocolInfo
    n_examples: int
    first_example: int
    seed: int
    clean_accuracy: Accuracy
    robust_accuracy: Accuracy
    attacks: Mapping[str, AttackResult]
    robust_bits: bytes | None
    flags: tuple[Flag, ...]
    status: str
    environment: Mapping[str, object]
    git_commit: str

    @property
    def verified(self) -> bool:
        """Whether the row may hold a rank."""
        return self.status == "verified"

    @property
    def cost(self) -> float:
        """Forward plus backward passes per example attacked, summed over the attacks."""
        return sum(attack.forwards + attack.backwards for attack in self.attacks.values())
