"""Auto-PGD on cross-entropy, on the DLR loss and on its targeted form; Linf, L2 and L1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

from torch import Tensor, nn

from robustbench_lite.attacks.apgd_search import AutoPGD, Loss
from robustbench_lite.attacks.apgd_steps import BallRule, Rule, SparseRule, stages
from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.losses import (
    cross_entropy,
    dlr,
    margin,
    targeted_dlr,
    targeted_margin,
)
from robustbench_lite.attacks.random_numbers import normal, uniform
from robustbench_lite.attacks.slots import Rows, attack_in_slots
from robustbench_lite.attacks.threat_model import NORMS, Norm

_MOST_RUNS = 4096  # that the counter of the random numbers tells apart


def apgd_ce(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    restarts: int,
    rho: float,
    eot: int,
    staged_eps: bool,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    stream: str = "apgd_ce",
    network: nn.Module | None = None,
) -> Tensor:
    """Auto-PGD on cross-entropy (Croce and Hein 2020, arXiv:2003.01690, Alg. 1 and Sec. 4).

    PGD with momentum that halves its own step and goes back to its best point when the loss stops
    growing. L1 after Croce and Hein 2021, arXiv:2103.01208. The rules are those of the authors'
    code, step for step, but for this: draws are per example; an example leaves at its first
    misclassified point, where theirs goes on and keeps the last; the L2 and L1 balls are a
    millionth smaller, so that rounding stays inside; an L2 gradient too small to be squared still
    gives a direction; for L1 no entry moves by rounding alone, which theirs would count as moved.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K); it alone says what is broken.
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        norm: `"Linf"`, `"L2"` or `"L1"`.
        eps: radius, in [0, 1] units.
        steps: gradient steps of a run; AutoAttack 100.
        restarts: runs, each from a random start; AutoAttack 1 or 5.
        rho: share of steps that must raise the loss for the step size to stay; AutoAttack 0.75.
            L1 has a rule of its own without it.
        eot: passes over which a gradient is averaged, for randomised networks; 1 elsewhere.
        staged_eps: L1 only: 30 % of the steps at 3 eps, 30 % at 2 eps, the rest at eps.
        ids: example ids (B,), int64: with the seed they fix the starts.
        seed: any integer.
        batch_size: examples attacked at once.
        passes: forward passes per prediction; above 1 more than half of them must be wrong.
        stream: name of the random stream.
        network: the one searched on when it is another than `model` (folded, half precision).

    Returns:
        x_adv (B, C, H, W), inside ball and box: the first misclassified point; the clean image
        where there is none, or where the clean image is already misclassified.

    Raises:
        InputError: for options that make no attack, or when a loss or gradient is not finite.

    Cost:
        On an example that survives, `steps` + 1 forwards and backwards times `eot`, per restart;
        `staged_eps` adds 2 to `steps`.
    """
    options = _Options(norm, eps, steps, restarts, rho, eot, staged_eps)
    return _attack(
        _cross_entropy,
        options,
        model,
        x,
        y,
        ids=ids,
        seed=seed,
        batch_size=batch_size,
        passes=passes,
        stream=stream,
        network=network,
    )


def apgd_dlr(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    restarts: int,
    rho: float,
    eot: int,
    staged_eps: bool,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    stream: str = "apgd_dlr",
    network: nn.Module | None = None,
) -> Tensor:
    """Auto-PGD on the difference of logits ratio (arXiv:2003.01690, Eq. 6); see `apgd_ce`.

    Of two classes the loss is the margin, the ratio's numerator: the ratio needs three.
    Arguments, result, errors and cost are those of `apgd_ce`.
    """
    options = _Options(norm, eps, steps, restarts, rho, eot, staged_eps)
    return _attack(
        _dlr,
        options,
        model,
        x,
        y,
        ids=ids,
        seed=seed,
        batch_size=batch_size,
        passes=passes,
        stream=stream,
        network=network,
    )


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    steps: int,
    targets: int,
    restarts: int,
    rho: float,
    eot: int,
    staged_eps: bool,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    stream: str = "apgd_t",
    network: nn.Module | None = None,
) -> Tensor:
    """Auto-PGD on the targeted DLR loss (arXiv:2003.01690, Eq. 7); see `apgd_ce`.

    The targets are the min(targets, K - 1) likeliest wrong classes on the clean image, one run
    and then its restarts each; any misclassification is a success. Below 4 classes, where the
    ratio is not defined, the loss is its numerator z_t - z_y.

    Args:
        targets: wrong classes to try; AutoAttack 9 (L1: 5). All other arguments, the result and
            the errors are those of `apgd_ce`.

    Cost:
        On an example that survives, that of `apgd_ce` times the number of targets.
    """
    options = _Options(norm, eps, steps, restarts, rho, eot, staged_eps, targets)
    return _attack(
        _targeted,
        options,
        model,
        x,
        y,
        ids=ids,
        seed=seed,
        batch_size=batch_size,
        passes=passes,
        stream=stream,
        network=network,
    )


@dataclass(frozen=True)
class _Options:
    """What is said of the attack and not of its place; checked."""

    norm: Norm
    eps: float
    steps: int
    restarts: int
    rho: float
    eot: int
    staged_eps: bool
    targets: int | None = None

    def __post_init__(self) -> None:
        _check(asdict(self))

    def rule(self, like: Tensor) -> Rule:
        if self.norm == "L1":
            return SparseRule(self.eps, steps=self.steps, staged=self.staged_eps, like=like)
        return BallRule(self.norm, self.eps, steps=self.steps, rho=self.rho, like=like)


def _attack(
    loss: Loss,
    options: _Options,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int,
    stream: str,
    network: nn.Module | None,
) -> Tensor:
    search = AutoPGD(
        network or model,
        loss,
        rule=options.rule(x),
        draw=partial(_noise, options.norm, seed=seed, stream=stream),
        restarts=options.restarts,
        targets=options.targets or 0,
        eot=options.eot,
        device=x.device,
        patient=passes > 1,
    )
    return attack_in_slots(
        search,
        model,
        x,
        y,
        ids=ids,
        slots=batch_size,
        passes=passes,
        network=network,
        patient=passes > 1,
    )


def _noise(norm: Norm, rows: Rows, *, seed: int, stream: str) -> Tensor:
    """Noise of a run's start, like `x`: uniform in [-1, 1) for Linf, standard normal elsewhere."""
    draw = uniform if norm == "Linf" else normal
    x = rows["x"]
    noise = draw(
        x.shape, ids=rows["ids"], seed=seed, stream=stream, restart=rows["run"], step=0
    ).to(x.dtype)
    return 2.0 * noise - 1.0 if norm == "Linf" else noise


