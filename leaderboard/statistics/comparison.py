"""Two stored results, example by example: who resists what, and is it more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.records import Accuracy, Outcomes, Result
from robustbench_lite.leaderboard.statistics.accuracy import (
    LEVEL,
    holm_rejects,
    mcnemar_p_values,
    outcome_array,
)

CLEAN_TITLE, WORST_CASE = "Clean", "Worst case"

Outcome = NDArray[np.bool_]
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Pair:
    """Two networks on the same examples.

    Args:
        title: clean, an attack, the worst case, or a class.
        a: accuracy of the first.
        b: accuracy of the second.
        only_a: examples that only the first has right.
        only_b: examples that only the second has right.
        p_value: two-sided exact McNemar, not corrected.
        separated: whether the difference is more than chance at 5%; of classes Holm-corrected over
            all of them.
    """

    title: str
    a: Accuracy
    b: Accuracy
    only_a: int
    only_b: int
    p_value: float
    separated: bool

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second."""
        return self.a.value - self.b.value


@dataclass(frozen=True)
class Comparison:
    """Two results compared.

    Args:
        a: the first.
        b: the second.
        ids: of the examples that both evaluated, ascending, (n,).
        terms: what differs in protocol, radius, passes: then it is no ranking of networks.
        pairs: clean, the attacks that both have, the worst case.
        only_a: ids of examples that withstand all attacks on the first network alone.
        only_b: likewise on the second.
        classes: worst case by class, in label order; empty when the labels are not known.
    """

    a: Result
    b: Result
    ids: NDArray[np.int64]
    terms: tuple[str, ...]
    pairs: tuple[Pair, ...]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    classes: tuple[Pair, ...]


def compare(
    a: Result, b: Result, *, labels: Labels | None, labels_of: Result | None = None
) -> Comparison:
    """Compare two results on the examples that both evaluated.

    The test is McNemar's, exact (Psychometrika 12, 1947): under equality each example that only
    one network has right is a fair coin.

    Args:
        a: a result with outcomes.
        b: another, of the same data.
        labels: of the examples of either, (n,); None leaves the classes out.
        labels_of: the result whose examples they are of; None takes `a`.

    Raises:
        ResultError: for results without outcomes, of other data, or without a common example.
    """
    outcomes = [_outcomes(result) for result in (a, b)]
    _check_same_data(a, b)
    shared = np.intersect1d(a.examples.id_array, b.examples.id_array, assume_unique=True)
    if not len(shared):
        raise ResultError(
            f"{a.name} has examples {_range(a)}, {b.name} {_range(b)}: none is in both"
        )
    columns = [
        {
            title: bits[np.searchsorted(result.examples.id_array, shared)]
            for title, bits in _columns(result, stored).items()
        }
        for result, stored in zip((a, b), outcomes, strict=True)
    ]
    pairs = [
        _pair(title, columns[0][title], columns[1][title]) for title in _common(*map(list, columns))
    ]
    ours, theirs = (column[WORST_CASE] for column in columns)
    known = None
    if labels is not None:
        known = labels[np.isin((labels_of or a).examples.id_array, shared)]
    return Comparison(
        a,
        b,
        shared,
        _terms(a, b),
        tuple(pairs),
        tuple(shared[ours & ~theirs].tolist()),
        tuple(shared[theirs & ~ours].tolist()),
        () if known is None else _classes(known, ours, theirs),
    )


def _outcomes(result: Result) -> Outcomes:
    if result.outcomes is None:
        raise ResultError(
            f"{result.name}: its result.json stores no outcomes per example, so it cannot be "
            "compared; evaluate it again"
        )
    return result.outcomes


def _check_same_data(a: Result, b: Result) -> None:
    for what in ("name", "split", "hash"):
        one, other = getattr(a.dataset, what), getattr(b.dataset, what)
        if one != other:
            raise ResultError(
                f"{a.name} was evaluated on data set {what} {one!r}, {b.name} on {other!r}: "
                "without the same examples there is nothing to pair"
            )


def _range(result: Result) -> str:
    ids = result.examples.id_array
    return f"{ids[0]} to {ids[-1]}" + (f" ({len(ids)} of them)" if result.examples.ids else "")


def _columns(result: Result, outcomes: Outcomes) -> dict[str, Outcome]:
    """Outcomes under the title of each column; two attacks of one title carry their names."""
    n, specs = result.n_examples, result.protocol.attacks
    titles = [spec.title for spec in specs]
    columns = {CLEAN_TITLE: outcome_array(outcomes.clean, n)}
    for spec in specs:
        once = titles.count(spec.title) == 1 and spec.title not in (CLEAN_TITLE, WORST_CASE)
        title = spec.title if once else f"{spec.title} ({spec.name})"
        columns[title] = outcome_array(outcomes.attacks[spec.name], n)
    return {**columns, WORST_CASE: outcome_array(outcomes.robust, n)}


def _common(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return [title for title in ours if title in theirs]


def _terms(a: Result, b: Result) -> tuple[str, ...]:
    """In what the two evaluations differ, apart from the network."""
    one, other = a.protocol, b.protocol
    terms = [
        ("norm", one.norm, other.norm),
        ("eps", one.eps, other.eps),
        ("protocol", one.id, other.id),
        ("engine", one.engine_text, other.engine_text),
        ("protocol content", one.hash, other.hash),
        ("seed", str(a.seed), str(b.seed)),
    ]
    return tuple(f"{name}: {x} and {y}" for name, x, y in terms if x != y)


def _classes(labels: Labels, ours: Outcome, theirs: Outcome) -> tuple[Pair, ...]:
    """The worst case of each class that has examples, Holm-corrected over the classes."""
    present = np.unique(labels).tolist()
    pairs = [_pair(str(label), ours[labels == label], theirs[labels == label]) for label in present]
    separated = holm_rejects([pair.p_value for pair in pairs], LEVEL)
    return tuple(
        Pair(pair.title, pair.a, pair.b, pair.only_a, pair.only_b, pair.p_value, bool(one))
        for pair, one in zip(pairs, separated, strict=True)
    )


def _pair(title: str, ours: Outcome, theirs: Outcome) -> Pair:
    only_a, only_b = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p_value = float(mcnemar_p_values(only_a, only_b))
    a, b = map(Accuracy.of_outcomes, (ours, theirs))
    return Pair(title, a, b, only_a, only_b, p_value, p_value <= LEVEL)
