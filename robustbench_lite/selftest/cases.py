"""The cases that need no files: closed forms, a staircase, a certified network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.threat_model import Norm, ThreatModel
from robustbench_lite.datasets import load_split
from robustbench_lite.selftest.bounds import affine_layers
from robustbench_lite.selftest.case import Case, known_case
from robustbench_lite.selftest.closed_forms import box_radii, linear_radii, staircase_gain
from robustbench_lite.selftest.complete import decided
from robustbench_lite.selftest.digits_network import EPS, digits_network
from robustbench_lite.selftest.networks import (
    PIXELS,
    SIDE,
    Linear,
    Staircase,
    box_network,
    grid_uniform,
)

_DRAWN = 8192  # images to choose from
_WINDOW = 0.05  # of the radius: how near to it the chosen images are
_DIGITS = 100
_LEVELS = 16


def short_cases(seed: int) -> Mapping[str, Callable[[], Case]]:
    """The cases by name, each built when it is called.

    Args:
        seed: of weights and images.
    """
    return {
        "linear, 2 classes, Linf": lambda: linear_case(2, "Linf", seed),
        "linear, 2 classes, L2": lambda: linear_case(2, "L2", seed),
        "linear, unlikeliest of 10, Linf": lambda: unlikely_case(seed),
        "linear, 10 classes, L2": lambda: linear_case(10, "L2", seed),
        "linear, 6 classes, L1": lambda: linear_case(6, "L1", seed, each=12),
        "ReLU box, Linf": lambda: box_case("Linf", seed),
        "ReLU box, L2": lambda: box_case("L2", seed),
        "staircase, Linf": lambda: staircase_case(seed),
        "digits, certified, Linf": digits_case,
    }


def linear_case(classes: int, norm: Norm, seed: int, *, each: int = 32) -> Case:
    """Images of a linear network within 6 % of the radius: half a per cent inside or outside it.

    Args:
        classes: K.
        norm: of the radius, which is the median of 8,192 random images.
        seed: of weights and images.
        each: images at most on either side.
    """
    stream = f"linear {classes}"
    weight = 2.0 * grid_uniform(classes, PIXELS, seed=seed, stream=f"{stream} weight") - 1.0
    x = grid_uniform(_DRAWN, PIXELS, seed=seed, stream=f"{stream} images")
    bias = -(weight @ x.T).median(dim=1).values
    network = Linear(weight, bias)
    with torch.no_grad():
        y = network(x).argmax(dim=1)
    radii = linear_radii(weight, bias, x, y, norm=norm)
    name = f"linear, {classes} classes, {norm}"
    return _by_radius(name, network, x, y, radii, norm, inside=0.005, outside=0.005, each=each)


def unlikely_case(seed: int) -> Case:
    """A linear network whose nearest other class is the unlikeliest of nine, in Linf.

    Classes 1 to 8 are 1 logit behind class 0 and nearly flat, so out of reach; class 9 is far
    behind and 64 times steeper. Cross-entropy sees only the eight, and so does the margin; an
    engine must try all nine targets.
    """
    weight = 2.0 * grid_uniform(10, PIXELS, seed=seed, stream="unlikely weight") - 1.0
    weight[0] = 0.0
    weight[1:9] /= 16.0
    weight[9] *= 4.0
    x = grid_uniform(_DRAWN, PIXELS, seed=seed, stream="unlikely images")
    score = weight @ x.T  # (10, N)
    # 16 logits behind in the median: about an eighth of the range of a pixel away.
    bias = -score.median(dim=1).values - torch.tensor([0.0, *[1.0] * 8, 16.0])
    y = torch.zeros(_DRAWN, dtype=torch.int64)
    radii = linear_radii(weight, bias, x, y, norm="Linf")
    return _by_radius(
        "linear, unlikeliest of 10, Linf",
        Linear(weight, bias),
        x,
        y,
        radii,
        "Linf",
        inside=0.02,
        outside=0.005,
        each=32,
    )


def _by_radius(
    name: str,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Tensor,
    norm: Norm,
    *,
    inside: float,
    outside: float,
    each: int,
) -> Case:
    """Images (N, 64) of known radii, at the median radius: those a little inside or outside it."""
    eps = Fraction(round(float(radii.median()) * 1000), 1000)
    ratio = radii / float(eps)
    near = (ratio < 1.0 - inside) & (ratio > 1.0 - inside - _WINDOW)
    far = (ratio > 1.0 + outside) & (ratio < 1.0 + outside + _WINDOW)
    rows = torch.cat([chosen.nonzero().flatten()[:each] for chosen in (near, far)])
    return known_case(
        name,
        network,
        (_images(x[rows]), y[rows]),
        ThreatModel(norm, eps),
        unbreakable=ratio[rows] > 1.0,
        breakable=ratio[rows] < 1.0,
        proof="closed form",
    )


def box_case(norm: Norm, seed: int, *, each: int = 32) -> Case:
    """Images about a ReLU network's box: 4 to 9 % inside the radius, or 0.5 to 5.5 % outside.

    Gradients of this network are signs, so for L2 and L1 the way to the nearest point is not the
    gradient; an engine gets 4 % of the radius for that.
    """
    center = grid_uniform(1, PIXELS, seed=seed, stream="box center")[0]
    x = grid_uniform(_DRAWN, PIXELS, seed=seed, stream="box images")
    half, slack = 0.25, 1.0 / 64.0
    radii = box_radii(x, center, half=half, slack=slack, norm=norm)
    network = box_network(center, half=half, slack=slack)
    y = torch.zeros(_DRAWN, dtype=torch.int64)
    name = f"ReLU box, {norm}"
    return _by_radius(name, network, x, y, radii, norm, inside=0.04, outside=0.005, each=each)


def staircase_case(seed: int) -> Case:
    """A linear network on pixels rounded to sixteenths: every gradient is 0, only queries help.

    The Square Attack never puts a window on the last row or column (as its authors' code), so
    these weigh nothing. Pixels lie on steps and eps = 0.1 = 1.6 steps, far from where q jumps.
    """
    weight = 2.0 * grid_uniform(1, PIXELS, seed=seed, stream="staircase weight")[0] - 1.0
    weight = weight.view(SIDE, SIDE)
    weight[-1], weight[:, -1] = 0.0, 0.0
    weight = weight.flatten()
    x = grid_uniform(_DRAWN, PIXELS, seed=seed, stream="staircase images")
    x = (x * _LEVELS).round() / _LEVELS
    gain = staircase_gain(weight, x, eps=0.1, levels=_LEVELS)
    score = x.double() @ weight.double()
    bias = float((score + gain).median().float())
    needed = (bias - score) / gain  # share of the largest gain that breaks the image
    inside = ((needed > 0.8) & (needed < 0.99)).nonzero().flatten()[:32]
    outside = ((needed > 1.01) & (needed < 1.2)).nonzero().flatten()[:32]
    rows = torch.cat([inside, outside])
    return known_case(
        "staircase, Linf",
        Staircase(weight, bias, levels=_LEVELS),
        (_images(x[rows]), torch.zeros(len(rows), dtype=torch.int64)),
        ThreatModel("Linf", Fraction(1, 10)),
        unbreakable=needed[rows] > 1.0,
        breakable=needed[rows] < 1.0,
        proof="closed form",
    )


def digits_case() -> Case:
    """100 test digits on a trained network, decided without the engine; see `decided`."""
    network = digits_network()
    data = load_split("digits", "test")
    x, y = data.pixels(slice(0, _DIGITS)), data.labels[:_DIGITS]
    known = decided(affine_layers(network, x.shape[1:]), x.flatten(1).double(), y, EPS)
    return known_case(
        "digits, certified, Linf",
        network,
        (x, y),
        ThreatModel("Linf", Fraction(EPS).limit_denominator(1000)),
        unbreakable=known.unbreakable,
        breakable=known.breakable,
        proof=known.proof,
    )


def _images(x: Tensor) -> Tensor:
    return x.view(-1, 1, SIDE, SIDE)
