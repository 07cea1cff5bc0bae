"""What the flags are raised by, measured on the network before any attack of the protocol."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Cost
from robustbench_lite.attacks.losses import cross_entropy, margin
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import is_out_of_memory, plain_numerics
from robustbench_lite.core.random_numbers import seeded, uniform
from robustbench_lite.evaluation.flags.attack_checks import (
    Attacked,
    broken_by_copies,
    huge_eps,
    loss_scale,
)
from robustbench_lite.evaluation.flags.forward_watch import DerivativeWatch, StateWatch
from robustbench_lite.evaluation.flags.fresh_networks import FreshNetworks
from robustbench_lite.evaluation.flags.gradient_agreement import gradient_disagrees, moves
from robustbench_lite.evaluation.flags.history_checks import history_check
from robustbench_lite.evaluation.flags.input_gradient import missing_gradient
from robustbench_lite.evaluation.flags.input_trace import Trace, normalisations
from robustbench_lite.evaluation.flags.logit_gaps import logit_gaps
from robustbench_lite.evaluation.flags.thresholds import FLAGS, Check, NetworkChecks

ATTACKED = 64  # correct examples that the checks by PGD look at
_THRESHOLDS = {flag.name: flag.threshold for flag in FLAGS}
_TINY = 1e-12  # AutoAttack adds this to a gradient's norm before it divides by it
_TRACED = 4  # images of the watched pass


def measure_flags(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    seed: int,
    batch_size: int,
    passes: int,
    fresh: FreshNetworks | None = None,
) -> NetworkChecks:
    """Everything about a network that needs no attack of the protocol.

    Forward passes and gradients are looked at on all examples, what needs PGD on the first 64 that
    the network has right. The network is left as it was, batch norm's running statistics too.
    Of a network that gives no gradient the `flag_rules.OF_GRADIENTS` have 0 points.

    Args:
        model: the network, on the device of `x`.
        x: images (N, C, H, W) in [0, 1], N at least 1; example n has id n.
        y: labels (N,), int64.
        threat: norm and radius; PGD works at this radius.
        seed: of every random draw.
        batch_size: rows per forward pass.
        passes: forward passes of the verifier; above 1 the majority says what PGD broke.
        fresh: copies of the network before its first pass; taken here where None is given.

    Raises:
        InputError: when a logit is NaN or infinite.

    Cost:
        `flags_cost`; and of a randomised network 6 forwards more per example, 9 where a gradient
        is zero, and up to 231 and 7 backwards for each of the 64 where gradients disagree.
    """
    fresh = fresh or FreshNetworks(model)
    state = StateWatch(model)
    with attacked(model), plain_numerics():
        trace = _watch(model, x, seed=seed)
        seen = _look(model, x, y, batch_size=batch_size)
        most = ATTACKED if seen.differentiable else 0  # PGD needs gradients
        first = (seen.logits.argmax(dim=1) == y).nonzero().flatten()[:most]
        examples = Attacked(model, x[first], y[first], first, seed, batch_size, passes)
        crafted = broken_by_copies(examples, threat)
        logits = _logit_checks(seen)
        randomised = logits["randomised"].value > _THRESHOLDS["randomised"]
        if randomised:
            logits["batch_dependent"] = _with_the_same_draws(
                model, x, batch_size=batch_size, seed=seed
            )
        checks = {
            **logits,
            "zero_gradients": _zero_gradients(model, x, y, seen, threat, seed, batch_size),
            "nan_gradients": Check((~seen.finite).double().mean().item(), seen.with_gradients),
            "double_normalisation": Check(float(normalisations(trace.states, x)), len(x)),
            "gradient_disagrees": gradient_disagrees(examples, threat, randomised=randomised),
            "loss_scale": loss_scale(examples, seen.margins[first], threat),
            "huge_eps": huge_eps(examples, threat),
        }
        # Last, when the network has seen the images and attacks on them.
        checks["answers_depend_on_history"] = history_check(
            model, fresh, x, threat=threat, seed=seed, batch_size=batch_size
        )
    running, others = state.changed()
    state.restore()
    checks["bn_train_mode"] = Check(float(trace.batch_statistics + running), len(x))
    checks["test_time_optimisation"] = Check(float(seen.derivatives + others), len(x))
    return NetworkChecks(checks, len(first), tuple(first[crafted].tolist()))


def flags_cost(n: int, *, gradient: bool = True) -> Cost:
    """Mean passes per example of `measure_flags` on n examples that an honest network has right.

    3 forwards and 2 backwards; for each of the first 64, 198 and 141 more: 33 and 1 of
    `gradient_disagrees`, 159 and 140 of PGD, 6 forwards of `answers_depend_on_history`. Without a
    `gradient` the last 6 alone, and no backward.
    """
    share = min(ATTACKED, n) / n
    if not gradient:
        return Cost(math.ceil(3 + 6 * share), 0)
    return Cost(math.ceil(3 + 198 * share), math.ceil(2 + 141 * share))


@dataclass(frozen=True)
class _Seen:
    """Per example: logits of three passes (N, K), float64; margins and gradients (N,).

    `again` is a pass without gradients; `apart` is one beside other images, in other batches;
    `derivatives` is how many the network computed during the latter; `differentiable` says
    whether it gives gradients at all.
    """

    logits: Tensor
    again: Tensor
    apart: Tensor
    margins: Tensor
    zero: Tensor
    finite: Tensor
    derivatives: int
    differentiable: bool

    @property
    def with_gradients(self) -> int:
        """How many examples gradients were looked at on: all or none."""
        return len(self.logits) if self.differentiable else 0


def _look(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int) -> _Seen:
    batches = torch.split(torch.arange(len(x), device=x.device), batch_size)
    look = _gradients
    try:
        seen = [look(model, x[batches[0]], y[batches[0]])]
    except Exception as error:  # of a user's network: any
        if is_out_of_memory(error) or not missing_gradient(model, x[batches[0]]):
            raise
        look, seen = _without_gradients, []
    seen += [look(model, x[rows], y[rows]) for rows in batches[len(seen) :]]
    logits, margins, zero, finite = (torch.cat(parts) for parts in zip(*seen, strict=True))
    with torch.no_grad():
        again = torch.cat([model(x[rows]).double() for rows in batches])
        with _uncompiled(), DerivativeWatch() as watch:
            apart = _beside_others(model, x, batch_size=min(batch_size, len(x)))
    for each in (logits, again, apart):
        if not bool(torch.isfinite(each).all()):
            bad = int((~torch.isfinite(each)).any(dim=1).nonzero()[0])
            raise InputError(
                f"the network gives NaN or infinite logits on {len(x)} images, first on number "
                f"{bad}: no verdict is possible"
            )
    differentiable = look is _gradients
    return _Seen(logits, again, apart, margins, zero, finite, watch.count, differentiable)


def _zero_gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    seen: _Seen,
    threat: ThreatModel,
    seed: int,
    batch_size: int,
) -> Check:
    """Share of examples that are right, without a gradient, and whose logits change in the ball.

    A network that is flat in the whole ball, as certified ones may be, has no other gradient there.
    """
    suspects = (seen.zero & (seen.logits.argmax(dim=1) == y)).nonzero().flatten()
    counted = 0
    for rows in torch.split(suspects, batch_size) if len(suspects) else ():
        counted += int(moves(model, x[rows], rows, threat, seed=seed).sum())
    return Check(counted / len(x), seen.with_gradients)


def _without_gradients(
    model: nn.Module, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_gradients`, of a network that gives none: nothing is known to be zero or not finite."""
    with torch.no_grad():
        logits = model(x).float()
    none = torch.zeros_like(y, dtype=torch.bool)
    return logits.double(), margin(logits, y), none, ~none


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, K), margins (B,), and whether both gradients are zero (B,) and finite (B,)."""
    images = x.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        logits = model(images).float()
        margins = margin(logits, y)
        losses = (cross_entropy(logits, y).sum(), margins.sum())
        kept = torch.autograd.grad(losses[0], images, retain_graph=True)
        both = torch.cat([*kept, *torch.autograd.grad(losses[1], images)], dim=1).flatten(1)
    zero = both.abs().amax(dim=1) <= _TINY
    return logits.detach().double(), margins.detach(), zero, torch.isfinite(both).all(dim=1)


def _beside_others(model: nn.Module, x: Tensor, *, batch_size: int) -> Tensor:
    """Logits (N, K) from batches of half the size and of images that were far apart.

    A single image, or images that were alone, get company: a negative if there is no other.
    """
    size = 2 if batch_size == 1 else -(-batch_size // 2)
    strides = -(-len(x) // size)
    order = torch.argsort(torch.arange(len(x), device=x.device) % strides, stable=True)
    images = torch.cat([x, 1.0 - x]) if len(x) == 1 else x[order]
    logits = torch.cat([model(part).double() for part in torch.split(images, size)])[: len(x)]
    return torch.empty_like(logits).index_copy_(0, order, logits)


def _with_the_same_draws(model: nn.Module, x: Tensor, *, batch_size: int, seed: int) -> Check:
    """Does a randomised network look at the images beside one? The value of `batch_dependent`.

    The images stay where they are in their batches and the generators begin at the same seed; only
    the other half of each batch changes. No point where the same batch gives other logits even so:
    the network draws from a source that cannot be seeded.
    """
    half = max(batch_size // 2, 1)
    passes: list[list[Tensor]] = [[], [], []]
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        for rows in torch.split(torch.arange(len(x), device=x.device), half):
            others = x[(rows + half) % len(x)]
            for which, company in zip(passes, (others, others, 1.0 - others), strict=True):
                with seeded(seed):
                    which.append(model(torch.cat([x[rows], company]))[: len(rows)].double())
    first, again, beside = (torch.cat(each) for each in passes)
    if _apart(first, again) > _THRESHOLDS["randomised"]:
        return Check(0.0, 0)
    return Check(_apart(first, beside), len(x))


def _apart(logits: Tensor, others: Tensor) -> float:
    return logit_gaps(logits, others).max().item()


def _logit_checks(seen: _Seen) -> dict[str, Check]:
    n, whole = len(seen.logits), seen.logits
    sums = (whole.sum(dim=1) - 1.0).abs().max()
    probabilities = (whole.min() > -1e-5) & (whole.max() < 1.0 + 1e-5) & (sums < 1e-5)
    return {
        "batch_dependent": Check(_apart(seen.again, seen.apart), n),
        "randomised": Check(_apart(seen.logits, seen.again), n),
        "probabilities": Check(float(probabilities), n),
    }


def _watch(model: nn.Module, x: Tensor, *, seed: int) -> Trace:
    """One pass of a few noise images: what happens to them does not depend on what they show."""
    ids = torch.arange(_TRACED, device=x.device)
    shape = torch.Size((_TRACED, *x.shape[1:]))
    probe = uniform(shape, ids=ids, seed=seed, stream="flags/trace", restart=0, step=0)
    trace = Trace(probe)
    with torch.no_grad(), _uncompiled(), trace:
        model(probe)
    return trace


def _uncompiled() -> AbstractContextManager[object]:
    """Compiled code runs as written inside the block: the compiler would compile the watching too.

    Before torch 2.6 there is no such switch, and a compiled network is watched through a warning.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")
