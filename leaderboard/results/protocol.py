"""The protocol of a stored result: typed, and refused unless its id and hash follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.integrity import protocol_hash
from robustbench_lite.core.schema import shown, structured
from robustbench_lite.leaderboard.results.consistency import check_eps, refusal
from robustbench_lite.leaderboard.results.records import ProtocolAttack, ProtocolInfo
from robustbench_lite.leaderboard.results.stored import ProtocolKeys


def read_protocol(data: Mapping[str, Any]) -> ProtocolInfo:
    """The protocol of a result; the thousands of one leaderboard have few different ones.

    Args:
        data: the object `protocol` of it.

    Returns:
        The protocol.

    Raises:
        ResultError: naming the key that is missing, or that does not follow from the others.
    """
    try:
        # Unlike equality, its text tells 1 from 1.0 and from true.
        return _checked(msgspec.json.encode(data))
    except (OverflowError, RecursionError) as error:
        raise ResultError(f"protocol cannot be read: {error}") from None


@lru_cache(maxsize=1000)
def _checked(content: bytes) -> ProtocolInfo:
    data = msgspec.json.decode(content)
    stored = structured(ProtocolKeys, data, "", where="protocol", error=ResultError)
    names = [attack.name for attack in stored.attacks]
    if len(set(names)) < len(names) or not names:
        raise refusal("protocol.attacks", names, "at least one attack and unique names")
    eps_value = check_eps(stored)
    suffix = "" if stored.engine == "ours" else f".{stored.engine}"
    expected = f"{stored.name}@{stored.eps}.v{stored.version}{suffix}"
    if stored.id != expected:
        need = f"{shown(expected)}, from its name, eps, version and engine"
        raise refusal("protocol.id", stored.id, need)
    if stored.hash != (expected := protocol_hash(data)):
        need = f"{shown(expected)}, from the rest of the protocol"
        raise refusal("protocol.hash", stored.hash, need)
    return ProtocolInfo(
        id=stored.id,
        name=stored.name,
        version=stored.version,
        norm=stored.norm,
        eps=stored.eps,
        eps_value=eps_value,
        engine=stored.engine,
        engine_version=stored.engine_version or "",
        passes=stored.passes,
        hash=stored.hash,
        attacks=tuple(map(_attack, data["attacks"])),
    )


def _attack(data: Mapping[str, Any]) -> ProtocolAttack:
    parameters = tuple(
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in data.items()
        if key not in ("name", "title")
    )
    return ProtocolAttack(data["name"], data["title"], parameters)
