"""What each data set is: shapes, normalisation, class names, known hashes; no heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry
from robustbench_lite.datasets import class_names

SPLITS = ("train", "test")
Augmentation = Literal["none", "crop", "crop_flip"]


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
    """

    name: str
    num_classes: int
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    class_names: tuple[str, ...]
    canonical_hashes: Mapping[str, str] = field(default_factory=dict, hash=False)


DIGITS = DatasetInfo(
    name="digits",
    num_classes=10,
    channels=1,
    image_size=(8, 8),
    mean=(0.3055,),  # computed from the 1,433 training images
    std=(0.3761,),
    augmentation="none",
    class_names=class_names.DIGITS,
    canonical_hashes={
        "train": "sha256:c2a3388d95890324718d9d3332daceb312ccd123469656d06c12e7fe81557fd4",
        "test": "sha256:ed98472e7f9d36c15b3e9ed9efb049f4858ad0ff49b07f0665c72f8724ded829",
    },
)

MNIST = DatasetInfo(
    name="mnist",
    num_classes=10,
    channels=1,
    image_size=(28, 28),
    mean=(0.1307,),
    std=(0.3081,),
    augmentation="none",
    class_names=class_names.DIGITS,
    # Of pixels and labels which, written as IDX files, have the md5 of LeCun's four files.
    canonical_hashes={
        "train": "sha256:82e356b6552baf866c704b6c92faa40edd78298cd379807fd3e764026f8acfa3",
        "test": "sha256:26e81cc3957c16d2b65179af3499ed1591ad25d19880eacd49bfd8af394920e6",
    },
)

FASHION_MNIST = DatasetInfo(
    name="fashion_mnist",
    num_classes=10,
    channels=1,
    image_size=(28, 28),
    mean=(0.2860,),
    std=(0.3530,),
    augmentation="none",
    class_names=class_names.FASHION_MNIST,
)

CIFAR10 = DatasetInfo(
    name="cifar10",
    num_classes=10,
    channels=3,
    image_size=(32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2471, 0.2435, 0.2616),
    augmentation="crop_flip",
    class_names=class_names.CIFAR10,
)

CIFAR100 = DatasetInfo(
    name="cifar100",
    num_classes=100,
    channels=3,
    image_size=(32, 32),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    augmentation="crop_flip",
    class_names=class_names.CIFAR100,
)

SVHN = DatasetInfo(
    name="svhn",
    num_classes=10,
    channels=3,
    image_size=(32, 32),
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    augmentation="crop",
    class_names=class_names.DIGITS,
)

TINY_IMAGENET = DatasetInfo(
    name="tiny_imagenet",
    num_classes=200,
    channels=3,
    image_size=(64, 64),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    augmentation="crop_flip",
    class_names=class_names.TINY_IMAGENET,
)

_HERE = "robustbench_lite.datasets.catalogue"
DATASETS = Registry(
    "data set",
    {
        "digits": Entry(
            f"{_HERE}:DIGITS",
            "1,797 grey 8x8 digits, embedded: no download",
            "Alpaydin & Kaynak 1998, UCI optdigits, as shipped by scikit-learn",
        ),
        "mnist": Entry(
            f"{_HERE}:MNIST", "70,000 grey 28x28 digits", "LeCun et al. 1998, Proc. IEEE 86(11)"
        ),
        "fashion_mnist": Entry(
            f"{_HERE}:FASHION_MNIST",
            "70,000 grey 28x28 articles of clothing",
            "Xiao et al. 2017, arXiv:1708.07747",
        ),
        "cifar10": Entry(
            f"{_HERE}:CIFAR10",
            "60,000 RGB 32x32 images, 10 classes",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        ),
        "cifar100": Entry(
            f"{_HERE}:CIFAR100",
            "60,000 RGB 32x32 images, 100 fine classes",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        ),
        "svhn": Entry(
            f"{_HERE}:SVHN",
            "99,289 RGB 32x32 house-number digits (cropped; without the extra set)",
            "Netzer et al. 2011, NIPS Workshop on Deep Learning",
        ),
        "tiny_imagenet": Entry(
            f"{_HERE}:TINY_IMAGENET",
            "110,000 RGB 64x64 images, 200 classes; its validation images are our test split",
            "Le & Yang 2015, Stanford CS 231N",
        ),
    },
)

_CIFAR10_JPEG = "CIFAR-10 re-encoded as JPEG (quality about 75), rows in another order"

# Copies that are known and are not the original: content hash -> what was changed.
KNOWN_VARIANTS: Mapping[str, Mapping[str, str]] = {
    "cifar10": {
        "sha256:da1bf19948b88db0336dc5cee8c7b54f6d75b8c83e8785311943cf3c37731956": _CIFAR10_JPEG,
        "sha256:93222b7b0183257e0f07fbb0af713982c4ef53442274f3970065a0a14d9c394a": _CIFAR10_JPEG,
    },
}


def dataset_info(name: str) -> DatasetInfo:
    """The fixed facts of a registered data set; needs no torch and no files.

    Args:
        name: one of `DATASETS`.

    Returns:
        Its `DatasetInfo`.

    Raises:
        InputError: for an unknown name; near matches are suggested.
    """
    info = DATASETS.load(name)
    if not isinstance(info, DatasetInfo):
        raise InputError(f"data set {name!r} is {type(info).__name__}, expected a DatasetInfo")
    return info


def check_split_name(split: str) -> None:
    """Refuse anything but `"train"` and `"test"`.

    Raises:
        InputError: for another name; a validation set is cut from train by `hold_out`.
    """
    if split not in SPLITS:
        raise InputError(
            f"unknown split {split!r}; available: train, test "
            "(a validation set is cut from train with hold_out)"
        )
