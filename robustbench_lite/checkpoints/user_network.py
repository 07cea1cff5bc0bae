"""Networks of the user's own code: whatever goes wrong in them ends in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from torch import Tensor, inference_mode, nn
from torch.nn.parameter import is_lazy

from robustbench_lite.checkpoints.user_imports import FolderImports
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import described
from robustbench_lite.core.numerics import is_out_of_memory


class NetworkError(InputError):
    """The code of a network raised something, or returned what is no logits."""


class UserNetwork(nn.Module):
    """A network whose code is the user's: every pass raises `NetworkError` or gives logits.

    Logits are a floating-point tensor `(B, K)` on the device of the images, with the same K in
    every pass. Whether they are finite is for those to look at who use them. Logits that come
    inside something else are taken out (see `unwrapped`), and `output` says of what.

    Args:
        network: the user's.
        name: of the network, for messages.
        imports: the folder that its code imports from, also inside a pass; None for no folder.
    """

    def __init__(self, network: nn.Module, name: str, imports: FolderImports | None = None) -> None:
        super().__init__()
        self.network, self.name, self.imports = network, name, imports
        self.training = network.training
        self.classes: int | None = None  # K, once known
        self.output = ""  # where the logits were found, once known; empty when nowhere else

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W), checked in shape, type and device."""
        importing = self.imports.active() if self.imports else nullcontext()
        with importing, user_code(f"model {self.name} fails on images of shape {tuple(x.shape)}"):
            logits, self.output = unwrapped(self.network(x))
        found = check_logits(logits, x, name=f"model {self.name}", classes=self.classes)
        if self.classes not in (None, found.shape[1]):
            raise NetworkError(
                f"model {self.name} gives {found.shape[1]} classes for {len(x)} images, and gave "
                f"{self.classes} before: it must always give the same"
            )
        self.classes = found.shape[1]
        return found


def unwrapped(output: object) -> tuple[object, str]:
    """The logits in what a network returned: the first of a tuple, or what is named `logits`.

    Args:
        output: a tensor; or a tuple, a mapping with the key `logits`, or an object with
            that attribute, as the networks of several libraries return.

    Returns:
        The logits, unchecked, and where they were found; `output` itself and an empty text where
        there is nothing to take out.
    """
    if isinstance(output, Tensor):
        return output, ""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"], f"'logits' of a {type(output).__name__}"
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits, f".logits of a {type(output).__name__}"  # type: ignore[attr-defined]
    if isinstance(output, tuple) and output:
        return output[0], f"the first of a tuple of {len(output)}"
    return output, ""


def output_of(model: nn.Module) -> dict[str, str]:
    """What the header of a run says of a network whose logits are taken out of something else."""
    output = model.output if isinstance(model, UserNetwork) else ""
    return {"model_output": output} if output else {}


def check_logits(logits: object, x: Tensor, *, name: str, classes: int | None) -> Tensor:
    """What a network returned, if it has the form of logits.

    Args:
        logits: what it returned.
        x: images (B, C, H, W) that it was given.
        name: of the network, for the message.
        classes: K that it should have, for the message; None where it is not known.

    Raises:
        NetworkError: for anything but a floating-point tensor (B, K) on the device of the images.
    """
    n, wanted = len(x), f"({len(x)}, {classes or 'K'})"
    if not isinstance(logits, Tensor):
        raise NetworkError(
            f"{name} returns a {type(logits).__name__}; it must return logits {wanted}"
        )
    if classes in (None, 2) and logits.shape in ((n,), (n, 1)):
        raise NetworkError(
            f"{name} gives one number an image; it must give floating-point logits ({n}, 2): of z "
            "(B,) before the sigmoid return torch.stack([torch.zeros_like(z), z], 1)"
        )
    if not logits.is_floating_point() or logits.dim() != 2 or logits.shape[0] != n:
        raise NetworkError(
            f"{name} gives {tuple(logits.shape)} {logits.dtype} for {n} images; it must give "
            f"floating-point logits {wanted}"
        )
    if logits.device != x.device:
        raise NetworkError(f"{name} gives logits on {logits.device} for images on {x.device}")
    return logits


def make_usable(network: nn.Module, name: str) -> None:
    """Weights that were made under `torch.inference_mode()` become weights that can be attacked.

    Args:
        network: changed in place; weights that modules share stay shared.
        name: of the network, for the message.

    Raises:
        NetworkError: for lazy layers, whose shape is not known before their first batch.
    """
    copies: dict[int, Tensor] = {}
    for prefix, module in network.named_modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                if tensor is None:
                    continue
                if is_lazy(tensor):
                    raise NetworkError(
                        f"model {name} has a lazy layer without weights ({prefix or key}): run one "
                        "batch of images through the network before the factory returns it"
                    )
                if tensor.is_inference():
                    tensors[key] = copies.setdefault(id(tensor), _usable(tensor))


def _usable(tensor: Tensor) -> Tensor:
    """A copy that autograd takes."""
    with inference_mode(False):
        copy = tensor.detach().clone()
        return nn.Parameter(copy) if isinstance(tensor, nn.Parameter) else copy


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """A block that runs code of the user's: what it raises becomes one line.

    `SystemExit` and other exceptions that end programs too: a network may not end the command.

    Args:
        what: fails if something is raised, for the message.

    Raises:
        NetworkError: for whatever is raised but Ctrl-C, our own lines, and a lack of memory, which
            is not the network's fault.
    """
    try:
        yield
    except (KeyboardInterrupt, InputError):
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise
        raise NetworkError(f"{what}: {described(error)}") from error


@contextmanager
def passes_of(model: nn.Module, where: str = "") -> Iterator[None]:
    """A block that runs a network, forwards and backwards; `where` begins the lines on its faults.

    Outside of forward passes the code of a `UserNetwork` runs in backward passes and where it is
    copied; an attack may also fail on gradients that such a network does not give. Of a network
    that is not the user's code an exception is a fault of ours, and stays what it is.

    Args:
        model: the network.
        where: what is being done.

    Raises:
        NetworkError: as of `user_code`. The system's own errors stay: they may be of our files.
    """
    try:
        yield
    except NetworkError as error:
        if not where:
            raise
        raise NetworkError(f"{where}: {error}") from error
    except (KeyboardInterrupt, InputError):
        raise
    except BaseException as error:
        of_system = isinstance(error, OSError) and error.errno is not None
        if not isinstance(model, UserNetwork) or of_system or is_out_of_memory(error):
            raise
        what = f"{where}: " if where else ""
        what += f"fails on model {model.name}, perhaps in its backward pass"
        raise NetworkError(f"{what}: {described(error)}; -v shows where") from error