def _cross_entropy(logits: Tensor, rows: Rows) -> Tensor:
    return cross_entropy(logits, rows["y"])


def _dlr(logits: Tensor, rows: Rows) -> Tensor:
    return (dlr if logits.shape[1] >= 3 else margin)(logits, rows["y"])


def _targeted(logits: Tensor, rows: Rows) -> Tensor:
    loss = targeted_dlr if logits.shape[1] >= 4 else targeted_margin
    return loss(logits, rows["y"], rows["target"])


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError when a protocol's parameters make no Auto-PGD."""
    del attack, num_classes
    _check(params)


def _check(params: Mapping[str, object]) -> None:
    steps, restarts, _ = (_whole(params, name) for name in ("steps", "restarts", "eot"))
    runs = restarts * (1 if params.get("targets") is None else _whole(params, "targets"))
    if runs > _MOST_RUNS:
        raise InputError(f"{runs} runs per example: the random numbers know {_MOST_RUNS} at most")
    rho, norm, staged = params["rho"], params["norm"], params["staged_eps"]
    if isinstance(rho, bool) or not isinstance(rho, int | float) or not 0.0 <= rho <= 1.0:
        raise InputError(f"rho={rho!r} must be a share, from 0 to 1")
    if norm not in NORMS:
        raise InputError(f"norm={norm!r} is unknown; available: {', '.join(NORMS)}")
    if not isinstance(staged, bool) or (staged and norm != "L1"):
        raise InputError(f"staged_eps={staged!r} must be true or false, and is for L1 alone")
    if staged and stages(steps)[-1][1] < 1:
        raise InputError(f"steps={steps} leaves none for the last stage of staged_eps")


def _whole(params: Mapping[str, object], name: str) -> int:
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r} must be an integer of at least 1")
    return value
