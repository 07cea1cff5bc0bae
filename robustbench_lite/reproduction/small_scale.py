"""Published methods at CPU size: small networks on digits in place of the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.datasets import load_split
from robustbench_lite.leaderboard.published.comparability import Measured, ModelProvenance, judge
from robustbench_lite.leaderboard.published.consistency import differ
from robustbench_lite.leaderboard.published.records import (
    ACCURACIES,
    CLEAN_METRIC,
    Cell,
    PublishedRow,
    PublishedTable,
    Relation,
)
from robustbench_lite.leaderboard.published.reproductions import Order, Reproduction, unmeasured
from robustbench_lite.leaderboard.statistics.accuracy import wilson_interval
from robustbench_lite.reproduction.measure import (
    Reporter,
    ReproductionOptions,
    ResultFinder,
    published_protocol,
)
from robustbench_lite.training.loop import TrainingProgress, train
from robustbench_lite.training.recipe import Recipe, load_recipe, recipe_from_dict

EPS = "0.15"  # of the digits recipes
# What a column's name speaks of -> a protocol and its attack; of `worst` all its attacks.
_ATTACKS = {
    "pgd": ("linf_quick", "pgd20_ce"),
    "cw": ("linf_quick", "cwinf20_k50"),
    "aa": ("aa_standard", "aa_standard"),
    "worst": ("linf_quick", ""),
}


def small_scale_recipe(name: str) -> Recipe:
    """A recipe on digits: the named one, or a `mnist_` one with its data and length replaced.

    Method, losses, network, rates and what else belongs to the method stay; epochs are stretched to
    those of `digits_pgd_at`, with every epoch the recipe names.

    Args:
        name: a shipped recipe for digits or for MNIST with `small_cnn`.
    """
    if name.startswith("digits_"):
        return load_recipe(name)
    data, base = load_recipe(name).as_dict(), _base()
    stretch = base["training"]["epochs"] / data["training"]["epochs"]
    data["name"] = name.replace("mnist_", "small_scale_", 1)
    data["data"] = dict(base["data"])
    data["training"] |= {key: base["training"][key] for key in ("epochs", "batch_size")}
    data["validation"]["every"] = _later(data["validation"]["every"], stretch, first=0)
    if "begin" in data["schedule"]:
        data["schedule"]["begin"] = [_later(e, stretch) for e in data["schedule"]["begin"]]
    if "begin_epoch" in data["defense"]:
        data["defense"]["begin_epoch"] = _later(data["defense"]["begin_epoch"], stretch)
    if "teachers" in data["defense"]:
        teachers = data["defense"]["teachers"]
        data["defense"]["teachers"] = [one.replace("mnist_", "digits_", 1) for one in teachers]
    if data["imbalance"]["name"] != "none":
        data["imbalance"] |= {"ratio": 10.0, "largest": 100}  # digits has 120 images a class
    return recipe_from_dict(data, origin=f"{name} on digits")


@cache
def _base() -> dict[str, Any]:
    return load_recipe("digits_pgd_at").as_dict()


def _later(epoch: int, stretch: float, *, first: int = 1) -> int:
    """An epoch (counted from `first`) of a run that is `stretch` times as long."""
    return round((epoch - first) * stretch) + first


class SmallNetworks:
    """The small networks of one call: each trained once, each attack run once.

    Args:
        runs: folder of run folders.
        terms: of the call; radius and protocol are the small networks' own.
        progress: see `Reporter`.
        training: reporter of training.
    """

    def __init__(
        self,
        runs: Path,
        terms: ReproductionOptions,
        progress: Reporter,
        training: Callable[[], Callable[[TrainingProgress], None]],
    ) -> None:
        self.runs, self.terms, self.training = runs, terms, training
        self.finder = ResultFinder(load_split("digits", "test"), terms, progress)
        self.networks: dict[str, LoadedModel] = {}

    def network(self, name: str) -> LoadedModel:
        """The small network of a recipe, trained if it is not there."""
        if name not in self.networks:
            recipe = small_scale_recipe(name)
            best = train(
                recipe,
                load_split("digits", "train"),
                out=self.runs / recipe.name,
                device=self.terms.device,
                threads=self.terms.settings.threads,
                progress=self.training(),
            )
            self.networks[name] = resolve_model(str(best), allow_code=False, device="cpu")
        return self.networks[name]

    def measure(self, row: PublishedRow, metric: str) -> Measured | None:
        """The small network's number; None where no attack of ours stands for the metric."""
        kind = next((kind for kind in _ATTACKS if metric.startswith(kind)), "")
        if not row.small_scale or not (kind or metric == CLEAN_METRIC):
            return None
        name, attack = _ATTACKS.get(kind, _ATTACKS["pgd"])
        protocol = published_protocol(name, eps=EPS, engine=self.terms.engine)
        wanted = [spec for spec in protocol.attacks if attack in ("", spec.name)]
        return self.finder.measure(
            self.network(row.small_scale),
            ModelProvenance("small-scale"),
            protocol,
            [] if metric == CLEAN_METRIC else wanted,
            self.terms.images(self.finder.data, len(self.finder.data)),
        )


