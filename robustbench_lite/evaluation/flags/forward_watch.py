"""Whether a network optimises or changes itself during a forward pass: watched, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms


class DerivativeWatch(TorchDispatchMode):
    """Counts the derivatives that are computed inside a block, whichever function asks for them.

    Every operation on tensors passes here, those of a backward pass too; the engine says of which
    pass it is one. So `torch.autograd`, `torch.func`, TorchScript and `Tensor.backward` are all
    seen. A thread that the network starts is not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._backward: set[int] = set()
        self._forward = False

    @property
    def count(self) -> int:
        """Backward passes; and one if there were forward-mode derivatives."""
        return len(self._backward) + int(self._forward)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        task = torch._C._current_graph_task_id()
        if task != -1:
            self._backward.add(task)
        self._forward = self._forward or forward_ad._current_level >= 0
        return func(*args, **(kwargs or {}))


class StateWatch:
    """Parameters and buffers of a network as they were, to compare them with and to put them back.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._before = {
            name: (tensor, _version(tensor), tensor.detach().clone())
            for name, tensor in _state(model).items()
        }

    def changed(self) -> tuple[int, int]:
        """How many tensors were written or replaced: batch norms' running statistics, and others.

        A tensor that was written and put back counts: its version tells.
        """
        running = others = 0
        for name, tensor in _state(self.model).items():
            known, version, content = self._before.get(name, (None, 0, None))
            same = content is not None and _equal(tensor, content)
            if same and (tensor is not known or _version(tensor) == version):
                continue
            if name.rpartition(".")[2] in RUNNING:
                running += 0 if same else 1
            else:
                others += 1
        return running, others

    def restore(self) -> None:
        """Put the content of every tensor back that is still there."""
        with torch.no_grad():
            for name, tensor in _state(self.model).items():
                content = self._before.get(name, (None, 0, None))[2]
                if content is None or tensor.shape != content.shape or _equal(tensor, content):
                    continue
                tensor.copy_(content)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _version(tensor: Tensor) -> int:
    """How often it was written; tensors of inference mode do not count that."""
    return 0 if tensor.is_inference() else tensor._version


def _equal(tensor: Tensor, content: Tensor) -> bool:
    """Bit for bit in effect: NaN weights equal themselves."""
    if tensor.shape != content.shape or tensor.dtype != content.dtype:
        return False
    return torch.equal(tensor.detach(), content) or bool(
        ((tensor == content) | ((tensor != tensor) & (content != content))).all()
    )
