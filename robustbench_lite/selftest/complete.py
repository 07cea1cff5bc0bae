"""The truth itself, for small ReLU networks and Linf: a mixed-integer program per wrong class.

The program of Tjeng et al. 2019 (arXiv:1711.07356, Sec. 4), solved by HiGHS in scipy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]
from scipy.sparse import lil_matrix  # type: ignore[import-untyped]
from torch import Tensor

from robustbench_lite.selftest.bounds import (
    Affine,
    Region,
    interval_margins,
    relaxed_bounds,
    relaxed_margins,
)

_PROVED = 1e-4  # of a logit: above what the solver's tolerance of 1e-6 can move
_CERTAIN = 1e-6  # of a logit: float64 bounds against float32 passes
_SECONDS = 10.0
# Of the radius: how far outside of it an image is proved robust. Only rounding has to fit in.
_OUTSIDE = 0.001
# Of the radius: how far inside of it an image is proved breakable. The margin of a ReLU network has
# many local minima: the best one can break the image where no attack can be asked to find it.
_INSIDE = 0.02


@dataclass(frozen=True)
class Answer:
    """What the program says of one image and one wrong class.

    Args:
        robust: it is proved that the class cannot win.
        found: an image (D,) in the region, float64, where the class wins; None if none was found.
    """

    robust: bool
    found: Tensor | None


@dataclass(frozen=True)
class Decided:
    """What is proved of images without any attack; an image that is in neither is not known.

    Args:
        unbreakable: bool (B,), no image of the ball is in another class.
        breakable: bool (B,), the ball has an image of another class, well inside of it.
        proof: how many images each method proved robust, in a few words.
    """

    unbreakable: Tensor
    breakable: Tensor
    proof: str


def decided(layers: Sequence[Affine], x: Tensor, y: Tensor, eps: float) -> Decided:
    """Which images can be broken in the Linf ball, and which cannot.

    Bounds decide most images, mixed-integer programs the rest. An image is unbreakable when that is
    proved at a radius 0.1 % larger, and breakable when an adversarial image is found at a radius
    2 % smaller. What lies between is not known, and neither is what a program leaves open.

    Args:
        layers: see `affine_layers`.
        x: images (B, D), float64.
        y: labels (B,), int64.
        eps: radius.
    """
    larger = Region(x, "Linf", eps * (1.0 + _OUTSIDE))
    margins = relaxed_margins(layers, larger, y)
    intervals = (interval_margins(layers, larger, y) > _CERTAIN).all(dim=1)
    relaxed = (margins > _CERTAIN).all(dim=1)
    logits = forward(layers, x)
    wrong = (logits - logits.gather(1, y[:, None])).amax(dim=1) > _PROVED
    unbreakable, breakable = intervals | relaxed, wrong.clone()
    for row in (~unbreakable & ~wrong).nonzero().flatten().tolist():
        unbreakable[row], breakable[row] = _by_programs(
            layers, x[row : row + 1], int(y[row]), eps, margins[row]
        )
    proof = f"intervals {int(intervals.sum())}, relaxation {int(relaxed.sum())}, then MILP"
    return Decided(unbreakable, breakable, proof)


def _by_programs(
    layers: Sequence[Affine], x: Tensor, label: int, eps: float, margins: Tensor
) -> tuple[bool, bool]:
    """Whether one image (1, D) is unbreakable, and whether it is breakable."""
    larger, smaller = (Region(x, "Linf", eps * (1.0 + share)) for share in (_OUTSIDE, -_INSIDE))
    open_classes = [j for j in margins.argsort().tolist() if margins[j] <= _CERTAIN]
    for other in open_classes:
        if can_win(layers, smaller, label, other).found is not None:
            return False, True
    return all(can_win(layers, larger, label, other).robust for other in open_classes), False


def can_win(layers: Sequence[Affine], region: Region, label: int, other: int) -> Answer:
    """Whether class `other` can reach `label` in the Linf region of one image.

    Maximises z_other - z_label exactly. Neither answer trusts the solver's tolerance: a proof needs
    1e-4 of a logit to spare, and an image that it finds is run through the network.

    Args:
        layers: see `affine_layers`.
        region: of one image, B = 1, Linf.
        label: its class.
        other: the wrong class.
    """
    if region.norm != "Linf" or len(region.x) != 1:
        raise ValueError("the program is for one image and Linf")
    program = _Program(layers, region)
    weight = layers[-1].weight[label] - layers[-1].weight[other]
    constant = float(layers[-1].bias[label] - layers[-1].bias[other])
    objective = np.zeros(program.size)
    objective[program.last] = weight.numpy()
    with _nothing_printed():
        solved = milp(
            objective,
            constraints=program.constraints(),
            bounds=Bounds(program.low, program.high),
            integrality=program.integral,
            options={"time_limit": _SECONDS},
        )
    # Without a switch it is a linear program, whose optimum is its own bound.
    dual = solved.mip_dual_bound if any(program.integral) or solved.status != 0 else solved.fun
    robust = dual is not None and dual + constant > _PROVED
    found = None
    if solved.x is not None:
        low, high = (region.x - region.eps).clamp_min(0.0), (region.x + region.eps).clamp_max(1.0)
        point = torch.from_numpy(solved.x[: region.x.shape[1]])
        point = torch.minimum(torch.maximum(point, low[0]), high[0])
        logits = forward(layers, point[None])[0]
        if float(logits[label] - logits[other]) < -_PROVED:
            found = point
    return Answer(robust, found)


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """HiGHS writes lines of its own to the process's standard output, past Python."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def forward(layers: Sequence[Affine], x: Tensor) -> Tensor:
    """Logits (B, K) of images (B, D), in float64."""
    for layer in layers[:-1]:
        x = (x @ layer.weight.T + layer.bias).clamp_min(0.0)
    return x @ layers[-1].weight.T + layers[-1].bias


