"""Names and facts of the data sets, without any heavy import."""

import re
import subprocess
import sys

import pytest

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import DATASETS, DatasetInfo, dataset_info

REGISTERED = [
    *("cifar10", "cifar100", "cifar100c", "cifar10c", "digits", "fashion_mnist", "gtsrb"),
    *("imagenet", "imagenette", "kmnist", "medmnist", "mnist", "stl10", "svhn", "tiny_imagenet"),
]
VARIANTS = {"cifar10c": "fog:3", "cifar100c": "fog:3", "medmnist": "pathmnist"}
NAMES = [f"{name}:{VARIANTS[name]}" if name in VARIANTS else name for name in REGISTERED]
PINNED = [
    name
    for name in NAMES
    if name not in ("digits", "gtsrb", "imagenet") and not name.startswith("medmnist")
]


def test_registry_lists_exactly_these_data_sets():
    assert list(DATASETS) == REGISTERED


@pytest.mark.parametrize("name", NAMES)
def test_info_is_consistent_with_itself(name):
    info = dataset_info(name)
    assert isinstance(info, DatasetInfo)
    assert info.name == name
    assert info.channels in (1, 3)
    assert len(info.mean) == len(info.std) == info.channels
    assert all(0 < value < 1 for value in info.mean + info.std)
    assert len(info.class_names) == len(set(info.class_names)) == info.num_classes
    assert set(info.canonical_hashes) <= {"train", "test"}
    assert all(h.startswith("sha256:") and len(h) == 71 for h in info.canonical_hashes.values())
    hash(info)


def test_digits_are_never_mirrored_in_training():
    for name in ("digits", "mnist", "svhn"):
        assert dataset_info(name).augmentation in ("none", "crop")
    assert dataset_info("cifar10").augmentation == "crop_flip"


@pytest.mark.parametrize("name", PINNED)
def test_every_downloaded_split_has_pinned_archives(name):
    assert "test" in dataset_info(name).archives
    for split in dataset_info(name).archives:
        for archive in dataset_info(name).archives[split]:
            algorithm, _, digits = archive.known_hash.partition(":")
            assert algorithm == "sha256"
            assert re.fullmatch("[0-9a-f]{64}", digits)
            assert archive.size > 1000
            assert all(url.endswith("/" + archive.file_name) for url in archive.urls)


def test_tiny_imagenet_aliases_replace_foreign_ids_by_ours():
    info = dataset_info("tiny_imagenet")
    assert len(info.class_aliases) == 18
    assert not set(info.class_aliases) & set(info.class_names)
    assert set(info.class_aliases.values()) <= set(info.class_names)
    assert list(info.class_names) == sorted(info.class_names)


def test_unknown_name_suggests_the_near_one():
    with pytest.raises(InputError, match=r"unknown data set 'cifar-10'; did you mean .*cifar10"):
        dataset_info("cifar-10")


def test_loading_works_where_torchvision_cannot_be_imported():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from robustbench_lite.datasets import load_split\n"
        "from robustbench_lite.datasets.readers import download, parquet\n"
        "assert len(load_split('digits', 'test')) == 364"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_attribute_of_the_package_is_an_attribute_error():
    import robustbench_lite.datasets as package

    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = package.no_such_thing
    assert all(hasattr(package, name) for name in package.__all__)
