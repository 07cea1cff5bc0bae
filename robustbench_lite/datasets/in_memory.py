"""Images and labels as a caller has them, made into tensors or a split, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.pixels import check_pixels
from robustbench_lite.datasets.splits import Split

WHAT = "in_memory"  # the name of data that have none, in messages


def as_images(images: object, name: str = WHAT) -> Tensor:
    """Images as a tensor that a `Split` holds.

    Args:
        images: (N, C, H, W): a tensor, an array or nested lists; uint8 of 0 to 255, or any float
            type in [0, 1].
        name: of the data, for messages.

    Returns:
        uint8, or float32, detached, outside of inference mode; on the device that they were on.

    Raises:
        InputError: for another shape or type, or pixels outside [0, 1].
    """
    tensor = _tensor(images, "images", name)
    if tensor.layout != torch.strided or tensor.is_meta:
        raise InputError(
            f"images of {name} are {'on the meta device' if tensor.is_meta else tensor.layout}; "
            "give a dense tensor that holds values"
        )
    if tensor.ndim != 4 or not tensor.numel():
        cure = {
            3: "add the channel (images[:, None]), or of one image the batch (images[None])",
            2: "give them as a batch with channels",
        }.get(tensor.ndim, "give at least one")
        raise InputError(
            f"images of {name} have shape {tuple(tensor.shape)}; they must be (N, C, H, W): {cure}"
        )
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InputError(
            f"images of {name} are {tensor.dtype}; give floats in [0, 1], or uint8 of 0 to 255 "
            "(images.to(torch.uint8))"
        )
    check_pixels(tensor, name)
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


def as_labels(labels: object, like: Tensor, name: str = WHAT) -> Tensor:
    """Labels as a tensor, on the device of their images; a `Split` checks type, shape and range."""
    return _tensor(labels, "labels", name).to(like.device)


def read(data: object, n: int | None, name: str = "") -> tuple[Tensor, Tensor]:
    """Images and labels of what a caller has.

    Args:
        data: a pair (images, labels); a `DataLoader`, or anything else that gives batches of
            such pairs; or a `Dataset`, whose items are single pairs (PIL images among them).
        n: stop after so many images; None takes all.
        name: of the data, for messages; empty takes its type's.

    Returns:
        Images uint8 or float32 (N, C, H, W) and labels (N,), of the type that they came in.

    Raises:
        InputError: for something else, and as of `as_images`.
    """
    if is_pair(data):
        images = as_images(data[0])
        return images, as_labels(data[1], images)
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise InputError(
            f"data is {type(data).__name__}; give (images, labels), a Dataset, a DataLoader, a "
            "Split, or the name of a data set"
        )
    if isinstance(data, Mapping):
        raise InputError(
            f"{name or 'data'}: a {type(data).__name__} is no pair; give (images, labels), as in "
            "(data['x'], data['y'])"
        )
    name = name or type(data).__name__
    batches: list[tuple[Tensor, Tensor]] = []
    count = 0
    for item in _items(data):
        batches.append(_pair(item, name))
        count += len(batches[-1][0])
        if n is not None and count >= n:  # before the next one is taken: it may be long in coming
            break
    if not batches:
        raise InputError(f"{name} holds no images")
    parts = [images for images, _ in batches]
    if different := {tuple(one.shape[1:]) for one in parts} - {tuple(parts[0].shape[1:])}:
        raise InputError(
            f"images of {name} have shapes {tuple(parts[0].shape[1:])} and {different.pop()}: "
            "give all the same size"
        )
    if len(types := {str(one.dtype): None for one in parts}) > 1:
        raise InputError(f"images of {name} are {' and '.join(types)}: give all of one type")
    joined = as_images(torch.cat(parts), name)
    return joined, as_labels(torch.cat([labels for _, labels in batches]), joined, name)


def is_pair(data: object) -> TypeGuard[Sequence[Any]]:
    """Whether data are images and labels, rather than something that gives such pairs."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    first = data[0]
    of_loader = isinstance(first, list) and bool(first) and getattr(first[0], "ndim", 0) == 4
    return not isinstance(first, tuple) and not of_loader  # two batches, which come as lists


def as_split(images: Tensor, labels: Tensor, *, classes: int, name: str) -> Split:
    """A split of tensors, its labels checked against K classes."""
    return Split(name, "test", images, labels, classes)


def sample_of(images: Tensor) -> Tensor:
    """The first image (1, C, H, W) as a network's input, to ask the network how many classes."""
    label = torch.zeros(1, dtype=torch.int64, device=images.device)
    return as_split(images[:1], label, classes=1, name=WHAT).pixels(slice(None))


def _items(data: Any) -> Iterator[object]:
    """What iteration gives; of a `Dataset` its rows, which need not know where they end."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        yield from (data[row] for row in range(len(data)))
    else:
        yield from data


def _pair(item: object, name: str) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and labels (B,) of a batch or of a single row."""
    if not isinstance(item, Sequence) or len(item) < 2:
        raise InputError(
            f"{name} gives {type(item).__name__} where (images, labels) are needed: wrap it so "
            "that it gives pairs"
        )
    images, labels = _picture(item[0], name), _tensor(item[1], "labels", name)
    return (images[None], labels[None]) if images.ndim == 3 else (images, labels)


def _picture(image: Any, name: str) -> Tensor:
    """A tensor; of a PIL image its bytes, channels first."""
    if hasattr(image, "getbands"):
        array = np.array(image)
        if array.dtype != np.uint8:
            raise InputError(
                f"{name} gives PIL images of mode {image.mode}: convert them, as with "
                "image.convert('RGB')"
            )
        return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    return _tensor(image, "images", name)


def _tensor(values: object, what: str, name: str) -> Tensor:
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{what} of {name} are {type(values).__name__} and make no tensor: {error}"
        ) from error
    with torch.inference_mode(False):  # autograd takes no tensor of that mode
        return tensor.clone() if tensor.is_inference() else tensor.detach()
