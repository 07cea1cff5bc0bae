"""The card of a checkpoint: everything that explains its weights, as one strict JSON record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec.structs import asdict

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import CHECKSUM, ChecksumError, has_checksum, with_checksum
from robustbench_lite.core.schema import Finite, Hex64, Record, from_json, structured
from robustbench_lite.models import build_model

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

CARD_FILE = "card.json"
SCHEMA_VERSION: Final = 2
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


class Card(Record, frozen=True, kw_only=True):
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
        InputError: for architecture options that the card has fields of its own for.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
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
    versions: Mapping[str, str]
    git_commit: str
    epoch: int | None
    selection: str
    metrics: Mapping[str, int | Finite]
    notes: str
    parameters: int

    def __post_init__(self) -> None:
        clash = sorted({"name", *_FUNCTION_FIELDS} & set(self.architecture_kwargs))
        if clash:
            raise InputError(f"architecture_kwargs may not hold {', '.join(clash)}")

    @property
    def saw_extra_data(self) -> bool | None:
        """Whether it was trained on other images than its data set's; None without a recipe, when
        nobody has said. A recipe names extra images as `data.extra`."""
        if not self.recipe:
            return None
        data = self.recipe.get("data")
        return isinstance(data, dict) and bool(data.get("extra"))


def card_text(card: Card, weights_sha256: str) -> str:
    """The card as JSON, in the order of its fields, with the hash of its weights and a checksum.

    Args:
        card: what is said of the weights.
        weights_sha256: of the file beside it, 64 hexadecimal digits.

    Raises:
        InputError: for a field of the wrong type, and for what JSON cannot hold, such as NaN.
    """
    checked = structured(Card, asdict(card), f"card of {card.name!r}")
    newest = {"schema_version": SCHEMA_VERSION, WEIGHTS_HASH: weights_sha256}
    try:
        return with_checksum({**asdict(checked), **newest})
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
    except ChecksumError as error:
        raise InputError(
            f"{path}: {error}; restore it; if you edited it on purpose, remove its line "
            f'"{CHECKSUM}", and the comma before it'
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    values = from_json(dict[str, Any], content, str(path))
    version = values.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version={version}; this robustbench-lite reads {SCHEMA_VERSION}: "
            "upgrade it"
        )
    weights = ""
    if version != UNCHECKED_VERSION:
        weights = structured(Hex64, values.pop(WEIGHTS_HASH, None), str(path), where=WEIGHTS_HASH)
    values.pop(CHECKSUM, None)
    card = structured(Card, {"schema_version": None, **values}, str(path))
    if not sealed:
        _warn_unchecked(str(path))
    return card, weights


@cache  # once a file
def _warn_unchecked(path: str) -> None:
    logger.warning("%s has no checksum: damage to it or its weights cannot be seen", path)


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
