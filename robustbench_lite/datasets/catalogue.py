"""Which data sets there are, by name; listing them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry, unknown_name
from robustbench_lite.datasets.info import DatasetInfo

SPLITS = ("train", "test")
SOURCES = {
    "folder": "images in one sub-folder a class: folder:DIR",
    "parquet": "Parquet files with encoded images and labels: parquet:DIR",
    "npz": "arrays x and y of numpy: npz:FILE",
}
"""A user's own data: what stands before the colon, and what it is."""
_SETS = "robustbench_lite.datasets.sets"
DATASETS = Registry(
    "data set",
    {
        "digits": Entry(
            f"{_SETS}.digits:DIGITS",
            "1,797 grey 8x8 digits, embedded: no download",
            "Alpaydin & Kaynak 1998, UCI optdigits, as shipped by scikit-learn",
        ),
        "mnist": Entry(
            f"{_SETS}.mnist:MNIST",
            "70,000 grey 28x28 digits",
            "LeCun et al. 1998, Proc. IEEE 86(11)",
        ),
        "fashion_mnist": Entry(
            f"{_SETS}.mnist:FASHION_MNIST",
            "70,000 grey 28x28 articles of clothing",
            "Xiao et al. 2017, arXiv:1708.07747",
        ),
        "cifar10": Entry(
            f"{_SETS}.cifar:CIFAR10",
            "60,000 RGB 32x32 images, 10 classes",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        ),
        "cifar100": Entry(
            f"{_SETS}.cifar:CIFAR100",
            "60,000 RGB 32x32 images, 100 fine classes",
            "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
        ),
        "cifar10c": Entry(
            f"{_SETS}.cifar_corrupted:CIFAR10C",
            "10,000 CIFAR-10 test images under one of 19 corruptions: cifar10c:fog:3",
            "Hendrycks & Dietterich 2019, arXiv:1903.12261",
        ),
        "cifar100c": Entry(
            f"{_SETS}.cifar_corrupted:CIFAR100C",
            "10,000 CIFAR-100 test images under one of 19 corruptions: cifar100c:fog:3",
            "Hendrycks & Dietterich 2019, arXiv:1903.12261",
        ),
        "gtsrb": Entry(
            f"{_SETS}.gtsrb:GTSRB",
            "51,839 RGB traffic signs of 43 classes, resized to 32x32; local archives",
            "Stallkamp et al. 2012, Neural Networks 32",
        ),
        "imagenet": Entry(
            f"{_SETS}.imagenet:IMAGENET",
            "50,000 validation images, 1,000 classes, 224x224 crop; a local folder or Parquet",
            "Russakovsky et al. 2015, arXiv:1409.0575",
        ),
        "imagenette": Entry(
            f"{_SETS}.imagenet:IMAGENETTE",
            "13,394 RGB images of 10 ImageNet classes, 224x224 crop",
            "Howard 2019, github.com/fastai/imagenette",
        ),
        "kmnist": Entry(
            f"{_SETS}.mnist:KMNIST",
            "70,000 grey 28x28 Kuzushiji characters",
            "Clanuwat et al. 2018, arXiv:1812.01718",
        ),
        "medmnist": Entry(
            f"{_SETS}.medmnist:medmnist",
            "11 sets of 28x28 medical images, such as medmnist:pathmnist; local .npz",
            "Yang et al. 2023, Scientific Data 10:41",
        ),
        "stl10": Entry(
            f"{_SETS}.stl10:STL10",
            "13,000 labelled RGB 96x96 images, 10 classes",
            "Coates et al. 2011, AISTATS",
        ),
        "svhn": Entry(
            f"{_SETS}.svhn:SVHN",
            "99,289 RGB 32x32 house-number digits (cropped; without the extra set)",
            "Netzer et al. 2011, NIPS Workshop on Deep Learning",
        ),
        "tiny_imagenet": Entry(
            f"{_SETS}.tiny_imagenet:TINY_IMAGENET",
            "110,000 RGB 64x64 images, 200 classes; its validation images are our test split",
            "Le & Yang 2015, Stanford CS 231N",
        ),
    },
    entry_point_group="robustbench_lite.datasets",
)


def dataset_info(name: str) -> DatasetInfo:
    """The fixed facts of a registered data set; needs no torch and no files.

    Args:
        name: one of `DATASETS`; of a family with its variant, such as `cifar10c:fog:3`.

    Returns:
        Its `DatasetInfo`.

    Raises:
        InputError: for an unknown name; near matches are suggested.
    """
    prefix, colon, variant = name.partition(":")
    if colon and prefix not in DATASETS:
        raise InputError(unknown_name("data source", prefix, {**SOURCES, "FILE.py": ""}))
    info = DATASETS.load(prefix)
    if callable(info):  # a family, such as the corruptions of CIFAR-10
        info = info(variant)
    elif colon:
        raise InputError(f"data set {prefix} has no variants: leave {colon}{variant} out")
    if not isinstance(info, DatasetInfo):
        raise InputError(f"data set {name!r} is {type(info).__name__}, expected a DatasetInfo")
    return info


def known_variants(name: str) -> Mapping[str, str]:
    """Content hash of a copy that is not the original, to what was changed; empty if unknown."""
    return dataset_info(name).known_variants if is_registered(name) else {}


def class_names(name: str, count: int) -> tuple[str, ...]:
    """What to call the `count` classes of a result's data set: a user's own have numbers."""
    return dataset_info(name).class_names if is_registered(name) else tuple(map(str, range(count)))


def is_own(name: str) -> bool:
    """Whether a name is a user's own data, such as `folder:DIR`."""
    return name.partition(":")[0] in SOURCES and ":" in name


def is_registered(name: str) -> bool:
    """Whether a name is that of a data set that everybody has, and not of a user's own."""
    return name.partition(":")[0] in DATASETS


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
