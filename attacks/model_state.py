"""What an attack may not change: modes, gradients and parameters of the network it attacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

BnMode = Literal["eval", "train"]


@contextmanager
def attacked(model: nn.Module, *, mode: BnMode = "eval") -> Iterator[None]:
    """Freeze parameters and set the mode inside the block; put both back, per submodule, after.

    Frozen parameters save the weight gradients that `autograd.grad` on the input would throw away.

    Args:
        model: any module; every submodule's own `training` flag is restored.
        mode: `"eval"`, or `"train"` for crafting with batch statistics (Madry et al., Rice et al.).
    """
    flags = [(module, module.training) for module in model.modules()]
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.train(mode == "train")
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter in frozen:
            parameter.requires_grad_(True)
