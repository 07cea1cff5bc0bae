"""Outliers by name: images of no class, to train detection with or to test it on.

Importing this module, and listing the names, imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import Entry, Registry, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_lite.datasets.splits import Split

_MADE = "robustbench_lite.datasets.outliers.synthetic"
_FOUND = "robustbench_lite.datasets.outliers.files"
_ODIN = "Liang et al. 2018, arXiv:1706.02690"
_OE = "Hendrycks et al. 2019, arXiv:1812.04606"

OUTLIERS = Registry(
    "outlier source",
    {
        "gaussian": Entry(f"{_MADE}:gaussian", "noise N(0.5, 1) in pixels, clipped", _ODIN),
        "uniform": Entry(f"{_MADE}:uniform", "noise U(0, 1) in pixels", _ODIN),
        "gaussian_oe": Entry(
            f"{_MADE}:gaussian_oe", "noise N(0, 0.5) clipped to [-1, 1], of normalised values", _OE
        ),
        "rademacher": Entry(f"{_MADE}:rademacher", "noise of -1 and 1, of normalised values", _OE),
        "blobs": Entry(f"{_MADE}:blobs", "blurred noise, cut to blobs, of normalised values", _OE),
        "arithmetic_mean": Entry(f"{_MADE}:arithmetic_mean", "means of two inliers", _OE),
        "geometric_mean": Entry(f"{_MADE}:geometric_mean", "sqrt(a b) of two inliers", _OE),
        "jigsaw": Entry(f"{_MADE}:jigsaw", "inliers with patches exchanged", _OE),
        "speckle": Entry(f"{_MADE}:speckle", "inliers x + x N(0, 1), clipped", _OE),
        "pixelate": Entry(f"{_MADE}:pixelate", "inliers at a fifth of their resolution", _OE),
        "rgb_shift": Entry(f"{_MADE}:rgb_shift", "inliers (mirrored G, B, R); RGB only", _OE),
        "invert": Entry(f"{_MADE}:invert", "inliers, all channels but the first inverted", _OE),
        "mixture": Entry(
            f"{_MADE}:mixture",
            "gaussian, blobs and jigsaw in equal parts: to train with, without a download",
            "this project",
        ),
        "dataset:NAME": Entry(
            f"{_FOUND}:outliers_of_dataset", "another data set, resized, to grey or RGB as needed"
        ),
        "folder:PATH": Entry(
            f"{_FOUND}:outliers_of_folder", "PNG, JPEG or Parquet files, treated likewise"
        ),
    },
)


def load_outliers(
    source: str,
    like: Split,
    *,
    count: int = 0,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> Tensor:
    """Images of no class, in the form of a split's images.

    Args:
        source: a name of `rbl list outliers`, `dataset:NAME`, or `folder:PATH`.
        like: the inliers. Sources made of inliers take them from here, `dataset:NAME` takes the
            split of the same name, and train and test never share a draw.
        count: images; 0: as many as `like` for a synthetic source, else all there are.
        seed: of synthetic images, or of which images are taken in which order.
        data_dir: as of `load_split`, for `dataset:NAME`.

    Returns:
        uint8 (M, C, H, W) on the device of `like`; the same bytes on every device.

    Raises:
        InputError: for an unknown source (near matches are suggested), one that does not fit the
            inliers, a negative count, or too few images.
    """
    from robustbench_lite.core.random_numbers import fold_seed

    kind, colon, place = source.partition(":")
    known = kind in ("dataset", "folder") if colon else source in OUTLIERS
    if not known:
        raise InputError(unknown_name(OUTLIERS.kind, source, OUTLIERS))
    if colon and not place:
        raise InputError(f"outlier source {source!r} names nothing after the colon")
    if count < 0:
        raise InputError(f"outliers.count={count} must be at least 0")
    seed = fold_seed(seed, "outliers", source, like.split) % 2**63
    images = _load(kind, place, like, count, seed, data_dir)
    return images.to(like.images.device)


def _load(
    kind: str, place: str, like: Split, count: int, seed: int, data_dir: str | Path | None
) -> Tensor:
    if not place:
        from robustbench_lite.datasets.outliers.synthetic import synthesize

        return synthesize(OUTLIERS.load(kind), like, count=count or len(like), seed=seed)
    from robustbench_lite.datasets.outliers.files import outliers_of_dataset, outliers_of_folder

    if kind == "dataset":
        return outliers_of_dataset(place, like, count=count, seed=seed, data_dir=data_dir)
    return outliers_of_folder(Path(place), like, count=count, seed=seed)
