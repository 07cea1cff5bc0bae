"""Our number beside a published one: match, consistent, differs, or not comparable, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from robustbench_lite.leaderboard.published.records import (
    ACCURACIES,
    CLEAN_METRIC,
    Cell,
    PublishedRow,
)
from robustbench_lite.leaderboard.results.examples import Examples
from robustbench_lite.leaderboard.statistics.accuracy import wilson_interval

Outcome = Literal["match", "consistent", "differs", "not comparable"]
OUTCOMES: tuple[Outcome, ...] = ("match", "consistent", "differs", "not comparable")
ATTACK_RANDOMNESS = Fraction(2, 1000)  # 0.2 points: another seed of the same attack
ENOUGH_SEEDS = 3  # fewer have no spread to speak of

Settings = Mapping[str, str]
"""An attack and its parameters, as text; in one form, whoever's code runs it."""


@dataclass(frozen=True)
class ModelProvenance:
    """How a network relates to the published row.

    Args:
        kind: its very weights; trained here by the row's recipe; a small network in its place; or
            nobody knows.
        seed: of the training; None when unknown.
        selection: how its epoch was chosen; empty when unknown.
        difference: what differs between its recipe and the row's; empty when nothing does.
        canonical: whether it was trained on the original pixels; None when unknown.
    """

    kind: Literal["published weights", "retrained", "small-scale", "unknown"]
    seed: int | None = None
    selection: str = ""
    difference: str = ""
    canonical: bool | None = None


@dataclass(frozen=True)
class Measured:
    """One accuracy of ours, with the terms under which it holds.

    Args:
        correct: examples right (and not broken), of `n`.
        examples: which of the split.
        dataset: name, with split and content hash of the pixels evaluated.
        canonical: whether they are the original pixels; None when unknown.
        norm: of the attack, with its radius as text; both empty for clean accuracy.
        protocol_id: full id of the protocol that ran.
        attacks: what ran: none for clean accuracy, several for a worst case.
        engine: whose AutoAttack, with the version; empty where none ran.
        model_hash: of the network; `architecture` is empty when unknown.
        flags: raised on the result, by name.
        origin: how the network relates to the published row.
    """

    correct: int
    n: int
    examples: Examples
    dataset: str
    split: str
    dataset_hash: str
    canonical: bool | None
    norm: str
    eps: str
    protocol_id: str
    attacks: tuple[Settings, ...]
    engine: str
    model_hash: str
    architecture: str
    flags: tuple[str, ...]
    origin: ModelProvenance

    @property
    def value(self) -> Fraction:
        """The accuracy, exactly."""
        return Fraction(self.correct, self.n)


