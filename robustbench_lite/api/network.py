"""A network in memory, made ready: in eval mode, checked, with its identity; left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.api.identity import network_hash, pieces_of
from robustbench_lite.checkpoints.checkpoint import parameter_count, put_on_device
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.checkpoints.user_network import UserNetwork, user_code
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import choose_device
from robustbench_lite.core.random_numbers import seeded

Network = nn.Module | Callable[[Tensor], Any] | LoadedModel | str | Path


class FunctionNetwork(nn.Module):
    """A plain function as a network; the modules that it uses are its parts.

    Args:
        function: maps images (B, C, H, W) to logits (B, K).
        pieces: what it computes with; see `pieces_of`.
    """

    def __init__(self, function: Callable[[Tensor], Any], pieces: list[object]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(piece for piece in pieces if isinstance(piece, nn.Module))

    def forward(self, x: Tensor) -> Any:
        """Whatever the function returns."""
        return self.function(x)

    def __deepcopy__(self, memo: object) -> FunctionNetwork:
        raise TypeError("a plain function cannot be copied with its network: give an nn.Module")


@contextmanager
def ready(
    model: Network, *, name: str | None = None, device: str | torch.device | None = None
) -> Iterator[tuple[LoadedModel, torch.device]]:
    """A block with a network that is ready for attacks; afterwards it is as it was.

    Inside, the modes are eval, and gradients can be had, whatever the caller has switched off.
    The random states of torch, numpy and Python, which a network may draw from, come back too.

    Args:
        model: a module, any other callable that maps images (B, C, H, W) in [0, 1] to logits
            (B, K), a network of `resolve_model`, or the folder of a checkpoint.
        name: in tables; by default that of its class or function.
        device: where to compute; by default where the network is.

    Returns:
        The network with its identity, and the device.

    Raises:
        InputError: for what is no network, and whatever fails in its code, in one line.
    """
    with _random_states_kept(), torch.inference_mode(False), torch.enable_grad():
        source = _source(model, name)
        home = _home(source.model)
        modes = [(module, module.training) for module in source.model.modules()]
        place = choose_device(str(device or home or "cpu"))
        try:
            source.model.eval()
            if home != place:
                put_on_device(source.model, place)
            yield source, place
        finally:
            for module, training in modes:
                module.training = training
            if home is not None and home != place:
                source.model.to(home)


def classes_of(source: LoadedModel, x: Tensor) -> int:
    """K: how many logits a network gives. One forward pass, of a copy where it can be copied.

    Args:
        source: in eval mode.
        x: an image (1, C, H, W) on its device.

    Raises:
        InputError: when the pass fails or gives no logits.
    """
    model = source.model
    lazy = any(nn.parameter.is_lazy(one) for one in model.parameters())
    if not lazy:  # a pass may change a network; one that is lazy has to be changed
        try:
            model = copy.deepcopy(model)
        except Exception:  # a user's network may fail to be copied in any way
            model = source.model
    with torch.no_grad(), user_code(f"model {source.name} fails on an image {tuple(x.shape)}"):
        return int(model(x).shape[1])


def identified(source: LoadedModel) -> LoadedModel:
    """The network with its hash; lazy weights have to be there, as after `classes_of`."""
    if source.hash:
        return source
    network: nn.Module = source.model.network  # type: ignore[assignment]
    pieces = pieces_of(network.function) if isinstance(network, FunctionNetwork) else []
    with user_code(f"model {source.name} cannot be hashed"):
        return LoadedModel(
            model=source.model,
            name=source.name,
            kind="factory",
            hash=network_hash(network, pieces),
            card=None,
            num_classes=None,
            parameters=parameter_count(network),
        )


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """A block in which the global generators start anew, and after which they are as before."""
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))), seeded(0):
        yield


def _source(model: Network, name: str | None) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, str | Path):
        return resolve_model(str(model), allow_code=False, device="cpu")
    if isinstance(model, type) or not callable(model):
        what = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(
            f"model is {what}; give an nn.Module, a function of images (B, C, H, W) in [0, 1] "
            "that returns logits (B, K), or the folder of a checkpoint"
        )
    title = name or getattr(model, "__name__", "") or type(model).__name__
    network = model if isinstance(model, nn.Module) else FunctionNetwork(model, pieces_of(model))
    tensors = [*network.parameters(), *network.buffers()]
    if any(one.is_inference() for one in tensors if not nn.parameter.is_lazy(one)):
        with user_code(f"model {title}: its weights are of inference mode and cannot be copied"):
            network = copy.deepcopy(network)  # autograd takes a copy made outside of that mode
    return LoadedModel(UserNetwork(network, title), title, "factory", "", None, None, 0)


def _home(model: nn.Module) -> torch.device | None:
    """Where the tensors of a network are; None where it has none."""
    first = next((one for one in [*model.parameters(), *model.buffers()]), None)
    return None if first is None else first.device
