"""`target=`: the class that an attack should make a network predict, as a caller says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacks.contract import Target, TargetableAttack
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.core.errors import InputError

Aim = Target | int | Sequence[int] | Tensor | NDArray[Any]


def aimed(spec: AttackSpec, aim: Aim) -> AttackSpec:
    """An attack that aims at one class.

    Args:
        spec: the attack.
        aim: `"least_likely"`, `"random"` or `"next"` (see `attacks.targets.choose_targets`), by
            which it is named from here on; or classes, which the run is given beside it.

    Raises:
        InputError: for another name, and an attack or loss that cannot aim.
    """
    if isinstance(aim, str) and aim not in get_args(Target):
        raise InputError(
            f"target={aim!r} is unknown; give {', '.join(map(repr, get_args(Target)))}, or a class "
            "for each image (labels of shape (N,))"
        )
    if not isinstance(spec.contract, TargetableAttack):
        raise InputError(
            f"attack {spec.name!r} cannot aim at a class: leave target out, or take rbl.PGD(), "
            "rbl.APGD(), rbl.Square(), rbl.CW() or 'fab_t'"
        )
    if not isinstance(aim, str):  # a rule in its place, so that the attack is checked as aiming
        return replace(spec, params={**spec.params, "target": "next"})
    words = aim.replace("_", " ")
    return replace(
        spec,
        name=f"{spec.name}_{aim}",
        title=f"{spec.title}, {words}",
        params={**spec.params, "target": aim},
    )


def target_labels(aim: Aim | None, labels: Tensor, classes: int) -> Tensor | None:
    """The classes that a caller gave, checked.

    Args:
        aim: one class for each image, or one for all; a rule or None gives None.
        labels: of the images (N,), int64.
        classes: K.

    Returns:
        int64 (N,), on the device of the labels.

    Raises:
        InputError: for another shape or type, or a class outside 0 to K - 1.
    """
    if aim is None or isinstance(aim, str):
        return None
    try:
        given = aim.detach() if isinstance(aim, Tensor) else torch.as_tensor(np.array(aim))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"target is {type(aim).__name__} and makes no tensor: give a class for each image"
        ) from error
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise InputError(f"target holds {given.dtype}; classes are integers: give target.long()")
    if given.ndim and tuple(given.shape) != tuple(labels.shape):
        raise InputError(
            f"target has shape {tuple(given.shape)}, but there are {len(labels)} images: give one "
            f"class for each, shape ({len(labels)},)"
        )
    found = given.to(labels.device, torch.int64).expand(len(labels)).clone()
    outside = ((found < 0) | (found >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise InputError(
            f"target of image {row} is {int(found[row])}, but there are {classes} classes, 0 to "
            f"{classes - 1}"
        )
    return found
