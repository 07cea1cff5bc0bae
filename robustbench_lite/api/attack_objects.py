"""Attacks to give to `rbl.attack` beside a name, with the literature's parameters as defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, get_args

from robustbench_lite.api.target import Aim, aimed
from robustbench_lite.attacks.autoattack.ensemble import stages
from robustbench_lite.attacks.contract import Attack
from robustbench_lite.attacks.first_order.pgd import Keep, Start
from robustbench_lite.attacks.protocol import AttackSpec, attacks_of_protocols, load_protocol
from robustbench_lite.attacks.threat_model import NORMS, Norm, ThreatModel, parse_eps
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import unknown_name

Eps = float | str | Fraction
MARGIN_KAPPA = 50.0  # of the "CW" columns of most defense papers; see docs/architecture.md


@dataclass(frozen=True)
class AttackObject(ABC):
    """An attack with its parameters, for any radius.

    Args:
        target: a class that the network should predict; see `rbl.attack`.
    """

    target: Aim | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """The norm where the caller names none."""

    @abstractmethod
    def spec(self, threat: ThreatModel) -> AttackSpec:
        """The attack as one of a protocol, at a radius."""


@dataclass(frozen=True)
class PGD(AttackObject):
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083, Sec. 2.1).

    The defaults are `pgd20_ce` of `linf_standard`: 20 steps, as the paper's CIFAR-10 table attacks
    with; steps of eps / 4, which is its 2/255 at 8/255; a uniform start. The most harmful
    iterate is returned, where the paper takes the last: the number can only be lower.

    Args:
        steps: gradient steps of a run.
        alpha: step size in [0, 1] units; None takes eps / 4.
        restarts: independent starts.
        loss: `"ce"`, `"margin"` (Carlini and Wagner's, kappa 50 by default), `"dlr"` or `"kl"`.
        start: `"uniform"`, `"gaussian"` or `"none"`.
        keep: which iterate comes back: `"best_loss"`, `"last"` or `"first_success"`.
        kappa: confidence at which the margin loss saturates.
        norm: `"Linf"` or `"L2"`.
    """

    steps: int = 20
    alpha: Eps | None = None
    restarts: int = 1
    loss: str = "ce"
    start: Start = "uniform"
    keep: Keep = "best_loss"
    kappa: float | None = None
    norm: Norm = "Linf"

    def spec(self, threat: ThreatModel) -> AttackSpec:
        """The attack as one of a protocol, at a radius."""
        alpha = threat.eps / 4 if self.alpha is None else parse_eps(self.alpha)
        kappa = MARGIN_KAPPA if self.loss == "margin" and self.kappa is None else self.kappa
        params: dict[str, object] = {
            "loss": self.loss,
            "alpha": float(alpha),
            "steps": self.steps,
            "restarts": self.restarts,
            "start": self.start,
            "keep": self.keep,
            **({} if kappa is None else {"kappa": kappa}),
        }
        return AttackSpec(f"pgd{self.steps}_{self.loss}", f"PGD-{self.steps}", "pgd", params)


@dataclass(frozen=True)
class APGD(AttackObject):
    """Auto-PGD (Croce and Hein 2020, arXiv:2003.01690, Alg. 1), as AutoAttack sets it.

    Args:
        loss: `"ce"`, `"dlr"`, or `"dlr_targeted"` for the likeliest wrong classes. None takes
            `"ce"`, or with a `target` `"dlr_targeted"`, the only one that can aim.
        steps: gradient steps of a run; AutoAttack 100.
        restarts: runs from random starts; AutoAttack 1.
        rho: share of steps that must raise the loss for the step size to stay; AutoAttack 0.75.
        eot: passes over which a gradient is averaged, for randomised networks; 1 elsewhere.
        targets: of `"dlr_targeted"`, wrong classes to try; None takes AutoAttack's 9 (all K - 1 if
            fewer), or with a `target` that one.
        norm: `"Linf"`, `"L2"` or `"L1"`.
    """

    loss: Literal["ce", "dlr", "dlr_targeted"] | None = None
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    eot: int = 1
    targets: int | None = None
    norm: Norm = "Linf"

    def spec(self, threat: ThreatModel) -> AttackSpec:
        """The attack as one of a protocol, at a radius."""
        names = {"ce": "apgd_ce", "dlr": "apgd_dlr", "dlr_targeted": "apgd_t"}
        loss = self.loss or ("ce" if self.target is None else "dlr_targeted")
        if loss not in names:
            raise InputError(unknown_name("loss of APGD", loss, names))
        if self.target is not None and loss != "dlr_targeted":
            raise InputError(
                f"loss={loss!r} of APGD knows no target; with one leave it out, or give "
                "'dlr_targeted'"
            )
        likeliest = 9 if self.target is None else 1
        targets = likeliest if self.targets is None else self.targets
        params: dict[str, object] = {
            "steps": self.steps,
            "restarts": self.restarts,
            "rho": self.rho,
            "eot": self.eot,
            "staged_eps": threat.norm == "L1",  # as AutoAttack's standard version has it
            **({"targets": targets} if loss == "dlr_targeted" else {}),
        }
        return AttackSpec(names[loss], "APGD", names[loss], params)


