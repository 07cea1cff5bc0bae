"""Recipes: one TOML file says everything about a training run. Every key is explicit."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.registry import Entry, Registry, unknown_name
from robustbench_lite.attacks.threat_model import Norm, ThreatModel, format_eps, parse_eps
from robustbench_lite.datasets.imbalance import IMBALANCES, Imbalance
from robustbench_lite.defenses.catalogue import DEFENSES, LABEL_LOSSES
from robustbench_lite.schedules import SCHEDULES, Schedule

if TYPE_CHECKING:
    from robustbench_lite.defenses.contract import Defense
    from robustbench_lite.defenses.label_losses import LabelLoss
    from robustbench_lite.weight_perturbation import WeightPerturbation


@dataclass(frozen=True)
class DataSection:
    """Args: name: of the data set; validation: examples held out of train for selection;
    crop_padding: random crop after padding by this many pixels (0 is none); flip: mirror half."""

    name: str
    validation: int
    crop_padding: int
    flip: bool


@dataclass(frozen=True)
class ModelSection:
    """Args: name: a registered architecture; normalization: `"dataset"` for its mean and std as
    first layer, `"none"` for bare pixels; options: its own, such as `final_bn` or masks."""

    name: str
    normalization: Literal["dataset", "none"]
    options: dict[str, int | float | bool | str]


@dataclass(frozen=True)
class OptimizerSection:
    """SGD. Args: lr: base learning rate; momentum; nesterov; weight_decay: on all parameters."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float


@dataclass(frozen=True)
class TrainingSection:
    """Args: epochs; batch_size; ema_decay: of averaged weights (0 is off), which are then what is
    validated and delivered; precision: of forward and backward passes (weights, BatchNorm's
    statistics, losses and every verdict are float32); seed: of initialisation, order, augmentation
    and crafting."""

    epochs: int
    batch_size: int
    ema_decay: float
    precision: Literal["float32", "bfloat16"]
    seed: int


@dataclass(frozen=True)
class ValidationSection:
    """PGD on the held-out examples. Args: every: epochs between validations (the last epoch is
    always validated); select_by: what `best` maximises; norm, eps, alpha, steps: of the attack."""

    every: int
    select_by: Literal["robust_accuracy", "clean_accuracy"]
    norm: Norm
    eps: Fraction
    alpha: Fraction
    steps: int


@dataclass(frozen=True)
class Recipe:
    """A training run in full.

    Args:
        name: the file's stem.
        chosen: registered name in each section that has one (`CHOICES`).
        data: and the other sections, one dataclass each.
    """

    name: str
    chosen: Mapping[str, str]
    data: DataSection
    imbalance: Imbalance
    model: ModelSection
    defense: Defense
    label_loss: LabelLoss
    optimizer: OptimizerSection
    schedule: Schedule
    weight_perturbation: WeightPerturbation
    training: TrainingSection
    validation: ValidationSection

    @property
    def defense_name(self) -> str:
        """Registered name of the method."""
        return self.chosen["defense"]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data that `recipe_from_dict` reads back."""
        data: dict[str, Any] = {"name": self.name}
        for section in SECTIONS:
            data[section] = dataclasses.asdict(getattr(self, section))
            if section in self.chosen:
                data[section] = {"name": self.chosen[section], **data[section]}
        return {key: _plain(value) for key, value in data.items()}


_PERTURBATION = "robustbench_lite.weight_perturbation"

WEIGHT_PERTURBATIONS = Registry(
    "weight perturbation",
    {
        "none": Entry(f"{_PERTURBATION}:Unperturbed", "plain gradients"),
        "awp": Entry(
            f"{_PERTURBATION}:Awp",
            "adversarial weight perturbation",
            "Wu et al. 2020, arXiv:2004.05884",
        ),
        "corruption": Entry(
            f"{_PERTURBATION}:Corruption",
            "corruption-resistant training, SAM among it (re-derived)",
            "Sun et al. 2021, arXiv:2006.05620",
        ),
    },
)

PLAIN = {
    "data": DataSection,
    "model": ModelSection,
    "optimizer": OptimizerSection,
    "training": TrainingSection,
    "validation": ValidationSection,
}
"""Sections whose keys are always the same."""

CHOICES = {
    "imbalance": IMBALANCES,
    "defense": DEFENSES,
    "label_loss": LABEL_LOSSES,
    "schedule": SCHEDULES,
    "weight_perturbation": WEIGHT_PERTURBATIONS,
}
"""Sections with a `name` that says which further keys they have."""

SECTIONS = tuple(field.name for field in dataclasses.fields(Recipe))[2:]


def recipe_files() -> dict[str, Path]:
    """Names of the shipped recipes and their files."""
    folder = Path(str(files("robustbench_lite.defenses.recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name, or from a `.toml` file, with keys overridden as flags.

    Args:
        name: a shipped name or a path that ends in `.toml`.
        overrides: `["--training.epochs", "3", "--defense.crafting.eps=8/255"]`.

    Raises:
        InputError: for an unknown recipe, a missing, unknown or ill-typed key (names it).
    """
    shipped = recipe_files()
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"recipe file {name!r} does not exist")
    elif name in shipped:
        path = shipped[name]
    else:
        raise InputError(unknown_name("recipe", name, shipped))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} is no valid TOML: {error}") from None
    for key, value in _pairs(overrides):
        _set(data, key, value)
    return recipe_from_dict({"name": path.stem, **data}, origin=str(path))


