"""An entry: the full protocol's result of a submission, with evidence of every broken example.

An entry is a folder: `result.json` (as of any evaluation), `submission.toml`, `evidence/<attack>.
safetensors` (perturbations of the examples that the attack broke, by example id), and `entry.json`,
which holds the hashes of all of them and of the weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.core.provenance import current_versions
from robustbench_lite.core.schema import Record, from_json
from robustbench_lite.core.storage import write_bytes, write_json
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.evaluation.header import read_header
from robustbench_lite.evaluation.ledger import Ledger
from robustbench_lite.evaluation.progress_bar import evaluation_bar
from robustbench_lite.leaderboard.results.find import RESULT_FILE
from robustbench_lite.leaderboard.results.submitted import ENTRY_FILE
from robustbench_lite.submission.isolation import Limits, run_isolated
from robustbench_lite.submission.manifest import CODE, FILE, WEIGHTS, file_hash, read_manifest
from robustbench_lite.submission.network import load_network
from robustbench_lite.submission.review import RunOptions

if TYPE_CHECKING:
    from robustbench_lite.submission.manifest import Manifest

EVIDENCE = "evidence"
SCHEMA_VERSION = 1
SEED = 0  # everybody's: a choice of seeds is a choice of rows


def run(folder: Path, place: RunOptions, *, allow_code: bool, limits: Limits, seed: int) -> Path:
    """Evaluate a submission and write its entry; the same call again resumes an interrupted one.

    Args:
        folder: of the submission. `evaluation/` and `entry/` in it are written.
        place: where to run the network.
        allow_code: the user agreed to run the submitted `model.py`.
        limits: of the process that runs it.
        seed: of every random draw.

    Returns:
        The entry's folder.

    Raises:
        InputError: for a submission whose files are refused, and whatever `evaluate` raises.
    """
    manifest = whole_manifest(folder)
    load_split(manifest.dataset.name, "test", data_dir=place.data_dir, progress=True)
    if manifest.factory:
        if not allow_code:
            raise InputError(f"{folder / CODE} would be run: read it, then add --allow-code")
        request = {"folder": str(folder.resolve()), "seed": seed, **vars(place)}
        run_isolated("run", request, limits, quiet=False)
    else:
        _evaluate(folder, manifest, place, seed)
    return write_entry(folder, manifest)


def whole_manifest(folder: Path) -> Manifest:
    """The manifest of a submission whose files have no error.

    Raises:
        InputError: with the findings, when they have.
    """
    manifest, findings = read_manifest(folder)
    if manifest is None:
        errors = [finding for finding in findings if finding.level == "error"]
        raise InputError(
            f"{folder} has {len(errors)} errors, the first: {errors[0].line()[9:]}; `rbl submit "
            "check` shows all"
        )
    return manifest


def job(request: dict[str, Any]) -> dict[str, object]:
    """What the isolated process does; see `run`."""
    folder, seed = Path(request.pop("folder")), int(request.pop("seed"))
    _evaluate(folder, whole_manifest(folder), RunOptions(**request), seed)
    return {}


def _evaluate(folder: Path, manifest: Manifest, place: RunOptions, seed: int) -> None:
    out, show = folder / "evaluation", evaluation_bar(manifest.name)
    try:
        evaluate(
            load_network(folder, manifest, device="cpu"),
            load_split(manifest.dataset.name, "test", data_dir=place.data_dir),
            manifest.protocol,
            out=out,
            n=manifest.examples,
            seed=seed,
            settings=Settings(batch_size=place.batch_size, threads=place.threads, evidence="int8"),
            device=torch.device(place.device),
            progress=show,
        )
    except LedgerMismatchError as error:
        difference = str(error).partition(": ")[2].split(";")[0][:120]
        raise InputError(
            f"{out} was begun on other terms ({difference}): remove it to evaluate anew"
        ) from error


def write_entry(folder: Path, manifest: Manifest) -> Path:
    """Gather a finished evaluation into the entry's folder."""
    evaluation, entry = folder / "evaluation", folder / "entry"
    shutil.rmtree(entry, ignore_errors=True)
    ledger = Ledger(evaluation, read_header(evaluation))
    hashes = {}
    for spec in manifest.protocol.attacks:
        path = entry / EVIDENCE / f"{spec.name}.safetensors"
        _write_evidence(ledger, spec.name, manifest.examples, path)
        hashes[spec.name] = file_hash(path)
    write_bytes(entry / RESULT_FILE, (evaluation / RESULT_FILE).read_bytes())
    write_bytes(entry / FILE, (folder / FILE).read_bytes())
    write_json(
        entry / ENTRY_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "name": manifest.name,
            "weights": file_hash(folder / WEIGHTS),
            "code": file_hash(folder / CODE) if manifest.factory else None,
            "submission": file_hash(entry / FILE),
            "result": file_hash(entry / RESULT_FILE),
            "evidence": hashes,
            "versions": current_versions(),
        },
    )
    return entry


def _write_evidence(ledger: Ledger, attack: str, n: int, path: Path) -> None:
    """One file for all chunks; its rows are example ids."""
    from safetensors.torch import save

    size = int(ledger.header.settings["chunk_size"])  # type: ignore[call-overload]
    pieces: dict[str, list[Tensor]] = {}
    for chunk in range(-(-n // size)):
        ids = torch.from_numpy(ledger.read_part(attack, chunk)["example_id"].to_numpy(copy=True))
        for name, tensor in ledger.read_evidence(attack, chunk).items():
            whole = ids[tensor] if name.endswith("_rows") else tensor
            pieces.setdefault(name, []).append(whole)
    write_bytes(path, save({name: torch.cat(each) for name, each in sorted(pieces.items())}))


class Entry(Record, frozen=True):
    """What `entry.json` states: hashes of the files that belong together (see `write_entry`)."""

    schema_version: Literal[1]
    name: str
    weights: str
    submission: str
    result: str
    evidence: dict[str, str]
    code: str | None = None
    versions: dict[str, object] | None = None


def read_entry(folder: Path) -> Entry:
    """`entry.json` of an entry.

    Raises:
        InputError: when it is missing or not what `write_entry` writes.
    """
    path = folder / ENTRY_FILE
    try:
        return from_json(Entry, path.read_bytes(), ENTRY_FILE)
    except (OSError, InputError) as error:
        raise InputError(
            f"{path} is no readable entry ({error}); `rbl submit run` writes one"
        ) from error
