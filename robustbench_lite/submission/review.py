"""A reviewer's verdict on a submission: files first, then the network, its flags and its claims."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from robustbench_lite.attacks.protocol import Protocol, load_protocol
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.checkpoints.user_network import passes_of
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.leaderboard.statistics.accuracy import wilson_interval
from robustbench_lite.submission.findings import Finding, as_records, from_records
from robustbench_lite.submission.isolation import Limits, run_isolated
from robustbench_lite.submission.manifest import CODE, Manifest, read_manifest
from robustbench_lite.submission.network import load_network
from robustbench_lite.verifier import verify

CLEAN_EXAMPLES = 1000  # looked at for the clean claim
CLAIM_TOLERANCE = 0.2  # points, where all the claimed images are looked at
_SURE = 0.999  # confidence of the interval that must hold a claim, where only some are


@dataclass(frozen=True)
class RunOptions:
    """Where and how the network is run.

    Args:
        data_dir: of local data sets, or None.
        device: such as `cpu`.
        batch_size: rows per forward pass; None takes the default.
        threads: CPU threads; None takes torch's.
    """

    data_dir: str | None
    device: str
    batch_size: int | None
    threads: int | None


def check(
    folder: Path, place: RunOptions, *, allow_code: bool, limits: Limits, examples: int
) -> list[Finding]:
    """Everything a reviewer would look at.

    Args:
        folder: of the submission.
        place: where to run the network.
        allow_code: the user agreed to run the submitted `model.py`.
        limits: of the process that runs it.
        examples: how many images flags and the quick attack look at.

    Returns:
        The findings; see `findings.verdict`.

    Raises:
        InputError: when there is no such folder, or the data set cannot be loaded.
    """
    manifest, findings = read_manifest(folder)
    if manifest is None:
        return findings
    data = load_split(manifest.dataset.name, "test", data_dir=place.data_dir, progress=True)
    if manifest.examples > len(data):
        fix = f"the test split has {len(data)}"
        return [*findings, Finding("error", f"claims.examples is {manifest.examples}", fix)]
    if not manifest.factory:
        return findings + inspect_network(folder, manifest, data, place, examples=examples)
    if not allow_code:
        what, fix = f"{CODE} was not run, so no verdict", "read it, then add --allow-code"
        return [*findings, Finding("error", what, fix)]
    request = {"folder": str(folder.resolve()), "examples": examples, **vars(place)}
    try:
        answer = run_isolated("check", request, limits, quiet=True)
    except InputError as error:
        return [*findings, Finding("error", f"{CODE}: {error}")]
    return findings + from_records(answer["findings"])  # type: ignore[arg-type]


def job(request: dict[str, Any]) -> dict[str, object]:
    """What the isolated process does; see `check`."""
    folder, examples = Path(request.pop("folder")), int(request.pop("examples"))
    place = RunOptions(**request)
    manifest, findings = read_manifest(folder)
    if manifest is None:  # changed since the caller looked
        return {"findings": as_records(findings)}
    data = load_split(manifest.dataset.name, "test", data_dir=place.data_dir)
    return {
        "findings": as_records(inspect_network(folder, manifest, data, place, examples=examples))
    }


def inspect_network(
    folder: Path, manifest: Manifest, data: Split, place: RunOptions, *, examples: int
) -> list[Finding]:
    """Build the network and hold it against the claims. Runs submitted code, if there is any."""
    try:
        source = load_network(folder, manifest, device=place.device)
    except InputError as error:
        fix = "network and weights must be made for each other"
        return [Finding("error", f"the network cannot be built: {error}", fix)]
    findings = [Finding("ok", f"network: {source.parameters:,} parameters, {source.hash[:19]}")]
    try:
        result = _quick_result(source, data, manifest, place, n=min(examples, manifest.examples))
        with passes_of(source.model, "clean images"):
            clean = _clean_claim(source, data, manifest, place)
    except InputError as error:
        return [*findings, Finding("error", str(error), "mend the network, then check again")]
    findings += [*_flags(result), clean]
    findings.append(_robust_claim(result, manifest))
    return findings


def quick_protocol(full: Protocol) -> Protocol:
    """Two first-order attacks of 20 steps, at the radius and with the passes of the full one."""
    name = f"{full.threat.norm.lower()}_quick"
    return replace(load_protocol(name, eps=full.threat.eps_text), passes=full.passes)


def _quick_result(
    source: LoadedModel, data: Split, manifest: Manifest, place: RunOptions, *, n: int
) -> Mapping[str, Any]:
    """`result.json` of a quick evaluation: contract, flags and two attacks."""
    with tempfile.TemporaryDirectory(prefix="rbl-check-") as out:
        return evaluate(
            source,
            data,
            quick_protocol(manifest.protocol),
            out=Path(out) / "quick",
            n=n,
            seed=0,
            settings=Settings(batch_size=place.batch_size, threads=place.threads),
            device=torch.device(place.device),
        )


def _flags(result: Mapping[str, Any]) -> list[Finding]:
    if not result["flags"]:
        return [Finding("ok", f"no flag of {len(result['checks'])}, {result['n_examples']} images")]
    return [
        Finding("warning", f"flag {flag['name']}: {flag['meaning']}", flag["follow_up"])
        for flag in result["flags"]
    ]


def _clean_claim(
    source: LoadedModel, data: Split, manifest: Manifest, place: RunOptions
) -> Finding:
    n = min(CLEAN_EXAMPLES, manifest.examples)
    part = data.subset(torch.arange(n)).to(torch.device(place.device))
    x = part.pixels(slice(None))
    judged = verify(
        source.model,
        x,
        x,
        part.labels,
        threat=manifest.protocol.threat,
        batch_size=place.batch_size or 100,
        passes=manifest.protocol.passes,
    )
    right, claim = n - int(judged.broken.sum()), manifest.clean_accuracy
    what = f"clean accuracy {100 * right / n:.2f} % of {n} images, claimed {claim:.2f} %"
    low, high = (100 * bound for bound in wilson_interval(right, n, _SURE))
    if n == manifest.examples:
        low, high = (100 * right / n + side * CLAIM_TOLERANCE for side in (-1, 1))
    if low <= claim <= high:
        return Finding("ok", what)
    return Finding("error", what, "claim what these weights do on these test images")


def _robust_claim(result: Mapping[str, Any], manifest: Manifest) -> Finding:
    """A quick attack bounds robustness from above: it can refute a claim, never confirm it."""
    record, claim = result["robust_accuracy"], manifest.robust_accuracy
    right, n = record["correct"], record["n"]
    what = f"a quick attack leaves {100 * right / n:.2f} % of {n} images, claimed {claim:.2f} %"
    high = 100 * wilson_interval(right, n, _SURE)[1]
    if n == manifest.examples:
        high = 100 * right / n + CLAIM_TOLERANCE
    if claim <= high:
        return Finding("ok", what)
    fix = f"evaluate with {manifest.protocol.name} before claiming: stronger attacks leave less"
    return Finding("error", what, fix)
