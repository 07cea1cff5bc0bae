"""`torchattacks:<Name>`: any attack of the torchattacks package, with our signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.contract import Attack, RunTerms, check_not_terms
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import fold_seed, seeded
from robustbench_lite.core.registry import unknown_name

# Of torchattacks 3.3; whatever is not named here is taken for an attack that sees gradients.
_WITHOUT_GRADIENTS = {"GN", "OnePixel", "Pixle", "Square", "VANILA"}
_MINIMAL_NORM = {"CW", "DeepFool", "SparseFool"}


@dataclass(frozen=True)
class Torchattacks(Attack):
    """Run `torchattacks.<name>` (Kim 2020, arXiv:2010.01950) from a fresh object.

    Its randomness is that of torch's, numpy's and Python's own generators, seeded here from the
    seed, the stream and the first id, and put back after: repeatable for the same chunk of
    examples, but not independent of how examples are grouped. Its PGD returns the last iterate.
    Norm, eps and seed are passed on where its constructor takes them; where it takes no norm, the
    protocol's author states it, and the verifier measures it.

    Args:
        name: a class of `torchattacks`, such as `"PGD"`, `"CW"`, `"AutoAttack"`.
        params: its constructor's arguments apart from `eps`.
    """

    package = "torchattacks"

    name: str
    params: Mapping[str, object]

    def __post_init__(self) -> None:
        _class(self.name, self.params)

    @property
    def uses_gradients(self) -> bool:  # type: ignore[override]
        return self.name not in _WITHOUT_GRADIENTS

    @property
    def minimises_norm(self) -> bool:  # type: ignore[override]
        return self.name in _MINIMAL_NORM

    @classmethod
    def from_parameters(cls, params: Mapping[str, object], variant: str = "") -> Self:
        check_not_terms(params)
        return cls(variant, dict(params))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        attack_class = _class(self.name, self.params)
        accepted = inspect.signature(attack_class).parameters
        given = {"eps": terms.eps, "norm": terms.norm, "seed": terms.seed}
        arguments = {**self.params, **{k: v for k, v in given.items() if k in accepted}}
        model_view = _FirstParameterDevice(model, x.device)
        devices = [x.device] if x.device.type == "cuda" else []
        seed = fold_seed(terms.seed, terms.stream, self.name, int(terms.ids[0])) % 2**63
        with (
            attacked(model),
            torch.random.fork_rng(devices=devices),
            torch.enable_grad(),
            seeded(seed),
        ):
            x_adv: Tensor = attack_class(model_view, **arguments)(x, y)
        return x_adv.detach()


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
