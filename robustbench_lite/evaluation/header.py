"""`header.json` of a result folder: the terms of an evaluation, fixed when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from robustbench_lite.core.errors import DamagedFileError
from robustbench_lite.core.schema import Positive, structured
from robustbench_lite.core.storage import read_sealed_json

SCHEMA_VERSION: Final = 4  # of the header and the parts; results have their own
UNCHECKED_VERSION = 3  # older, still read: no file of it carries a checksum
_Terms = Annotated[Mapping[str, object], Meta(min_length=1)]


@dataclass(frozen=True)
class Header:
    """The terms of an evaluation, in four groups with four rules.

    Args:
        identity: what is measured (model, data, protocol, examples, seed). A folder with another
            identity is refused.
        settings: what fixes the bits (batch and chunk size, threads, TF32, cuDNN, device kind,
            evidence). Reused on resume; an explicit other wish is refused.
        environment: versions, commit, device, and on what attacks search. Must agree while parts
            are missing.
        about: what the leaderboard shows of the model; that of the latest call.
        schema_version: of the folder; one begun by an older version stays of that version.
    """

    identity: _Terms
    settings: _Terms
    environment: _Terms
    about: _Terms
    schema_version: Literal[3, 4] = SCHEMA_VERSION

    @property
    def has_checksums(self) -> bool:
        """Whether every file of the folder carries a checksum."""
        return self.schema_version > UNCHECKED_VERSION

    def as_dict(self) -> dict[str, object]:
        return {
            "schema_version": self.schema_version,
            "identity": dict(self.identity),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "about": dict(self.about),
        }


def read_header(folder: Path) -> Header:
    """The stored header of a result folder.

    Raises:
        InputError: when it is missing, damaged, of another schema or incomplete.
    """
    path = folder / "header.json"
    what = f"{path} is no readable header"
    try:
        data, sealed = read_sealed_json(path)
        header = structured(Header, data, what)
        if header.has_checksums and not sealed:
            raise DamagedFileError(f"{path} is damaged (it has no checksum)")
    except DamagedFileError as error:
        raise DamagedFileError(
            f"{error}; restore it, or remove that folder and run the same command again"
        ) from error
    for name in ("batch_size", "chunk_size", "threads"):
        structured(Positive, header.settings.get(name), what, where=f"settings.{name}")
    return header
