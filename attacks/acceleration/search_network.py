"""A faster network with the same function, for attacks to search on; it never gives a verdict."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustbench_lite.attacks.acceleration.batch_norm_folding import (
    fold_batch_norms,
    has_hooks,
    replace_module,
)
from robustbench_lite.attacks.acceleration.half_precision import InFloat16
from robustbench_lite.attacks.acceleration.input_convolution import InputConvolution
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import is_out_of_memory
from robustbench_lite.core.random_numbers import seeded, uniform

Precision = Literal["float32", "mixed"]
_PROBES = 4
_SAME = 1e-4  # of the largest logit: rounding of folded weights, with a margin for depth
_NEAR = 0.05  # of the largest logit, for float16
_HEADROOM = 5  # powers of two that float16 must have to spare on the probes
_FITS_IN_CACHE = 2**19  # numbers: 2 MB, a core's second-level cache
_DEEP = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchNetwork:
    """A network to search on, and what was done to get it.

    Args:
        module: maps (B, C, H, W) in [0, 1] to float32 logits (B, K).
        notes: one line each: what could not be changed, and last what was.
    """

    module: nn.Module
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What the search runs on, in a line."""
        return self.notes[-1]


def search_network(
    model: nn.Module, *, precision: Precision, device: torch.device, like: Tensor
) -> SearchNetwork:
    """A network equal to `model` up to rounding, made for forward passes and input gradients.

    A private copy, frozen, in eval mode: batch norms are folded into the convolutions before them;
    on a CPU the convolution that reads the image gets a faster input gradient, and convolutions see
    their maps channels last where that pays. What is done follows from the network, the device and
    the precision, never from a clock, so it is the same each time. The copy is compared with the
    model on a few images, in the numerics that the caller has set (TF32 alone differs by more than
    folding may); where it differs, less is done, down to the model itself. A network that fails on
    those images is returned as it is: whoever runs it next will say why.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K); on `device`. Stays as it is.
        precision: `"float32"`, or `"mixed"` for float16 passes (see `InFloat16`), unless they
            come near to overflow on the images looked at.
        device: where the search runs.
        like: one image (C, H, W) in [0, 1].

    Raises:
        InputError: for an unknown precision.
        RuntimeError: torch's own, when memory runs out.

    Cost:
        About 10 to 30 forwards of a single image, and 4 backwards with `"mixed"`.
    """
    if precision not in get_args(Precision):
        raise InputError(f"precision={precision!r} is unknown; available: float32, mixed")
    probes = _probes(like.to(device))
    module, notes = model, []
    try:
        expected = _logits(model, probes)
        for plan in _plans(precision, device):
            faster, note = plan.carried_out(model, probes, expected)
            notes.append(note)
            if faster is not None:
                module = faster
                break
        else:
            notes.append("searches on the network itself")
    except Exception as error:  # a user's network may fail in any way; without a copy it may not
        if is_out_of_memory(error):
            raise
        notes.append(f"searches on the network itself: {_described(error)}")
    for note in notes:
        logger.info("search network: %s", note)
    return SearchNetwork(module, tuple(notes))


def _probes(like: Tensor) -> Tensor:
    """The image, and the image with more and more noise; (4, C, H, W)."""
    images = like.detach().expand(_PROBES, *like.shape).float()
    ids = torch.arange(_PROBES, device=like.device)
    noise = uniform(images.shape, ids=ids, seed=0, stream="probe", restart=0, step=0)
    share = (ids / (_PROBES - 1)).view(-1, 1, 1, 1)
    return (1.0 - share) * images + share * noise


@dataclass(frozen=True)
class _Plan:
    """What to do to a copy.

    Args:
        float16: passes in half precision.
        channels_last: `"all"` convolutions, those where it `"pays"` on a CPU, or `"none"`.
    """

    float16: bool
    channels_last: Literal["all", "pays", "none"]

    def carried_out(
        self, model: nn.Module, probes: Tensor, expected: Tensor
    ) -> tuple[nn.Module | None, str]:
        """The changed copy and a note on it; or None, and why it will not do."""
        name = "float16" if self.float16 else "float32"
        network = _private_copy(model)
        done = []
        try:
            done.append(("batch norms folded", fold_batch_norms(network, probes)))
            if probes.device.type == "cpu":
                done.append(("faster input gradients", _replace_input_convolutions(network)))
            if self.channels_last != "none":
                chosen = _channels_last(network, everywhere=self.channels_last == "all")
                done.append(("channels last", chosen))
            network.eval()  # what was put in, too
            fault = _fault(network, probes, expected, _SAME)
            if self.float16 and not fault:
                fault = _overflow(network, probes)
                network = InFloat16(network, channels_last=self.channels_last == "all")
                fault = fault or _fault(network, probes, expected, _NEAR)
        except Exception as error:  # for instance a view() that channels last does not allow
            if is_out_of_memory(error):
                raise  # another time it might not run out, and the search would be another one
            fault = _described(error)
        counts = ", ".join(f"{what} {count}" for what, count in done)
        if fault:
            return None, f"not {name} with {counts}: {fault}"
        return network, f"{name} with {counts}"


