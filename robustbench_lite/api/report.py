"""What `rbl.evaluate` returns: the row, its intervals, each example, the adversarial images."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.core.storage import read_sealed_json
from robustbench_lite.core.stored_table import read_table
from robustbench_lite.datasets import Split
from robustbench_lite.evaluation.evidence import decompress
from robustbench_lite.evaluation.header import read_header
from robustbench_lite.evaluation.ledger import Ledger
from robustbench_lite.leaderboard.plots.attack_bars import attack_bars
from robustbench_lite.leaderboard.results.load import load_result
from robustbench_lite.leaderboard.results.records import CLEAN, EXAMPLES_FILE, Accuracy, Result
from robustbench_lite.leaderboard.table.build import build_table
from robustbench_lite.leaderboard.table.formats import render
from robustbench_lite.leaderboard.table.text import interval, percent

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    from matplotlib.figure import Figure


class Share(float):
    """A fraction of examples: a float with its 95% Wilson `interval`, `correct` and `n`."""

    interval: tuple[float, float]
    correct: int
    n: int

    def __new__(cls, accuracy: Accuracy) -> Share:
        self = super().__new__(cls, accuracy.value)
        self.interval, self.correct, self.n = accuracy.interval, accuracy.correct, accuracy.n
        return self


class Report:
    """An evaluation that is done.

    Args:
        folder: its result folder.
        data: the split that was evaluated, all of it.
    """

    def __init__(self, folder: Path, data: Split) -> None:
        self.result: Result = load_result(folder)
        self.folder = folder
        self._data = data
        self._stored: Mapping[str, Any] = read_sealed_json(folder / "result.json")[0]

    @property
    def robust_accuracy(self) -> Share:
        """Right when clean, and broken by no attack, over all examples."""
        return Share(self.result.robust_accuracy)

    @property
    def clean_accuracy(self) -> Share:
        """Right when clean, over all examples."""
        return Share(self.result.clean_accuracy)

    @property
    def attacks(self) -> dict[str, Share]:
        """By attack of the protocol: right when clean, and not broken by this attack alone."""
        return {name: Share(attack.accuracy) for name, attack in self.result.attacks.items()}

    @property
    def targeted_success(self) -> dict[str, Share | None]:
        """By targeted attack: the share of the images that are right when clean which it made the
        network take for the class aimed at; None where no image is right. Else empty."""
        stored = {name: one.get("targeted") for name, one in self._stored["attacks"].items()}
        found = {name: one["success"] for name, one in stored.items() if one is not None}
        return {
            name: None if one is None else Share(Accuracy.of(one["correct"], one["n"]))
            for name, one in found.items()
        }

    @property
    def flags(self) -> dict[str, str]:
        """Warnings that rose, and what each means; a row with one has no rank."""
        return {flag.name: f"{flag.meaning}; {flag.follow_up}" for flag in self.result.flags}

    @property
    def model_output(self) -> str:
        """Where the logits were found when the network returns something around them; else ""."""
        return str(self.result.environment.get("model_output", ""))

    @property
    def examples(self) -> pandas.DataFrame:
        """A row for each example and attack (and the clean pass): broken or not, prediction,
        norms of the perturbation, passes, loss."""
        return read_table(self.folder / EXAMPLES_FILE)[0]

    def to_frame(self) -> pandas.DataFrame:
        """The row of the leaderboard, as a table of one."""
        return build_table([self.result])

    def plot(self) -> Figure:
        """Clean, each attack and the worst case as bars with their intervals."""
        return attack_bars(self.result)

    def adversarial(self, attack: str) -> Tensor:
        """The images that an attack of the protocol found.

        Args:
            attack: its name in the protocol, such as `"aa_standard"`.

        Returns:
            float32 (n, C, H, W) in the order of `examples`, on the CPU; the clean image where the
            network is wrong without an attack, and where no candidate was kept (`evidence="int8"`
            keeps only those that broke something).

        Raises:
            InputError: for an unknown name, or an evaluation that kept no images.
        """
        if attack not in self.result.attacks:
            raise InputError(unknown_name("attack", attack, self.result.attacks))
        ledger = Ledger(self.folder, read_header(self.folder))
        if ledger.header.settings["evidence"] == "none":
            raise InputError(
                f"{self.folder} was begun without adversarial images: evaluate to another out= "
                'with evidence="float32"'
            )
        chunk_size = int(ledger.header.settings["chunk_size"])  # type: ignore[call-overload]
        ids = torch.from_numpy(self.result.examples.id_array.copy())
        x_adv = self._data.pixels(ids.to(self._data.images.device)).cpu().clone()
        for chunk in range(-(-len(ids) // chunk_size)):
            right = ~ledger.read_part(CLEAN, chunk)["broken"].to_numpy()
            rows = torch.from_numpy(right.nonzero()[0]) + chunk * chunk_size
            kept = ledger.read_evidence(attack, chunk)
            if "x_adv" in kept:
                x_adv[rows] = kept["x_adv"]
            else:
                found, images = decompress(kept, x_adv[rows])
                x_adv[rows[found]] = images
        return x_adv

    def __getitem__(self, key: str) -> Any:
        """A key of `result.json`."""
        return self._stored[key]

    def __repr__(self) -> str:
        return render(self.to_frame(), "terminal").rstrip()

    def _repr_html_(self) -> str:
        """The row for a notebook: accuracies in percent with 95% intervals."""
        about, rows = self.result, self._rows()
        cells = "".join(
            f"<tr><td>{html.escape(title)}</td><td>{percent(one.value)}</td>"
            f"<td>{interval(*one.interval)}</td></tr>"
            for title, one in rows
        )
        notes = [f"flag raised: {name}: {text}" for name, text in self.flags.items()]
        notes += [
            f"{name}: {percent(one)} % of {one.n} images taken for the class aimed at"
            for name, one in self.targeted_success.items()
            if one is not None
        ]
        notes += [f"logits are {self.model_output}"] if self.model_output else []
        under = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
        caption = (
            f"{about.name} on {about.dataset.name}, {about.protocol.id}, {about.examples.text}"
        )
        return (
            f"<table><caption>{html.escape(caption)}: {about.status}</caption><thead><tr>"
            f"<th>accuracy</th><th>%</th><th>95%</th></tr></thead><tbody>{cells}</tbody></table>"
            f"{under}"
        )

    def _rows(self) -> list[tuple[str, Accuracy]]:
        titles = {attack.name: attack.title for attack in self.result.protocol.attacks}
        attacks = [(titles[name], one.accuracy) for name, one in self.result.attacks.items()]
        ends = (("clean", self.result.clean_accuracy), ("worst case", self.result.robust_accuracy))
        return [ends[0], *attacks, ends[1]]
