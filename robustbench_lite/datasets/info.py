"""What a data set is: its facts, its official files, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.readers.archives import Archive

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

Reader = Callable[[Sequence[Path], "DatasetInfo", str], "Arrays"]
Augmentation = Literal["none", "crop", "crop_flip"]


def no_official_files(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """The reader of data that are only ever read from a user's own files."""
    raise InputError(f"{info.name} has no official {split} files to read")


@dataclass(frozen=True)
class Resize:
    """How images are brought to one size: by Pillow's bilinear filter, as torchvision does it.

    Args:
        cover: (height, width) that the image is scaled to cover, keeping its proportions, before
            `image_size` is cut out of the middle; None: squeezed to `image_size`.
    """

    cover: tuple[int, int] | None


@dataclass(frozen=True)
class DatasetInfo:
    """The fixed facts of one data set.

    Args:
        name: registered name.
        num_classes: labels are 0 .. num_classes - 1.
        channels: 1 (greyscale) or 3 (RGB).
        image_size: (height, width) in pixels.
        mean: per channel, of training pixels in [0, 1], the values the field uses.
        std: per channel, likewise.
        augmentation: what the field trains with: `"crop_flip"` (pad, random crop, horizontal flip),
            `"crop"` (no flip: a mirrored digit is not a digit) or `"none"`.
        class_names: index i is the name of label i.
        canonical_hashes: split name to the content hash (`Split.content_hash`) of the original
            pixels and labels in the original order; splits whose hash is unknown are absent.
        read: decodes a split of the official files, in the order of `archives`, whose hashes were
            checked before: images uint8 (N, C, H, W) and labels int64 (N,) in the files' own
            order; `InputError` for a truncated or foreign file. Of an embedded data set it gets no
            file; a user's own data have none.
        archives: split name to its official files; none for an embedded data set.
        known_variants: content hash of a copy that is not the original, to what was changed.
        label_columns: of Parquet files, the first that is there.
        hub_splits: split name to its name in Hugging Face's file names, where that is another.
        hub_folders: folders of its configuration, where the hub has several.
        class_aliases: other names of classes in Parquet files, to those of `class_names`.
        to_rgb: Pillow's modes of images that are made RGB, instead of refused.
        resize: how images of other sizes are brought to `image_size`; None refuses them.
        formats: of encoded images; no other decoder is tried.
        sixteen_bit: greyscale images of 16 bits, decoded to float32.
        class_folders: it has no archives, but is a local folder with a sub-folder a class, in the
            order of their names.
        own: a user's data, whose facts were read off its first image.
    """

    name: str
    num_classes: int
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    class_names: tuple[str, ...]
    read: Reader = no_official_files
    canonical_hashes: Mapping[str, str] = field(default_factory=dict, hash=False)
    archives: Mapping[str, tuple[Archive, ...]] = field(default_factory=dict, hash=False)
    known_variants: Mapping[str, str] = field(default_factory=dict, hash=False)
    label_columns: tuple[str, ...] = ("label",)
    hub_splits: Mapping[str, str] = field(default_factory=dict, hash=False)
    hub_folders: tuple[str, ...] = ()
    class_aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    to_rgb: tuple[str, ...] = ()
    resize: Resize | None = None
    formats: tuple[str, ...] = ("PNG", "JPEG")
    sixteen_bit: bool = False
    class_folders: bool = False
    own: bool = False
