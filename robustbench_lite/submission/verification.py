"""Is an entry true? Its evidence, clean verdicts and flags; and new attacks on a sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.checkpoints.user_network import passes_of
from robustbench_lite.core.errors import InputError, ResultError
from robustbench_lite.core.numerics import deterministic, plain_numerics
from robustbench_lite.core.provenance import current_versions
from robustbench_lite.core.storage import write_json
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.evaluation.model_checks import check_attackable
from robustbench_lite.leaderboard import load_result
from robustbench_lite.leaderboard.results.find import RESULT_FILE
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.results.submitted import ENTRY_FILE, VERIFICATION_FILE
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels
from robustbench_lite.submission.entry import EVIDENCE, SEED, read_entry, whole_manifest
from robustbench_lite.submission.findings import Finding, as_records, from_records, verdict
from robustbench_lite.submission.isolation import Limits, run_isolated
from robustbench_lite.submission.manifest import CODE, FILE, WEIGHTS, Manifest, file_hash
from robustbench_lite.submission.network import load_network
from robustbench_lite.submission.recheck import Recheck, Sample
from robustbench_lite.submission.review import CLAIM_TOLERANCE, RunOptions


def verify_entry(
    entry: Path,
    submission: Path,
    place: RunOptions,
    sample: Sample,
    *,
    allow_code: bool,
    limits: Limits,
) -> list[Finding]:
    """Check an entry against the submission it is of, and note a success beside it.

    Args:
        entry: folder of the entry.
        submission: folder of the submission, with the weights.
        place: where to run the network.
        sample: what is attacked again.
        allow_code: the user agreed to run the submitted `model.py`.
        limits: of the process that runs it.

    Returns:
        The findings. Without an error, `verification.json` is written into the entry, which makes
        its row verified; with one, an earlier note is removed.

    Raises:
        InputError: when entry or submission cannot be read, or the data are not there.
    """
    (entry / VERIFICATION_FILE).unlink(missing_ok=True)
    manifest = whole_manifest(submission)
    findings, result = check_files(entry, submission, manifest)
    if result is None:
        return findings
    data = load_split(manifest.dataset.name, "test", data_dir=place.data_dir, progress=True)
    if manifest.factory:
        if not allow_code:
            raise InputError(f"{submission / CODE} would be run: read it, then add --allow-code")
        request = {
            "entry": str(entry.resolve()),
            "submission": str(submission.resolve()),
            **vars(sample),
            "place": vars(place),
        }
        answer = run_isolated("verify", request, limits, quiet=False)
        findings += from_records(answer["findings"])  # type: ignore[arg-type]
    else:
        findings += inspect_network(entry, submission, manifest, result, data, place, sample)
    if verdict(findings) != "refused":
        note = {
            "result": file_hash(entry / RESULT_FILE),
            "entry": file_hash(entry / ENTRY_FILE),
            "k": sample.k,
            "seed": sample.seed,
            "versions": current_versions(),
        }
        write_json(entry / VERIFICATION_FILE, note)
    return findings


def job(request: dict[str, Any]) -> dict[str, object]:
    """What the isolated process does; see `verify_entry`."""
    entry, submission = Path(request["entry"]), Path(request["submission"])
    place, sample = RunOptions(**request["place"]), Sample(request["k"], request["seed"])
    manifest = whole_manifest(submission)
    data = load_split(manifest.dataset.name, "test", data_dir=place.data_dir)
    result = load_result(entry / RESULT_FILE)
    return {
        "findings": as_records(
            inspect_network(entry, submission, manifest, result, data, place, sample)
        )
    }


def check_files(
    entry: Path, submission: Path, manifest: Manifest
) -> tuple[list[Finding], Result | None]:
    """Do the files belong together, and does the result agree with itself?"""
    stated = read_entry(entry)
    attacks = [spec.name for spec in manifest.protocol.attacks]
    anew = "`rbl submit run` writes an entry whose files belong together"
    findings = _unexpected_files(entry, attacks)
    if set(stated.evidence) != set(attacks) or stated.name != manifest.name:
        what = f"{ENTRY_FILE} is not of {manifest.name} and the attacks {', '.join(attacks)}"
        findings.append(Finding("error", what, anew))
    files: dict[str, tuple[Path, str | None]] = {
        RESULT_FILE: (entry / RESULT_FILE, stated.result),
        f"{FILE} of the entry": (entry / FILE, stated.submission),
        f"{FILE} of the submission": (submission / FILE, stated.submission),
        WEIGHTS: (submission / WEIGHTS, stated.weights),
    }
    if manifest.factory:
        files[CODE] = (submission / CODE, stated.code)
    for attack in attacks:
        path = entry / EVIDENCE / f"{attack}.safetensors"
        files[f"evidence of {attack}"] = (path, stated.evidence.get(attack))
    findings += [
        Finding("error", f"{name} is not the file that {ENTRY_FILE} states", anew)
        for name, (path, digest) in files.items()
        if not path.is_file() or file_hash(path) != digest
    ]
    try:
        result = load_result(entry / RESULT_FILE)
    except ResultError as error:
        fix = "results are never edited, only superseded: `rbl submit run`"
        return [*findings, Finding("error", str(error), fix)], None
    if findings:
        return findings, None
    if result.outcomes is None or not result.examples.from_the_first:
        what = f"{RESULT_FILE} has no outcomes per example, from the first"
        return [Finding("error", what, "run `rbl submit run` again")], None
    return [Finding("ok", f"{len(files)} files are those that {ENTRY_FILE} states")], result


def _unexpected_files(entry: Path, attacks: list[str]) -> list[Finding]:
    """Anything in an entry that is not part of it, or is no plain file."""
    known = {ENTRY_FILE, RESULT_FILE, FILE, EVIDENCE}
    known |= {f"{EVIDENCE}/{attack}.safetensors" for attack in attacks}
    found = {path.relative_to(entry).as_posix(): path for path in sorted(entry.rglob("*"))}
    return [
        Finding("error", f"{name} does not belong in an entry", "remove it")
        for name, path in found.items()
        if name not in known or path.is_symlink() or path.is_dir() != (name == EVIDENCE)
    ]


def inspect_network(
    entry: Path,
    submission: Path,
    manifest: Manifest,
    result: Result,
    data: Split,
    place: RunOptions,
    sample: Sample,
) -> list[Finding]:
    """Run the network: clean images, flags, all evidence, and the attacks on a sample."""
    source = load_network(submission, manifest, device=place.device)
    stored = json.loads((entry / RESULT_FILE).read_text(encoding="utf-8"))
    findings = _identity(source, manifest, result, data, stored)
    if findings:
        return findings
    findings = _claims(manifest, result)
    threads = place.threads or torch.get_num_threads()
    numerics = deterministic(threads=threads, seed=result.seed)
    with numerics, plain_numerics(), passes_of(source.model, "verification"):
        recheck = Recheck(source.model, manifest.protocol, result, data, place)
        check_attackable(source.model, data.to(place.device), manifest.protocol.attacks)
        findings += [recheck.clean(), *recheck.flags()]
        for spec in manifest.protocol.attacks:
            findings.append(recheck.evidence(spec.name, entry / EVIDENCE))
        findings.append(recheck.attack_again(sample))
    return findings


def _identity(
    source: LoadedModel, manifest: Manifest, result: Result, data: Split, stored: Mapping[str, Any]
) -> list[Finding]:
    """Is the result of this network, this data, this protocol, and of what is claimed?"""
    protocol = {**manifest.protocol.as_dict(), "hash": manifest.protocol.hash}
    labels = pack_labels(data.labels[: result.n_examples].tolist())
    pairs = {
        "kind of network": (result.model.kind, source.kind),
        "network": (result.model.hash, source.hash),
        "data set": (result.dataset.hash, data.content_hash),
        "name of the data set": (result.dataset.name, data.name),
        "split": (result.dataset.split, data.split),
        "standing of the data set": (result.dataset.canonical, data.canonical),
        "protocol": (result.protocol.hash, manifest.protocol.hash),
        "wording of the protocol": (stored["protocol"], json.loads(json.dumps(protocol))),
        "labels": (stored["outcomes"].get("labels", labels), labels),
        "number of examples": (result.n_examples, manifest.examples),
        "seed": (result.seed, SEED),
        "name": (result.name, manifest.name),
        "extra data": (result.extra_data, manifest.extra_data),
        "parameters": (result.parameters, source.parameters),
        "defense": (result.defense, source.defense),
        "architecture": (result.architecture, source.architecture),
    }
    return [
        Finding(
            "error",
            f"the result is of another {what}: {str(found)[:60]}, here {str(here)[:60]}",
            "evaluate this submission with `rbl submit run`",
        )
        for what, (found, here) in pairs.items()
        if found != here
    ]


def _claims(manifest: Manifest, result: Result) -> list[Finding]:
    """Do the claims agree with what was measured?"""
    findings = []
    for what, claim, found in (
        ("clean", manifest.clean_accuracy, 100 * result.clean_accuracy.value),
        ("robust", manifest.robust_accuracy, 100 * result.robust_accuracy.value),
    ):
        text = f"{what} accuracy {found:.2f} %, claimed {claim:.2f} %"
        if claim > found + CLAIM_TOLERANCE:
            findings.append(Finding("error", text, "claim what was measured"))
        elif claim < found - CLAIM_TOLERANCE:
            findings.append(Finding("warning", text, "the claim may be raised"))
        else:
            findings.append(Finding("ok", text))
    return findings
