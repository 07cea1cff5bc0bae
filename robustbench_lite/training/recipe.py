"""Recipes: one TOML file says everything about a training run. Every key is explicit."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

from msgspec import Meta

from robustbench_lite.attacks.threat_model import Norm, format_eps, parse_eps
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry, unknown_name
from robustbench_lite.core.schema import Positive, structured, type_of
from robustbench_lite.datasets.imbalance import IMBALANCES, Imbalance
from robustbench_lite.defenses.catalogue import DEFENSES, LABEL_LOSSES
from robustbench_lite.training.recipe_checks import check_values
from robustbench_lite.training.recipe_expansion import (
    Origin,
    Word,
    expand,
    shipped_files,
    with_overrides,
)
from robustbench_lite.training.schedules import SCHEDULES, Schedule

ChannelValues = tuple[float, ...]

if TYPE_CHECKING:
    from robustbench_lite.datasets.info import DatasetInfo
    from robustbench_lite.defenses.contract import Defense
    from robustbench_lite.defenses.label_losses import LabelLoss
    from robustbench_lite.defenses.weight_perturbation import WeightPerturbation


@dataclass(frozen=True)
class DataSection:
    """Args: name: of the data set; validation: examples held out of train for selection;
    crop_padding: random crop after padding by this many pixels (0 is none); flip: mirror half.
    May be left out: padding_mode: what lies outside the image, `"zeros"` or `"reflect"`;
    rotation: after crop and flip, by up to this many degrees either way; extra: an .npz of further
    training images, or a pattern of several; extra_fraction: their share of each batch; extra_hash:
    their content hash, which they must then have (a checkpoint's card always states it)."""

    name: str
    validation: Positive
    crop_padding: Annotated[int, Meta(ge=0)]
    flip: bool
    padding_mode: Literal["zeros", "reflect"] = "zeros"
    rotation: Annotated[float, Meta(ge=0, le=180)] = 0.0
    extra: str = ""
    extra_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    extra_hash: Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?\Z")] = ""

    def extra_images(self, batch_size: int) -> int:
        """How many images of a batch are extra ones, rounded down as in the authors' code."""
        return int(batch_size * self.extra_fraction)


@dataclass(frozen=True)
class ModelSection:
    """Args: name: a registered architecture; normalization: of the first layer: `"dataset"` for its
    mean and std, `"half"` for 0.5 and 0.5, `"none"` for bare pixels; options: its own, such as
    `final_bn` or masks."""

    name: str
    normalization: Literal["dataset", "half", "none"]
    options: dict[str, int | float | bool | str]

    def mean_and_std(self, info: DatasetInfo) -> tuple[ChannelValues | None, ChannelValues | None]:
        """What the first layer subtracts and divides by, per channel; None for no such layer."""
        half = (0.5,) * info.channels
        pairs = {"dataset": (info.mean, info.std), "half": (half, half), "none": (None, None)}
        return pairs[self.normalization]


@dataclass(frozen=True)
class OptimizerSection:
    """SGD. Args: lr: base learning rate; momentum; nesterov; weight_decay: on all parameters."""

    lr: Annotated[float, Meta(gt=0)]
    momentum: Annotated[float, Meta(ge=0)]
    nesterov: bool
    weight_decay: Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class TrainingSection:
    """Args: epochs; batch_size; ema_decay: of averaged weights (0 is off), which are then what is
    validated and delivered; precision: of forward and backward passes (weights, BatchNorm's
    statistics, losses and every verdict are float32); seed: of initialisation, order, augmentation
    and crafting."""

    epochs: Positive
    batch_size: Annotated[int, Meta(ge=2)]
    ema_decay: Annotated[float, Meta(ge=0, lt=1)]
    precision: Literal["float32", "bfloat16"]
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True)
class ValidationSection:
    """PGD on the held-out examples. Args: every: epochs between validations (the last epoch is
    always validated); select_by: what `best` maximises (class means are for imbalanced sets); norm,
    eps, alpha, steps: of the attack."""

    every: Positive
    select_by: Literal["robust_accuracy", "clean_accuracy", "class_mean_robust_accuracy"]
    norm: Norm
    eps: Fraction
    alpha: Fraction
    steps: Positive


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
            data[section] = _stated(getattr(self, section))
            if section in self.chosen:
                data[section] = {"name": self.chosen[section], **data[section]}
        return {key: _plain(value) for key, value in data.items()}


def _stated(section: Any) -> dict[str, Any]:
    """A section's keys, without those that may be left out and are: older recipes stay equal."""
    optional = {field.name: field.default for field in dataclasses.fields(section)}
    stated = dataclasses.asdict(section)
    return {key: value for key, value in stated.items() if value != optional[key]}


_PERTURBATION = "robustbench_lite.defenses.weight_perturbation"

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

_INFINITIES = {".inf": math.inf, "-.inf": -math.inf}
_WORDS = {"true": True, "false": False, "null": None, **_INFINITIES}


