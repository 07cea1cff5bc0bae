"""Counting what would make the host wait for a GPU, on any device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class CountSyncs(TorchDispatchMode):
    """Counts operators that make the host wait for the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Indexing by a mask waits too: on CUDA it calls nonzero inside.
        by_mask = "aten.index" in str(func) and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for index in (args[1] if isinstance(args[1], (list, tuple)) else ())
        )
        self.count += by_mask or any(word in str(func) for word in self.WAITING)
        return func(*args, **(kwargs or {}))


def syncs(attack):
    """How many operators of a call would wait."""
    with CountSyncs() as mode:
        attack()
    return mode.count
