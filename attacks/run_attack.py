"""Run one attack of a protocol: find the function, hand it exactly the arguments it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from robustbench_lite.attacks.catalogue import ATTACKS
from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.protocol import AttackSpec
from robustbench_lite.attacks.threat_model import ThreatModel


def run_attack(
    spec: AttackSpec,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: ThreatModel,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    network: nn.Module | None = None,
    on_stage: Callable[[str, Tensor], None] | None = None,
) -> Tensor:
    """Adversarial candidates for every row of `x`, in batches.

    Args:
        spec: the attack and its parameters.
        model: maps (B, C, H, W) in [0, 1] to logits (B, K).
        x: clean images (N, C, H, W) in [0, 1].
        y: labels (N,), int64.
        threat: norm and radius.
        ids: example ids (N,), int64.
        seed: any integer.
        batch_size: rows attacked at once. An attack that takes a batch size gets all rows and
            batches by itself; any other is called once per batch.
        passes: forward passes by which the attack may tell success (for randomised networks).
        network: a faster one with the same function, for attacks that can search on another
            network than the one that judges, or that never look whether they succeeded.
        on_stage: for a composite attack, called after each of its attacks; see `autoattack`.

    Returns:
        Candidates (N, C, H, W). Nothing is claimed of them; the verifier decides.

    Raises:
        InputError: for an unknown attack, or parameters that it lacks or does not take.
    """
    attack = _bind(spec, threat, batch_size)
    accepted = inspect.signature(attack.func).parameters
    offered = {"passes": passes, "network": network, "on_stage": on_stage}
    attack = partial(attack, **{key: offered[key] for key in offered if key in accepted})
    if network is not None and spec.attack in _PROPOSERS:
        model = network
    if "batch_size" in accepted:
        return attack(model, x, y, ids=ids, seed=seed)
    out = x.clone()
    for rows in _slices(len(x), batch_size):
        out[rows] = attack(model, x[rows], y[rows], ids=ids[rows], seed=seed)
    return out


def check_attack(spec: AttackSpec, threat: ThreatModel, *, num_classes: int) -> None:
    """Raise InputError when the attack is unknown or its parameters do not fit it.

    An attack's module may have a `check_parameters(attack, params, num_classes)` of its own: it
    says before any work what the attack would say in the middle of it.
    """
    function = _bind(spec, threat, batch_size=1)
    module = inspect.getmodule(function.func)
    if (check := getattr(module, "check_parameters", None)) is not None:
        params = spec.params if spec.attack.startswith("torchattacks:") else function.keywords
        try:
            check(spec.attack, params, num_classes)
        except InputError as error:
            raise InputError(f"attack {spec.name!r}: {error}") from None


_NOT_A_PROTOCOLS = {"mode", "on_step", "on_stage", "finite", "passes", "network", "ids", "seed"}


# Attacks whose result hardly depends on what they believe to have broken.
_PROPOSERS = {"pgd", "pgd_int", "fgsm"}


def _slices(n: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]


def _bind(spec: AttackSpec, threat: ThreatModel, batch_size: int) -> partial[Tensor]:
    params = dict(spec.params)
    name, _, inner = spec.attack.partition(":")
    if name == "torchattacks":
        function = ATTACKS.load(name)
        params = {"name": inner, "params": params}
    else:
        function = ATTACKS.load(spec.attack)
    accepted = inspect.signature(function).parameters
    given: dict[str, object] = {
        "norm": threat.norm,
        "eps": float(threat.eps),
        "batch_size": batch_size,
        "stream": spec.name,
    }
    # Evaluation is in eval mode; the rest is the protocol's or the harness's to say.
    if taken := (set(given) | _NOT_A_PROTOCOLS) & set(spec.params):
        raise InputError(
            f"attack {spec.name!r} may not set {', '.join(sorted(taken))}: norm and eps are the "
            "protocol's, the rest is not an attack's to choose"
        )
    params.update({key: value for key, value in given.items() if key in accepted})
    needed = {
        key
        for key, parameter in accepted.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    } - {"ids", "seed"}
    if wrong := set(params) ^ (needed | (set(params) & set(accepted))):
        raise InputError(
            f"attack {spec.name!r} ({spec.attack}): missing or unknown parameter "
            f"{', '.join(sorted(wrong))}; it takes {', '.join(sorted(needed))}"
        )
    return partial(function, **params)