@dataclass(frozen=True)
class CellComparison:
    """What can be said of one published number.

    Args:
        outcome: one of `OUTCOMES`.
        reasons: why, in words; of a number that is not comparable every obstacle.
        ours: our accuracy, the mean over seeds; None when nothing was measured.
        interval: its 95% Wilson interval, over seeds the widest; None likewise.
        accepted: where the published accuracy had to lie; None when nothing may be compared.
        tolerance: what `accepted` is made of, in words.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    ours: float | None = None
    interval: tuple[float, float] | None = None
    accepted: tuple[float, float] | None = None
    tolerance: str = ""


def judge(
    row: PublishedRow,
    cell: Cell,
    measured: Sequence[Measured],
    *,
    stated: Sequence[Settings],
    whole: int,
) -> CellComparison:
    """Hold our numbers against a published one.

    Published weights on the same images: rounding + 0.2 points. Retrained by the row's recipe with
    three seeds or more: rounding + the spread of the seeds, which is the largest minus the
    smallest, about their mean; with fewer seeds, or on a random sample of the images: the Wilson
    interval + rounding, and never better than *consistent*. (A sample without replacement of a
    finite set varies less than Wilson's interval says; no correction is made, so the interval is
    too wide rather than too narrow.) Anything else is *not comparable*, the first n images among
    it: they are no sample.

    Args:
        row: the published row.
        cell: one number of it.
        measured: ours, one for each seed of training; at least one.
        stated: the attacks that the source states, as settings; none for clean accuracy.
        whole: how many images the published number is over.

    Returns:
        The outcome with its reasons.
    """
    values = [one.value for one in measured]
    mean = sum(values, Fraction(0)) / len(values)
    bounds = [wilson_interval(one.correct, one.n) for one in measured]
    interval = min(low for low, _ in bounds), max(high for _, high in bounds)
    obstacles = list(
        dict.fromkeys(
            reason for one in measured for reason in _obstacles(row, cell, one, stated, whole)
        )
    )
    if obstacles:
        return CellComparison("not comparable", tuple(obstacles), float(mean), interval)
    subset = measured[0].n < whole
    seeds = len({one.origin.seed for one in measured})
    published = measured[0].origin.kind == "published weights"
    best: Outcome = "match"
    if subset or not (published or seeds >= ENOUGH_SEEDS):
        best = "consistent"
        low, high = (Fraction(bound) for bound in interval)
        accepted = low - cell.rounding, high + cell.rounding
        tolerance = "interval + rounding"
    else:
        slack = ATTACK_RANDOMNESS if published else max(values) - min(values)
        accepted = mean - cell.rounding - slack, mean + cell.rounding + slack
        tolerance = "rounding + 0.2 points" if published else f"rounding + spread of {seeds} seeds"
    inside = accepted[0] <= cell.accuracy <= accepted[1]
    return CellComparison(
        best if inside else "differs",
        tuple(_grounds(cell, measured, subset, seeds, whole)),
        float(mean),
        interval,
        (max(0.0, float(accepted[0])), min(1.0, float(accepted[1]))),
        tolerance,
    )


def unmeasurable(cell: Cell) -> str:
    """Why no run of ours can be set beside a number; empty when one can."""
    if cell.quantity not in ACCURACIES:
        return f"a number of another kind ({cell.quantity}), which this command does not measure"
    if cell.part:
        return f"the number is over {cell.part}"
    if cell.metric != CLEAN_METRIC and not cell.protocol:
        return "the source does not state the attack's settings, or we have no such attack"
    if cell.metric != CLEAN_METRIC and not cell.eps:
        return "the source does not state the radius"
    return ""


def _obstacles(
    row: PublishedRow, cell: Cell, one: Measured, stated: Sequence[Settings], whole: int
) -> Iterator[str]:
    """Every reason against comparing."""
    if one.origin.kind == "small-scale":
        yield "small-scale: a quick stand-in (small network and data), not the published setting"
        return
    if not cell.is_target:
        yield "the published number is from memory: no target"
    if reason := unmeasurable(cell):
        yield reason
    if (one.dataset, one.split) != (cell.dataset, cell.split):
        yield (f"other data: {one.dataset} {one.split} here, {cell.dataset} {cell.split} published")
    elif one.canonical is not True:
        known = "another hash than the original" if one.canonical is False else "no hash known"
        yield f"other pixels: {one.dataset} {one.split} has {known} ({_short(one.dataset_hash)})"
    yield from _other_images(one, whole)
    if cell.metric != CLEAN_METRIC:
        yield from _other_attack(cell, one, stated)
    yield from _other_network(row, one)


def _other_images(one: Measured, whole: int) -> Iterator[str]:
    """Images from which nothing follows for those of the published number.

    The interval of a random sample of them speaks of all. That of the first n does not: the first
    may be harder than the rest.
    """
    chosen = one.examples
    if chosen.is_random and chosen.of == whole:
        return
    if not chosen.from_the_first or one.n > whole:
        here = chosen.choice or f"{one.n} from {chosen.first} on"
        yield f"other images: {here} here, the first {whole} published"
    elif one.n < whole:
        yield (
            f"not a sample: the first {one.n} of {whole} images; the interval holds for those "
            f"images alone (--sample {one.n} draws a random subset)"
        )


def _other_attack(cell: Cell, one: Measured, stated: Sequence[Settings]) -> Iterator[str]:
    if cell.norm and one.norm != cell.norm:
        yield f"other norm: {one.norm} here, {cell.norm} published"
    if cell.eps and Fraction(one.eps) != Fraction(cell.eps):
        yield f"other radius: eps {one.eps} here, {cell.eps} published"
    if cell.protocol and _in_order(one.attacks) != _in_order(stated):
        yield f"other protocol: {one.protocol_id} here, {cell.protocol_id} published"


def _other_network(row: PublishedRow, one: Measured) -> Iterator[str]:
    origin = one.origin
    if origin.kind == "unknown":
        yield (
            "unknown weights: neither trained here by the row's recipe nor said to be the "
            "published ones (--released)"
        )
    if origin.kind == "published weights" and _other_architecture(row.model, one.architecture):
        yield f"other architecture: {one.architecture} here, {row.model} published"
    if origin.kind != "retrained":
        return
    if origin.difference:
        yield f"not trained to the recipe {row.recipe}: {origin.difference}"
    if origin.canonical is not True:
        yield f"not trained on the original pixels of {row.dataset}, as far as is known"
    if row.selection and not origin.selection.startswith(row.selection):
        yield f"other checkpoint: {origin.selection or 'unknown'} here, {row.selection} published"


def _grounds(
    cell: Cell, measured: Sequence[Measured], subset: bool, seeds: int, whole: int
) -> Iterator[str]:
    """What an outcome rests on."""
    if measured[0].origin.kind == "published weights":
        yield "the published weights"
    else:
        yield f"retrained by the recipe, {seeds} seed{'' if seeds == 1 else 's'}"
        if seeds < ENOUGH_SEEDS:
            yield f"the spread over seeds is unknown below {ENOUGH_SEEDS}: consistent at most"
    if subset:
        yield f"a random sample: {measured[0].n} of {whole} images: consistent at most"
    else:
        yield f"the same {whole} images"
    if measured[0].engine:
        yield f"AutoAttack by {measured[0].engine}"
    if cell.provenance == "secondary":
        yield "the published number is secondary"
    if flags := sorted({flag for one in measured for flag in one.flags}):
        yield f"our result is flagged: {', '.join(flags)}"


def _in_order(attacks: Sequence[Settings]) -> list[list[tuple[str, str]]]:
    """Attacks and their settings in one order, to be compared."""
    return sorted(sorted(attack.items()) for attack in attacks)


def _other_architecture(published: str, ours: str) -> bool:
    """By depth and width, where both names have them, and by pre-activation."""
    numbers = [re.findall(r"\d+", text) for text in (published, ours)]
    if not all(numbers):
        return False
    preact = ["preact" in text.lower() for text in (published, ours)]
    return numbers[0] != numbers[1] or preact[0] != preact[1]


def _short(text: str) -> str:
    return text[:19]
