"""Protocols: a threat model and an ordered list of attacks, with a version.

Imports no torch; reading a protocol does, since its attacks check their parameters then.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from robustbench_lite.attacks.catalogue import ATTACKS
from robustbench_lite.attacks.contract import Attack, Count, Target, TargetableAttack
from robustbench_lite.attacks.threat_model import Norm, ThreatModel, parse_eps
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import protocol_hash
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.core.schema import Record, Text, structured

Engine = Literal["ours", "reference"]
ENGINES: tuple[str, ...] = get_args(Engine)
# Of our own attacks: raised by any change to them that can move a verdict.
OUR_ENGINE = "1"
_NAMES = ("name", "title", "attack")
# What the literature and other packages call a protocol, in small letters and digits alone.
_MEANT = {
    **dict.fromkeys(("autoattack", "aa", "standard", "linf", "robustbench"), "linf_standard"),
    **dict.fromkeys(("autoattackl2", "aal2", "standardl2", "l2"), "l2_standard"),
    **dict.fromkeys(("autoattackl1", "aal1", "standardl1", "l1"), "aa_standard_l1"),
    **dict.fromkeys(("pgd", "pgd20", "pgdlinf", "quick"), "linf_quick"),
    **dict.fromkeys(("pgdl2", "quickl2"), "l2_quick"),
    **dict.fromkeys(("rand", "autoattackrand"), "aa_rand"),
    **dict.fromkeys(("plus", "autoattackplus"), "aa_plus"),
}
# Names become folders and columns.
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]+\Z", description="letters, digits and _")]


class _Attack(msgspec.Struct, frozen=True):
    """One of the `[[attacks]]` of a file; its other keys are the attack's own."""

    name: _Name
    title: Text
    attack: Text


class _File(Record, frozen=True):
    """A protocol as its file has it, at no radius yet."""

    id: _Name
    version: Count
    norm: Norm
    engine: Engine
    summary: str
    passes: Count
    attacks: Annotated[list[_Attack], Meta(min_length=1)]
    eps: str | int | float | None = None

    def __post_init__(self) -> None:
        names = [attack.name for attack in self.attacks]
        if len(set(names)) < len(names) or "clean" in names:
            raise InputError(f"attack names must be unique, none 'clean': {names}")


@dataclass(frozen=True)
class AttackSpec:
    """One attack of a protocol.

    Args:
        name: unique in the protocol, a column of its tables (`pgd20_ce`).
        title: how pages print it (`PGD-20`).
        attack: registered name, or `torchattacks:<Name>`.
        params: every other parameter, with its value at the protocol's eps.
    """

    name: str
    title: str
    attack: str
    params: Mapping[str, object]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AttackSpec:
        """The attack from what `as_dict` gave."""
        params = {key: value for key, value in data.items() if key not in _NAMES}
        name, title, attack = (str(data[key]) for key in _NAMES)
        return cls(name, title, attack, params)

    def as_dict(self) -> dict[str, object]:
        return {"name": self.name, "title": self.title, "attack": self.attack, **self.params}

    @cached_property
    def contract(self) -> Attack:
        """The attack itself, its parameters checked.

        Raises:
            InputError: for an unknown attack, and missing, unknown or wrong parameters.
        """
        name, _, variant = self.attack.partition(":")
        if self.attack in ATTACKS or name not in ATTACKS:
            name, variant = self.attack, ""
        kind = ATTACKS.load(name)
        if not (isinstance(kind, type) and issubclass(kind, Attack)):
            raise InputError(
                f"attack {name!r} is registered as {ATTACKS[name].target!r}, which is no dataclass "
                "derived from robustbench_lite.attacks.contract.Attack"
            )
        with _named(self.name):
            return kind.from_parameters(self.params, variant)

    @property
    def target(self) -> Target | None:
        """How it chooses the class that it aims at; None for an untargeted attack."""
        attack = self.contract
        return attack.target if isinstance(attack, TargetableAttack) else None

    @property
    def by_authors(self) -> AttackSpec | None:
        """The same attack by its authors' code, if there is such a one."""
        theirs = self.contract.by_authors()
        return replace(self, attack=theirs[0], params=theirs[1]) if theirs else None

    def check(self, threat: ThreatModel, *, num_classes: int | None = None) -> None:
        """Raise InputError when the attack is unknown, or does not fit; see `Attack.check`."""
        attack = self.contract
        with _named(self.name):
            attack.check(threat, num_classes)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Begin the message of an InputError inside with the attack that it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"attack {name!r}: {error}") from None


@dataclass(frozen=True)
class Protocol:
    """A named way of measuring robustness at one radius.

    Args:
        name: the file's id, such as `linf_standard`.
        version: raised by any change that can move a number.
        threat: norm and eps.
        engine: whose AutoAttack it runs: `"ours"`, or `"reference"` for the authors' code.
        engine_version: whose code runs: the version of our attacks; or the packages of others with
            their versions, `ours` among them where both do.
        passes: forward passes of the verifier; above 1 success is a majority (randomised models).
        attacks: in order.
        summary: one line.
    """

    name: str
    version: int
    threat: ThreatModel
    engine: str
    engine_version: str
    passes: int
    attacks: tuple[AttackSpec, ...]
    summary: str

    @property
    def id(self) -> str:
        """The full id every number carries: `linf_standard@8/255.v2`.

        With the authors' engine it ends in `.reference`: the two never share a rank.
        """
        suffix = "" if self.engine == "ours" else f".{self.engine}"
        return f"{self.name}@{self.threat.eps_text}.v{self.version}{suffix}"

    def as_dict(self) -> dict[str, object]:
        """Plain JSON data; what `hash` is taken over, apart from titles and summary."""
        return {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "norm": self.threat.norm,
            "eps": self.threat.eps_text,
            "eps_value": float(self.threat.eps),
            "engine": self.engine,
            "engine_version": self.engine_version,
            "passes": self.passes,
            "attacks": [spec.as_dict() for spec in self.attacks],
        }

    @property
    def hash(self) -> str:
        return protocol_hash(self.as_dict())


