"""The evaluation harness: a protocol against a network, part by part, resumable at any moment."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.attacks.acceleration.search_network import SearchNetwork, search_network
from robustbench_lite.attacks.protocol import AttackSpec, Protocol
from robustbench_lite.attacks.run_attack import run_attack, targets_of_spec
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.checkpoints.user_network import output_of, passes_of
from robustbench_lite.core.errors import DamagedFileError, InputError
from robustbench_lite.core.numerics import (
    check_seed,
    deterministic,
    out_of_memory_as_input_error,
    plain_numerics,
)
from robustbench_lite.core.processes import alone_in
from robustbench_lite.core.random_numbers import fold_seed, seeded
from robustbench_lite.core.storage import put_aside, read_sealed_json, write_sealed_json
from robustbench_lite.datasets import Split
from robustbench_lite.datasets.selection import Selection, first_images
from robustbench_lite.evaluation.evidence import compress
from robustbench_lite.evaluation.flags.fresh_networks import FreshNetworks, judged_twice
from robustbench_lite.evaluation.flags.network_checks import measure_flags
from robustbench_lite.evaluation.flags.thresholds import read_measured
from robustbench_lite.evaluation.ledger import Ledger, fix_environment, open_ledger, part_rows
from robustbench_lite.evaluation.model_checks import check_attackable
from robustbench_lite.evaluation.pass_counter import PassCounter
from robustbench_lite.evaluation.progress import Progress, Tracker, work
from robustbench_lite.evaluation.settings import Settings, evaluation_header
from robustbench_lite.evaluation.workers import ALONE, Workers
from robustbench_lite.evaluation.write_results import read_results, write_results
from robustbench_lite.leaderboard.results.records import CLEAN
from robustbench_lite.verifier import Verdict, verify

__all__ = ["Progress", "Settings", "evaluate"]

logger = logging.getLogger(__name__)

_SMALLER = "choose another --out with a smaller --batch-size"


def evaluate(
    source: LoadedModel,
    data: Split,
    protocol: Protocol,
    *,
    out: Path,
    n: int | None,
    seed: int,
    settings: Settings,
    device: torch.device,
    progress: Callable[[Progress], None] | None = None,
    workers: Workers = ALONE,
    images: Selection | None = None,
) -> dict[str, object]:
    """Attack some examples of a split with every attack of a protocol.

    Every attack starts from all examples that are classified correctly when clean, so its column
    is its stand-alone number; the row's robust accuracy is the union. Whatever was finished in
    `out` under the same terms is not done again.

    Args:
        source: the network, with where it comes from.
        data: a split.
        protocol: norm, eps and attacks.
        out: the result folder (see `robustbench_lite.evaluation.ledger`).
        n: number of examples, from the first; None takes all.
        seed: of every random draw.
        settings: batch size and the like; stored, and reused on resume.
        device: where to compute.
        progress: called after each part, and some times a second inside one.
        workers: the processes that do this together, each with the same arguments; `out` is a
            folder that all of them see. With the same settings (threads!) their number changes no
            byte of the result.
        images: which examples, in place of `n`. What an attack draws for one does not depend on
            the others.

    Returns:
        The content of `out/result.json`.

    Raises:
        InputError: wrong input, each with one line; a folder of another evaluation is refused.
            What was finished stays.

    Cost:
        For each correct example the attacks' own passes, plus two forwards per attack.
    """
    workers = workers.next_round()
    with workers.first_alone("checking terms"):  # what is wrong for all is said once
        images = images or first_images(n, len(data), what=f"{data.name} {data.split}")
        check_seed(seed)
        protocol.threat.check_diameter(data.images[0].numel())
        for spec in protocol.attacks:
            spec.check(protocol.threat, num_classes=data.num_classes)
    header = evaluation_header(source, data, protocol, images, seed, settings, device)
    with alone_in(out) if workers.first else nullcontext():
        # What is wrong for one worker is mostly wrong for all: the first finds it, and speaks.
        with workers.first_alone("opening"):
            ledger = open_ledger(
                out, header, explicit_settings=settings.explicit_settings(), begin=workers.first
            )
            chunks = -(-len(images) // int(ledger.header.settings["chunk_size"]))  # type: ignore[call-overload]
            if workers.first:
                _put_damaged_aside(ledger, [spec.name for spec in protocol.attacks], chunks)
        run = _Evaluation(ledger, source, data, protocol, images, seed, device, workers)
        run.do_missing(progress, now=header.environment)
        with workers.first_alone("writing"):
            if workers.first:
                return write_results(ledger, [spec.name for spec in protocol.attacks], run.chunks)
        return read_results(ledger)


class _Evaluation:
    """One evaluation in progress: what every part needs."""

    def __init__(
        self,
        ledger: Ledger,
        source: LoadedModel,
        data: Split,
        protocol: Protocol,
        images: Selection,
        seed: int,
        device: torch.device,
        workers: Workers,
    ) -> None:
        self.ledger, self.protocol, self.seed, self.workers = ledger, protocol, seed, workers
        self.model, self.device = source.model.to(device).eval(), device
        with passes_of(self.model, "checks before the first attack"):
            self.fresh = FreshNetworks(self.model)
        self.search: SearchNetwork | None = None  # chosen once there is something to do
        self.tracker: Tracker | None = None
        self.ids = torch.tensor(images.ids, dtype=torch.int64)  # (N,) in the split, on the CPU
        self.data = data.subset(self.ids).to(device)
        settings = ledger.header.settings
        self.batch_size, self.chunk_size = int(settings["batch_size"]), int(settings["chunk_size"])  # type: ignore[call-overload]
        self.threads = int(settings["threads"])  # type: ignore[call-overload]
        self.evidence = settings["evidence"]
        self.chunks = -(-len(images) // self.chunk_size)

    def do_missing(
        self, progress: Callable[[Progress], None] | None, *, now: Mapping[str, object]
    ) -> None:
        """Compute every part that is not there yet; check the network before the first."""
        specs, workers = {spec.name: spec for spec in self.protocol.attacks}, self.workers
        missing = workers.agreed("missing", lambda: self._missing(list(specs)))
        if not missing and workers.agreed("checks", self.ledger.checks_path.exists):
            return
        total = self.chunks * (len(specs) + 1)
        before = total - len(missing)
        with deterministic(threads=self.threads, seed=self.seed), plain_numerics():
            before_attacks = passes_of(self.model, "checks before the first attack")
            with workers.first_alone("checking"), before_attacks:
                self.search = self._search_network()
                check_attackable(self.model, self.data, self.protocol.attacks)
                now = {**now, "search_network": self.search.summary, **output_of(self.model)}
                fix_environment(self.ledger, now, begin=workers.first and before == 0)
            # A folder without a finished part may hold the checks of another network.
            if workers.first and (before == 0 or not self.ledger.checks_path.exists()):
                self._measure_flags()
            self.tracker = self._tracker(progress)
            for item, finished in workers.claims(len(missing)):
                chunk, attack = missing[item]
                begin = time.perf_counter()
                if self.tracker is not None:
                    self.tracker.begin(attack, chunk)
                broken = self._guarded_part(chunk, attack, specs.get(attack))
                _note_time(self.ledger, attack, chunk, time.perf_counter() - begin, workers.rank)
                if self.tracker is not None:
                    survived = len(broken) - int(broken.sum())
                    self.tracker.end(len(broken), survived, before + finished)
        workers.wait_until_all("parts")

    def _tracker(self, report: Callable[[Progress], None] | None) -> Tracker | None:
        """What counts the passes of all parts, those of earlier calls and other workers too."""
        if report is None:
            return None
        protocol, starts = self.protocol, range(0, len(self.data), self.chunk_size)
        classes, norm = self.data.num_classes, protocol.threat.norm
        costs = {
            spec.name: spec.contract.cost(norm, classes, protocol.passes)
            for spec in protocol.attacks
        }
        return Tracker(
            report,
            {name: None if cost is None else work(cost) for name, cost in costs.items()},
            [min(self.chunk_size, len(self.data) - start) for start in starts],
            self._stood,
            workers=self.workers.count,
        )

    def _stood(self, attack: str, chunk: int) -> int | None:
        """Examples that a finished part did not break."""
        if not self.ledger.has_part(attack, chunk):
            return None
        return int((~self.ledger.read_part(attack, chunk)["broken"].to_numpy()).sum())

    def _search_network(self) -> SearchNetwork:
        """What attacks search on, chosen in the numerics that they run in."""
        with out_of_memory_as_input_error("search network", self.batch_size, "free some memory"):
            return search_network(
                self.model,
                precision=self.ledger.header.settings["precision"],  # type: ignore[arg-type]
                device=self.device,
                like=self.data.pixels(slice(0, 1))[0],
            )

    def _missing(self, attacks: list[str]) -> list[tuple[int, str]]:
        """What is left to do, in order: one process chunk by chunk; several the long parts early,
        so that they end together (in a protocol the strongest attack comes last)."""
        missing = self.ledger.missing(attacks, self.chunks)
        if self.workers.count > 1:
            rank = {name: place for place, name in enumerate([CLEAN, *reversed(attacks)])}
            missing.sort(key=lambda part: (rank[part[1]], part[0]))
        return missing

    def _measure_flags(self) -> None:
        """Store what the flags are raised by, before the first part."""
        checks = passes_of(self.model, "checks for flags")
        with (
            out_of_memory_as_input_error("checks", self.batch_size, _SMALLER),
            seeded(self.seed),
            checks,
        ):
            measured = measure_flags(
                self.model,
                self.data.pixels(slice(None)),
                self.data.labels,
                threat=self.protocol.threat,
                seed=self.seed,
                batch_size=self.batch_size,
                passes=self.protocol.passes,
                fresh=self.fresh,
            )
        # Measured by place; attacks and results speak of ids in the split.
        broken = tuple(self.ids[list(measured.crafted_broken)].tolist())
        measured = replace(measured, crafted_broken=broken)
        terms = {"terms": self.ledger.terms}
        write_sealed_json(self.ledger.checks_path, {**terms, **measured.as_dict()})

    def _guarded_part(self, chunk: int, name: str, spec: AttackSpec | None) -> Tensor:
        """The part, with its place in the message of whatever goes wrong in it."""
        if spec is not None and not self.ledger.has_part(CLEAN, chunk):
            self._guarded_part(chunk, CLEAN, None)  # another worker is at it: the same bytes
        # Each part has generators of its own, so a resumed run draws what an unbroken one drew.
        # (Our attacks draw by counter and do not care; randomised networks do.)
        part_seed = fold_seed(self.seed, name, chunk) % 2**63
        with (
            out_of_memory_as_input_error(f"{name}, chunk {chunk}", self.batch_size, _SMALLER),
            seeded(part_seed),
        ):
            try:
                with passes_of(self.model):
                    return self._do_part(chunk, spec)
            except InputError as error:
                raise type(error)(f"{name}, chunk {chunk}: {error}") from error

    def _do_part(self, chunk: int, spec: AttackSpec | None) -> Tensor:
        """Compute and store one part; returns which of its examples are broken, bool (N,)."""
        rows = torch.arange(
            chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, len(self.data))
        )
        name = CLEAN if spec is None else spec.name
        if spec is not None:
            correct = ~self.ledger.read_part(CLEAN, chunk)["broken"].to_numpy()
            rows = rows[torch.from_numpy(correct)]
        ids = self.ids[rows]
        x, y = self.data.pixels(rows.to(self.device)), self.data.labels[rows.to(self.device)]
        assert self.search is not None
        on_pass = self.tracker.passed if self.tracker is not None else None
        counter = PassCounter(self.model, on_pass)
        searched = PassCounter(self.search.module, on_pass)
        stage = np.full(len(ids), "", dtype=object)
        x_adv, targets = x, None

        def on_stage(attack: str, broken: Tensor) -> None:
            stage[broken.cpu().numpy()] = attack

        if spec is not None and len(ids):
            targets = self._targets(spec, counter, x, y, ids)
            x_adv = run_attack(
                spec,
                counter,
                x,
                y,
                threat=self.protocol.threat,
                ids=ids.to(self.device),
                seed=self.seed,
                batch_size=self.batch_size,
                passes=self.protocol.passes,
                network=searched,
                on_stage=on_stage,
                target_labels=targets,
            )
        verdict, changed = judged_twice(
            self.model, self.fresh, lambda network: self._verify(network, x, x_adv, y, targets)
        )
        # An attack starts from correct examples: their clean prediction is the label.
        clean_predictions = y if spec else verdict.prediction
        stage[~verdict.broken.cpu().numpy()] = ""
        passes = (
            counter.forwards + searched.forwards,
            counter.backwards + searched.backwards,
        )
        table = part_rows(
            name, ids, y.cpu(), clean_predictions.cpu(), verdict, passes, x_adv, stage
        )
        evidence = self._evidence(x, x_adv, y, verdict, targets) if spec else None
        differing = None if changed is None else ids[changed.cpu()].tolist()
        aims = None if targets is None else targets.tolist()
        self.ledger.write_part(name, chunk, table, evidence, changed=differing, targets=aims)
        return verdict.broken

    def _targets(
        self, spec: AttackSpec, model: nn.Module, x: Tensor, y: Tensor, ids: Tensor
    ) -> Tensor | None:
        """The classes (N,) that an attack aims at, for it and for the verifier."""
        return targets_of_spec(
            spec, model, x, y, ids=ids.to(self.device), seed=self.seed, batch_size=self.batch_size
        )

    def _evidence(
        self, x: Tensor, x_adv: Tensor, y: Tensor, verdict: Verdict, targets: Tensor | None
    ) -> dict[str, Tensor] | None:
        """What is kept of a part's images, by name; None for nothing."""
        if self.evidence == "none":
            return None
        if self.evidence == "float32":
            return {"x_adv": x_adv}
        return compress(
            self.model,
            x,
            x_adv,
            y,
            verdict.broken,
            threat=self.protocol.threat,
            batch_size=self.batch_size,
            passes=self.protocol.passes,
            target_labels=targets,
        )

    def _verify(
        self, network: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, targets: Tensor | None
    ) -> Verdict:
        return verify(
            network,
            x,
            x_adv,
            y,
            threat=self.protocol.threat,
            batch_size=self.batch_size,
            passes=self.protocol.passes,
            target_labels=targets,
        )


def _put_damaged_aside(ledger: Ledger, attacks: list[str], chunks: int) -> None:
    """Rename parts and checks that are damaged, and say that they are computed again."""
    if not ledger.has_checksums:
        logger.warning("%s was begun by an older version: no checksums to check", ledger.folder)
    damaged = ledger.put_damaged_aside(attacks, chunks)
    try:
        if ledger.checks_path.exists():
            read_measured(ledger.checks_path, terms=ledger.terms_of_checks)
    except DamagedFileError:
        put_aside(ledger.checks_path)
        damaged.append(ledger.checks_path)
    for file in damaged:
        logger.warning("%s was damaged: renamed to .damaged, computed again", file)


def _note_time(ledger: Ledger, attack: str, chunk: int, seconds: float, rank: int) -> None:
    """Add a part's seconds and host to this worker's `timing.json`: never part of a result."""
    path = ledger.timing_path(rank)
    try:
        stored, sealed = read_sealed_json(path)
        parts = stored["parts"] if sealed else []
    except DamagedFileError:
        parts = []  # seconds are no part of a result
    entry = {"attack": attack, "chunk": chunk, "seconds": round(seconds, 3)}
    write_sealed_json(path, {"parts": [*parts, {**entry, "host": platform.node()}]})
