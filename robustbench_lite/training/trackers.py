"""A training's metrics to TensorBoard, Weights & Biases, MLflow or Aim: `rbl train --log NAME`.

What is sent is what `metrics.jsonl` holds, a line an epoch, so a log can always be made anew from
the run folder. No tracker is imported before it is asked for; none is part of the run.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import LINE_CHECKSUM
from robustbench_lite.core.registry import Entry, Registry
from robustbench_lite.core.storage import write_text

if TYPE_CHECKING:
    from robustbench_lite.training.loop import TrainingProgress
    from robustbench_lite.training.recipe import Recipe

_HERE = "robustbench_lite.training.trackers"
LOGS = "logs"  # folder inside a run folder

TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": Entry(f"{_HERE}:TensorBoard", "event files in RUN/logs/tensorboard"),
        "wandb": Entry(f"{_HERE}:WandB", "Weights & Biases"),
        "mlflow": Entry(f"{_HERE}:MLflow", "MLflow, at MLFLOW_TRACKING_URI"),
        "aim": Entry(f"{_HERE}:Aim", "Aim, in the repository of the current folder"),
    },
    "robustbench_lite.training.trackers",
)


class Tracker(ABC):
    """Where metrics are sent. A third party derives its own and registers it as an entry point.

    Args:
        folder: of its own, inside the run folder; what it keeps there survives the process.
        recipe: what is trained.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    @abstractmethod
    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Take the metrics of an epoch, in order, each epoch once."""

    @abstractmethod
    def close(self) -> None:
        """Write what is not yet written."""

    def sent(self) -> int:
        """The last epoch that an earlier process has logged; 0 where it begins anew."""
        return int(self._noted()["epoch"])

    def run_id(self) -> str | None:
        """The tracker's own id of the run, of an earlier process."""
        run = self._noted()["run"]
        return None if run is None else str(run)

    def _noted(self) -> dict[str, Any]:
        file = self.folder / "run.json"
        if not file.exists():
            return {"run": None, "epoch": 0}
        try:
            noted = json.loads(file.read_text(encoding="utf-8"))
            return {"run": str(noted["run"]), "epoch": int(noted["epoch"])}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} is damaged: it says which epochs were logged; remove {self.folder} to "
                "log them all again"
            ) from error

    def note(self, epoch: int, run: str) -> None:
        """Remember what was logged, and under which id, for a process that resumes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "run.json", json.dumps({"run": run, "epoch": epoch}) + "\n")


class RunLog:
    """The one hook of a training: sends what is new in `metrics.jsonl` to some trackers.

    Args:
        run: the run folder.
        recipe: what is trained.
        names: of `TRACKERS`.

    Raises:
        InputError: for an unknown tracker, or one that is not installed.
    """

    def __init__(self, run: Path, recipe: Recipe, names: Sequence[str]) -> None:
        self._metrics, self._recipe = run / "metrics.jsonl", recipe
        kinds = {name: TRACKERS.load(name) for name in dict.fromkeys(names)}
        self._trackers: list[Tracker] = [
            kind(run / LOGS / name, recipe) for name, kind in kinds.items()
        ]
        self._sent = [tracker.sent() for tracker in self._trackers]

    def __call__(self, progress: TrainingProgress) -> None:
        """After an epoch of the run: send its metrics. A teacher's are not the run's."""
        if progress.metrics is not None and progress.recipe == self._recipe.name:
            self.send()

    def send(self) -> None:
        """Send the epochs that a tracker does not have yet, those of earlier calls among them."""
        if not self._trackers or not self._metrics.exists():
            return
        lines = self._metrics.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        for place, tracker in enumerate(self._trackers):
            for row in rows:
                if row["epoch"] > self._sent[place]:
                    scalars = {key: row[key] for key in row if key not in ("epoch", LINE_CHECKSUM)}
                    tracker.log(row["epoch"], scalars)
                    self._sent[place] = row["epoch"]

    def close(self) -> None:
        """Send the rest, and close every tracker."""
        self.send()
        for tracker in self._trackers:
            tracker.close()


def _installed(module: str, package: str) -> Any:
    """A module of a tracker's package, or one line that says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"--log {package}: {package} is not installed ({error}); pip install {package}"
        ) from error


class TensorBoard(Tracker):
    """Event files, made anew from the first epoch by each process, so that none is there twice."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        super().__init__(folder, recipe)
        module = _installed("torch.utils.tensorboard", "tensorboard")
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = module.SummaryWriter(log_dir=str(folder))
        self._writer.add_text("recipe", f"```\n{json.dumps(recipe.as_dict(), indent=2)}\n```")

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run of Weights & Biases; offline and project by its own environment variables."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        super().__init__(folder, recipe)
        wandb = _installed("wandb", "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            dir=str(folder),
            name=recipe.name,
            config=recipe.as_dict(),
            id=self.run_id(),
            resume="allow",
        )

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=epoch)
        self.note(epoch, self._run.id)

    def close(self) -> None:
        self._run.finish()


class MLflow(Tracker):
    """A run of MLflow, in the experiment that its environment variables choose."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        super().__init__(folder, recipe)
        self._mlflow = _installed("mlflow", "mlflow")
        known = self.run_id()
        self._run = self._mlflow.start_run(run_id=known, run_name=None if known else recipe.name)
        if known is None:
            self._mlflow.log_dict(recipe.as_dict(), "recipe.json")

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(scalars), step=epoch)
        self.note(epoch, self._run.info.run_id)

    def close(self) -> None:
        self._mlflow.end_run()


class Aim(Tracker):
    """A run of Aim."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        super().__init__(folder, recipe)
        self._run = _installed("aim", "aim").Run(run_hash=self.run_id(), experiment=recipe.name)
        self._run["recipe"] = recipe.as_dict()

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._run.track(value, name=name, epoch=epoch, step=epoch)
        self.note(epoch, self._run.hash)

    def close(self) -> None:
        self._run.close()
