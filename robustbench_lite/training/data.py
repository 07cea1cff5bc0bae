"""What a run trains on: the training examples, their order and augmentation, extra images and
outliers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import fold_seed
from robustbench_lite.datasets import Split, hold_out, pad_crop_flip, rotate
from robustbench_lite.datasets.arrays import content_hash
from robustbench_lite.datasets.extra import ExtraImages, load_extra
from robustbench_lite.datasets.imbalance import Balanced
from robustbench_lite.datasets.outliers.sources import load_outliers
from robustbench_lite.datasets.splits import hold_out_beside
from robustbench_lite.defenses.class_balance import check_no_class_is_empty
from robustbench_lite.defenses.contract import Batch
from robustbench_lite.training.recipe import Recipe


class TrainingData:
    """Training and held-out examples of a run, on its device.

    On balanced data the held-out examples are cut from the whole split. An imbalanced set is chosen
    first, and its held-out examples come from what it left over, so that no class has more than a
    fifth of its images held out. Outliers made from inliers are made from what is trained on.

    With extra images a batch is drawn as in the code of Wang et al. 2023 (arXiv:2302.04638), which
    is Rade's of Rebuffi et al. 2021 (arXiv:2103.01946): int(extra_fraction * batch_size) extra
    images, drawn with replacement, beside own ones, shuffled in each pass; the last batch of a pass
    is filled up with extra ones. An epoch has as many batches as the whole training split fills
    (held-out images counted in), so its own images are seen less than once.

    Args:
        recipe: sections `data`, `imbalance`, `training`, `label_loss`, and the defense are read.
        data: the whole training split.
        device: where.

    Attributes:
        recipe: the recipe, which states the content hash of the extra images.

    Raises:
        InputError: for a class or a source of outliers that cannot supply its images, or extra
            images that do not fit.
    """

    def __init__(self, recipe: Recipe, data: Split, device: torch.device) -> None:
        self.recipe, self.device, self.facts = recipe, device, data.facts
        validation, seed = recipe.data.validation, recipe.training.seed
        if isinstance(recipe.imbalance, Balanced):
            train_ids, held_out = hold_out(data, validation, seed)
        else:
            train_ids = recipe.imbalance.choose(data.labels, data.num_classes)
            held_out = hold_out_beside(data, train_ids, validation, seed)
        self.data, self.validation = (data.subset(ids).to(device) for ids in (train_ids, held_out))
        self.class_counts = torch.bincount(self.data.labels, minlength=data.num_classes)
        if recipe.defense.needs_every_class or recipe.label_loss.needs_every_class:
            check_no_class_is_empty(self.class_counts)
        source = recipe.defense.outlier_source
        self.outliers = None
        if source is not None:
            self.outliers = load_outliers(
                source.source, self.data, count=source.count, seed=source.seed
            )
        self.extra: ExtraImages | None = None
        if recipe.data.extra:
            self.extra = load_extra(recipe.data.extra, data)
            self.recipe = _with_hash(recipe, self.extra.content_hash)
        self.slices = _slices(len(self.data), recipe.training.batch_size)
        if not self.slices:
            raise InputError(
                f"data.validation={recipe.data.validation} leaves {len(self.data)} of "
                f"{len(data)} images to train on; a batch needs two"
            )

    @property
    def outliers_hash(self) -> str | None:
        """Content hash of the outlier store, `"sha256:..."`; None without one."""
        if self.outliers is None:
            return None
        return content_hash(
            self.outliers.cpu().numpy(), np.zeros(len(self.outliers), dtype=np.int64)
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.extra is None:
            return len(self.slices)
        whole = len(self.data) + len(self.validation)
        return math.ceil(whole / self.recipe.training.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch (from 1); every draw is a function of seed and epoch."""
        seed = fold_seed(self.recipe.training.seed, "epoch", epoch)
        generator = torch.Generator(self.device).manual_seed(seed % 2**63)
        extra_generator = torch.Generator().manual_seed(fold_seed(seed, "extra") % 2**63)
        outlier_rows = self._outlier_rows(generator)
        for places in self._own_rows(generator):
            others = next(outlier_rows)
            outliers = None
            if self.outliers is not None and others is not None:
                outliers = self._augmented(self.outliers[others], generator)
            images, y, ids = self.data.images[places], self.data.labels[places], places
            if self.extra is not None:
                images, y, ids = self._filled_up(images, y, ids, self.extra, extra_generator)
            yield Batch(
                x=self._augmented(images, generator),
                y=y,
                ids=ids,
                epoch=epoch,
                seed=seed,
                class_counts=self.class_counts,
                label_loss=self.recipe.label_loss,
                outliers=outliers,
            )

    def _own_rows(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Rows of own images, those of one batch at a time; shuffled in each pass over them."""

        def shuffled() -> Tensor:
            return torch.randperm(len(self.data), generator=generator, device=self.device)

        if self.extra is None:
            order = shuffled()
            yield from (order[rows] for rows in self.slices)
            return
        size = self.recipe.training.batch_size
        own = size - self.recipe.data.extra_images(size)
        passes = (torch.split(shuffled(), own) for _ in itertools.count())
        yield from itertools.islice(itertools.chain.from_iterable(passes), len(self))

    def _filled_up(
        self,
        images: Tensor,
        y: Tensor,
        ids: Tensor,
        extra: ExtraImages,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Own images with extra ones after them, so that the batch is full. The rows are drawn on
        the CPU, where the file is; their ids follow those of the own images."""
        missing = self.recipe.training.batch_size - len(ids)
        rows = torch.randint(len(extra), (missing,), generator=generator)
        drawn = (*extra.rows(rows), rows + len(self.data))
        moved = (part.to(self.device, non_blocking=True) for part in drawn)
        own = (images, y, ids)
        images, y, ids = (torch.cat(pair) for pair in zip(own, moved, strict=True))
        return images, y, ids

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        section = self.recipe.data
        if section.crop_padding or section.flip:
            images = pad_crop_flip(
                images,
                generator,
                padding=section.crop_padding,
                flip=section.flip,
                padding_mode=section.padding_mode,
            )
        if section.rotation:
            images = rotate(images, generator, degrees=section.rotation)
        x = images.float() / 255.0 if images.dtype == torch.uint8 else images
        return x.contiguous(memory_format=torch.channels_last)

    def _outlier_rows(self, generator: torch.Generator) -> Iterator[Tensor | None]:
        """Consecutive blocks of the store from a random place, one for each batch."""
        source = self.recipe.defense.outlier_source
        if self.outliers is None or source is None:
            yield from itertools.repeat(None)
            return
        n = len(self.outliers)
        begin = torch.randint(n, (1,), generator=generator, device=self.device)
        block = torch.arange(source.batch_size, device=self.device)
        for batch in itertools.count():
            yield (begin + batch * source.batch_size + block) % n


def _with_hash(recipe: Recipe, found: str) -> Recipe:
    """The recipe with the content hash of its extra images, which must be the one it states."""
    if recipe.data.extra_hash not in ("", found):
        raise InputError(
            f"data.extra {recipe.data.extra} has content hash {found}, but data.extra_hash is "
            f"{recipe.data.extra_hash}: it is another file; get the right one, or leave the key out"
        )
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, extra_hash=found))


def _slices(n: int, size: int) -> list[slice]:
    """Slices of at most `size`; a last batch of one example is left out (BatchNorm needs two)."""
    slices = [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]
    return slices[:-1] if n % size == 1 else slices