@dataclass(frozen=True)
class CW(AttackObject):
    """Carlini and Wagner's minimal L2 perturbation (2017, arXiv:1608.04644, Sec. VI-A).

    The defaults are `cw_l2` of `l2_standard`: the authors' code but for the number of steps, of
    which it takes 10,000. Perturbations may be longer than any eps; `rbl.evaluate` counts those
    within it. The "CW" of tables in Linf is `rbl.PGD(loss="margin")`.

    Args:
        kappa: margin by which the wrong class must lead.
        lr: Adam's learning rate, in [0, 1] units.
        steps: Adam steps for each value of c.
        search_steps: values of c tried.
        initial_c: the first.
        norm: `"L2"`.
    """

    kappa: float = 0.0
    lr: float = 0.01
    steps: int = 100
    search_steps: int = 9
    initial_c: float = 0.001
    norm: Norm = "L2"

    def spec(self, threat: ThreatModel) -> AttackSpec:
        """The attack as one of a protocol, at a radius."""
        if threat.norm != "L2":
            raise InputError(
                f"norm={threat.norm!r} does not fit CW, which minimises the L2 norm: "
                "use norm='L2', "
                'or rbl.PGD(loss="margin") for the "CW" of tables in Linf'
            )
        names = ("kappa", "lr", "steps", "search_steps", "initial_c")
        return AttackSpec("cw_l2", "CW-L2", "cw_l2", {name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Square(AttackObject):
    """Square Attack: queries only (Andriushchenko et al. 2020, arXiv:1912.00049), as AutoAttack's.

    Args:
        queries: windows tried in a run; AutoAttack 5000.
        restarts: runs; AutoAttack 1.
        p_init: share of the pixels in the first windows; AutoAttack 0.8.
        norm: `"Linf"`, `"L2"` or `"L1"`.
    """

    queries: int = 5000
    restarts: int = 1
    p_init: float = 0.8
    norm: Norm = "Linf"

    def spec(self, threat: ThreatModel) -> AttackSpec:
        """The attack as one of a protocol, at a radius."""
        names = ("queries", "restarts", "p_init")
        return AttackSpec(
            "square", "Square", "square", {name: getattr(self, name) for name in names}
        )


def chosen_attack(
    attack: str | AttackObject, eps: Eps | None, norm: Norm | None, target: Aim | None = None
) -> tuple[AttackSpec, ThreatModel]:
    """The attack that a caller named or gave, at a radius and aiming as they want.

    Args:
        attack: a name in any shipped protocol, of a stage of AutoAttack (`"apgd_ce"`), or an
            object of this module.
        eps: radius; None for attacks that look for the smallest perturbation.
        norm: None takes the object's own, or the first of Linf, L2 and L1 that has the name.
        target: of the call, where the object has none; see `rbl.attack`.

    Raises:
        InputError: for an unknown name, a norm that does not fit, a radius that is missing, or an
            attack that cannot aim.
    """
    if norm is not None and norm not in NORMS:
        raise InputError(f"norm={norm!r} is unknown; available: {', '.join(NORMS)}")
    radius = parse_eps(0 if eps is None else eps)
    if isinstance(attack, str):
        found, named = _by_name(attack, radius, norm)
        threat = ThreatModel(named, radius)
        if target is not None and "targets" in found.params:
            found = replace(found, params={**found.params, "targets": 1})
    elif isinstance(attack, AttackObject):
        threat = ThreatModel(norm or attack.norm, radius)
        target = target_of(attack, target)
        found = replace(attack, target=target).spec(threat)
    else:
        raise InputError(
            f"attack is {type(attack).__name__}; give a name such as 'pgd20_ce', or an object such "
            "as rbl.PGD(steps=50)"
        )
    if target is not None:
        found = aimed(found, target)
    found.check(threat)
    if eps is None and not found.contract.minimises_norm:
        raise InputError(f"attack {found.name!r} needs a radius: give eps, such as eps=8/255")
    return found, threat


def target_of(attack: str | AttackObject, target: Aim | None) -> Aim | None:
    """What an attack should aim at: what the call says, else what the object says.

    Raises:
        InputError: when both say it.
    """
    own = attack.target if isinstance(attack, AttackObject) else None
    if own is not None and target is not None:
        raise InputError("target is given twice: to the call, and to the attack; leave one out")
    return own if target is None else target


def _by_name(name: str, eps: Fraction, norm: Norm | None) -> tuple[AttackSpec, Norm]:
    known: set[str] = set()
    for each in (norm,) if norm else get_args(Norm):
        of_protocols, of_autoattack = attacks_of_protocols()[each], _stages(each)
        if name in of_protocols:
            protocol = load_protocol(of_protocols[name], eps=eps)
            return next(spec for spec in protocol.attacks if spec.name == name), each
        if name in of_autoattack:
            return AttackSpec(name, name, name, vars(of_autoattack[name])), each
        known |= {*of_protocols, *of_autoattack}
    where = f"attack in {norm}" if norm else "attack"
    raise InputError(unknown_name(where, name, dict.fromkeys(known)))


def _stages(norm: Norm) -> Mapping[str, Attack]:
    """Every attack of AutoAttack by itself, as the standard version sets it where it has it."""
    return {**stages("plus", norm), **stages("standard", norm)}
