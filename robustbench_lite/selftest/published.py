"""Networks of papers whose robust accuracy is bracketed by others, from files that the user has."""

from __future__ import annotations

import tempfile
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec
from torch import nn

from robustbench_lite.attacks.threat_model import Norm, ThreatModel, parse_eps
from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.checkpoints.import_weights import import_weights
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import file_sha256
from robustbench_lite.core.schema import structured
from robustbench_lite.datasets import Split, dataset_info, load_split
from robustbench_lite.selftest.case import Case


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of `published.toml`: facts about a network, its images and its bracket in percent."""

    name: str
    file: str
    sha256: str
    architecture: str
    dataset: str
    images: str
    images_hash: str
    norm: Norm
    eps: str
    attack: Literal["autoattack", "clean"]
    lower: float
    upper: float
    source: str
    crippled: bool
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def published_cases() -> list[Published]:
    """The rows of `published.toml`, in order."""
    text = files("robustbench_lite.selftest").joinpath("published.toml").read_text("utf-8")
    rows = tomllib.loads(text)["cases"]
    found: list[Published] = structured(list[Published], rows, "published.toml")
    return found


def present(weights: Path) -> list[Published]:
    """The rows whose weights lie in a folder, each file checked by its SHA-256.

    Raises:
        InputError: no folder, none of the files in it, or a file with other content.
    """
    rows = published_cases()
    if not weights.is_dir():
        raise InputError(f"--weights {weights} is not a folder: give the one with the weights")
    found = [row for row in rows if (weights / row.file).is_file()]
    if not found:
        names = ", ".join(sorted({row.file for row in rows}))
        raise InputError(f"--weights {weights} holds none of {names}; see docs/selftest.md")
    for path, expected in {weights / row.file: row.sha256 for row in found}.items():
        if (digest := file_sha256(path)) != expected:
            raise InputError(
                f"{path} is damaged or another file: its SHA-256 is {digest[:16]}..., the released "
                f"one's {expected[:16]}...; fetch it again"
            )
    return found


def load_case(row: Published, weights: Path, data: Path) -> Case:
    """Network and images of a row.

    Args:
        row: of `published.toml`.
        weights: folder of the weights.
        data: folder that holds `row.images`, such as `sdp/mnist`.

    Raises:
        InputError: images that are missing or not the ones of the bracket.
    """
    split = _images(row, data)
    n = len(split)
    return Case(
        row.name,
        _network(row, weights / row.file),
        split.pixels(slice(None)),
        split.labels,
        ThreatModel(row.norm, parse_eps(row.eps)),
        lower=round(row.lower * n / 100),
        upper=round(row.upper * n / 100),
        proof=row.source,
    )


def _images(row: Published, data: Path) -> Split:
    folder = data / row.images
    if not folder.is_dir():
        raise InputError(
            f"{row.name}: no folder {folder} with its images; --data-dir DIR names the folder that "
            f"holds {row.images}"
        )
    split = load_split(row.dataset, "test", data_dir=folder)
    if split.content_hash != row.images_hash:
        raise InputError(
            f"{folder} holds {len(split)} images, not those of {row.name}: their hash is "
            f"{split.content_hash[:23]}..., expected {row.images_hash[:23]}..."
        )
    return split


def _network(row: Published, path: Path) -> nn.Module:
    info = dataset_info(row.dataset)
    mean, std = (
        None if values is None else tuple(value / 255.0 for value in values)
        for values in (row.mean, row.std)
    )
    with tempfile.TemporaryDirectory(prefix="rbl-selftest-") as folder:
        out = Path(folder) / "checkpoint"
        import_weights(
            path,
            architecture=row.architecture,
            num_classes=info.num_classes,
            in_channels=info.channels,
            image_size=info.image_size,
            mean=mean,
            std=std,
            dataset=row.dataset,
            name=path.stem,
            out=out,
            architecture_kwargs={},
        )
        model, _ = load_checkpoint(out, device="cpu")
    return model
