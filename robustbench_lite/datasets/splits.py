"""A split as tensors, what its pixels are worth, and validation sets cut from train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.pixels import check_pixels
from robustbench_lite.datasets.arrays import content_hash
from robustbench_lite.datasets.catalogue import dataset_info, is_registered, known_variants
from robustbench_lite.datasets.info import DatasetInfo

Source = Literal[
    "official archive",
    "local parquet",
    "local files",
    "class folders",
    "npz file",
    "embedded",
    "in memory",
]


@dataclass(frozen=True, eq=False)
class Split:
    """All images and labels of one split, decoded, on one device.

    Args:
        name: data set name.
        split: `"train"` or `"test"`.
        images: uint8 (N, C, H, W), or float32 in [0, 1] where 256 levels are too few (resized,
            16-bit or medical images).
        labels: int64 (N,), on the same device.
        num_classes: labels are 0 .. num_classes - 1.
        source: where the pixels came from. `"official archive"` is only ever set after the archive
            matched its pinned hash.
        whole_hash: content hash of the whole split, when it is known already or when this is a
            subset; None otherwise.
        is_subset: whether `subset` made this one.
        class_names: of data that are not registered, the name of each label; may be empty.

    Raises:
        InputError: wrong dtype or shape, images and labels of different length or device, a float
            pixel outside [0, 1], or a label outside 0 .. num_classes - 1.
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    num_classes: int
    source: Source = "in memory"
    whole_hash: str | None = None
    is_subset: bool = False
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype not in (torch.uint8, torch.float32) or images.ndim != 4:
            raise InputError(
                f"images of {self.name} are {images.dtype} {tuple(images.shape)}; "
                "a Split holds uint8, or float32 in [0, 1], (N, C, H, W)"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise InputError(
                f"labels of {self.name} are {labels.dtype} {tuple(labels.shape)}; "
                f"a Split of {len(images)} images holds int64 ({len(images)},)"
                f"{label_cure(labels)}"
            )
        if labels.device != images.device:
            raise InputError(
                f"images of {self.name} are on {images.device}, labels on {labels.device}; "
                "put both on one device"
            )
        if not self.is_subset:  # rows of a split that was looked at
            check_pixels(images, self.name)
            check_labels(labels, self.num_classes, self.name)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def content_hash(self) -> str:
        """`"sha256:..."` of these pixels and labels in this order (layout: `arrays.content_hash`).

        Computed once; about half a second for 50,000 CIFAR images, nothing after `load_split`.
        """
        if self.whole_hash is not None and not self.is_subset:
            return self.whole_hash
        return content_hash(self.images.cpu().numpy(), self.labels.cpu().numpy())

    @property
    def canonical(self) -> bool | None:
        """Whether these are the original pixels, so that a number can be set beside published ones.

        True: they were read from the official archive whose hash is pinned, or the content hash of
        the whole split is the listed one. False: that hash is listed and differs, or it belongs to
        a known altered copy (such as CIFAR-10 re-encoded as JPEG). None: nothing is known, which
        must be treated as not comparable. A subset has the verdict of the split it was cut from.
        """
        if self.source == "official archive":
            return True
        if not is_registered(self.name):
            return None
        whole = self.whole_hash or self.content_hash
        known = dataset_info(self.name).canonical_hashes.get(self.split)
        if known is not None:
            return whole == known
        return False if whole in known_variants(self.name) else None

    @property
    def provenance(self) -> str:
        """One line for records: the source, and what is known to be altered in the pixels."""
        note = known_variants(self.name).get(self.whole_hash or self.content_hash)
        return f"{self.source}: {note}" if note else self.source

    @cached_property
    def facts(self) -> DatasetInfo:
        """The facts of its data set; of one that is not registered they are read off this split:
        mean and standard deviation of each channel over all its pixels."""
        if is_registered(self.name):
            return dataset_info(self.name)
        sums = torch.zeros(2, self.images.shape[1], dtype=torch.float64)
        for start in range(0, len(self), 500):
            x = self.pixels(slice(start, start + 500)).double().cpu()
            sums += torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
        mean, square = sums / (len(self) * self.images[0, 0].numel())
        std = (square - mean.square()).clamp_min(0).sqrt().clamp_min(1e-3)  # of one colour
        height, width = self.images.shape[2:]
        return DatasetInfo(
            name=self.name,
            num_classes=self.num_classes,
            channels=len(mean),
            image_size=(height, width),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            augmentation="none",
            class_names=self.class_names or tuple(map(str, range(self.num_classes))),
            own=True,
        )

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on `device`; a hash computed already is kept."""
        known = self.whole_hash
        if not self.is_subset and known is None:
            known = self.__dict__.get("content_hash")  # where cached_property keeps its value
        return replace(
            self, images=self.images.to(device), labels=self.labels.to(device), whole_hash=known
        )

    def pixels(self, index: Tensor | slice | Sequence[int]) -> Tensor:
        """Chosen images as the network's input, float32 in [0, 1], on the split's device.

        Of uint8 images the value is the float32 nearest to v / 255 on every device: dividing by a
        Python number would let a GPU multiply by a rounded reciprocal instead.

        Args:
            index: int64 ids (B,), a slice, or a sequence of ints.

        Returns:
            float32 (B, C, H, W).
        """
        chosen = self.images[index if isinstance(index, (slice, Tensor)) else list(index)]
        if chosen.dtype == torch.float32:
            return chosen
        return chosen.float() / torch.full((), 255.0, device=chosen.device)

    def subset(self, ids: Tensor | Sequence[int]) -> Split:
        """The rows `ids`, in that order; its `canonical` is that of this split.

        Args:
            ids: int64 (M,) row numbers of this split.

        Returns:
            A split of M rows, a copy.

        Raises:
            InputError: ids that are not a list of integers, or a row that does not exist.
        """
        rows = torch.as_tensor(ids)
        if rows.numel() == 0:
            rows = rows.to(torch.int64)
        if rows.ndim != 1 or rows.dtype != torch.int64:
            raise InputError(f"ids are {rows.dtype} {tuple(rows.shape)}; a subset takes int64 (M,)")
        wrong = rows[(rows < 0) | (rows >= len(self))]
        if len(wrong):
            raise InputError(
                f"id {int(wrong[0])} is not a row of {self.name} {self.split}; "
                f"ids are 0 to {len(self) - 1}"
            )
        rows = rows.to(self.images.device)
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            whole_hash=self.whole_hash if self.is_subset else self.content_hash,
            is_subset=True,
        )


def check_labels(labels: Tensor, num_classes: int, name: str) -> None:
    """Raise InputError for a label outside 0 .. num_classes - 1, naming its row.

    Args:
        labels: int64 (N,).
        num_classes: K.
        name: of the data set, for the message.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"labels of {name}: row {row} has label {int(labels[row])}, but there are "
            f"{num_classes} classes, 0 to {num_classes - 1} ({len(wrong)} rows are wrong): "
            "labels count from 0"
        )


