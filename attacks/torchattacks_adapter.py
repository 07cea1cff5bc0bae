"""`torchattacks:<Name>`: any attack of the torchattacks package, with our signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.random_numbers import fold_seed, seeded
from robustbench_lite.attacks.registry import unknown_name
from robustbench_lite.attacks.threat_model import Norm


def torchattacks_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    name: str,
    params: Mapping[str, object],
    norm: Norm,
    eps: float,
    ids: Tensor,
    seed: int,
    stream: str = "torchattacks",
) -> Tensor:
    """Run `torchattacks.<name>` (Kim 2020, arXiv:2010.01950) from a fresh object.

    Its randomness is that of torch's, numpy's and Python's own generators, seeded here from the
    seed, the stream and the first id, and put back after: repeatable for the same chunk of
    examples, but not independent of how examples are grouped. Its PGD
    returns the last iterate.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: labels (B,), int64.
        name: a class of `torchattacks`, such as `"PGD"`, `"CW"`, `"AutoAttack"`.
        params: its constructor's arguments apart from `eps`.
        norm: passed on where the attack has a `norm`; otherwise stated by the protocol's author.
        eps: passed on where the attack has an `eps`.
        ids: example ids (B,).
        seed: in [0, 2**63).
        stream: name of the attack in its protocol, so that two of one class draw apart.

    Returns:
        x_adv (B, C, H, W); torchattacks' own statement of the ball is not trusted further on.

    Raises:
        InputError: for a name or argument that torchattacks does not have.
    """
    attack_class = _class(name, params)
    accepted = inspect.signature(attack_class).parameters
    arguments = dict(params)
    arguments.update({k: v for k, v in (("eps", eps), ("norm", norm)) if k in accepted})
    if "seed" in accepted:
        arguments["seed"] = seed
    model_view = _FirstParameterDevice(model, x.device)
    devices = [x.device] if x.device.type == "cuda" else []
    with (
        attacked(model),
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
        seeded(fold_seed(seed, stream, name, int(ids[0])) % 2**63),
    ):
        x_adv: Tensor = attack_class(model_view, **arguments)(x, y)
    return x_adv.detach()


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError for a name or argument that torchattacks does not have."""
    _class(attack.partition(":")[2], params)


def _class(name: str, params: Mapping[str, object]) -> Callable[..., Any]:
    import torchattacks  # type: ignore[import-untyped]

    names: dict[str, Callable[..., Any]] = {
        key: cls for key, cls in vars(torchattacks).items() if inspect.isclass(cls)
    }
    if name not in names:
        raise InputError(unknown_name("torchattacks attack", name, names))
    if extra := set(params) - set(inspect.signature(names[name]).parameters):
        raise InputError(f"torchattacks.{name} has no argument {', '.join(sorted(extra))}")
    return names[name]


class _FirstParameterDevice(nn.Module):
    """torchattacks reads the device from the first parameter: give it one, whatever the model."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits
