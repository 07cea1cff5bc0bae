"""Detection of outliers by a network's confidence, without and with an attack on both sides.

A first measure, not a claim: one attack at confidence, last iterate, for every score. An attack
made for the score itself, with restarts and the worst per image, may find less than this does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attacks.first_order.pgd_int import pgd_int, whole_levels
from robustbench_lite.attacks.threat_model import format_eps
from robustbench_lite.checkpoints.model_source import LoadedModel, check_model_contract
from robustbench_lite.checkpoints.user_network import passes_of
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import check_seed, deterministic, device_name, plain_numerics
from robustbench_lite.core.provenance import current_versions, git_commit
from robustbench_lite.datasets import Split
from robustbench_lite.datasets.arrays import content_hash
from robustbench_lite.datasets.selection import Selection, first_images
from robustbench_lite.detection.scores import msp, odin
from robustbench_lite.leaderboard.statistics.detection import (
    DRAWS,
    METRICS,
    detection_intervals,
    detection_metrics,
)

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 2
Score = Literal["msp", "odin"]
# ODIN's step is a fixed default in the code of ALOE, not tuned; this is its value for CIFAR.
SCORES: dict[str, dict[str, float]] = {"msp": {}, "odin": {"temperature": 1000.0, "eta": 0.0014}}
_FUNCTIONS: dict[str, Callable[..., Tensor]] = {"msp": msp, "odin": odin}
_LOSSES = {"inlier": "to_uniform", "outlier": "to_one_hot"}
_KINDS = ("clean", "attacked")


@dataclass(frozen=True)
class DetectionSettings:
    """What moves the numbers.

    Args:
        score: `"msp"`, or `"odin"` with T = 1000 and eta = 0.0014.
        eps: Linf radius of the attack, a whole number of 1/255.
        alpha: its step size, likewise; 1/255 in the code of ALOE.
        steps: of the attack; 10 in the code of ALOE.
        seed: of its starts.
        batch_size: images per forward pass.
        threads: CPU threads.
    """

    score: Score
    eps: Fraction
    alpha: Fraction
    steps: int
    seed: int
    batch_size: int
    threads: int

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise InputError(f"score={self.score!r} is unknown; available: {', '.join(SCORES)}")
        whole_levels("eps", float(self.eps))
        whole_levels("alpha", float(self.alpha))
        for name, lowest in (("steps", 0), ("batch_size", 1), ("threads", 1)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name}={getattr(self, name)} must be at least {lowest}")
        check_seed(self.seed)

    def attack(self) -> dict[str, object]:
        """The attack as plain JSON data."""
        return {
            "attack": "pgd_int",
            "norm": "Linf",
            "eps": format_eps(self.eps),
            "alpha": format_eps(self.alpha),
            "steps": self.steps,
            "rounding": "round",
            "start": "uniform",
            "keep": "last",
            "loss": _LOSSES,
        }


def evaluate_detection(
    source: LoadedModel,
    data: Split,
    outliers: Mapping[str, Tensor],
    *,
    n: int | None,
    settings: DetectionSettings,
    device: torch.device,
    images: Selection | None = None,
) -> dict[str, object]:
    """How well a score tells inliers from outliers, on clean images and under attack.

    The attack is that of ALOE (Chen et al. 2020, arXiv:2003.09711): `pgd_int` in eval mode that
    makes inliers look like outliers (towards the uniform prediction) and outliers look like
    inliers (towards a one-hot one). It sees the plain softmax, with ODIN too.

    Args:
        source: the network, with where it comes from.
        data: the inliers; their labels play no part.
        outliers: name to uint8 (M, C, H, W); all of them count against all n inliers.
        n: inliers, from the first; None takes all.
        settings: score and attack.
        device: where to compute.
        images: which inliers instead of the first n.

    Returns:
        Plain JSON data: identity, settings, and for each set of outliers, `clean` and `attacked`,
        the metrics of `detection_metrics` as fractions, with the intervals of
        `detection_intervals`; their plain average over the sets.

    Raises:
        InputError: wrong input, or a network that does not fit or gives NaN.

    Cost:
        Per image `steps` forwards and backwards, and two scores.
    """
    images = images or first_images(n, len(data), what=f"{data.name} {data.split}")
    if data.images.dtype != torch.uint8:
        raise InputError(
            f"{data.name} holds float images; detection compares 8-bit ones: store them as uint8"
        )
    if not outliers:
        raise InputError("no outliers given: name at least one source")
    model = source.model.to(device).eval()
    numerics = deterministic(threads=settings.threads, seed=settings.seed)
    with numerics, plain_numerics(), passes_of(source.model, "scores"):
        x = data.pixels(list(images.ids[:8])).to(device)
        check_model_contract(model, x, data.num_classes, dataset=data.name)
        measure = partial(_scores, model, settings=settings, device=device)
        inliers = measure(
            data.images[list(images.ids)],
            ids=torch.tensor(images.ids),
            side="inlier",
            stream=f"detection/{data.name}",
        )
        sets = {
            name: _compare(
                inliers,
                measure(
                    found,
                    ids=torch.arange(len(found)),
                    side="outlier",
                    stream=f"detection/{name}",
                ),
                seed=settings.seed,
            )
            for name, found in outliers.items()
        }
    return {
        **_identity(source, data, images, settings),
        "outliers": {
            name: {"n": len(found), "hash": _hash(found), **sets[name]}
            for name, found in outliers.items()
        },
        "average": {kind: _average([row[kind] for row in sets.values()]) for kind in _KINDS},
        **_circumstances(settings, device),
    }


def _identity(
    source: LoadedModel, data: Split, images: Selection, settings: DetectionSettings
) -> dict[str, object]:
    """What was measured: the keys that fix the numbers."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "detection",
        "model": source.identity,
        "dataset": {
            "name": data.name,
            "split": data.split,
            "hash": data.content_hash,
            "canonical": data.canonical,
        },
        "examples": images.identity,
        "score": {"name": settings.score, **SCORES[settings.score]},
        "attack": settings.attack(),
        "seed": settings.seed,
        "intervals": {"level": 0.95, "method": "stratified bootstrap, percentile", "draws": DRAWS},
    }


