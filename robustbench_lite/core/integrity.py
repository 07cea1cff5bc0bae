"""Checksums that our files carry of themselves: damage is found before a number is read.

A checksum finds accidents (a bad disk, a cut copy, an edit by hand). It proves nothing about who
wrote the file: whoever edits a file on purpose can write a new checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKSUM = "checksum"
LINE_CHECKSUM = "sha256_16"
_BLOCK = 1 << 20
_LINE_TRAILER = re.compile(rf', "{LINE_CHECKSUM}": "([0-9a-f]{{16}})"\}}\Z')
_TRAILER = re.compile(rb',\n  "checksum": "sha256:([0-9a-f]{64})"\n\}\n\Z')


class ChecksumError(ValueError):
    """Bytes that are not those their checksum was made of."""


def with_checksum(data: Mapping[str, object]) -> str:
    """JSON text that ends with the SHA-256 of everything before it, under the key `checksum`.

    Args:
        data: JSON values, at least one; keys keep their order. A `checksum` in it is left out and
            made anew.

    Returns:
        Two-space indent, a newline at the end.

    Raises:
        ValueError: for NaN, infinity, or an empty mapping.
    """
    content = {key: value for key, value in data.items() if key != CHECKSUM}
    if not content:
        raise ValueError("a checksum needs something to be a checksum of")
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    body = text.removesuffix("\n}")
    # What UTF-8 has no bytes for is refused, with its file, when the text is written.
    digest = hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
    return f'{body},\n  "{CHECKSUM}": "sha256:{digest}"\n}}\n'


def has_checksum(content: bytes) -> bool:
    """Whether a file that `with_checksum` may have made carries a checksum, which then is right.

    Args:
        content: the bytes of the whole file.

    Returns:
        False for a file without a checksum, as older versions wrote: nothing can be said of it.

    Raises:
        ChecksumError: when the checksum and the bytes before it do not belong together.
    """
    trailer = _TRAILER.search(content)
    if trailer is None:
        if f'"{CHECKSUM}"'.encode() in content:
            raise ChecksumError("the checksum is damaged, or the file was edited or reformatted")
        return False
    found = hashlib.sha256(content[: trailer.start()]).hexdigest()
    if found != trailer[1].decode():
        raise ChecksumError("the content does not fit its checksum: damaged or edited")
    return True


def line_with_checksum(data: Mapping[str, object]) -> str:
    """JSON in one line that ends with the start of the SHA-256 of everything before it.

    Raises:
        ValueError: for NaN or infinity.
    """
    body = json.dumps(dict(data), allow_nan=False).removesuffix("}")
    return f'{body}, "{LINE_CHECKSUM}": "{hashlib.sha256(body.encode()).hexdigest()[:16]}"}}'


def check_line(line: str) -> None:
    """Refuse a line of `line_with_checksum` that is damaged; one without a checksum is let by.

    Raises:
        ChecksumError: when the checksum and the text before it do not belong together.
    """
    found = _LINE_TRAILER.search(line)
    if found is None:
        return
    if hashlib.sha256(line[: found.start()].encode()).hexdigest()[:16] != found[1]:
        raise ChecksumError("the content does not fit its checksum: damaged or edited")


def protocol_hash(data: Mapping[str, Any]) -> str:
    """The content hash of a protocol, as `result.json` stores it.

    Args:
        data: the protocol as plain JSON data. Its hash and the attacks' titles are left out.

    Returns:
        `"sha256:..."`.
    """
    attacks = [{key: one[key] for key in one if key != "title"} for one in data["attacks"]]
    kept = {key: value for key, value in data.items() if key != "hash"}
    text = json.dumps({**kept, "attacks": attacks}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Raises:
        OSError: when the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
