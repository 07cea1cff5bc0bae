"""What every attack is: parameters that are checked once, and what it states of itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self
from typing import get_type_hints as hints_of

from msgspec import Meta

from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.schema import structured

if TYPE_CHECKING:
    from torch import Tensor, nn

# Never parameters: the protocol states the first two, the evaluation the others.
_NOT_PARAMETERS = {"norm", "eps", "ids", "seed", "batch_size", "passes", "stream", "network"}
_NOT_PARAMETERS |= {"on_stage", "on_step", "mode", "finite", "target_labels"}


Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Target = Literal["least_likely", "random", "next"]  # see `targets.choose_targets`


@dataclass(frozen=True)
class RunTerms:
    """The terms of a run: what the protocol and the evaluation decide, not the attack.

    Args:
        norm: `"Linf"`, `"L2"` or `"L1"`.
        eps: radius, in [0, 1] units.
        ids: example ids (B,), int64: with the seed they fix every draw.
        seed: any integer.
        stream: name of the random stream, so that two attacks on one example draw apart.
        batch_size: examples attacked at once.
        passes: forward passes per prediction; above 1 more than half of them must be wrong.
        network: another network to search on, with the same function up to rounding (folded, half
            precision); None, or for attacks that cannot, the search runs on the model itself.
        on_stage: called after each stage of a composite attack with the stage's name and which
            rows it broke, bool (B,).
        target_labels: classes (B,), int64, that the images should be taken for; None leaves it to
            the attack's own `target` (see `TargetableAttack`).
    """

    norm: Norm
    eps: float
    ids: Tensor
    seed: int
    stream: str
    batch_size: int
    passes: int = 1
    network: nn.Module | None = None
    on_stage: Callable[[str, Tensor], None] | None = None
    target_labels: Tensor | None = None

    def searched(self, model: nn.Module) -> nn.Module:
        """The network to search on."""
        return model if self.network is None else self.network


@dataclass(frozen=True)
class Cost:
    """Passes per example that survives; a forward that is followed by a backward counts in both."""

    forwards: int
    backwards: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards)

    def __mul__(self, times: int) -> Cost:
        return Cost(self.forwards * times, self.backwards * times)


@dataclass(frozen=True)
class Attack(ABC):
    """An attack: its frozen parameters are its fields, a call runs it, the rest says what it is.

    A field is an `int`, `float`, `str`, `bool`, a `Literal` of allowed words, or one of these with
    `Annotated[..., Meta(ge=..., le=...)]` of msgspec, or `| None`. Fields that can move a number
    have no default.

    Raises:
        InputError: for a value of another type, outside its range, or not allowed.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2", "L1")
    """Norms of the protocols that it may stand in."""
    uses_gradients: ClassVar[bool] = True
    """Whether it sees gradients; False for an attack that uses the outputs alone."""
    minimises_norm: ClassVar[bool] = False
    """Whether it looks for the smallest perturbation, wherever that is, and knows no radius."""
    searches_elsewhere: ClassVar[bool] = False
    """Whether it can search on `RunTerms.network` (what counts is decided by the model)."""
    batches_itself: ClassVar[bool] = False
    """Whether a call takes all images; otherwise it gets at most `batch_size` of them."""

    package: ClassVar[str] = ""
    """The distribution whose code attacks (`torchattacks`); empty where it is this package's."""

    def __post_init__(self) -> None:
        for name, hint in _parameters(type(self)).items():
            value = structured(hint, getattr(self, name), "", where=name)
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{name}={value!r} must be finite")

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        """Candidates (B, C, H, W) for images; nothing is claimed of them, the verifier decides.

        Args:
            model: maps (B, C, H, W) in [0, 1] to logits (B, K); left as it was.
            x: clean images (B, C, H, W) in [0, 1].
            y: labels (B,), int64.
            terms: of the run.

        Raises:
            InputError: when a loss or gradient is not finite.
        """

    def check(self, threat: ThreatModel, num_classes: int | None = None) -> None:
        """Raise InputError where the attack does not fit a threat model or a number of classes.

        Args:
            threat: norm and radius of the protocol.
            num_classes: of the data; None while it is not known.
        """
        del num_classes
        if threat.norm not in self.norms:
            raise InputError(
                f"norm={threat.norm!r} is unknown here; available: {', '.join(self.norms)}"
            )

    def stages(self, norm: Norm) -> Mapping[str, Attack]:
        """Attacks that it runs one after the other and reports to `on_stage`, by name, in order."""
        del norm
        return {}

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost | None:
        """Passes on an example that it does not break; None where nobody can know.

        Args:
            norm: of the protocol.
            num_classes: K, which limits targets.
            passes: of the protocol: forwards per prediction.
        """
        del norm, num_classes, passes
        return None

    def by_authors(self) -> tuple[str, Mapping[str, object]] | None:
        """Registered name and parameters of the same attack by its authors' code, if there is one:
        what `--engine reference` runs instead."""
        return None

    @classmethod
    def from_parameters(cls, params: Mapping[str, object], variant: str = "") -> Self:
        """The attack from a protocol's parameters.

        Args:
            params: by name; those with a default may be left out.
            variant: what stands after the colon of `torchattacks:<Name>`.

        Raises:
            InputError: for a missing, unknown or wrong parameter.
        """
        if variant:
            raise InputError(f"there is no variant {variant!r} of this attack")
        check_not_terms(params)
        return structured(cls, params, "")


@dataclass(frozen=True)
class TargetableAttack(Attack):
    """An attack that can also aim at one class: a success is then to be taken for that class.

    Args:
        target: how the class is chosen (see `targets.choose_targets`); None, any wrong class will
            do.
    """

    target: Target | None = field(default=None, kw_only=True)

    @property
    def cost_of_choice(self) -> Cost:
        """Passes per example that choosing the class takes."""
        return Cost(1 if self.target == "least_likely" else 0, 0)


def check_one_target(target: Target | None, targets: int) -> None:
    """Raise InputError where an attack that tries several wrong classes is to aim at one."""
    if target is not None and targets != 1:
        raise InputError(f"targets={targets} must be 1 with target={target!r}, which is one class")


def check_not_terms(params: Mapping[str, object]) -> None:
    """Raise InputError where a protocol gives an attack what is not an attack's to choose."""
    if taken := _NOT_PARAMETERS & set(params):
        raise InputError(
            f"may not set {', '.join(sorted(taken))}: norm and eps are the protocol's, the rest is "
            "not an attack's to choose"
        )


@cache
def _parameters(kind: type[Attack]) -> dict[str, Any]:
    """Names of the fields, and their types as written."""
    hints = hints_of(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}
