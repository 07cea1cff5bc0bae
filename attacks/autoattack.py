"""AutoAttack on our own engine: four to six attacks, each on what the earlier ones left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.apgd import apgd_ce, apgd_dlr, apgd_t
from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.fab import fab, fab_t
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.square import square
from robustbench_lite.attacks.threat_model import Norm

VERSIONS = ("standard", "plus", "rand")
FEW_CLASSES = ("margin",)
LOOKS = 2  # times the judge's passes, to see how often a randomised network is wrong
_SETTLED = 0.75  # share of passes that must be wrong for an example to leave: no matter of luck
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "apgd_ce": apgd_ce,
    "apgd_dlr": apgd_dlr,
    "apgd_t": apgd_t,
    "fab": fab,
    "fab_t": fab_t,
    "square": square,
}
# Croce and Hein 2020, Sec. 4 and 5, as their code sets them.
_APGD: dict[str, object] = {"steps": 100, "rho": 0.75}
_FAB: dict[str, object] = {"steps": 100, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9}
_SQUARE: dict[str, object] = {"queries": 5000, "restarts": 1, "p_init": 0.8}


@dataclass(frozen=True)
class Stage:
    """One attack of AutoAttack: its registered name and every parameter."""

    name: str
    params: Mapping[str, object]


def stages(version: str, norm: Norm) -> tuple[Stage, ...]:
    """The attacks of a version, in order.

    Args:
        version: `"standard"`, `"plus"` or `"rand"`.
        norm: L1 has its own numbers of restarts and targets, and its staged radius, in `standard`.

    Raises:
        InputError: for an unknown version.
    """
    if version not in VERSIONS:
        raise InputError(f"version={version!r} is unknown; available: {', '.join(VERSIONS)}")
    staged = version == "standard" and norm == "L1"
    restarts = 5 if version == "plus" or staged else 1
    untargeted = _APGD | {
        "restarts": restarts,
        "eot": 20 if version == "rand" else 1,
        "staged_eps": staged,
    }
    targeted = _APGD | {"targets": 5 if staged else 9, "restarts": 1, "eot": 1}
    apgd_ce_stage, apgd_dlr_stage = Stage("apgd_ce", untargeted), Stage("apgd_dlr", untargeted)
    apgd_t_stage = Stage("apgd_t", targeted | {"staged_eps": staged})
    fab_t_stage = Stage("fab_t", _FAB | {"targets": 9, "restarts": 1})
    square_stage = Stage("square", _SQUARE)
    if version == "rand":
        return apgd_ce_stage, apgd_dlr_stage
    if version == "plus":
        fab_stage = Stage("fab", _FAB | {"restarts": 5})
        return (apgd_ce_stage, apgd_dlr_stage, fab_stage, square_stage, apgd_t_stage, fab_t_stage)
    return apgd_ce_stage, apgd_t_stage, fab_t_stage, square_stage


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    version: str,
    few_classes: str,
    norm: Norm,
    eps: float,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    stream: str = "autoattack",
    network: nn.Module | None = None,
    on_stage: Callable[[str, Tensor], None] | None = None,
) -> Tensor:
    """AutoAttack (Croce and Hein 2020, arXiv:2003.01690) with draws that depend on the example.

    The attacks, their order and their parameters are the authors'; see `stages`. Two things
    differ: every draw is a function of (seed, example id, attack, run, step), where the authors
    draw for a batch at once, and an example leaves the moment it is broken. Neither changes what
    an example's attack is; the verdicts of an example no longer depend on its neighbours.

    Of a randomised network (`passes` above 1) one misclassified pass means little: a run goes to
    its end and gives the point of the largest mean loss, where the authors keep the last point that
    a single pass got wrong; an example leaves when three quarters of 2 x `passes` passes are wrong,
    and the candidate that is wrong most often is returned.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K); it alone says what is broken.
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        version: `"standard"` (APGD-CE, APGD-T, FAB-T, Square), `"plus"` or `"rand"`.
        few_classes: what stands for the DLR losses where there are too few classes for them (3
            for DLR, 4 for its targeted form): `"margin"`.
            Targets are the min(9, K - 1) likeliest wrong classes on the clean image (L1: 5).
        norm: `"Linf"`, `"L2"` or `"L1"`.
        eps: radius, in [0, 1] units.
        ids: example ids (B,), int64: with the seed they fix every draw.
        seed: any integer.
        batch_size: examples attacked at once.
        passes: forward passes per prediction; above 1 more than half of them must be wrong.
        stream: name of the random stream; each attack appends its own.
        network: the one searched on when it is another than `model` (folded, half precision).
        on_stage: called after each attack with its name and which rows it broke, bool (B,).

    Returns:
        x_adv (B, C, H, W), inside ball and box; an example that no attack broke comes back clean
        (with several passes as the best candidate).

    Raises:
        InputError: for an unknown version, or when a loss or gradient is not finite.

    Cost:
        `standard` on an example that survives, K >= 10: 7,815 forwards and 1,910 backwards.
    """
    check_parameters("autoattack", {"version": version, "few_classes": few_classes}, 2)
    x_adv, standing = x.clone(), torch.ones_like(y, dtype=torch.bool)
    wrong = torch.zeros_like(y, dtype=torch.float32)  # share of passes, with several
    for stage in stages(version, norm):
        rows = standing.nonzero().flatten()
        if not len(rows):
            break
        found = FUNCTIONS[stage.name](
            model,
            x[rows],
            y[rows],
            norm=norm,
            eps=eps,
            ids=ids[rows],
            seed=seed,
            batch_size=batch_size,
            passes=passes,
            stream=f"{stream}/{stage.name}",
            network=network,
            **stage.params,
        )
        if passes == 1:
            # A stage returns the clean image unless the plain network confirmed its candidate.
            better = (found != x[rows]).flatten(1).any(dim=1)
            standing[rows[better]] = False
        else:
            share = _share_wrong(model, found, y[rows], batch_size=batch_size, passes=passes)
            better = share > wrong[rows]
            wrong[rows[better]] = share[better]
            standing = wrong < _SETTLED
        x_adv[rows[better]] = found[better]
        if on_stage is not None:
            mine = torch.zeros_like(y, dtype=torch.bool)
            mine[rows[better]] = True
            on_stage(stage.name, mine)
    return x_adv


def _share_wrong(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int, passes: int) -> Tensor:
    """In which share (B,) of passes a randomised network is wrong, of more than the judge takes."""
    times = LOOKS * passes
    with attacked(model), torch.no_grad():
        wrong = [
            torch.stack([model(images).argmax(dim=1) != labels for _ in range(times)]).sum(dim=0)
            for images, labels in zip(
                torch.split(x, batch_size), torch.split(y, batch_size), strict=True
            )
        ]
    return torch.cat(wrong) / times


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError for an unknown version or stand-in."""
    del attack, num_classes
    stages(str(params["version"]), "Linf")
    if params["few_classes"] not in FEW_CLASSES:
        raise InputError(f"few_classes={params['few_classes']!r} is unknown; available: margin")