class _Program:
    """Variables: pixels, then of each hidden layer its outputs a and switches s (1: on)."""

    def __init__(self, layers: Sequence[Affine], region: Region) -> None:
        self._rows: list[tuple[dict[int, float], float, float]] = []
        low = (region.x - region.eps).clamp_min(0.0)[0]
        high = (region.x + region.eps).clamp_max(1.0)[0]
        self.low, self.high = low.tolist(), high.tolist()
        self.integral = [0] * len(self.low)
        self.last = np.arange(len(self.low))
        for layer, (below, above) in zip(
            layers[:-1], relaxed_bounds(layers[:-1], region), strict=True
        ):
            self._add_layer(layer, below[0], above[0])

    @property
    def size(self) -> int:
        return len(self.low)

    def _add_layer(self, layer: Affine, below: Tensor, above: Tensor) -> None:
        """a = max(z, 0) with z = W a' + b in [l, u]: exact with one switch where l < 0 < u."""
        places = []
        for unit, (low, high) in enumerate(zip(below.tolist(), above.tolist(), strict=True)):
            z = dict(zip(self.last.tolist(), layer.weight[unit].tolist(), strict=True))
            bias = float(layer.bias[unit])
            output = self._variable(max(low, 0.0), max(high, 0.0))
            places.append(output)
            if low >= 0.0:
                self._rows.append(({**z, output: -1.0}, -bias, -bias))  # a = z
            elif high > 0.0:
                switch = self._variable(0.0, 1.0, integral=True)
                self._rows.append(({**z, output: -1.0}, -np.inf, -bias))  # a >= z
                # a <= z - l (1 - s), and a <= u s
                self._rows.append(({**z, output: -1.0, switch: low}, low - bias, np.inf))
                self._rows.append(({output: 1.0, switch: -high}, -np.inf, 0.0))
        self.last = np.array(places)

    def _variable(self, low: float, high: float, *, integral: bool = False) -> int:
        self.low.append(low)
        self.high.append(high)
        self.integral.append(int(integral))
        return len(self.low) - 1

    def constraints(self) -> LinearConstraint:
        matrix = lil_matrix((len(self._rows), self.size))
        for row, (entries, _, _) in enumerate(self._rows):
            for column, value in entries.items():
                matrix[row, column] = value
        low, high = ([each[side] for each in self._rows] for side in (1, 2))
        return LinearConstraint(matrix.tocsr(), low, high)
