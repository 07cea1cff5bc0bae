"""The one training loop: every defense, resumable after any epoch, best and last both kept."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.checkpoints.checkpoint import CARD_FILE, checkpoint_hash, load_checkpoint
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import deterministic
from robustbench_lite.core.processes import alone_in
from robustbench_lite.core.random_numbers import fold_seed
from robustbench_lite.datasets import DatasetInfo, Split
from robustbench_lite.defenses.contract import (
    ROBUST,
    Batch,
    FrozenNetwork,
    JointNetwork,
    Objective,
)
from robustbench_lite.models import build_model
from robustbench_lite.training.data import TrainingData
from robustbench_lite.training.mixed_precision import InBfloat16
from robustbench_lite.training.recipe import Recipe, load_recipe, recipe_files
from robustbench_lite.training.run_folder import RunFolder
from robustbench_lite.training.validation import validate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is: after each batch, and with metrics after each epoch.

    Args:
        step: batches done in the whole run.
        total: batches in the whole run.
        epoch: current epoch, from 1.
        metrics: the epoch's line of `metrics.jsonl`; None between epochs.
        recipe: name of the recipe: a teacher that is trained first reports under its own.
    """

    step: int
    total: int
    epoch: int
    metrics: Mapping[str, float] | None
    recipe: str