def label_cure(labels: Tensor) -> str:
    """What to do about labels that are not int64 (N,): the end of a message."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return ": give labels[:, 0]"
    if labels.ndim == 2:
        return ": of one-hot rows give labels.argmax(dim=1)"
    return ": give labels.long()" if labels.ndim == 1 and labels.dtype != torch.int64 else ""


def hold_out(split: Split, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cut a validation set of `n` images from a training split, at random and reproducibly.

    Args:
        split: a training split; validation data never comes from test.
        n: number of validation images, 0 <= n < len(split).
        seed: of the permutation; the global random state is neither read nor changed.

    Returns:
        (train_ids, validation_ids): int64 on the CPU, ascending, disjoint, together all rows.

    Raises:
        InputError: the split is not train, or n is out of range.
    """
    if split.split != "train":
        raise InputError(
            f"hold_out got the {split.split} split of {split.name}; "
            "a validation set is always cut from train"
        )
    if not 0 <= n < len(split):
        raise InputError(
            f"n={n} validation images cannot be cut from the {len(split)} training images of "
            f"{split.name}; allowed: 0 to {len(split) - 1}"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    return order[n:].sort().values, order[:n].sort().values


def hold_out_beside(split: Split, train_ids: Tensor, n: int, seed: int) -> Tensor:
    """Cut a validation set of `n` images from those that an imbalanced training set left over.

    A class gives at most a quarter as many images as it trains on, that is a fifth of the images
    that it has in both sets; within that, every class gives the same number, as far as it can.

    Args:
        split: a training split, on any device.
        train_ids: rows that are trained on, int64 (M,).
        n: number of validation images.
        seed: of the choice within each class; the global random state is neither read nor changed.

    Returns:
        Validation rows (n,), int64 on the CPU, ascending, none of them in `train_ids`.

    Raises:
        InputError: when the classes cannot give `n` images.
    """
    labels, chosen = split.labels.cpu(), train_ids.cpu()
    left = torch.ones(len(split), dtype=torch.bool)
    left[chosen] = False
    trained, over = (
        torch.bincount(own, minlength=split.num_classes) for own in (labels[chosen], labels[left])
    )
    room = torch.minimum(trained // 4, over)  # (K,)
    if n > room.sum():
        raise InputError(
            f"data.validation={n} images cannot be held out beside an imbalanced training set: its "
            f"classes can give {int(room.sum())} (at most a fifth of a class, from images not "
            "trained on): lower data.validation or imbalance.largest"
        )
    numbers = _even_shares(room, n)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    order = order[left[order]]
    kept = [order[labels[order] == label][:number] for label, number in enumerate(numbers)]
    return torch.cat(kept).sort().values


def _even_shares(room: Tensor, n: int) -> list[int]:
    """How many of `n` each class gives: a common level, less where `room` (K,) is smaller; of the
    rest one more from each of the first classes that have it."""
    level = 0
    while room.clamp_max(level + 1).sum() <= n and level < room.max():
        level += 1
    numbers = room.clamp_max(level)
    extra = (room > level).nonzero().flatten()[: n - int(numbers.sum())]
    numbers[extra] += 1
    return [int(number) for number in numbers]
