"""The files of a training run: its terms, its state after each epoch, its two checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.checkpoints.checkpoint import Card, save_checkpoint
from robustbench_lite.core.describe_diff import describe_difference, first_line
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.core.integrity import line_with_checksum
from robustbench_lite.core.numerics import device_name
from robustbench_lite.core.provenance import current_versions, git_commit
from robustbench_lite.core.storage import (
    read_sealed_json,
    write_bytes,
    write_sealed_json,
    write_text,
)
from robustbench_lite.datasets import Split
from robustbench_lite.training.recipe import Recipe
from robustbench_lite.training.state import read_state, state_bytes
from robustbench_lite.training.trackers import LOGS

STATE_FILE = "state.safetensors"
OLD_STATE_FILE = "state.pt"  # of older versions, by torch.save; read, and replaced


class RunFolder:
    """A run folder: recipe, metrics, the state to resume from, `best/` and, at the end, `last/`.

    Args:
        path: the folder; made when missing.
        recipe: what is trained.
        data: the whole training split.
        device: where.
        threads: CPU threads; None takes torch's own, or what the run was begun with.
        facts: hashes of what else the run is made from: outliers, teachers.
        subfolders: names inside that belong to the run (a teacher that is trained first).

    Raises:
        LedgerMismatchError: when the folder was begun with other terms; the message lists them.
        InputError: when it holds something else.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        data: Split,
        device: torch.device,
        threads: int | None,
        *,
        facts: Mapping[str, str],
        subfolders: Collection[str],
    ) -> None:
        self.path, self.recipe, self.data, self.facts = path, recipe, data, facts
        if threads is not None and threads < 1:
            raise InputError(f"threads={threads} must be at least 1")
        self.threads = threads or torch.get_num_threads()
        self._environment: dict[str, Any] = {
            "device": device_name(device),
            "versions": current_versions(),
            "git_commit": git_commit(),
        }
        self._begun_in = self._environment
        if any((path / name).exists() for name in (STATE_FILE, OLD_STATE_FILE)):
            self._go_on(threads)
            return
        foreign = list(path.iterdir()) if path.is_dir() else [path]
        ours = ("recipe.json", "best", LOGS, *subfolders)
        foreign = [entry for entry in foreign if entry.exists() and not _ours(entry, ours)]
        if foreign:
            raise InputError(
                f"{path} is not empty and no run folder ({foreign[0].name}): choose another --out"
            )
        # No epoch is finished, so nothing is lost if the terms are others than last time.
        write_sealed_json(path / "recipe.json", {**self._terms(), "environment": self._environment})

    def _terms(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "dataset_hash": self.data.content_hash,
            "threads": self.threads,
            **self.facts,
        }

    def _go_on(self, threads: int | None) -> None:
        """Take over the stored number of threads; refuse other terms."""
        file = self.path / "recipe.json"
        try:
            stored, sealed = read_sealed_json(file)
            if not sealed and (self.path / STATE_FILE).exists():
                raise ValueError("it has no checksum")
            self.threads = threads or int(stored["threads"])
            self._begun_in = dict(stored.pop("environment"))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise InputError(
                f"{file} is no readable recipe.json of this version ({first_line(error)}); choose "
                "another --out, or remove that folder"
            ) from error
        if difference := describe_difference(stored, self._terms()):
            raise LedgerMismatchError(
                f"{self.path} holds another run: {difference}; choose another --out, or remove "
                "that folder"
            )

    def check_environment(self) -> None:
        """Refuse to train on under other versions or hardware than the run was begun with."""
        if difference := describe_difference(self._begun_in, self._environment):
            raise LedgerMismatchError(
                f"{self.path} was begun in another environment: {difference}; its bytes could "
                "not be reproduced: finish it there, or choose another --out, or remove that folder"
            )

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Store what resuming needs; plain tensors, numbers, lists and dicts only."""
        write_bytes(self.path / STATE_FILE, state_bytes({**state, "terms": self._digest()}))
        (self.path / OLD_STATE_FILE).unlink(missing_ok=True)
        self.write_metrics(state["metrics"])

    def _digest(self) -> str:
        """What a state says of the run that it belongs to."""
        return hashlib.sha256(json.dumps(self._terms(), sort_keys=True).encode()).hexdigest()

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The state after the last finished epoch, or None.

        Raises:
            InputError: when the file is damaged, or of another run.
        """
        file, old = self.path / STATE_FILE, self.path / OLD_STATE_FILE
        try:
            if file.exists():
                state: dict[str, Any] = read_state(file.read_bytes(), device)
            elif old.exists():
                file = old
                state = torch.load(file, map_location=device, weights_only=True)
            else:
                return None
            whose = state["terms"]
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise self.damaged(error) from error
        if whose != self._digest():
            raise LedgerMismatchError(
                f"{file} is of another run than recipe.json beside it says; choose another --out, "
                "or remove that folder"
            )
        self.write_metrics(state["metrics"])
        return state

    def damaged(self, error: Exception) -> InputError:
        """What to say of a state that cannot be gone on with."""
        return InputError(
            f"{self.path / STATE_FILE} is damaged ({first_line(error)}); train into another --out: "
            "best/ here still holds the best checkpoint so far"
        )

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        """`metrics.jsonl`, a line per finished epoch."""
        lines = [line_with_checksum(row) + "\n" for row in rows]
        write_text(self.path / "metrics.jsonl", "".join(lines))

    def save_checkpoint(self, name: str, model: nn.Module, row: dict[str, float]) -> None:
        """Write `best/` or `last/`, with the metrics of its epoch."""
        recipe, info = self.recipe, self.data.facts
        mean, std = recipe.model.mean_and_std(info)
        chosen = "last epoch"
        if name == "best":
            chosen = f"best validation {recipe.validation.select_by.replace('_', ' ')}"
        card = Card(
            name=recipe.name,
            defense=recipe.defense_name,
            architecture=recipe.model.name,
            architecture_kwargs=dict(recipe.model.options),
            num_classes=self.data.num_classes,
            in_channels=info.channels,
            image_size=info.image_size,
            mean=mean,
            std=std,
            dataset=self.data.name,
            dataset_hash=self.data.content_hash,
            recipe=recipe.as_dict(),
            seed=recipe.training.seed,
            versions=current_versions(),
            git_commit=git_commit(),
            epoch=int(row["epoch"]),
            selection=chosen,
            metrics=row,
            notes="",
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )
        save_checkpoint(self.path / name, model, card)


def _ours(entry: Path, names: Collection[str]) -> bool:
    """What a run killed before its first epoch ended may leave behind."""
    unfinished = entry.name.startswith(".") and ".tmp" in entry.name
    return unfinished or entry.name in names