def _circumstances(settings: DetectionSettings, device: torch.device) -> dict[str, object]:
    """Where and with what it ran: this moves last bits only."""
    return {
        "settings": {
            "batch_size": settings.batch_size,
            "threads": settings.threads,
            "device": device.type,
            "tf32": False,
        },
        "environment": {
            "versions": current_versions(),
            "git_commit": git_commit(),
            "device_name": device_name(device),
        },
    }


def _scores(
    model: nn.Module,
    images: Tensor,
    *,
    ids: Tensor,
    side: str,
    stream: str,
    settings: DetectionSettings,
    device: torch.device,
) -> dict[str, Tensor]:
    """Scores (N,) of uint8 images as they are and attacked, by kind, on the CPU; draws are those
    of `ids` (N,)."""
    logger.info("scoring %d images of %s", len(images), stream)
    score = partial(_FUNCTIONS[settings.score], model, **SCORES[settings.score])
    found: dict[str, list[Tensor]] = {kind: [] for kind in _KINDS}
    for rows in torch.split(torch.arange(len(images)), settings.batch_size):
        levels = images[rows.to(images.device)].to(device).float()
        x = levels / torch.full((), 255.0, device=device)
        x_adv = pgd_int(
            model,
            x,
            torch.zeros(len(x), dtype=torch.int64, device=device),  # the losses use no labels
            eps=float(settings.eps),
            alpha=float(settings.alpha),
            steps=settings.steps,
            loss=_LOSSES[side],
            rounding="round",
            start="uniform",
            ids=ids[rows].to(device),
            seed=settings.seed,
            stream=stream,
        )
        for kind, seen in zip(_KINDS, (x, x_adv), strict=True):
            found[kind].append(score(seen).cpu())
    return {kind: torch.cat(parts) for kind, parts in found.items()}


def _compare(
    inliers: Mapping[str, Tensor], outliers: Mapping[str, Tensor], *, seed: int
) -> dict[str, dict[str, Any]]:
    """By kind the metrics, and under `intervals` their intervals by kind."""
    scores = {kind: (inliers[kind].numpy(), outliers[kind].numpy()) for kind in _KINDS}
    found: dict[str, dict[str, Any]] = {
        kind: detection_metrics(*both) for kind, both in scores.items()
    }
    found["intervals"] = {
        kind: detection_intervals(*both, seed=seed) for kind, both in scores.items()
    }
    return found


def _hash(images: Tensor) -> str:
    return content_hash(images.cpu().numpy(), np.zeros(len(images), dtype=np.int64))


def _average(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in METRICS}
