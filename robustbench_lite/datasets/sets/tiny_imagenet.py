"""Tiny ImageNet: a zip of JPEG files; the labelled validation images serve as test."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.datasets.info import DatasetInfo
from robustbench_lite.datasets.readers.archives import archive, both_splits, damaged

if TYPE_CHECKING:
    from robustbench_lite.datasets.arrays import Arrays

_HOSTS = ("http://cs231n.stanford.edu/",)
_ROOT = "tiny-imagenet-200"
_TRAIN = re.compile(rf"{_ROOT}/train/(n\d{{8}})/images/n\d{{8}}_(\d+)\.JPEG")
_VALIDATION = re.compile(rf"{_ROOT}/val/images/val_(\d+)\.JPEG")
_ANNOTATIONS = f"{_ROOT}/val/val_annotations.txt"

# WordNet ids, sorted: label i is the i-th class folder of the official archive, as in every reader
# of image folders.
_CLASSES = tuple(
    """
    n01443537 n01629819 n01641577 n01644900 n01698640 n01742172 n01768244 n01770393 n01774384
    n01774750 n01784675 n01855672 n01882714 n01910747 n01917289 n01944390 n01945685 n01950731
    n01983481 n01984695 n02002724 n02056570 n02058221 n02074367 n02085620 n02094433 n02099601
    n02099712 n02106662 n02113799 n02123045 n02123394 n02124075 n02125311 n02129165 n02132136
    n02165456 n02190166 n02206856 n02226429 n02231487 n02233338 n02236044 n02268443 n02279972
    n02281406 n02321529 n02364673 n02395406 n02403003 n02410509 n02415577 n02423022 n02437312
    n02480495 n02481823 n02486410 n02504458 n02509815 n02666196 n02669723 n02699494 n02730930
    n02769748 n02788148 n02791270 n02793495 n02795169 n02802426 n02808440 n02814533 n02814860
    n02815834 n02823428 n02837789 n02841315 n02843684 n02883205 n02892201 n02906734 n02909870
    n02917067 n02927161 n02948072 n02950826 n02963159 n02977058 n02988304 n02999410 n03014705
    n03026506 n03042490 n03085013 n03089624 n03100240 n03126707 n03160309 n03179701 n03201208
    n03250847 n03255030 n03355925 n03388043 n03393912 n03400231 n03404251 n03424325 n03444034
    n03447447 n03544143 n03584254 n03599486 n03617480 n03637318 n03649909 n03662601 n03670208
    n03706229 n03733131 n03763968 n03770439 n03796401 n03804744 n03814639 n03837869 n03838899
    n03854065 n03891332 n03902125 n03930313 n03937543 n03970156 n03976657 n03977966 n03980874
    n03983396 n03992509 n04008634 n04023962 n04067472 n04070727 n04074963 n04099969 n04118538
    n04133789 n04146614 n04149813 n04179913 n04251144 n04254777 n04259630 n04265275 n04275548
    n04285008 n04311004 n04328186 n04356056 n04366367 n04371430 n04376876 n04398044 n04399382
    n04417672 n04456115 n04465501 n04486054 n04487081 n04501370 n04507155 n04532106 n04532670
    n04540053 n04560804 n04562935 n04596742 n04597913 n06596364 n07579787 n07583066 n07614500
    n07615774 n07695742 n07711569 n07715103 n07720875 n07734744 n07747607 n07749582 n07753592
    n07768694 n07871810 n07873807 n07875152 n07920052 n09193705 n09246464 n09256479 n09332890
    n09428293 n12267677
    """.split()  # noqa: SIM905 - a list of quoted words would be 10 times as long
)

# The copies of Tiny ImageNet on the Hugging Face hub name 18 classes by the ids of a later WordNet
# and sort by those, so their label numbers differ from the official archive's.
_ALIASES = {
    "n02666347": "n02666196",
    "n03373237": "n02190166",
    "n04465666": "n04465501",
    "n04598010": "n04597913",
    "n07056680": "n04067472",
    "n07646821": "n01855672",
    "n07647870": "n03250847",
    "n07657664": "n07579787",
    "n07975909": "n02206856",
    "n08496334": "n02730930",
    "n08620881": "n03976657",
    "n08742578": "n02085620",
    "n12520864": "n02906734",
    "n13001041": "n07734744",
    "n13652335": "n03804744",
    "n13652994": "n02999410",
    "n13719102": "n01945685",
    "n14991210": "n07747607",
}


def read_tiny_imagenet(files: Sequence[Path], info: DatasetInfo, split: str) -> Arrays:
    """Decode one split of the zip in memory.

    Train is ordered by class (label), then by image number; test (the archive's `val`; its own
    `test` has no labels) by image number. Pixels come from JPEG, so another build of the JPEG
    library may differ in single grey levels; the archive is the same.

    Args:
        files: the zip, its hash checked before.
        info: the data set's facts; class names are the folder names.
        split: `"train"` or `"test"`.

    Returns:
        images uint8 (N, 3, 64, 64), labels int64 (N,).

    Raises:
        InputError: a damaged zip, a missing member, an unknown class, or an undecodable image.
    """
    import numpy as np

    from robustbench_lite.datasets.arrays import Arrays
    from robustbench_lite.datasets.readers.image_bytes import decode_images

    path = files[0]
    labels_of = {name: label for label, name in enumerate(info.class_names)}
    try:
        with zipfile.ZipFile(path) as archive:
            if split == "train":
                rows = _train_rows(archive, labels_of, path)
            else:
                rows = _validation_rows(archive, labels_of, path)
            encoded = [archive.read(member) for _, _, member in rows]
    except (OSError, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise damaged(path, error) from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, error) from error
    images = decode_images(encoded, info, lambda row: f"{rows[row][2]} in {path}")
    return Arrays(images, np.array([label for label, _, _ in rows], dtype=np.int64))


def _train_rows(
    archive: zipfile.ZipFile, labels_of: dict[str, int], path: Path
) -> list[tuple[int, int, str]]:
    """(label, image number, member), ascending."""
    found = [match for name in archive.namelist() if (match := _TRAIN.fullmatch(name))]
    return sorted((_label(m[1], labels_of, path), int(m[2]), m[0]) for m in found)


def _validation_rows(
    archive: zipfile.ZipFile, labels_of: dict[str, int], path: Path
) -> list[tuple[int, int, str]]:
    """(label, image number, member), by image number."""
    lines = archive.read(_ANNOTATIONS).decode("utf-8").splitlines()
    classes = dict(line.split("\t")[:2] for line in lines if "\t" in line)
    rows = []
    for name in archive.namelist():
        match = _VALIDATION.fullmatch(name)
        if match is None:
            continue
        file_name = name.rpartition("/")[2]
        if file_name not in classes:
            raise damaged(path, f"{_ANNOTATIONS} has no label for {file_name}")
        rows.append((_label(classes[file_name], labels_of, path), int(match[1]), name))
    return sorted(rows, key=lambda row: row[1])


def _label(name: str, labels_of: dict[str, int], path: Path) -> int:
    if name not in labels_of:
        raise damaged(path, f"{name!r} is not one of the 200 classes")
    return labels_of[name]


TINY_IMAGENET = DatasetInfo(
    name="tiny_imagenet",
    num_classes=200,
    channels=3,
    image_size=(64, 64),
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2770, 0.2691, 0.2821),
    augmentation="crop_flip",
    class_names=_CLASSES,
    read=read_tiny_imagenet,
    archives=both_splits(
        archive(  # md5 90528d7ca1a48142e341f4ef8d21d0de
            "tiny-imagenet-200.zip",
            _HOSTS,
            248_100_043,
            "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
        )
    ),
    hub_splits={"test": "valid"},  # its test images have no public labels
    class_aliases=_ALIASES,
    to_rgb=("L",),  # about 2 % of its own JPEG files are grey; every loader repeats the channel
)
