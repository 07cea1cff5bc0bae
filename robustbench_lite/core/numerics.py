"""What fixes the bits of a run: threads, TF32, cuDNN, deterministic kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from robustbench_lite.core.errors import InputError


def choose_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        InputError: for a device that is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device: torch.device | None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is unknown: auto, cpu, cuda or cuda:<index>")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name!r} is not there: this machine has {torch.cuda.device_count()} CUDA "
            "devices visible to torch; use --device cpu"
        )
    return device


def device_name(device: torch.device) -> str:
    """The card's name, or `cpu` with its vector instructions: other hardware gives other bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def check_count(name: str, value: object) -> None:
    """Raise InputError for anything but an int of at least 1.

    Args:
        name: of the value, for the message.
        value: as a caller gave it.
    """
    if type(value) is not int:
        raise InputError(f"{name}={value!r} is a {type(value).__name__}; it must be an int")
    if value < 1:
        raise InputError(f"{name}={value} must be at least 1")


def check_seed(seed: object) -> None:
    """Raise InputError for a seed that is no int, or that torch's generator does not take."""
    if type(seed) is not int:
        raise InputError(f"seed={seed!r} is a {type(seed).__name__}; it must be an int")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed={seed} must be at least 0 and below 2**63")


@contextmanager
def deterministic(*, threads: int, seed: int) -> Iterator[None]:
    """Repeatable kernels inside the block; torch's settings are put back after.

    Args:
        threads: CPU threads of torch; 1 and 2 threads already give different logit bits.
        seed: torch's own generator starts here (ours draw by counter; randomised models and
            third-party attacks use it).
    """
    # cuBLAS reads this when its handle is made; without it matmuls may differ between runs.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # a module whose class has properties
    filled = memory.fill_uninitialized_memory
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            torch.set_num_threads(threads)
            cudnn.deterministic, cudnn.benchmark = True, False
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Nothing here reads memory that it has not written; the fill would touch every tensor.
            memory.fill_uninitialized_memory = False
            yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)


@contextmanager
def out_of_memory_as_input_error(what: str, batch_size: int, advice: str) -> Iterator[None]:
    """One line instead of a traceback when memory runs out inside the block.

    Args:
        what: was being done.
        batch_size: it was done with.
        advice: what to do.

    Raises:
        InputError: for torch's error, whichever device it is of.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{what}: out of device memory with batches of {batch_size}; {advice}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that the device has no more memory; a CPU has no error class for it."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


@contextmanager
def plain_numerics() -> Iterator[None]:
    """Float32 as it is: TF32, bfloat16 and autocast off inside the block.

    For matmuls and convolutions, on CUDA and in oneDNN; whatever a network's file set, and by
    whichever of torch's two ways of setting it, is put back after.
    """
    before, precisions = _tf32(), [(place, place.fp32_precision) for place in _PLACES]
    try:
        # The older switches too: torch refuses to read them while they say something else.
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        for place in _PLACES:
            place.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        matmul, convolution = before
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if convolution is not None:
            torch.backends.cudnn.allow_tf32 = convolution
        for place, precision in precisions:
            place.fp32_precision = precision


def _places() -> list[Any]:
    """Where torch keeps the precision of float32, the general before the special (torch 2.9 on)."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return []
    cudnn, onednn = backends.cudnn, backends.mkldnn
    nested = [cudnn.conv, cudnn.rnn, onednn.matmul, onednn.conv, onednn.rnn]
    return [backends, backends.cuda.matmul, cudnn, onednn, *nested]


_PLACES = _places()


def _tf32() -> tuple[str | None, bool | None]:
    """What the older switches say; None where torch will not tell, as they were set two ways."""
    matmul, convolution = None, None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolution = bool(torch.backends.cudnn.allow_tf32)
    return matmul, convolution
