"""Training on perturbed weights: AWP, and corruption-resistant training (SAM is its case).

A step's gradient is taken at weights moved against the loss, and applied to the weights as they
were. Only weights of two or more dimensions move: BatchNorm's and biases stay.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import Objective


@dataclass(frozen=True)
class WeightPerturbation(ABC):
    """How a step's gradients are found."""

    @abstractmethod
    def backward(
        self,
        objective: Callable[[], Objective],
        model: nn.Module,
        epoch: int,
        *,
        beside: Sequence[nn.Module] = (),
    ) -> Objective:
        """Fill every `.grad` (which come as None), and say what was minimised.

        Args:
            objective: evaluates the loss at the weights as they are; may be called repeatedly.
            model: the network whose weights move; they are back, bit for bit, afterwards.
            epoch: from 1.
            beside: networks trained with it, whose weights stay where they are.
        """


@dataclass(frozen=True)
class Unperturbed(WeightPerturbation):
    """Plain gradients."""

    def backward(
        self,
        objective: Callable[[], Objective],
        model: nn.Module,
        epoch: int,
        *,
        beside: Sequence[nn.Module] = (),
    ) -> Objective:
        """The gradient at w."""
        del model, epoch, beside
        result = objective()
        result.loss.backward()  # type: ignore[no-untyped-call]
        return result


@dataclass(frozen=True)
class Awp(WeightPerturbation):
    """Adversarial weight perturbation (Wu, Xia, Wang 2020, arXiv:2004.05884, Eq. 8-10).

    Each weight tensor moves by v_l = gamma ||w_l|| g_l / ||g_l||, g the gradient of the method's
    own loss on the images crafted at w; the step's gradient is that at w + v. The pass that finds
    g leaves BatchNorm's statistics alone (the authors use a copy of the network), the pass at
    w + v updates them.

    Args:
        gamma: relative size of the move, 0.005 in common use.
        begin_epoch: first epoch (from 1) with a perturbation; before it, plain gradients.
    """

    gamma: float
    begin_epoch: int

    def __post_init__(self) -> None:
        if self.gamma < 0.0:
            raise InputError(f"weight_perturbation.gamma={self.gamma} must be at least 0")

    def backward(
        self,
        objective: Callable[[], Objective],
        model: nn.Module,
        epoch: int,
        *,
        beside: Sequence[nn.Module] = (),
    ) -> Objective:
        """The gradient at w + v; before `begin_epoch` that at w."""
        if epoch < self.begin_epoch:
            return Unperturbed().backward(objective, model, epoch)
        weights = _weights(model)
        with _buffers_kept(model, *beside):
            gradients = _gradients(objective().loss, weights)
        moves = [self.gamma * _to_length_of(w, g) for w, g in zip(weights, gradients, strict=True)]
        with _moved(weights, moves):
            return Unperturbed().backward(objective, model, epoch)


@dataclass(frozen=True)
class Corruption(WeightPerturbation):
    """Corruption-resistant training (Sun et al. 2021, arXiv:2006.05620), re-derived.

    The gradient is (1 - mix) grad L(w) + mix grad L(w + a), a the worst corruption of the batch's
    loss in the L_p ball of radius eps over all weights together. With p = 2, steps = 1 and mix = 1
    this is SAM (Foret et al. 2021, arXiv:2010.01412). The formulas are re-derived from the
    abstract; mix = 1/2 as a default is not verified.

    Args:
        eps: radius over the flattened weights.
        p: of the norm, above 1; `inf` allowed.
        steps: 1 for the first-order corruption, more for projected ascent with steps of 1.5 eps/T.
        mix: weight of the gradient at the corrupted weights, in [0, 1].
    """

    eps: float
    p: float
    steps: int
    mix: float

    def __post_init__(self) -> None:
        if self.eps < 0.0 or self.p <= 1.0 or self.steps < 1 or not 0.0 <= self.mix <= 1.0:
            raise InputError(
                f"weight_perturbation eps={self.eps}, p={self.p}, steps={self.steps}, "
                f"mix={self.mix}: eps is at least 0, p above 1, steps at least 1, mix in [0, 1]"
            )

    def backward(
        self,
        objective: Callable[[], Objective],
        model: nn.Module,
        epoch: int,
        *,
        beside: Sequence[nn.Module] = (),
    ) -> Objective:
        """The mix of the gradients at w and at w + a."""
        del epoch
        result = objective()
        result.loss.backward()  # type: ignore[no-untyped-call]
        weights = _weights(model)
        first = _flat([_gradient_of(w) for w in weights])

        def loss_and_gradient(corruption: Tensor) -> tuple[Tensor, Tensor]:
            with _moved(weights, _split(corruption, weights)), torch.enable_grad():
                loss = objective().loss
                return loss.detach(), _flat(_gradients(loss, weights))

        with _buffers_kept(model, *beside):
            worst = worst_corruption(
                loss_and_gradient, first, eps=self.eps, p=self.p, steps=self.steps
            )
            networks = (model, *beside)
            everything = [p for net in networks for p in net.parameters() if p.requires_grad]
            plain = [_gradient_of(parameter).clone() for parameter in everything]
            with _moved(weights, _split(worst, weights)):
                corrupted = _gradients(objective().loss, everything)
        for parameter, at_w, at_worst in zip(everything, plain, corrupted, strict=True):
            parameter.grad = (1.0 - self.mix) * at_w + self.mix * at_worst
        return result