def compare_small_scale(
    table: PublishedTable, rows: Sequence[PublishedRow], networks: SmallNetworks
) -> tuple[list[Reproduction], list[Order]]:
    """Every number of the rows beside that of a small network: never comparable, and said so.

    Args:
        table: the published table.
        rows: those chosen of it.
        networks: trained and measured where they are not there.

    Returns:
        The numbers, and the orders that the table claims (see `orders`). The same call again gives
        the same.
    """

    def compared() -> tuple[list[Reproduction], list[Order]]:
        numbers = [_compare(row, cell, networks) for row in rows for cell in row.cells]
        return numbers, orders(table, rows, networks)

    compared()  # as of `compare_rows`: everything is measured before any result is chosen
    return compared()


def _compare(row: PublishedRow, cell: Cell, networks: SmallNetworks) -> Reproduction:
    if not row.small_scale:
        return unmeasured(row, cell, "no small-scale run: no small recipe of this method")
    measured = None
    if cell.quantity in ACCURACIES and not cell.part:
        measured = networks.measure(row, cell.metric)
    if measured is None:
        return unmeasured(row, cell, "no small-scale run: no attack of ours for this column")
    verdict = judge(row, cell, [measured], stated=measured.attacks, whole=measured.n)
    return Reproduction(row, cell, (measured,), verdict)


def orders(
    table: PublishedTable, rows: Sequence[PublishedRow], networks: SmallNetworks
) -> list[Order]:
    """The orders that a table claims among some rows, and whether the small networks show them.

    Numbers claim an order between neighbours of one column, data set and radius that differ beyond
    rounding; numbers from memory claim nothing.
    """
    by_id = {row.id: row for row in rows if row.small_scale}
    claims = [one for one in table.relations if {one.above, one.below} <= set(by_id)]
    claims += [one for key in table.columns for one in _claimed(list(by_id.values()), key)]
    found = []
    for claim in claims:
        pair = [networks.measure(by_id[name], claim.metric) for name in (claim.above, claim.below)]
        if pair[0] is not None and pair[1] is not None:
            ours = float(pair[0].value), float(pair[1].value)
            seen = _seen(pair[0], pair[1])
            found.append(Order(claim.metric, claim.above, claim.below, claim.source, ours, seen))
    return found


def _claimed(rows: Sequence[PublishedRow], key: str) -> Iterator[Relation]:
    groups: dict[tuple[str, str], list[tuple[Cell, PublishedRow]]] = {}
    for row in rows:
        for cell in row.cells:
            if cell.key == key and cell.is_target and cell.quantity in ACCURACIES and not cell.part:
                groups.setdefault((cell.dataset, cell.eps), []).append((cell, row))
    for group in groups.values():
        ordered = sorted(group, key=lambda pair: pair[0].accuracy, reverse=True)
        for (high, above), (low, below) in pairwise(ordered):
            if differ(high, low) and above.small_scale != below.small_scale:
                claim = f"{high.shown} against {low.shown}"
                yield Relation(metric=high.metric, above=above.id, below=below.id, source=claim)


def _seen(above: Measured, below: Measured) -> str:
    (low, _), (_, high) = (wilson_interval(one.correct, one.n) for one in (above, below))
    if low > high:
        return "seen"
    (_, high), (low, _) = (wilson_interval(one.correct, one.n) for one in (above, below))
    return "not seen" if low > high else "not separated"