def train(
    recipe: Recipe,
    data: Split,
    *,
    out: Path,
    device: torch.device,
    threads: int | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Path:
    """Train a recipe, or go on with a run that was interrupted.

    Args:
        recipe: what to do, in full.
        data: the training split; the validation examples are held out of it by the recipe's seed.
        out: the run folder (see `RunFolder`).
        device: where to compute.
        threads: CPU threads; None takes torch's own, or what the run was begun with.
        progress: called after each batch and each epoch.

    Returns:
        The `best` checkpoint's folder.

    Raises:
        InputError: wrong input, a folder of another run, or a loss that is not finite (with the
            epoch and batch). Finished epochs stay.
    """
    if recipe.data.validation >= len(data):
        raise InputError(
            f"data.validation={recipe.data.validation} leaves nothing to train on: {data.name} "
            f"has {len(data)} training examples"
        )
    with alone_in(out):
        return _train(recipe, data, out, device, threads, progress)


def _train(
    recipe: Recipe,
    data: Split,
    out: Path,
    device: torch.device,
    threads: int | None,
    progress: Callable[[TrainingProgress], None] | None,
) -> Path:
    training_data = TrainingData(recipe, data, device)
    recipe = training_data.recipe
    facts = {}
    if outliers_hash := training_data.outliers_hash:
        facts["outliers_hash"] = outliers_hash
    extra = recipe.defense.extra_networks
    for role, network in extra.items():
        if isinstance(network, FrozenNetwork) and network.source not in recipe_files():
            facts[f"{role}_hash"] = checkpoint_hash(network.source)
    folder = RunFolder(out, recipe, data, device, threads, facts=facts, subfolders=tuple(extra))
    teachers = {
        role: _teacher(network.source, recipe, data, folder, role, device, progress)
        for role, network in extra.items()
        if isinstance(network, FrozenNetwork)
    }
    with deterministic(threads=folder.threads, seed=recipe.training.seed):
        run = _Run(folder, recipe, training_data, teachers, device, progress)
        while run.epoch < recipe.training.epochs:
            run.train_epoch()
        _finish(folder, run)
    return out / "best"


def _finish(folder: RunFolder, run: _Run) -> None:
    """Write the last checkpoint, also where it is damaged; refuse a best one that is damaged."""
    last = folder.path / "last"
    try:
        checkpoint_hash(last)
    except InputError as error:
        if (last / CARD_FILE).exists():
            logger.warning("%s; written again", error)
        folder.save_checkpoint("last", run.delivered, run.metrics[-1])
    checkpoint_hash(folder.path / "best")


class _Run:
    """One run in progress: networks, optimiser, and what was measured so far."""

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        data: TrainingData,
        teachers: Mapping[str, nn.Module],
        device: torch.device,
        progress: Callable[[TrainingProgress], None] | None,
    ) -> None:
        self.folder, self.recipe, self.device, self.progress = folder, recipe, device, progress
        self.data = data
        self.trained = {
            role: _channels_last(network.to(device))
            for role, network in _build_networks(recipe, data.facts).items()
        }
        self.networks: dict[str, nn.Module] = {**self.trained, **teachers}
        if recipe.training.precision == "bfloat16":
            self.networks = {role: InBfloat16(net) for role, net in self.networks.items()}
        parameters = [p for network in self.trained.values() for p in network.parameters()]
        self.optimizer = torch.optim.SGD(
            parameters, fused=device.type == "cuda", **dataclasses.asdict(recipe.optimizer)
        )
        self.averaged: AveragedModel | None = None
        if decay := recipe.training.ema_decay:
            # Its module's BatchNorm statistics are copied, not averaged, at each update.
            self.averaged = AveragedModel(
                self.trained[ROBUST],
                multi_avg_fn=get_ema_multi_avg_fn(decay),  # type: ignore[no-untyped-call]
            )
        self.epoch = 0
        self.metrics: list[dict[str, float]] = []
        self.carried: Mapping[str, Tensor] = {}
        self._resume()

    @property
    def delivered(self) -> nn.Module:
        """The network that is validated and saved: averaged where the recipe averages."""
        return self.trained[ROBUST] if self.averaged is None else self.averaged.module

    def train_epoch(self) -> None:
        """One pass over the training examples, validation if due, then the state to disk."""
        epoch, total = self.epoch + 1, self.recipe.training.epochs
        # For networks that draw (dropout); the data draws from a generator of its own.
        torch.manual_seed(fold_seed(self.recipe.training.seed, "epoch", epoch) % 2**63)
        finite, means = FiniteCheck(self.device), _Means()
        for network in self.trained.values():
            network.train()
        replays = self.recipe.defense.replays
        for index, batch in enumerate(self.data.epoch(epoch)):
            for replay in range(replays):
                # As Rice et al. 2020: the rate of a step is that of the time at which it ends.
                self._set_lr(self.epoch + (index + (replay + 1) / replays) / len(self.data))
                try:
                    objective = self._step(batch)
                except InputError as error:
                    raise InputError(f"epoch {epoch}, batch {index}: {error}") from error
                finite.note(index, objective.loss.detach())
                means.add({"loss": objective.loss.detach(), **objective.scalars})
            self._report(self.epoch * len(self.data) + index + 1, epoch, None)
        finite.raise_if_not("the training loss", f"epoch {epoch}, batch {{}}")
        self.epoch = epoch
        row = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"], **means.values()}
        if epoch % self.recipe.validation.every == 0 or epoch == total:
            row |= self._validate()
        self._finish_epoch(row)

    def _step(self, batch: Batch) -> Objective:
        defense, robust = self.recipe.defense, self.trained[ROBUST]
        self.optimizer.zero_grad(set_to_none=True)
        batch = dataclasses.replace(batch, carried=self.carried)
        crafted = defense.craft(self.networks, batch)
        result = self.recipe.weight_perturbation.backward(
            lambda: defense.objective(self.networks, batch, crafted),
            robust,
            batch.epoch,
            beside=[network for role, network in self.trained.items() if role != ROBUST],
        )
        self.carried = defense.carry(batch, crafted)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(robust)
        return result

    def _set_lr(self, t: float) -> None:
        factor = self.recipe.schedule.factor(t, self.recipe.training.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.optimizer.lr * factor

    def _validate(self) -> dict[str, float]:
        seed = fold_seed(self.recipe.training.seed, "validation")
        return validate(self.delivered, self.data.validation, self.recipe.validation, seed=seed)

    def _finish_epoch(self, row: dict[str, float]) -> None:
        """Keep the best so far (the earliest on a tie), then the state: in this order, so that a
        run killed between the two repeats the epoch and writes the same best again."""
        key = self.recipe.validation.select_by
        best = max((old[key] for old in self.metrics if key in old), default=-1.0)
        if key in row:
            row["gap_to_best"] = max(best, row[key]) - row[key]
        self.metrics.append(row)
        if row.get(key, -1.0) > best:
            self.folder.save_checkpoint("best", self.delivered, row)
        self.folder.save_state(
            {
                "epoch": self.epoch,
                "metrics": self.metrics,
                "networks": {role: net.state_dict() for role, net in self.trained.items()},
                "averaged": None if self.averaged is None else self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "carried": dict(self.carried),
            }
        )
        self._report(self.epoch * len(self.data), self.epoch, row)

    def _resume(self) -> None:
        state = self.folder.load_state(self.device)
        if state is None:
            return
        if state.get("epoch", 0) < self.recipe.training.epochs:
            self.folder.check_environment()
        try:
            self.epoch, self.metrics = state["epoch"], state["metrics"]
            for role, network in self.trained.items():
                network.load_state_dict(state["networks"][role])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.carried = dict(state.get("carried", {}))  # older states carry nothing
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self.folder.damaged(error) from error
        logger.info("going on after epoch %d", self.epoch)

    def _report(self, step: int, epoch: int, metrics: Mapping[str, float] | None) -> None:
        if self.progress is not None:
            total = self.recipe.training.epochs * len(self.data)
            self.progress(TrainingProgress(step, total, epoch, metrics, self.recipe.name))


class _Means:
    """Means of named scalars over an epoch, summed on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.count += 1

    def values(self) -> dict[str, float]:
        return {name: float(total) / self.count for name, total in self.sums.items()}


def _build_networks(recipe: Recipe, info: DatasetInfo) -> dict[str, nn.Module]:
    """The delivered network and the jointly trained ones, each initialised from its own seed."""
    wanted: dict[str, tuple[str, Mapping[str, object]]] = {
        ROBUST: (recipe.model.name, recipe.model.options)
    }
    for role, network in recipe.defense.extra_networks.items():
        if isinstance(network, JointNetwork):
            wanted[role] = (network.architecture, {})
    mean, std = recipe.model.mean_and_std(info)
    networks = {}
    for role, (name, options) in wanted.items():
        torch.manual_seed(fold_seed(recipe.training.seed, "initialisation", role) % 2**63)
        networks[role] = build_model(
            name,
            num_classes=info.num_classes,
            in_channels=info.channels,
            image_size=info.image_size,
            mean=mean,
            std=std,
            **options,
        )
    return networks


def _teacher(
    source: str,
    recipe: Recipe,
    data: Split,
    folder: RunFolder,
    role: str,
    device: torch.device,
    progress: Callable[[TrainingProgress], None] | None,
) -> nn.Module:
    """A frozen network: a checkpoint, or a recipe trained first into the run folder."""
    place = Path(source)
    if source in recipe_files():
        own = load_recipe(source)
        if own.data.name != data.name:
            raise InputError(
                f"teacher recipe {source!r} is for {own.data.name}, {recipe.name} for {data.name}"
            )
        # By the student's seed and sizes: else it is trained on the student's held-out images.
        own = dataclasses.replace(
            own,
            chosen={**own.chosen, "imbalance": recipe.chosen["imbalance"]},
            imbalance=recipe.imbalance,
            data=dataclasses.replace(own.data, validation=recipe.data.validation),
            training=dataclasses.replace(own.training, seed=recipe.training.seed),
        )
        place = train(
            own, data, out=folder.path / role, device=device, threads=folder.threads,
            progress=progress,
        )  # fmt: skip
    network, card = load_checkpoint(place, device=device)
    if card.num_classes != data.num_classes:
        raise InputError(
            f"teacher {source} has {card.num_classes} classes, {data.name} has {data.num_classes}"
        )
    return _channels_last(network.requires_grad_(False))


def _channels_last(network: nn.Module) -> nn.Module:
    """The layout in which convolutions are quickest; a pure change of strides."""
    moved: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
