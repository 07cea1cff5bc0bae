"""Protocols: a threat model and an ordered list of attacks, with a version.

Imports no torch; reading a protocol does, since its attacks check their parameters then.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from robustbench_lite.attacks.catalogue import ATTACKS
from robustbench_lite.attacks.contract import Attack
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import unknown_name

_TYPES = {
    "id": str,
    "version": int,
    "norm": str,
    "engine": str,
    "summary": str,
    "passes": int,
    "attacks": list,
}
ENGINES = ("ours", "reference")
# Of our own attacks: raised by any change to them that can move a verdict.
OUR_ENGINE = "1"
_NAMES = ("name", "title", "attack")


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
        engine_version: of our attacks, or the authors' package and its version.
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
        data = self.as_dict()
        data["attacks"] = [
            {key: value for key, value in spec.as_dict().items() if key != "title"}
            for spec in self.attacks
        ]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def protocol_files() -> dict[str, Path]:
    """Names of the shipped protocols and their files."""
    folder = Path(str(files("robustbench_lite.attacks.protocols")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def protocol_summaries() -> dict[str, str]:
    """Name and one line of each shipped protocol."""
    return {name: str(_read(path)["summary"]) for name, path in protocol_files().items()}


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
    shipped = protocol_files()
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"protocol file {name!r} does not exist")
    elif name in shipped:
        path = shipped[name]
    else:
        raise InputError(unknown_name("protocol", name, shipped))
    data = _read(path)
    if eps is None:
        eps = data.get("eps")
    if eps is None:
        raise InputError(f"protocol {name!r} names no radius: give --eps, such as --eps 8/255")
    threat = ThreatModel(data["norm"], parse_eps(eps))
    protocol = Protocol(
        name=data["id"],
        version=data["version"],
        threat=threat,
        engine="ours",
        engine_version=OUR_ENGINE,
        passes=data["passes"],
        attacks=tuple(_attack_spec(table, threat) for table in data["attacks"]),
        summary=data["summary"],
    )
    for spec in protocol.attacks:
        spec.check(threat)
    return _with_engine(protocol, data["engine"] if engine is None else engine)


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
    origin = f"pyautoattack {version('pyautoattack')}"
    return replace(protocol, engine=engine, engine_version=origin, attacks=attacks)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"protocol {path} is no valid TOML: {error}") from None
    missing, unknown = set(_TYPES) - set(data), set(data) - set(_TYPES) - {"eps"}
    if missing or unknown:
        wrong = [f"missing key {key!r}" for key in sorted(missing)]
        wrong += [f"unknown key {key!r}" for key in sorted(unknown)]
        raise InputError(f"protocol {path}: {', '.join(wrong)}")
    for key, kind in _TYPES.items():
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise InputError(f"protocol {path}: {key}={data[key]!r} is no {kind.__name__}")
    if data["engine"] not in ENGINES:
        raise InputError(f"protocol {path}: engine={data['engine']!r}; allowed: {ENGINES}")
    for key in ("version", "passes"):
        if data[key] < 1:
            raise InputError(f"protocol {path}: {key}={data[key]} must be at least 1")
    _check_names(data, path)
    return data


def _check_names(data: Mapping[str, Any], path: Path) -> None:
    """Names become folders and columns: plain words, unique, none of them `clean`."""
    tables = data["attacks"]
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"protocol {path}: attacks must be tables: [[attacks]]")
    names = [table.get("name") for table in tables]
    if len(set(map(str, names))) < len(names) or "clean" in names:
        raise InputError(f"protocol {path}: attack names must be unique, none 'clean': {names}")
    for name in (data["id"], *names):
        if not re.fullmatch(r"[A-Za-z0-9_]+", str(name)):
            raise InputError(f"protocol {path}: name {name!r} must be letters, digits and _")


def _attack_spec(table: Mapping[str, Any], threat: ThreatModel) -> AttackSpec:
    params = dict(table)
    try:
        name, title, attack = (str(params.pop(key)) for key in _NAMES)
    except KeyError as error:
        raise InputError(f"attack {table.get('name', table)!r} has no key {error}") from None
    if {"alpha", "alpha_over_eps"} <= set(params):
        raise InputError(f"attack {name!r} gives both alpha and alpha_over_eps: choose one")
    if "alpha_over_eps" in params:
        params["alpha"] = float(parse_eps(params.pop("alpha_over_eps")) * threat.eps)
    return AttackSpec(name, title, attack, params)
