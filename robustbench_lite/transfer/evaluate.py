"""Transfer: images crafted on source networks, judged on target networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robustbench_lite.attacks.protocol import AttackSpec, Protocol
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core.describe_diff import describe_difference, first_line
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.core.numerics import check_seed, deterministic, device_name, plain_numerics
from robustbench_lite.core.provenance import current_versions, git_commit
from robustbench_lite.core.storage import read_sealed_json, write_sealed_json
from robustbench_lite.datasets import Split
from robustbench_lite.datasets.selection import Selection, first_images
from robustbench_lite.transfer.measurement import Measurement, Pixels

SCHEMA_VERSION = 2  # since 2 with `unions` over several sources
FILE = "transfer.json"
PARTS = "parts"


def evaluate_transfer(
    sources: Sequence[LoadedModel],
    targets: Sequence[LoadedModel],
    data: Split,
    protocol: Protocol,
    spec: AttackSpec,
    *,
    out: Path,
    n: int | None,
    seed: int,
    pixels: Pixels,
    batch_size: int,
    threads: int | None,
    device: torch.device,
    images: Selection | None = None,
) -> dict[str, Any]:
    """Craft some images of a split on every source, test every target with them.

    The attack gets every image. One that returns the clean image where it fails, or where there
    was nothing to do (AutoAttack and its parts), gives the targets that one; it also stops at the
    source's first mistake, so its images transfer less than those of PGD with `keep = "last"`. The
    verifier judges: a candidate that it does not allow fools nobody, and the prediction for the
    clean image stands.

    What a source's images did is kept in `out/parts` as soon as it is known: the same call after an
    interruption goes on with the next source.

    Args:
        sources: networks that the attack sees.
        targets: networks that are judged; a source may be among them.
        data: a split.
        protocol: norm and eps.
        spec: the attack of it that is used.
        out: folder for `transfer.json`; one of the same terms is read instead of computed.
        n: number of examples, from the first; None takes all.
        seed: of every random draw.
        pixels: `"8bit"` judges images as an image file would hold them, and gives the rates before
            rounding beside; `"float"` judges them as crafted.
        batch_size: rows per forward pass of attacks and of the verifier.
        threads: CPU threads; None takes torch's own.
        device: where to compute.
        images: which examples, in place of `n`.

    Returns:
        The content of `out/transfer.json`: the terms, `crafted` (one entry a source), `pairs`, and
        `unions`: for each target what all sources but itself do together, if they are several.

    Raises:
        InputError: wrong input, each with one line; a file of other terms is refused and kept.

    Cost:
        For each source the attack's passes over n images; for each pair one forward per image, two
        with `"8bit"`; and one clean forward per network.
    """
    images = images or first_images(n, len(data), what=f"{data.name} {data.split}")
    if batch_size < 1 or (threads is not None and threads < 1):
        raise InputError(f"batch_size={batch_size} and threads={threads} must be at least 1")
    if pixels not in ("8bit", "float"):
        raise InputError(f"pixels={pixels!r} is unknown; available: 8bit, float")
    check_seed(seed)
    protocol.threat.check_diameter(data.images[0].numel())
    spec.check(protocol.threat, num_classes=data.num_classes)
    if spec.target is not None:
        raise InputError(
            f"attack {spec.name!r} is targeted (target={spec.target!r}), and rbl transfer counts "
            "images taken for any wrong class: choose an untargeted attack"
        )
    identity = _identity(
        sources, targets, data, protocol, spec, images=images, seed=seed, pixels=pixels
    )
    if (stored := _stored(out / FILE, identity)) is not None:
        return stored
    threads = threads or torch.get_num_threads()
    about = {
        **identity,
        "settings": {"batch_size": batch_size, "threads": threads, "device": device.type},
        "dataset_canonical": data.canonical,
        "git_commit": git_commit(),
        "environment": {"versions": current_versions(), "device_name": device_name(device)},
    }
    with deterministic(threads=threads, seed=seed), plain_numerics():
        ids = torch.tensor(images.ids, dtype=torch.int64)
        run = Measurement(
            data.subset(ids).to(device),
            ids.to(device),
            protocol,
            spec,
            seed=seed,
            pixels=pixels,
            batch_size=batch_size,
            parts=out / PARTS,
            terms=about,
        )
        result = {**about, **run.measure(sources, targets)}
    write_sealed_json(out / FILE, result)
    return result


def _identity(
    sources: Sequence[LoadedModel],
    targets: Sequence[LoadedModel],
    data: Split,
    protocol: Protocol,
    spec: AttackSpec,
    *,
    images: Selection,
    seed: int,
    pixels: str,
) -> dict[str, object]:
    """What the numbers are of: two files with other terms are other measurements."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": {"name": data.name, "split": data.split, "hash": data.content_hash},
        "examples": images.identity,
        "protocol": {**protocol.as_dict(), "hash": protocol.hash},
        "attack": spec.name,
        "pixels": pixels,
        "seed": seed,
        "sources": [source.identity for source in sources],
        "targets": [target.identity for target in targets],
    }


def _stored(path: Path, identity: Mapping[str, object]) -> dict[str, Any] | None:
    """What an earlier call wrote under the same terms; None when there is no file."""
    if not path.exists():
        return None
    try:
        stored, sealed = read_sealed_json(path)
        if not sealed:
            raise ValueError("it has no checksum")
        there = {key: stored[key] for key in identity}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no {FILE} of this version ({first_line(error)}); choose another --out"
        ) from error
    if difference := describe_difference(there, identity):
        raise LedgerMismatchError(
            f"{path} holds another measurement: {difference}; choose another --out"
        )
    found: dict[str, Any] = stored
    return found
