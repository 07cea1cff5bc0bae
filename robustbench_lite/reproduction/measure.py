"""Our side of a published number: which protocol runs, and its result, stored or made."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from robustbench_lite.attacks.protocol import AttackSpec, Protocol, load_protocol, protocol_files
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core.errors import ResultError
from robustbench_lite.datasets import Split
from robustbench_lite.datasets.selection import Selection
from robustbench_lite.evaluation.evaluate import Progress, Settings, evaluate
from robustbench_lite.leaderboard.published.comparability import (
    Measured,
    ModelProvenance,
    unmeasurable,
)
from robustbench_lite.leaderboard.published.load import published_folder
from robustbench_lite.leaderboard.published.records import CLEAN_METRIC, Cell, PublishedRow
from robustbench_lite.leaderboard.results.load import find_results, load_result
from robustbench_lite.leaderboard.results.records import Accuracy, Result

logger = logging.getLogger(__name__)

CLEAN_ONLY = "fgsm"  # the cheapest protocol, where only the clean accuracy is wanted
ANY_RADIUS = "8/255"  # for the clean accuracy it does not matter

Reporter = Callable[[str], Callable[[Progress], None]]
"""Makes the reporter of one evaluation from its title."""


@dataclass(frozen=True)
class ReproductionOptions:
    """What the user chose for a whole call.

    Args:
        results: folder of results; what lies there already is not measured again.
        folder: the result folder of (protocol id, network, data, images).
        data_dir: local data, instead of a download.
        device: where to compute.
        settings: batch size and the like.
        images: which images of (data, number of images that the published number is over).
        seed: of the attacks.
        eps: another radius than the published one; None keeps it.
        protocol: another protocol than the published one; None keeps it.
        engine: whose AutoAttack; None takes the protocol's.
        released: the networks are the published weights, says the user.
    """

    results: Path
    folder: Callable[[str, LoadedModel, Split, Selection], Path]
    data_dir: str | None
    device: torch.device
    settings: Settings
    images: Callable[[Split, int], Selection]
    seed: int
    eps: str | None
    protocol: str | None
    engine: str | None
    released: bool


def published_protocol(name: str, *, eps: str, engine: str | None = None) -> Protocol:
    """A protocol that a published number names: a shipped one, or one of the tables' own.

    Args:
        name: of the protocol.
        eps: the radius, as text.
        engine: whose AutoAttack runs, where there is one; None takes the file's.
    """
    own = published_folder() / "protocols" / f"{name}.toml"
    path = str(own) if name not in protocol_files() and own.is_file() else name
    protocol = load_protocol(path, eps=eps)
    if engine is not None and any(spec.by_authors for spec in protocol.attacks):
        protocol = load_protocol(path, eps=eps, engine=engine)
    return protocol


class ResultFinder:
    """One data set, and every result on it that is there or still to be made.

    Args:
        data: a split in full.
        terms: of the call.
        progress: see `Reporter`.
    """

    def __init__(self, data: Split, terms: ReproductionOptions, progress: Reporter) -> None:
        self.data, self.terms, self.progress = data, terms, progress
        self.results = stored_results(terms.results)

    def protocol_of(self, row: PublishedRow, cell: Cell, eps: str) -> Protocol | None:
        """What is to run for a number; None when the user's protocol has nothing like it."""
        terms = self.terms
        if terms.protocol is not None:
            protocol = published_protocol(
                terms.protocol, eps=eps or ANY_RADIUS, engine=terms.engine
            )
            return protocol if attacks_of(cell, protocol) or cell.metric == CLEAN_METRIC else None
        if cell.metric != CLEAN_METRIC:
            return published_protocol(cell.protocol, eps=eps, engine=terms.engine)
        for other in row.cells:  # the clean pass of whatever runs anyway
            if other.metric != CLEAN_METRIC and not unmeasurable(other) and other.n == cell.n:
                return self.protocol_of(row, other, terms.eps or other.eps)
        return published_protocol(CLEAN_ONLY, eps=eps or ANY_RADIUS)

    def measure(
        self,
        source: LoadedModel,
        origin: ModelProvenance,
        protocol: Protocol,
        wanted: Sequence[AttackSpec],
        images: Selection,
    ) -> Measured:
        """Our number, from a stored result where there is one."""
        result = self._stored(source, protocol, wanted, images)
        result = result or self._evaluate(source, protocol, images)
        names = [_name_in(result, spec) for spec in wanted]
        union = len(wanted) > 1
        accuracy: Accuracy = result.clean_accuracy
        if wanted:
            accuracy = result.robust_accuracy if union else result.attacks[names[0]].accuracy
        return Measured(
            correct=accuracy.correct,
            n=accuracy.n,
            examples=result.examples,
            dataset=result.dataset.name,
            split=result.dataset.split,
            dataset_hash=result.dataset.hash,
            canonical=self.data.canonical,
            norm=result.protocol.norm if wanted else "",
            eps=result.protocol.eps if wanted else "",
            protocol_id=result.protocol.id,
            attacks=tuple(map(compared_settings, wanted)),
            engine=result.protocol.engine_text if any(spec.by_authors for spec in wanted) else "",
            model_hash=result.model.hash,
            architecture=result.architecture,
            flags=tuple(flag.name for flag in result.flags),
            origin=origin,
        )

    def _evaluate(self, source: LoadedModel, protocol: Protocol, images: Selection) -> Result:
        terms = self.terms
        folder = terms.folder(protocol.id, source, self.data, images)
        evaluate(
            source,
            self.data,
            protocol,
            out=folder,
            n=None,
            images=images,
            seed=terms.seed,
            settings=terms.settings,
            device=terms.device,
            progress=self.progress(f"{source.name}, {protocol.id}"),
        )
        result = load_result(folder)
        self.results = stored_results(terms.results)
        return result

    def _stored(
        self,
        source: LoadedModel,
        protocol: Protocol,
        wanted: Sequence[AttackSpec],
        images: Selection,
    ) -> Result | None:
        """A result of this network on these images that holds the very attacks; for a worst case,
        those and no other. One of the same protocol goes before others."""
        fit = [
            result
            for result in self.results
            if self._serves(result, source, protocol, wanted, images)
        ]
        same = [result for result in fit if result.protocol.hash == protocol.hash]
        return next(iter([*same, *fit]), None)

    def _serves(
        self,
        result: Result,
        source: LoadedModel,
        protocol: Protocol,
        wanted: Sequence[AttackSpec],
        images: Selection,
    ) -> bool:
        same = (
            result.model.hash == source.hash
            and result.dataset.hash == self.data.content_hash
            and result.dataset.split == self.data.split
            and result.examples.same_as(images.identity)
            and result.seed == self.terms.seed
        )
        if not (same and wanted):
            return same
        other, names = result.protocol, [_name_in(result, spec) for spec in wanted]
        same = (
            other.norm == protocol.threat.norm
            and Fraction(other.eps) == protocol.threat.eps
            and (other.engine, other.engine_version) == (protocol.engine, protocol.engine_version)
            and all(names)
        )
        return same and (len(wanted) == 1 or len(other.attacks) == len(wanted))