def recipe_from_dict(data: Mapping[str, Any], *, origin: str) -> Recipe:
    """Check and type a recipe's plain data.

    Args:
        data: sections of keys; those of `CHOICES` have a `name` that says which keys follow.
        origin: file name for messages.

    Raises:
        InputError: names the key that is missing, unknown or ill-typed.
    """
    data = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()
    }
    name = str(data.pop("name"))
    names, types = {}, dict(PLAIN)
    for section, registry in CHOICES.items():
        chosen = data.get(section)
        if not isinstance(chosen, dict) or "name" not in chosen:
            raise InputError(f"recipe {origin}: missing key '{section}.name'")
        names[section] = str(chosen.pop("name"))
        types[section] = registry.load(names[section])  # raises for an unknown name
    types = {section: types[section] for section in SECTIONS}
    _check_keys(data, types, origin)
    try:
        recipe = Recipe(name, names, **_typed(data, types, origin))
        _check_values(recipe, origin)
    except OverflowError as error:  # TOML's integers have no largest, floats have
        raise InputError(f"recipe {origin}: a number in it is too large ({error})") from None
    return recipe


def _typed(data: Mapping[str, Any], types: Mapping[str, type], origin: str) -> dict[str, Any]:
    """Sections as dataclasses; jsonargparse does the types, nested and from strings."""
    from jsonargparse import ArgumentError, ArgumentParser
    from jsonargparse.typing import register_type

    register_type(Fraction, serializer=format_eps, deserializer=parse_eps)
    parser = ArgumentParser(exit_on_error=False)
    for section, kind in types.items():
        if dataclasses.fields(kind):
            parser.add_argument(f"--{section}", type=kind, required=True)
    try:
        config = parser.instantiate(parser.parse_object({k: v for k, v in data.items() if v}))
    except ArgumentError as error:
        message = " ".join(str(error).replace("Parser key", "key").split())
        raise InputError(f"recipe {origin}: {message}") from None
    except InputError as error:  # a value that a section's own check refuses
        raise InputError(f"recipe {origin}: {error}") from None
    return {
        section: config[section] if dataclasses.fields(kind) else kind()
        for section, kind in types.items()
    }


def _check_keys(data: Mapping[str, Any], types: Mapping[str, type], origin: str) -> None:
    for section in data:
        if section not in types:
            raise InputError(f"recipe {origin}: {unknown_name('section', section, types)}")
    for section, kind in types.items():
        if not isinstance(data.get(section, {}), Mapping):
            raise InputError(f"recipe {origin}: {section!r} must be a section of keys")
        _check_section(data.get(section, {}), kind, section, origin)


