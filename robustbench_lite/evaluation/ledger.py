"""The ledger: one Parquet part per finished (attack, chunk); resume is doing what has no part.

A result folder holds `header.json` (the terms, fixed at the start), a Parquet file per part under
`parts/<attack>/`, optionally its images under `evidence/<attack>/`, `checks.json` (what the flags
are raised by), and, when all parts are there, `result.json` and `examples.parquet`, both pure
functions of the former. Seconds live in `timing.json` (of further workers, `timing-<rank>.json`).

Every file that a number depends on carries a checksum of its content; a part also says what it
belongs to, and the SHA-256 of its images. What does not fit is put aside and computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas  # type: ignore[import-untyped]
from torch import Tensor

from robustbench_lite.core.describe_diff import describe_difference, first_line
from robustbench_lite.core.errors import DamagedFileError, InputError, LedgerMismatchError
from robustbench_lite.core.integrity import ChecksumError
from robustbench_lite.core.storage import (
    put_aside,
    write_atomically,
    write_bytes,
    write_sealed_json,
)
from robustbench_lite.core.stored_table import read_table, write_table
from robustbench_lite.evaluation.header import Header, read_header
from robustbench_lite.leaderboard.results.records import CLEAN
from robustbench_lite.verifier import Verdict

if TYPE_CHECKING:
    import torch

_AGAIN = "run the same rbl evaluate command again: only this part is computed again"
COLUMNS = {  # of a part: name and type
    "example_id": "int64",
    "label": "int64",
    "clean_prediction": "int64",
    "attack": "string",
    "broken": "bool",
    "stage": "string",  # of a composite attack: which of its attacks broke the example; else ""
    "prediction": "int64",
    "linf": "float64",
    "l2": "float64",
    "l1": "float64",
    "forwards": "float64",
    "backwards": "float64",
    "loss": "float64",
    "sha256": "string",
}


class Ledger:
    """The parts of one result folder.

    Args:
        folder: the result folder.
        header: its terms, as stored.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.header = header

    def part_path(self, attack: str, chunk: int) -> Path:
        return self.folder / "parts" / attack / f"{chunk:05d}.parquet"

    def evidence_path(self, attack: str, chunk: int) -> Path:
        return self.folder / "evidence" / attack / f"{chunk:05d}.safetensors"

    def has_part(self, attack: str, chunk: int) -> bool:
        return self.part_path(attack, chunk).is_file()

    def missing(self, attacks: list[str], chunks: int) -> list[tuple[int, str]]:
        """What is left to do, as (chunk, attack), chunk by chunk, the clean pass first."""
        everything = [(chunk, attack) for chunk in range(chunks) for attack in (CLEAN, *attacks)]
        return [(chunk, attack) for chunk, attack in everything if not self.has_part(attack, chunk)]

    @property
    def terms_of_checks(self) -> str | None:
        """The terms that `checks.json` has to state; None in folders of older versions."""
        return self.terms if self.has_checksums else None

    @property
    def has_checksums(self) -> bool:
        """Whether every file of this folder carries a checksum."""
        return self.header.has_checksums

    @property
    def checks_path(self) -> Path:
        return self.folder / "checks.json"

    def timing_path(self, worker: int) -> Path:
        """Where a worker notes its seconds; the first, which is mostly the only one, in
        `timing.json`."""
        return self.folder / (f"timing-{worker}.json" if worker else "timing.json")

    def put_damaged_aside(self, attacks: list[str], chunks: int) -> list[Path]:
        """Look at every part that is there; rename what is damaged, so that it counts as missing.

        Args:
            attacks: names of the protocol's attacks.
            chunks: number of chunks.

        Returns:
            The files that were damaged, by their old names. Images without a sound part count as
            damaged only by way of the part.

        Raises:
            LedgerMismatchError: for a sound part of another evaluation.
        """
        damaged = []
        for attack in (CLEAN, *attacks):
            for chunk in filter(lambda chunk: self.has_part(attack, chunk), range(chunks)):
                try:
                    self.read_part(attack, chunk)
                    self._evidence(attack, chunk)
                except DamagedFileError:
                    part, images = self.part_path(attack, chunk), self.evidence_path(attack, chunk)
                    for file in filter(Path.exists, (part, images)):
                        put_aside(file)
                    damaged.append(part)
        return damaged

    @property
    def terms(self) -> str:
        """What parts and checks say of the evaluation that they belong to."""
        terms = [dict(self.header.identity), dict(self.header.settings)]
        return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()

    def write_part(
        self,
        attack: str,
        chunk: int,
        rows: pandas.DataFrame,
        evidence: Mapping[str, torch.Tensor] | None,
        *,
        changed: list[int] | None = None,
        targets: list[int] | None = None,
    ) -> None:
        """Store a finished part; its evidence, if any, goes to disk before the verdicts.

        `changed` are the ids that a network which has seen nothing else judged differently; None
        where none was asked. `targets` are the classes that a targeted attack aimed at, row by row.
        """
        from safetensors.torch import save

        images = ""
        if evidence is not None:
            tensors = {name: tensor.contiguous().cpu() for name, tensor in evidence.items()}
            content = save(tensors)
            images = hashlib.sha256(content).hexdigest()
            write_bytes(self.evidence_path(attack, chunk), content)
        facts = {"terms": self.terms, "part": f"{attack}/{chunk}", "evidence": images}
        if changed is not None:
            facts["changed"] = json.dumps(changed)
        if targets is not None:
            facts["targets"] = json.dumps(targets)
        write_atomically(
            self.part_path(attack, chunk),
            lambda path: write_table(path, rows, COLUMNS, facts),
        )

    def read_part(self, attack: str, chunk: int) -> pandas.DataFrame:
        """Rows of one part, with the columns of `COLUMNS`.

        Raises:
            DamagedFileError: when the file is not as it was written; it names it and what to do.
            LedgerMismatchError: when it is a sound part of another evaluation.
        """
        return self._read(attack, chunk)[0]

    def read_changed(self, attack: str, chunk: int) -> list[int] | None:
        """Ids that a network which has seen nothing else judged differently, as of `write_part`;
        None for parts of older versions, too."""
        stored = self._read(attack, chunk)[1].get("changed")
        return None if stored is None else [int(example) for example in json.loads(stored)]

    def read_targets(self, attack: str, chunk: int) -> list[int] | None:
        """The classes that a targeted attack aimed at, row by row; None for an untargeted one."""
        stored = self._read(attack, chunk)[1].get("targets")
        return None if stored is None else [int(label) for label in json.loads(stored)]

    def read_evidence(self, attack: str, chunk: int) -> dict[str, torch.Tensor]:
        """The images that were kept of a part, by name; their checksum is the part's.

        Raises:
            InputError: when none were kept.
            DamagedFileError: when part or images are not as they were written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        content = self._evidence(attack, chunk)
        path = self.evidence_path(attack, chunk)
        if not content:
            raise InputError(f"{path} is not there: evaluate with --evidence int8 or float32")
        try:
            return load(content)
        except SafetensorError as error:  # of an older version, without a checksum
            raise DamagedFileError(f"{path} is damaged ({first_line(error)}); {_AGAIN}") from error

    def _read(self, attack: str, chunk: int) -> tuple[pandas.DataFrame, dict[str, str]]:
        path = self.part_path(attack, chunk)
        try:
            rows, facts = read_table(path)
            if {name: str(kind) for name, kind in rows.dtypes.items()} != _dtypes():
                raise ChecksumError("it has other columns than a part")
            if facts is None:
                if self.has_checksums:
                    raise ChecksumError("it has no checksum")
                facts = {"terms": _old_terms(path), "part": f"{attack}/{chunk}", "evidence": ""}
            terms, part = facts["terms"], facts["part"]
            if not (rows["attack"] == attack).all() or part != f"{attack}/{chunk}":
                raise ChecksumError(f"it holds part {part} instead of {attack}/{chunk}")
        except (ChecksumError, KeyError) as error:
            raise DamagedFileError(f"{path} is damaged ({first_line(error)}); {_AGAIN}") from error
        if terms != self.terms:
            raise LedgerMismatchError(
                f"{path} is a part of another evaluation than {self.folder / 'header.json'} "
                "describes; choose another --out, or remove that folder"
            )
        return rows, facts

    def _evidence(self, attack: str, chunk: int) -> bytes:
        """The file of a part's images, which has to be that of the part; empty for none."""
        expected = self._read(attack, chunk)[1]["evidence"]
        path = self.evidence_path(attack, chunk)
        try:
            content = path.read_bytes() if path.is_file() else b""
        except OSError:
            content = b"unreadable"
        found = hashlib.sha256(content).hexdigest() if content else ""
        if found != expected and self.has_checksums:
            raise DamagedFileError(f"{path} is damaged (not the images of its part); {_AGAIN}")
        return content


