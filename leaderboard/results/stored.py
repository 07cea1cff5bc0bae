"""The keys of `result.json` and what they hold.

Keys that are not named here are ignored: another version may have written them. A field without a
default has to be there, whatever the version.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from robustbench_lite.core.schema import Count, Positive, Text
from robustbench_lite.leaderboard.results.examples import StoredExamples
from robustbench_lite.leaderboard.results.records import (
    Accuracy,
    EvaluatedData,
    ModelInfo,
    RaisedFlag,
)

MOST_EXAMPLES = 10**9  # beyond any data set; keeps the arithmetic exact
Cost = Annotated[float, Meta(ge=0)] | None  # null when nothing was attacked


class Versioned(Struct, frozen=True):
    """Any result, of this version or of a newer one."""

    schema_version: Positive


class StoredAttack(Accuracy, frozen=True, kw_only=True):
    """What one attack left by itself, its mean cost per example, and what each stage left."""

    forwards: Cost
    backwards: Cost
    stages: dict[str, Accuracy] | None = None


class StoredOutcomes(Struct, frozen=True):
    """Packed bits per example, as text."""

    encoding: Literal["packbits-base64"]
    clean: Text
    attacks: dict[str, Text]
    labels: Text | None = None


class StoredResult(Struct, frozen=True, kw_only=True):
    """A whole file; what its values have to agree in is checked where they are read."""

    name: Text
    defense: str | None
    architecture: str | None
    parameters: Count
    extra_data: bool | None
    dataset: EvaluatedData
    model: ModelInfo
    protocol: dict[str, Any]  # its hash is over all of it
    n_examples: Annotated[int, Meta(ge=1, le=MOST_EXAMPLES)]
    examples: StoredExamples
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]  # as of `numerics.check_seed`
    clean_accuracy: Accuracy
    robust_accuracy: Accuracy
    attacks: dict[str, StoredAttack]
    outcomes: StoredOutcomes | None = None
    flags: list[RaisedFlag]
    checks: dict[str, Any] | None = None
    status: str
    settings: dict[str, Any] | None = None
    git_commit: str | None
    environment: dict[str, Any]
    examples_sha256: Text | None = None


class ProtocolKeys(Struct, frozen=True, kw_only=True):
    """The keys of `protocol` but for the parameters of its attacks."""

    id: Text
    name: Text
    version: Positive
    norm: Text
    eps: Text
    eps_value: float
    engine: Text
    engine_version: str | None
    passes: Positive = 1
    hash: Text
    attacks: list[AttackKeys]


class AttackKeys(Struct, frozen=True):
    """The keys of an attack in a protocol that are no parameters."""

    name: Text
    title: Text