def steepest_corruption(gradient: Tensor, *, eps: float, p: float, n: int | None = None) -> Tensor:
    """The a of ||a||_p = eps with at most n entries that maximises a^T g (Hoelder's equality).

    Args:
        gradient: g, flat (k,).
        eps: length of a.
        p: above 1; `inf` allowed.
        n: entries that may differ from 0; those of the n largest |g|, the lower place on a tie.
            None allows all.

    Returns:
        a (k,); zero where g is.
    """
    kept = _largest(gradient, n)
    if math.isinf(p):
        return eps * kept.sign()
    shape = kept.abs() ** (1.0 / (p - 1.0))  # |h|^(q - 1), q = p / (p - 1)
    length = torch.linalg.vector_norm(shape, ord=p)
    return eps * kept.sign() * shape / length if length > 0 else torch.zeros_like(kept)


def worst_corruption(
    loss_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    first_gradient: Tensor,
    *,
    eps: float,
    p: float,
    steps: int,
    n: int | None = None,
) -> Tensor:
    """Projected gradient ascent on weights; one step is `steepest_corruption` itself.

    Args:
        loss_and_gradient: L(w + a) (0-dim) and its gradient (k,) at a corruption a (k,).
        first_gradient: the gradient at a = 0.
        eps: radius of the ball ||a||_p <= eps.
        p: above 1; `inf` allowed.
        steps: T; each step has length 1.5 eps / T (eps when T = 1).
        n: entries that may differ from 0.

    Returns:
        The iterate of the largest loss (k,).
    """
    if steps == 1:
        return steepest_corruption(first_gradient, eps=eps, p=p, n=n)
    corruption, gradient = torch.zeros_like(first_gradient), first_gradient
    best, best_loss = corruption, torch.full_like(first_gradient.sum(), -torch.inf)
    for _ in range(steps):
        move = steepest_corruption(gradient, eps=1.5 * eps / steps, p=p, n=n)
        corruption = _into_ball(corruption + move, eps=eps, p=p, n=n)
        loss, gradient = loss_and_gradient(corruption)
        if loss > best_loss:
            best, best_loss = corruption, loss
    return best


def _into_ball(corruption: Tensor, *, eps: float, p: float, n: int | None) -> Tensor:
    kept = _largest(corruption, n)
    if math.isinf(p):
        return kept.clamp(-eps, eps)
    length = torch.linalg.vector_norm(kept, ord=p)
    return kept * (eps / length) if length > eps else kept


def _largest(values: Tensor, n: int | None) -> Tensor:
    """`values` with all but the n largest in size set to 0; the lower place wins a tie."""
    if n is None or n >= len(values):
        return values
    places = values.abs().sort(descending=True, stable=True).indices[:n]
    return torch.zeros_like(values).index_copy(0, places, values[places])


def _weights(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]


def _gradient_of(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Of each parameter; zeros for one that the loss does not see."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    ]


def _to_length_of(weight: Tensor, gradient: Tensor) -> Tensor:
    # 1e-20 as in the authors' code: a weight without gradient does not move.
    move: Tensor = gradient * (weight.norm() / (gradient.norm() + 1e-20))
    return move


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _split(flat: Tensor, like: list[nn.Parameter]) -> list[Tensor]:
    sizes = [parameter.numel() for parameter in like]
    parts = flat.split(sizes)  # type: ignore[no-untyped-call]
    return [part.view(parameter.shape) for part, parameter in zip(parts, like, strict=True)]


@contextmanager
def _moved(weights: list[nn.Parameter], moves: list[Tensor]) -> Iterator[None]:
    """Weights moved inside the block; copied back after, so that not a bit is lost."""
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.add_(move)
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


@contextmanager
def _buffers_kept(*networks: nn.Module) -> Iterator[None]:
    """BatchNorm's statistics as they were, after passes that are no training passes."""
    before = [(buffer, buffer.clone()) for net in networks for buffer in net.buffers()]
    try:
        yield
    finally:
        for buffer, old in before:
            buffer.copy_(old)
