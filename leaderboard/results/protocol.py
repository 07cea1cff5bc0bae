"""The protocol of a stored result: typed, and refused unless its id and hash follow from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import orjson

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.consistency import check_eps
from robustbench_lite.leaderboard.results.fields import Fields, shown
from robustbench_lite.leaderboard.results.records import AttackSpec, ProtocolInfo

MOST_PROTOCOLS = 1000  # kept in memory once read

_protocols: dict[bytes, ProtocolInfo] = {}


def read_protocol(fields: Fields) -> ProtocolInfo:
    """The protocol of a result; the thousands of one leaderboard have few different ones.

    Args:
        fields: the object `protocol` of a `result.json`.

    Returns:
        The protocol; one already read and checked comes from memory.

    Raises:
        ResultError: naming the key that is missing, or that does not follow from the others.
    """
    try:
        text = orjson.dumps(fields.data)  # unlike equality, it tells 1 from 1.0 and from true
    except orjson.JSONEncodeError:  # it reads four times as deep as it writes
        raise ResultError(f"{fields.source}: {fields.where} is nested too deeply") from None
    known = _protocols.get(text)
    if known is None:
        known = _checked(fields)
        if len(_protocols) >= MOST_PROTOCOLS:
            _protocols.clear()
        _protocols[text] = known
    return known


def protocol_hash(data: Mapping[str, object]) -> str:
    """The content hash of a stored protocol, as `attacks.protocol.Protocol.hash` takes it.

    The two are written apart, because neither layer imports the other; a test compares them on
    every shipped protocol.

    Args:
        data: the object `protocol` of a `result.json`. Its hash and the attacks' titles are left
            out.

    Returns:
        `"sha256:..."`.
    """
    stored = data["attacks"]
    attacks = stored if isinstance(stored, list) else []
    kept: dict[str, object] = {key: value for key, value in data.items() if key != "hash"}
    kept["attacks"] = [
        {key: value for key, value in attack.items() if key != "title"} for attack in attacks
    ]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _checked(fields: Fields) -> ProtocolInfo:
    attacks = tuple(_attack_spec(attack) for attack in fields.children("attacks"))
    names = [attack.name for attack in attacks]
    if len(set(names)) < len(names) or not names:
        raise fields.refuse("attacks", "at least one attack and unique names")
    protocol = ProtocolInfo(
        id=fields.text("id"),
        name=fields.text("name"),
        version=fields.integer("version", 1),
        norm=fields.text("norm"),
        eps=fields.text("eps"),
        eps_value=check_eps(fields),
        engine=fields.text("engine"),
        engine_version=fields.optional_text("engine_version"),
        passes=fields.integer("passes", 1) if "passes" in fields.data else 1,
        hash=fields.text("hash"),
        attacks=attacks,
    )
    suffix = "" if protocol.engine == "ours" else f".{protocol.engine}"
    expected = f"{protocol.name}@{protocol.eps}.v{protocol.version}{suffix}"
    if protocol.id != expected:
        raise fields.refuse("id", f"{shown(expected)}, from its name, eps, version and engine")
    if protocol.hash != (expected := protocol_hash(fields.data)):
        raise fields.refuse("hash", f"{shown(expected)}, from the rest of the protocol")
    return protocol


def _attack_spec(fields: Fields) -> AttackSpec:
    parameters = tuple(
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in fields.data.items()
        if key not in ("name", "title")
    )
    return AttackSpec(fields.text("name"), fields.text("title"), parameters)
