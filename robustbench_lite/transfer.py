"""Transfer: images crafted on source networks, judged on target networks."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.projections import l2_norm, per_example
from robustbench_lite.attacks.protocol import AttackSpec, Protocol
from robustbench_lite.attacks.run_attack import check_attack, run_attack
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.datasets import Split
from robustbench_lite.differences import describe_difference, first_line
from robustbench_lite.errors import InputError, LedgerMismatchError
from robustbench_lite.leaderboard.statistics import accuracy
from robustbench_lite.model_source import LoadedModel, check_model_contract
from robustbench_lite.numerics import check_seed, deterministic, device_name
from robustbench_lite.provenance import current_versions, git_commit
from robustbench_lite.storage import write_json
from robustbench_lite.transfer_rate import TransferCounts, count_transfer
from robustbench_lite.verifier import Verdict, plain_numerics, verify

logger = logging.getLogger(__name__)

Pixels = Literal["8bit", "float"]
SCHEMA_VERSION = 1
FILE = "transfer.json"


def round_to_8bit(x_adv: Tensor, x: Tensor, threat: ThreatModel) -> Tensor:
    """Candidates as an 8-bit image file would hold them, without leaving the ball.

    Linf: the nearest levels at most floor(255 eps) away from the clean ones. L2: the nearest
    levels, and where those are outside the ball, each pixel rounded towards the clean one.

    Args:
        x_adv: candidates (N, C, H, W), float32.
        x: clean images of 8-bit pixels, k / 255, likewise.
        threat: norm and radius.

    Returns:
        float32 (N, C, H, W), the float32 nearest to k / 255 everywhere.
    """
    levels = (255.0 * x.double()).round()
    delta = 255.0 * x_adv.double() - levels
    if threat.norm == "Linf":
        radius = math.floor(255 * threat.eps)
        delta = delta.round().clamp(-radius, radius)
    else:
        outside = l2_norm(delta.round()) > 255.0 * float(threat.eps)
        delta = torch.where(per_example(outside, delta), delta.trunc(), delta.round())
    rounded = (levels + delta).clamp(0.0, 255.0).float()
    return rounded / torch.full((), 255.0, device=x.device)  # as `Split.pixels` divides


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
) -> dict[str, Any]:
    """Craft the first `n` images of a split on every source, judge them on every target.

    Every image is attacked, also those that the source has wrong. The verifier judges: a candidate
    that it does not allow fools nobody, and the prediction for the clean image stands.

    Args:
        sources: networks that the attack sees.
        targets: networks that are judged; a source may be among them.
        data: a split.
        protocol: norm and eps.
        spec: the attack of it that is used.
        out: folder for `transfer.json`; one of the same terms is read instead of computed.
        n: number of examples; None takes all.
        seed: of every random draw.
        pixels: `"8bit"` judges images as an image file would hold them, and gives the rates before
            rounding beside; `"float"` judges them as crafted.
        batch_size: rows per forward pass of attacks and of the verifier.
        threads: CPU threads; None takes torch's own.
        device: where to compute.

    Returns:
        The content of `out/transfer.json`: the terms, `crafted` (one entry a source) and `pairs`.

    Raises:
        InputError: wrong input, each with one line; a file of other terms is refused and kept.

    Cost:
        For each source the attack's passes over n images; for each pair one forward per image, two
        with `"8bit"`; and one clean forward per network.
    """
    n = len(data) if n is None else n
    if not 1 <= n <= len(data):
        raise InputError(f"n={n}: {data.name} {data.split} has 1 to {len(data)} examples to take")
    if batch_size < 1 or (threads is not None and threads < 1):
        raise InputError(f"batch_size={batch_size} and threads={threads} must be at least 1")
    if pixels not in ("8bit", "float"):
        raise InputError(f"pixels={pixels!r} is unknown; available: 8bit, float")
    check_seed(seed)
    protocol.threat.check_diameter(data.images[0].numel())
    check_attack(spec, protocol.threat, num_classes=data.num_classes)
    identity = _identity(sources, targets, data, protocol, spec, n=n, seed=seed, pixels=pixels)
    if (stored := _stored(out / FILE, identity)) is not None:
        return stored
    threads = threads or torch.get_num_threads()
    with deterministic(threads=threads, seed=seed), plain_numerics():
        images = data.subset(torch.arange(n)).to(device)
        run = _Transfer(images, protocol, spec, seed, pixels, batch_size)
        measured = run.measure(sources, targets)
    result = {
        **identity,
        **measured,
        "settings": {"batch_size": batch_size, "threads": threads, "device": device.type},
        "dataset_canonical": data.canonical,
        "git_commit": git_commit(),
        "environment": {"versions": current_versions(), "device_name": device_name(device)},
    }
    write_json(out / FILE, result)
    return result


def _identity(
    sources: Sequence[LoadedModel],
    targets: Sequence[LoadedModel],
    data: Split,
    protocol: Protocol,
    spec: AttackSpec,
    *,
    n: int,
    seed: int,
    pixels: str,
) -> dict[str, object]:
    """What the numbers are of: two files with other terms are other measurements."""
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": {"name": data.name, "split": data.split, "hash": data.content_hash},
        "examples": {"first": 0, "count": n},
        "protocol": {**protocol.as_dict(), "hash": protocol.hash},
        "attack": spec.name,
        "pixels": pixels,
        "seed": seed,
        "sources": [_about(source) for source in sources],
        "targets": [_about(target) for target in targets],
    }


def _about(network: LoadedModel) -> dict[str, str]:
    return {"name": network.name, "kind": network.kind, "hash": network.hash}


def _stored(path: Path, identity: Mapping[str, object]) -> dict[str, Any] | None:
    """What an earlier call wrote under the same terms; None when there is no file."""
    if not path.exists():
        return None
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        there = {key: stored[key] for key in identity}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no {FILE} of this version ({first_line(error)}); choose another --out"
        ) from error
    if difference := describe_difference(there, identity):
        raise LedgerMismatchError(
            f"{path} holds another measurement: {difference}; choose another --out"
        )
    return stored


class _Transfer:
    """One measurement in progress: the images and how they are attacked and judged."""

    def __init__(
        self,
        data: Split,
        protocol: Protocol,
        spec: AttackSpec,
        seed: int,
        pixels: Pixels,
        batch_size: int,
    ) -> None:
        self.data, self.protocol, self.spec = data, protocol, spec
        self.seed, self.pixels, self.batch_size = seed, pixels, batch_size
        self.x, self.y = data.pixels(slice(None)), data.labels

    def measure(
        self, sources: Sequence[LoadedModel], targets: Sequence[LoadedModel]
    ) -> dict[str, object]:
        """`crafted` and `pairs` of the result."""
        clean = {}
        for network in (*sources, *targets):
            if network.hash not in clean:
                network.model.to(self.x.device).eval()
                self._check(network)
                clean[network.hash] = self._judge(network.model, self.x).prediction
        crafted, pairs = [], []
        for source in sources:
            logger.info("crafting %s on %s", self.spec.name, source.name)
            versions = self._craft(source)
            verdicts = [self._judge(source.model, x_adv) for x_adv in versions]
            right = clean[source.hash]
            crafted.append(
                {
                    "source": source.hash,
                    "clean_accuracy": accuracy(int((right == self.y).sum()), len(self.y)),
                    "fooled": int((verdicts[0].broken & (right == self.y)).sum()),
                    "largest_linf": float(verdicts[0].linf.max()),
                    "largest_l2": float(verdicts[0].l2.max()),
                }
            )
            for target in targets:
                counts = [
                    count_transfer(
                        self.y,
                        source_clean=right,
                        source_adv=_standing(verdict, right, self.y),
                        target_clean=clean[target.hash],
                        target_adv=_standing(
                            self._judge(target.model, x_adv), clean[target.hash], self.y
                        ),
                    )
                    for x_adv, verdict in zip(versions, verdicts, strict=True)
                ]
                pairs.append(self._pair(source, target, clean[target.hash], counts))
        return {"crafted": crafted, "pairs": pairs}

    def _pair(
        self,
        source: LoadedModel,
        target: LoadedModel,
        clean: Tensor,
        counts: Sequence[TransferCounts],
    ) -> dict[str, object]:
        return {
            "source": source.hash,
            "target": target.hash,
            "clean_accuracy": accuracy(int((clean == self.y).sum()), len(self.y)),
            **counts[0].as_dict(),
            "before_rounding": counts[1].as_dict() if len(counts) > 1 else None,
        }

    def _check(self, network: LoadedModel) -> None:
        try:
            check_model_contract(
                network.model, self.x[:8], self.data.num_classes, dataset=self.data.name
            )
        except InputError as error:
            raise InputError(f"{network.name}: {error}") from error

    def _craft(self, source: LoadedModel) -> list[Tensor]:
        """The candidates as judged and, where those are rounded, before that."""
        try:
            x_adv = run_attack(
                self.spec,
                source.model,
                self.x,
                self.y,
                threat=self.protocol.threat,
                ids=torch.arange(len(self.y), device=self.x.device),
                seed=self.seed,
                batch_size=self.batch_size,
            )
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{source.name}: out of device memory with batches of {self.batch_size}; choose a "
                "smaller --batch-size"
            ) from error
        if self.pixels == "float":
            return [x_adv]
        return [round_to_8bit(x_adv, self.x, self.protocol.threat), x_adv]

    def _judge(self, model: nn.Module, x_adv: Tensor) -> Verdict:
        return verify(
            model,
            self.x,
            x_adv,
            self.y,
            threat=self.protocol.threat,
            batch_size=self.batch_size,
            passes=self.protocol.passes,
        )


def _standing(verdict: Verdict, clean: Tensor, y: Tensor) -> Tensor:
    """Predictions for the candidates; the clean image's where the verifier allows no success."""
    return torch.where(verdict.broken | (verdict.prediction == y), verdict.prediction, clean)
