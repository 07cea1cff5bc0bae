"""The files of a training run: its terms, its state after each epoch, its two checkpoints."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.checkpoint import Card, save_checkpoint
from robustbench_lite.datasets import Split, dataset_info
from robustbench_lite.differences import describe_difference, first_line
from robustbench_lite.errors import InputError, LedgerMismatchError
from robustbench_lite.numerics import device_name
from robustbench_lite.provenance import current_versions, git_commit
from robustbench_lite.recipe import Recipe
from robustbench_lite.storage import write_bytes, write_json, write_text


class RunFolder:
    """A run folder: `recipe.json`, `metrics.jsonl`, `state.pt`, `best/` and, at the end, `last/`.

    Args:
        path: the folder; made when missing.
        recipe: what is trained.
        data: the whole training split.
        device: where.
        threads: CPU threads; None takes torch's own, or what the run was begun with.

    Raises:
        LedgerMismatchError: when the folder was begun with other terms; the message lists them.
        InputError: when it holds something else.
    """

    def __init__(
        self, path: Path, recipe: Recipe, data: Split, device: torch.device, threads: int | None
    ) -> None:
        self.path, self.recipe, self.data = path, recipe, data
        terms: dict[str, Any] = {
            "recipe": recipe.as_dict(),
            "dataset_hash": data.content_hash,
            "device": device_name(device),
            "versions": current_versions(),
        }
        file = path / "recipe.json"
        if not file.exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(f"{path} is not empty and no run folder: choose another --out")
            self.threads = threads or torch.get_num_threads()
            write_json(file, {**terms, "threads": self.threads})
            return
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            self.threads = int(stored["threads"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{file} cannot be read ({error}); choose another --out") from error
        now = {**terms, "threads": threads or self.threads}
        if difference := describe_difference(stored, now):
            raise LedgerMismatchError(
                f"{path} holds another run: {difference}; choose another --out"
            )

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Store what resuming needs; plain tensors, numbers, lists and dicts only."""
        # By way of memory: torch's own file writer hides a full disk behind an internal error.
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        write_bytes(self.path / "state.pt", buffer.getbuffer())
        self.write_metrics(state["metrics"])

    def load_state(self, device: torch.device) -> dict[str, Any] | None:
        """The state after the last finished epoch, or None.

        Raises:
            InputError: when the file is damaged.
        """
        file = self.path / "state.pt"
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location=device, weights_only=True)
        except Exception as error:  # torch.load raises many kinds for a damaged file
            raise InputError(
                f"{file} is damaged ({first_line(error)}); train into another --out: best/ here "
                "still holds the best checkpoint so far"
            ) from error
        self.write_metrics(state["metrics"])
        return state

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        """`metrics.jsonl`, a line per finished epoch."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
        write_text(self.path / "metrics.jsonl", "".join(lines))

    def save_checkpoint(self, name: str, model: nn.Module, row: dict[str, float]) -> None:
        """Write `best/` or `last/`, with the metrics of its epoch."""
        recipe, info = self.recipe, dataset_info(self.data.name)
        chosen = "last epoch"
        if name == "best":
            chosen = f"best validation {recipe.validation.select_by.replace('_', ' ')}"
        card = Card(
            name=recipe.name,
            defense=recipe.defense_name,
            architecture=recipe.model.name,
            architecture_kwargs={},
            num_classes=self.data.num_classes,
            in_channels=info.channels,
            image_size=info.image_size,
            mean=info.mean,
            std=info.std,
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