def _plans(precision: Precision, device: torch.device) -> list[_Plan]:
    """From the fastest to the plainest."""
    plain = _Plan(float16=False, channels_last="none")
    plans = [_Plan(float16=False, channels_last="pays")] if device.type == "cpu" else []
    plans.append(plain)
    if precision == "mixed":
        # Tensor cores want channels last.
        formats: tuple[Literal["all", "none"], ...] = (
            ("all", "none") if device.type == "cuda" else ("none",)
        )
        plans = [_Plan(float16=True, channels_last=each) for each in formats] + plans
    return plans


def _private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, parameters frozen, that shares nothing with the model."""
    network = copy.deepcopy(model)
    shared = {id(part) for part in _parts(network)} & {id(part) for part in _parts(model)}
    if shared:
        raise InputError("its deep copy shares modules, parameters or buffers with it")
    return network.eval().requires_grad_(False)


def _parts(model: nn.Module) -> Iterator[object]:
    yield from model.modules()
    yield from model.parameters()
    yield from model.buffers()


def _replace_input_convolutions(network: nn.Module) -> int:
    chosen = [m for m in network.modules() if InputConvolution.fits(m) and not has_hooks(m)]
    for module in chosen:
        assert isinstance(module, nn.Conv2d)
        replace_module(network, module, InputConvolution(module))
    return len(chosen)


def _channels_last(network: nn.Module, *, everywhere: bool) -> int:
    """Choose each convolution's memory format; activations follow. Returns how many changed.

    Tensor cores want it everywhere. On a CPU it spares the kernels a conversion of what they read
    and write (20 to 40% of a convolution on large maps), but they are slow where the weights do not
    fit in a core's cache (by 20 to 130%), and with one or two convolutions the conversions at
    both ends cost what it saves.
    """
    convolutions = [
        module
        for module in network.modules()
        if type(module) is nn.Conv2d or isinstance(module, InputConvolution)
    ]
    if everywhere:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return len(convolutions)
    if len(convolutions) < _DEEP:
        return 0
    chosen = [each for each in convolutions if each.weight.numel() < _FITS_IN_CACHE]
    for module in convolutions:
        if module in chosen:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            module.register_forward_pre_hook(_make_contiguous)
    return len(chosen)


def _make_contiguous(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0].contiguous(), *args[1:]) if args else args


def _fault(network: nn.Module, probes: Tensor, expected: Tensor, allowed: float) -> str:
    """How the logits differ from what is expected, or nothing."""
    gap = (_logits(network, probes) - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return "" if gap <= allowed else f"logits differ by {float(gap):.2g} of the largest"


def _overflow(network: nn.Module, probes: Tensor) -> str:
    """Why a network is near to overflow in float16, or nothing."""
    with _Largest() as seen:
        _logits(network, probes)
    limit = torch.finfo(torch.float16).max / 2**_HEADROOM
    if not seen.magnitude() <= limit:
        return f"values up to {seen.magnitude():.3g} inside, and float16 is safe to {limit:.0f}"
    strained = InFloat16(network, channels_last=False, headroom=_HEADROOM)
    return "" if _lead_gradient(strained, probes).isfinite().all() else "gradients overflow"


def _lead_gradient(network: nn.Module, x: Tensor) -> Tensor:
    """Input gradient of the lead of the first class over the second, however confident."""
    x = x.detach().requires_grad_(True)
    with attacked(network), torch.enable_grad():
        top = network(x).float().topk(2, dim=1).values  # (B, 2)
        (gradient,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), x)
    return gradient


def _logits(network: nn.Module, x: Tensor) -> Tensor:
    """A forward pass in eval mode; randomised networks draw the same each time."""
    devices = [x.device] if x.device.type == "cuda" else []
    with attacked(network), torch.no_grad(), torch.random.fork_rng(devices=devices), seeded(0):
        logits: Tensor = network(x)
    return logits.float()


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the largest magnitude that any operator gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Tensor] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel():
                self.seen.append(leaf.abs().max().float())
        return out

    def magnitude(self) -> float:
        return float(torch.stack(self.seen).max()) if self.seen else 0.0
