"""The card of a checkpoint: everything that explains its weights, as one strict JSON record."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import CHECKSUM, ChecksumError, has_checksum, with_checksum
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.models import build_model

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

CARD_FILE = "card.json"
SCHEMA_VERSION = 2
UNCHECKED_VERSION = 1  # older, still read: without checksums
WEIGHTS_HASH = "weights_sha256"

# The card's fields that, with the weights, determine the function computed.
_FUNCTION_FIELDS = (
    "architecture",
    "architecture_kwargs",
    "num_classes",
    "in_channels",
    "image_size",
    "mean",
    "std",
)
_SHA256 = re.compile("[0-9a-f]{64}")
_NONE = type(None)
_FIELD_TYPES: dict[str, tuple[type, ...]] = {
    "schema_version": (int,),
    "name": (str,),
    "defense": (str,),
    "architecture": (str,),
    "architecture_kwargs": (dict,),
    "num_classes": (int,),
    "in_channels": (int,),
    "image_size": (tuple,),
    "mean": (tuple, _NONE),
    "std": (tuple, _NONE),
    "dataset": (str,),
    "dataset_hash": (str,),
    "recipe": (dict,),
    "seed": (int, _NONE),
    "versions": (dict,),
    "git_commit": (str,),
    "epoch": (int, _NONE),
    "selection": (str,),
    "metrics": (dict,),
    "notes": (str,),
    "parameters": (int,),
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint's weights are and where they come from.

    Args:
        schema_version: of the file it was read from; raised when fields change.
        name: of the run, such as the recipe's name.
        defense: registered defense that trained it; `""` if unknown.
        architecture: registered architecture.
        architecture_kwargs: its options, as given to `build_model`.
        num_classes: K.
        in_channels: C.
        image_size: `(H, W)` in pixels.
        mean: of the normalisation layer, in [0, 1] units; None for no layer.
        std: likewise.
        dataset: name of the training data.
        dataset_hash: content hash of the training split; `""` if unknown.
        recipe: in full; empty when imported.
        seed: of training; None if unknown.
        versions: package -> version at training time.
        git_commit: of this package at training time; `""` if not a checkout.
        epoch: the one kept; None if unknown.
        selection: how it was chosen, such as "best validation robust accuracy" or "imported".
        metrics: named numbers of that epoch, fractions in [0, 1].
        notes: free text.
        parameters: how many the network has.

    Raises:
        InputError: for a field of the wrong type, or a schema this version cannot read.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    defense: str
    architecture: str
    architecture_kwargs: dict[str, Any]
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    dataset: str
    dataset_hash: str
    recipe: dict[str, Any]
    seed: int | None
    versions: dict[str, str]
    git_commit: str
    epoch: int | None
    selection: str
    metrics: dict[str, float]
    notes: str
    parameters: int

    def __post_init__(self) -> None:
        for name in ("image_size", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, _numbers(name, value))
        for name, types in _FIELD_TYPES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, types):
                wanted = " or ".join("null" if t is _NONE else t.__name__ for t in types)
                raise InputError(f"card field {name}={value!r} must be {wanted}")
        if self.schema_version not in (UNCHECKED_VERSION, SCHEMA_VERSION):
            raise InputError(
                f"card schema_version={self.schema_version} must be {UNCHECKED_VERSION} or "
                f"{SCHEMA_VERSION}, which this robustbench-lite knows"
            )
        clash = sorted({"name", *_FUNCTION_FIELDS} & set(self.architecture_kwargs))
        if clash:
            raise InputError(f"card field architecture_kwargs may not hold {', '.join(clash)}")


def _numbers(name: str, values: list[Any] | tuple[Any, ...]) -> tuple[int | float, ...]:
    allowed = (int,) if name == "image_size" else (int, float)
    if any(isinstance(value, bool) or not isinstance(value, allowed) for value in values):
        raise InputError(f"card field {name}={list(values)!r} must hold numbers only")
    return tuple(values) if name == "image_size" else tuple(float(value) for value in values)


def card_text(card: Card, weights_sha256: str) -> str:
    """The card as JSON, in the order of its fields, with the hash of its weights and a checksum.

    Args:
        card: what is said of the weights.
        weights_sha256: of the file beside it, 64 hexadecimal digits.

    Raises:
        InputError: when it holds what JSON cannot, such as NaN or a path object.
    """
    try:
        values = {**asdict(card), "schema_version": SCHEMA_VERSION, WEIGHTS_HASH: weights_sha256}
        return with_checksum(values)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"card of {card.name!r} cannot be written as JSON: {error}; use finite numbers, "
            "strings, lists and dictionaries"
        ) from error


def read_card(path: str | Path) -> Card:
    """Read one `card.json`, without looking at the weights beside it.

    Raises:
        InputError: when it is not JSON or does not fit its checksum, or when a key is missing,
            unknown or of the wrong type.
    """
    return read_card_file(path)[0]


def read_card_file(path: str | Path) -> tuple[Card, str]:
    """Read one `card.json`, and the hash of the weights that it belongs to.

    A card without a checksum (of an older version, or edited on purpose) is read, and a warning
    says what could not be checked.

    Returns:
        The card, and the SHA-256 of its weights: 64 hexadecimal digits, empty in cards of schema 1.

    Raises:
        InputError: as of `read_card`.
    """
    try:
        content = Path(path).read_bytes()
        sealed = has_checksum(content)
        values = json.loads(content, parse_constant=_no_constant)
    except ChecksumError as error:
        raise InputError(
            f"{path}: {error}; restore it; if you edited it on purpose, remove its line "
            f'"{CHECKSUM}", and the comma before it'
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): restore or rewrite it") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}; a card is a JSON object")
    newer = values.get("schema_version")
    if isinstance(newer, int) and newer > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version={newer}; this robustbench-lite reads {SCHEMA_VERSION}: "
            "upgrade it"
        )
    checked = {} if newer == UNCHECKED_VERSION else {WEIGHTS_HASH: values.pop(WEIGHTS_HASH, None)}
    values.pop(CHECKSUM, None)
    weights = checked.get(WEIGHTS_HASH, "")
    if not isinstance(weights, str) or (checked and not _SHA256.fullmatch(weights)):
        raise InputError(f"{path}: {WEIGHTS_HASH} must be 64 hexadecimal digits")
    known = {field.name: field for field in fields(Card)}
    missing = [name for name in known if name not in values]
    unknown = [name for name in values if name not in known]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: every field is required")
    if unknown:
        raise InputError(f"{path}: {unknown_name('field', unknown[0], known)}")
    try:
        card = Card(**values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not sealed:
        _warn_unchecked(str(path))
    return card, weights


@cache  # once a file
def _warn_unchecked(path: str) -> None:
    logger.warning("%s has no checksum: damage to it or its weights cannot be seen", path)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def function_fields(card: Card) -> dict[str, Any]:
    """The part of a card that, with the weights, determines the function computed."""
    return {name: getattr(card, name) for name in _FUNCTION_FIELDS}


def network_of(card: Card) -> nn.Module:
    """Build the card's architecture with fresh weights.

    Raises:
        InputError: for an unknown architecture or option.
    """
    return build_model(
        card.architecture,
        num_classes=card.num_classes,
        in_channels=card.in_channels,
        image_size=card.image_size,
        mean=card.mean,
        std=card.std,
        **card.architecture_kwargs,
    )