def _check_section(values: Mapping[str, Any], kind: type, prefix: str, origin: str) -> None:
    """Every field there, nothing else, at every depth; messages name the key with its path."""
    from typing import get_type_hints

    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise InputError(f"recipe {origin}, [{prefix}]: {unknown_name('key', key, known)}")
    for key, inner in known.items():
        if key not in values:
            raise InputError(f"recipe {origin}: missing key '{prefix}.{key}'")
        if dataclasses.is_dataclass(inner) and isinstance(values[key], Mapping):
            assert isinstance(inner, type)
            _check_section(values[key], inner, f"{prefix}.{key}", origin)


def _check_values(recipe: Recipe, origin: str) -> None:
    """Ranges that types do not say, and choices that exclude each other."""
    needed, label_loss = recipe.defense.required_label_loss, recipe.chosen["label_loss"]
    if needed is not None and label_loss != needed:
        raise InputError(
            f"recipe {origin}: label_loss.name={label_loss!r}, but defense "
            f"{recipe.defense_name!r} is itself only with {needed!r}"
        )
    smoothing = getattr(recipe.label_loss, "smoothing", None)
    if needed is not None and smoothing:
        raise InputError(
            f"recipe {origin}: label_loss.smoothing={smoothing}, but defense "
            f"{recipe.defense_name!r} has no smoothed labels: set 0.0"
        )
    training, validation = recipe.training, recipe.validation
    ThreatModel(validation.norm, validation.eps)
    for key, value, lowest in (
        ("training.epochs", training.epochs, 1),
        ("training.batch_size", training.batch_size, 2),
        ("data.validation", recipe.data.validation, 1),
        ("data.crop_padding", recipe.data.crop_padding, 0),
        ("validation.every", validation.every, 1),
        ("validation.steps", validation.steps, 1),
    ):
        if value < lowest:
            raise InputError(f"recipe {origin}: {key}={value} must be at least {lowest}")
    for section in ("defense", "weight_perturbation"):
        begin = getattr(getattr(recipe, section), "begin_epoch", 0)
        if begin > training.epochs:
            raise InputError(
                f"recipe {origin}: {section}.begin_epoch={begin} is after the last of "
                f"training.epochs={training.epochs}: {recipe.chosen[section]!r} would never begin"
            )
    if not 0.0 <= training.ema_decay < 1.0:
        raise InputError(
            f"recipe {origin}: training.ema_decay={training.ema_decay} is not in [0, 1)"
        )
    if not 0 <= training.seed < 2**63:
        raise InputError(f"recipe {origin}: training.seed={training.seed} is not in [0, 2**63)")
    optimizer = recipe.optimizer
    if optimizer.momentum < 0.0 or optimizer.weight_decay < 0.0:
        raise InputError(f"recipe {origin}: optimizer momentum and weight_decay are at least 0")
    if optimizer.nesterov and optimizer.momentum == 0.0:
        raise InputError(f"recipe {origin}: optimizer.nesterov needs a momentum above 0")
    if recipe.optimizer.lr <= 0.0:
        raise InputError(f"recipe {origin}: optimizer.lr={recipe.optimizer.lr} must be above 0")


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """`--a.b 1 --c=2` to [("a.b", "1"), ("c", "2")]."""
    pairs, rest = [], list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or "." not in word:
            raise InputError(
                f"unknown argument {word!r}: recipe keys are overridden as --section.key VALUE"
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest:
                raise InputError(f"{word} has no value")
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _set(data: dict[str, Any], key: str, value: str) -> None:
    *path, last = key.split(".")
    place: Any = data
    for part in path:
        place = place.setdefault(part, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise InputError(f"--{key}: no such section in the recipe")
    place[last] = value


def _plain(value: Any) -> Any:
    """Fractions as text, tuples as lists, and infinity as the text that reads back as it."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Fraction):
        return format_eps(value)
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"  # JSON has no word for it; this is YAML's
    return value