def recipe_files() -> dict[str, Path]:
    """Names of the shipped recipes and their files; bases are not among them."""
    return shipped_files()[0]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name, or from a `.toml` file, with keys overridden as flags.

    Args:
        name: a shipped name or a path that ends in `.toml`.
        overrides: `["--training.epochs", "3", "--defense.crafting.eps=8/255"]`; they come after
            the recipe and its bases.

    Raises:
        InputError: for an unknown recipe or base, a missing, unknown or ill-typed key (names it,
            and the file in which it stands).
    """
    path = recipe_path(name)
    expanded = with_overrides(expand(path), overrides)
    return _recipe({"name": path.stem, **expanded.data}, expanded.origin)


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: a shipped name or a path that ends in `.toml`.

    Raises:
        InputError: for an unknown recipe, or a file that does not exist.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise InputError(f"recipe file {name!r} does not exist")
        return Path(name)
    shipped, bases = shipped_files()
    if name in bases:
        raise InputError(
            f"{name!r} is a base, not a recipe: keys are missing in it, which a recipe with "
            f"base = {name!r} adds; `rbl list recipes` names the recipes"
        )
    if name not in shipped:
        raise InputError(unknown_name("recipe", name, shipped))
    return shipped[name]


def recipe_from_dict(data: Mapping[str, Any], *, origin: str) -> Recipe:
    """Check and type a recipe's plain data.

    Args:
        data: sections of keys; those of `CHOICES` have a `name` that says which keys follow.
        origin: file name for messages.

    Raises:
        InputError: names the key that is missing, unknown or ill-typed.
    """
    return _recipe(data, Origin(origin))


def _recipe(data: Mapping[str, Any], origin: Origin) -> Recipe:
    data = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()
    }
    name = str(data.pop("name"))
    names, types = {}, dict(PLAIN)
    for section, registry in CHOICES.items():
        chosen = data.get(section)
        if not isinstance(chosen, dict) or "name" not in chosen:
            raise InputError(f"recipe {origin.file}: missing key {section}.name")
        names[section] = str(chosen.pop("name"))
        try:
            types[section] = registry.load(names[section])
        except InputError as error:
            raise InputError(f"recipe {origin.of(f'{section}.name')}: {error}") from None
    types = {section: types[section] for section in SECTIONS}
    if unknown := [section for section in data if section not in types]:
        file = origin.of(unknown[0])
        raise InputError(f"recipe {file}: {unknown_name('section', unknown[0], types)}")
    try:
        recipe = Recipe(name, names, **_typed(data, types, origin))
        check_values(recipe, origin)
    except OverflowError as error:  # TOML's integers have no largest, floats have
        raise InputError(f"recipe {name}: a number in it is too large ({error})") from None
    return recipe


def _typed(data: Mapping[str, Any], types: Mapping[str, type], origin: Origin) -> dict[str, Any]:
    """Sections as dataclasses."""
    sections: dict[str, Any] = {}
    for section, kind in types.items():
        values = _read_words(kind, data.get(section, {}))
        try:
            sections[section] = structured(kind, values, "", where=section, hook=_fraction)
        except InputError as error:
            raise InputError(_refused(section, str(error), origin)) from None
    return sections


def _fraction(kind: type, value: Any) -> Fraction:
    if kind is not Fraction:
        raise NotImplementedError(f"a recipe cannot hold {kind}")
    return parse_eps(value)


def _read_words(kind: Any, data: Any) -> Any:
    """The same data, with the words of the command line as the values that their types make."""
    if isinstance(data, Mapping):
        return {key: _read_words(type_of(kind, key), value) for key, value in data.items()}
    if isinstance(data, list):
        return [_read_words(type_of(kind, str(i)), value) for i, value in enumerate(data)]
    if isinstance(data, Word):
        return _value_of(kind, data)
    if isinstance(data, str) and kind is float:
        return _INFINITIES.get(data, data)  # in files too: `as_dict` writes them
    return data


def _value_of(kind: Any, word: str) -> Any:
    if kind in (str, Fraction) or get_origin(kind) is Literal:
        return str(word)
    if word.startswith("["):
        items = [item.strip().strip("'\"") for item in word.strip("[]").split(",")]
        return [_value_of(type_of(kind, "0"), item) for item in items if item]
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for read in (int, float):
        with suppress(ValueError):
            return read(word)
    return str(word)


def _refused(section: str, words: str, origin: Origin) -> str:
    """The message with the file of the key that it is about, or of the first in `key=value`."""
    if missing := re.fullmatch(r"missing key (.*)", words):
        return _missing(missing[1], origin)
    if found := re.match(r"(?:unknown key )?([\w.]+)(?: is |;)", words):
        keys = [found[1]]
    else:
        name = (re.findall(r"([\w.]+)=", words) or [section])[0]
        keys = [k for k in origin.stands_in if k.startswith(section) and f".{name}." in f".{k}."]
    return f"recipe {origin.of(*keys or [section])}: {words.removeprefix(f'{section}: ')}"


def _missing(key: str, origin: Origin) -> str:
    """The message; it says so where a base may have the key, but under another name."""
    message = f"recipe {origin.file}: missing key {key}"
    name = f"{key.partition('.')[0]}.name"
    if origin.inherits and origin.stands_in.get(name) == origin.file:
        message += f" (where {name} is not its base's, the section keeps nothing of the base)"
    return message


def _plain(value: Any) -> Any:
    """Fractions as text, tuples as lists, and infinity as the text that reads back as it."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Fraction):
        return format_eps(value)
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"  # JSON has no word for it; `_INFINITIES` reads it
    return value