def _old_terms(path: Path) -> str:
    """What a part of an older version says of its evaluation; empty when it says nothing."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    found = (pyarrow.parquet.read_schema(path).metadata or {}).get(b"robustbench_lite.terms", b"")
    return found.decode(errors="replace") if isinstance(found, bytes) else ""


def _dtypes() -> dict[str, str]:
    """What pandas calls the types of `COLUMNS`."""
    return {name: {"string": "str"}.get(kind, kind) for name, kind in COLUMNS.items()}


def open_ledger(
    folder: Path, header: Header, *, explicit_settings: Mapping[str, object], begin: bool = True
) -> Ledger:
    """Begin a result folder, or go on with one that has the same identity.

    Args:
        folder: the result folder; made when missing.
        header: the terms of this call.
        explicit_settings: those that the user asked for explicitly; they must agree with a header
            that is there already.
        begin: False reads what another worker has just begun, and writes nothing.

    Returns:
        The ledger, with the stored header when there is one.

    Raises:
        LedgerMismatchError: for another identity or an explicit other setting, with the difference.
        InputError: for a folder that holds something else, or an unreadable header.
    """
    path = folder / "header.json"
    if folder.is_file():
        raise InputError(f"{folder} is a file and no result folder: choose another --out")
    if begin and not path.exists():
        if folder.is_dir() and any(_foreign(folder)):
            names = ", ".join(sorted(entry.name for entry in _foreign(folder))[:3])
            raise InputError(
                f"{folder} is not empty and no result folder ({names}): choose another --out"
            )
        write_sealed_json(path, header.as_dict())
        return Ledger(folder, header)
    if begin and not any(folder.glob("parts/*/*.parquet")):
        write_sealed_json(path, header.as_dict())  # nothing was finished under the old terms
        return Ledger(folder, header)
    stored = read_header(folder)
    if difference := describe_difference(stored.identity, header.identity):
        raise LedgerMismatchError(
            f"{folder} holds another evaluation: {difference}; "
            "choose another --out or remove the folder"
        )
    asked = {key: stored.settings.get(key) for key in explicit_settings}
    if difference := describe_difference(asked, explicit_settings):
        raise LedgerMismatchError(
            f"{folder} was begun with other settings: {difference}; "
            "leave the option out to go on as begun, or choose another --out"
        )
    if begin and stored.about != header.about:
        # Only shown, never computed with: the new words count.
        stored = replace(stored, about=header.about)
        write_sealed_json(path, stored.as_dict())
    return Ledger(folder, stored)


def fix_environment(ledger: Ledger, now: Mapping[str, object], *, begin: bool) -> None:
    """Note what a folder is begun in; refuse to finish it in anything else.

    Args:
        ledger: of a folder with parts missing.
        now: versions, commit, device, and the network that attacks search on.
        begin: no part is there yet, and this process is the one to note it.

    Raises:
        LedgerMismatchError: for another environment than the folder was begun in.
    """
    if begin:
        ledger.header = replace(ledger.header, environment=dict(now))
        write_sealed_json(ledger.folder / "header.json", ledger.header.as_dict())
    else:
        ledger.header = read_header(ledger.folder)
    if difference := describe_difference(ledger.header.environment, now):
        raise LedgerMismatchError(
            f"{ledger.folder} was begun in another environment: {difference}; its bytes could "
            "not be reproduced: finish it there, or choose another --out"
        )


def _foreign(folder: Path) -> list[Path]:
    # Temporary files of a process killed before its first rename are ours.
    return [entry for entry in folder.iterdir() if not entry.name.endswith(".tmp")]


def part_rows(
    name: str,
    ids: Tensor,
    labels: Tensor,
    clean_predictions: Tensor,
    verdict: Verdict,
    passes: tuple[int, int],
    x_adv: Tensor,
    stage: np.ndarray,
) -> pandas.DataFrame:
    """The table of one part, in the columns of `robustbench_lite.evaluation.ledger.COLUMNS`.

    Args:
        name: the attack; `"clean"` for the clean pass.
        ids: example ids `(B,)` int64, on the CPU, as `labels` and `clean_predictions`.
        labels: `(B,)` int64.
        clean_predictions: `(B,)` int64.
        verdict: of the part's images.
        passes: forwards and backwards of the whole part. Rows hold the mean per example: attacks
            work in batches.
        x_adv: images `(B, C, H, W)`, hashed.
        stage: which attack of an ensemble broke the example, `(B,)` str; empty for none.

    Returns:
        One row an example, in the order of `ids`.
    """
    n = max(len(ids), 1)
    return pandas.DataFrame(
        {
            "example_id": ids.numpy(),
            "label": labels.numpy(),
            "clean_prediction": clean_predictions.numpy(),
            "attack": [name] * len(ids),
            "broken": verdict.broken.cpu().numpy(),
            "stage": stage,
            "prediction": verdict.prediction.cpu().numpy(),
            "linf": verdict.linf.cpu().numpy(),
            "l2": verdict.l2.cpu().numpy(),
            "l1": verdict.l1.cpu().numpy(),
            "forwards": np.full(len(ids), passes[0] / n),
            "backwards": np.full(len(ids), passes[1] / n),
            "loss": verdict.loss.cpu().numpy(),
            "sha256": [
                hashlib.sha256(image.tobytes()).hexdigest() for image in x_adv.cpu().numpy()
            ],
        }
    )