def stored_results(folder: Path) -> list[Result]:
    """Every readable result below a folder; others are logged and left alone."""
    if not folder.is_dir():
        return []
    found = []
    for path in find_results([folder]):
        try:
            found.append(load_result(path))
        except ResultError as error:
            logger.info("left out: %s", error)
    return found


def settings_of(spec: AttackSpec) -> dict[str, str]:
    """An attack and its parameters as text, as stored results have them."""
    values = {"attack": spec.attack, **spec.params}
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in values.items()
    }


def compared_settings(spec: AttackSpec) -> dict[str, str]:
    """What must agree with a published number's attack: not whose code runs it."""
    return settings_of(spec.by_authors or spec)


def attacks_of(cell: Cell, protocol: Protocol) -> list[AttackSpec]:
    """The attacks of a protocol that a number speaks of; none for clean accuracy."""
    if cell.metric == CLEAN_METRIC:
        return []
    if cell.union:
        return list(protocol.attacks)
    wanted = cell.attack or cell.protocol
    if named := [spec for spec in protocol.attacks if spec.name == wanted]:
        return named
    if protocol.name == cell.protocol and len(protocol.attacks) == 1:
        return list(protocol.attacks)
    return [spec for spec in protocol.attacks if _family(spec.name) == _family(wanted)][:1]


def _family(name: str) -> str:
    """`pgd20_ce_a003` to `pgd`: what kind of attack a name speaks of."""
    return name.rstrip("0123456789").partition("_")[0].rstrip("0123456789")


def _name_in(result: Result, spec: AttackSpec) -> str:
    """The name under which a result holds an attack with these settings; empty when it does not."""
    wanted = settings_of(spec)
    for attack in result.protocol.attacks:
        if dict(attack.parameters) == wanted:
            return attack.name
    return ""