def protocol_files() -> dict[str, Path]:
    """Names of the shipped protocols and their files."""
    folder = Path(str(files("robustbench_lite.attacks.protocols")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def protocol_path(name: str) -> Path:
    """The file of a protocol.

    Args:
        name: a shipped name or a path that ends in `.toml`.

    Raises:
        InputError: for an unknown name, or a file that does not exist.
    """
    shipped = protocol_files()
    if name in shipped:
        return shipped[name]
    if not name.endswith(".toml"):
        meant = _MEANT.get(re.sub(r"[^a-z0-9]", "", name.lower()), "")
        raise InputError(unknown_name("protocol", name, shipped, meant=meant))
    if not Path(name).is_file():
        raise InputError(f"protocol file {name!r} does not exist")
    return Path(name)


def protocol_summaries() -> dict[str, str]:
    """Name and one line of each shipped protocol."""
    return {name: _read(path)[0].summary for name, path in protocol_files().items()}


@cache
def attacks_of_protocols() -> Mapping[Norm, Mapping[str, str]]:
    """By norm, the names of all attacks in shipped protocols, and a protocol that has each."""
    found: dict[Norm, dict[str, str]] = {norm: {} for norm in get_args(Norm)}
    for name, path in protocol_files().items():
        file, _ = _read(path)
        found[file.norm] |= {attack.name: name for attack in file.attacks}
    return found


def load_protocol(
    name: str, *, eps: str | float | Fraction | None, engine: str | None = None
) -> Protocol:
    """Read a protocol by name, or from a `.toml` file, at a radius.

    Args:
        name: a shipped name (`linf_standard`) or a path that ends in `.toml`.
        eps: radius as a fraction or decimal; None takes the file's own `eps`, if it has one.
        engine: `"ours"` or `"reference"`, whose AutoAttack runs; None takes the file's.

    Raises:
        InputError: for an unknown name, a missing or unknown key, no eps from either side, or a
            protocol that has no AutoAttack which another engine could run; for attacks with
            missing, unknown or wrong parameters, or that do not know the norm.
    """
    file, tables = _read(protocol_path(name))
    if eps is None:
        eps = file.eps
    if eps is None:
        raise InputError(
            f"protocol {name!r} names no radius: give --eps, such as --eps 8/255 (eps=8/255 in "
            "Python)"
        )
    threat = ThreatModel(file.norm, parse_eps(eps))
    protocol = Protocol(
        name=file.id,
        version=file.version,
        threat=threat,
        engine="ours",
        engine_version=OUR_ENGINE,
        passes=file.passes,
        attacks=tuple(_attack_spec(table, threat) for table in tables),
        summary=file.summary,
    )
    for spec in protocol.attacks:
        spec.check(threat)
    protocol = replace(protocol, engine_version=_whose_code(protocol.attacks))
    return _with_engine(protocol, file.engine if engine is None else engine)


def _with_engine(protocol: Protocol, engine: str) -> Protocol:
    """The protocol with AutoAttack run by `engine`; our other attacks stay as they are."""
    if engine not in ENGINES:
        raise InputError(unknown_name("engine", engine, dict.fromkeys(ENGINES)))
    if engine == "ours":
        return protocol
    if all(spec.by_authors is None for spec in protocol.attacks):
        raise InputError(
            f"protocol {protocol.name!r} has no AutoAttack, so there is nothing for the authors' "
            "engine to run: leave --engine out"
        )
    attacks = tuple(spec.by_authors or spec for spec in protocol.attacks)
    theirs = filter(None, (spec.by_authors for spec in protocol.attacks))
    return replace(protocol, engine=engine, engine_version=_whose_code(theirs), attacks=attacks)


def _whose_code(attacks: Iterable[AttackSpec]) -> str:
    """The packages whose code runs, as the attacks state them, in order of appearance."""
    packages = list(dict.fromkeys(spec.contract.package for spec in attacks))
    if packages == [""]:
        return OUR_ENGINE
    return ", ".join(
        f"{name} {version(name)}" if name else f"ours {OUR_ENGINE}" for name in packages
    )


def _read(path: Path) -> tuple[_File, list[dict[str, Any]]]:
    """A protocol's file, and its attacks with their parameters."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"protocol {path} is no valid TOML: {error}") from None
    return structured(_File, data, f"protocol {path}"), data["attacks"]


def _attack_spec(table: Mapping[str, Any], threat: ThreatModel) -> AttackSpec:
    params = dict(table)
    if "alpha_over_eps" in params:
        if "alpha" in params:
            name = params["name"]
            raise InputError(f"attack {name!r} gives both alpha and alpha_over_eps: choose one")
        params["alpha"] = float(parse_eps(params.pop("alpha_over_eps")) * threat.eps)
    return AttackSpec.from_dict(params)
