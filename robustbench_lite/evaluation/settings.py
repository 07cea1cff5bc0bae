"""What an evaluation is begun with: its settings, and the header that fixes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from robustbench_lite.attacks.acceleration.search_network import Precision
from robustbench_lite.attacks.protocol import Protocol
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import check_count, device_name
from robustbench_lite.core.provenance import current_versions, git_commit
from robustbench_lite.datasets import Split
from robustbench_lite.datasets.selection import Selection
from robustbench_lite.defenses.catalogue import shown_name
from robustbench_lite.evaluation.header import Header

Evidence = Literal["none", "int8", "float32"]
# On a CPU small networks are a tenth slower in batches of 100 than of 500 (benchmarks/RESULTS.md);
# large ones fit into memory. `rbl evaluate --plan` measures it for a network.
DEFAULT_BATCH_SIZE = {"cpu": 100, "cuda": 500}
DEFAULT_CHUNK_SIZE = 500


@dataclass(frozen=True)
class Settings:
    """What fixes the bits; None takes the default, or what a begun folder was begun with.

    Args:
        batch_size: rows per forward pass of attacks and of the verifier. Default: see
            `DEFAULT_BATCH_SIZE`.
        chunk_size: examples per part. Default 500.
        threads: CPU threads. Default: torch's own.
        evidence: `"int8"` keeps the perturbations of broken examples beside each part, judged again
            after rounding (see `robustbench_lite.evaluation.evidence`); `"float32"` keeps every
            adversarial image as it was; `"none"` only hashes. Default `"none"`.
        precision: `"mixed"` lets attacks that can search in float16 do so; every verdict is a
            float32 pass of the plain network in any case. Default `"float32"`.
    """

    batch_size: int | None = None
    chunk_size: int | None = None
    threads: int | None = None
    evidence: Evidence | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "chunk_size", "threads"):
            value = getattr(self, name)
            if value is not None:
                check_count(name, value)
        if self.evidence not in (None, "none", "int8", "float32"):
            raise InputError(
                f"evidence={self.evidence!r} is unknown; available: none, int8, float32"
            )
        if self.precision not in (None, "float32", "mixed"):
            raise InputError(f"precision={self.precision!r} is unknown; available: float32, mixed")

    def explicit_settings(self) -> dict[str, object]:
        """What was asked for explicitly."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def filled(self, device: torch.device) -> dict[str, object]:
        """Every setting, with defaults where nothing was asked."""
        defaults: dict[str, object] = {
            "batch_size": DEFAULT_BATCH_SIZE[device.type],
            "chunk_size": DEFAULT_CHUNK_SIZE,
            "threads": torch.get_num_threads(),
            "evidence": "none",
            "precision": "float32",
        }
        return defaults | self.explicit_settings()


def evaluation_header(
    source: LoadedModel,
    data: Split,
    protocol: Protocol,
    images: Selection,
    seed: int,
    settings: Settings,
    device: torch.device,
) -> Header:
    """The header of an evaluation's folder: what is evaluated, how, and where.

    Args:
        source: the network, with where it comes from.
        data: a split.
        protocol: norm, eps and attacks.
        images: which of it are evaluated.
        seed: of every random draw.
        settings: gaps are filled with the defaults of `device`.
        device: where to compute.

    Returns:
        What `open_ledger` begins a folder with, or compares a begun one with.
    """
    return Header(
        identity={
            "model": source.identity,
            "dataset": {"name": data.name, "split": data.split, "hash": data.content_hash},
            "examples": images.identity,
            "protocol": {**protocol.as_dict(), "hash": protocol.hash},
            "seed": seed,
        },
        settings={
            **settings.filled(device),
            "device": device.type,
            "tf32": False,
            "cudnn_deterministic": True,
            "cudnn_benchmark": False,
        },
        environment={
            "versions": current_versions(),
            "git_commit": git_commit(),
            "device_name": device_name(device),
        },
        about={
            "defense": shown_name(source.defense) if source.card else source.defense,
            "architecture": source.architecture,
            "parameters": source.parameters,
            "extra_data": source.extra_data,
            "selection": source.selection,
            "trained_on": source.trained_on,
            "dataset_canonical": data.canonical,
            "examples": images.about,
        },
    )
