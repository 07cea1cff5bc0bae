"""Accuracies by class of a stored result, and the errors of frequent and under-represented classes.

Of a set S of classes, the clean (in the papers: standard) error is the share of S's images that the
network misclassifies, the robust error the share that is misclassified or broken by an attack
(Wang et al. 2021, arXiv:2107.13639). Both are over all images of S, so with classes of unequal size
they differ from the mean over S's classes, which stands beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.results.load import load_result
from robustbench_lite.leaderboard.results.records import CLEAN, EXAMPLES_FILE, Accuracy, Result

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Outcomes = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassSet:
    """The images of one class, or of several.

    Args:
        labels: the classes, those without images left out.
        clean: accuracy on clean images.
        robust: share correct when clean and broken by no attack.
        attacks: stand-alone robust accuracy under each attack.
        clean_class_mean: mean of the classes' own clean accuracies.
        robust_class_mean: mean of the classes' own robust accuracies.
    """

    labels: tuple[int, ...]
    clean: Accuracy
    robust: Accuracy
    attacks: Mapping[str, Accuracy]
    clean_class_mean: float
    robust_class_mean: float

    @property
    def clean_error(self) -> float:
        """1 - clean accuracy, over the images of the set."""
        return 1.0 - self.clean.value

    @property
    def robust_error(self) -> float:
        """1 - robust accuracy, over the images of the set."""
        return 1.0 - self.robust.value


@dataclass(frozen=True)
class PerClass:
    """One result by class.

    Args:
        result: what was evaluated.
        classes: each class that has images, in label order.
        overall: all classes.
        under: U, the under-represented classes.
        well: the classes outside of U; None when they have no images.
    """

    result: Result
    classes: tuple[ClassSet, ...]
    overall: ClassSet
    under: ClassSet
    well: ClassSet | None

    @property
    def worst(self) -> ClassSet:
        """The class that `worst_class` names."""
        return min(self.classes, key=lambda one: (one.robust.value, one.clean.value))

    @property
    def equal_sizes(self) -> bool:
        """Whether all classes have as many images, so that the two kinds of mean agree."""
        return len({one.clean.n for one in self.classes}) == 1


def worst_class(result: Result) -> tuple[int, float] | None:
    """The class of lowest robust accuracy and that accuracy, counted from the outcomes.

    Of equal ones that of lower clean accuracy, then of the smaller label. None where the result
    stores no labels.
    """
    if result.outcomes is None or result.outcomes.labels is None:
        return None
    clean, robust = (
        int.from_bytes(bits, "big") for bits in (result.outcomes.clean, result.outcomes.robust)
    )
    share, _, label = min(
        ((robust & images).bit_count() / count, (clean & images).bit_count() / count, label)
        for label, images, count in _classes(result.outcomes.labels)
    )
    return label, share


@lru_cache(maxsize=64)
def _classes(packed: bytes) -> list[tuple[int, int, int]]:
    """Of each class its label, its images (as bits in the order of outcomes) and their number.

    Results of one data set share them.
    """
    labels = np.frombuffer(packed, dtype="<u2")
    return [
        (int(label), int.from_bytes(np.packbits(labels == label).tobytes(), "big"), int(count))
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
    ]


def last_half(num_classes: int) -> tuple[int, ...]:
    """The last half of the classes: U of the exponential and of the step imbalance."""
    return tuple(range(num_classes - num_classes // 2, num_classes))


def load_per_class(
    path: str | Path, *, num_classes: int, under: Sequence[int] | None = None
) -> PerClass:
    """Read a result by class.

    Args:
        path: a `result.json` with its `examples.parquet` beside it, or their folder.
        num_classes: of the data set; labels are 0 .. num_classes - 1.
        under: labels of the under-represented classes; None takes the last half.

    Returns:
        The result by class.

    Raises:
        ResultError: for a result that cannot be read, examples that do not belong to it, or labels
            that make no set of its classes.
    """
    result = load_result(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    file = folder / EXAMPLES_FILE
    rows = _read(file, result)
    labels = rows.loc[rows["attack"] == CLEAN, "label"].to_numpy()
    clean, attacks = _outcomes(rows, result)
    robust: Outcomes = np.logical_and.reduce([clean, *attacks.values()])
    stored = [result.clean_accuracy, result.robust_accuracy]
    stored += [attack.accuracy for attack in result.attacks.values()]
    found = [int(outcomes.sum()) for outcomes in (clean, robust, *attacks.values())]
    if len(labels) != result.n_examples or found != [accuracy.correct for accuracy in stored]:
        raise ResultError(
            f"{file}: its counts are not those of the result.json beside it; evaluate again"
        )
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ResultError(
            f"{file}: holds labels {labels.min()} to {labels.max()}; {result.dataset.name} has "
            f"0 to {num_classes - 1}"
        )
    under = last_half(num_classes) if under is None else under
    _check_under(under, num_classes)
    by_class = per_class(result, labels, clean, robust, attacks, under=under)
    counted = by_class.worst.labels[0], by_class.worst.robust.value
    if (stored_worst := worst_class(result)) is not None and stored_worst != counted:
        raise ResultError(
            f"{file}: its worst class is {counted[0]}; by the result.json beside it it is "
            f"{stored_worst[0]}; evaluate again"
        )
    return by_class


def stored_labels(path: str | Path, result: Result) -> NDArray[np.uint16] | None:
    """Label of each example, from the result itself or the `examples.parquet` beside it.

    Args:
        path: the `result.json` or its folder.
        result: what `load_result` read there.

    Returns:
        `(n,)`; None when neither holds labels.

    Raises:
        ResultError: for an `examples.parquet` that cannot be read or has other examples.
    """
    if result.outcomes is not None and result.outcomes.labels is not None:
        return np.frombuffer(result.outcomes.labels, dtype="<u2")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    file = folder / EXAMPLES_FILE
    if not file.is_file():
        return None
    rows = _read(file, result)
    labels = rows.loc[rows["attack"] == CLEAN, "label"].to_numpy()
    if len(labels) != result.n_examples or not 0 <= labels.min() <= labels.max() < 2**16:
        raise ResultError(
            f"{file}: its labels are not those of the result.json beside it; evaluate again"
        )
    return np.asarray(labels, dtype="<u2")


def per_class(
    result: Result,
    labels: NDArray[np.int64],
    clean: Outcomes,
    robust: Outcomes,
    attacks: Mapping[str, Outcomes],
    *,
    under: Sequence[int],
) -> PerClass:
    """Outcomes of all examples by class.

    Args:
        result: what was evaluated.
        labels: of the examples, (n,).
        clean: whether each is correct when clean, (n,).
        robust: and broken by no attack, (n,).
        attacks: by attack: whether each is correct when clean and not broken by it, (n,).
        under: labels of the under-represented classes.

    Raises:
        ResultError: when none of the examples is of a class in `under`.
    """

    def set_of(chosen: Sequence[int]) -> ClassSet | None:
        """These classes together; None where no example is of any."""
        present = tuple(label for label in chosen if (labels == label).any())
        if not present:
            return None
        inside = np.isin(labels, present)
        means = [
            float(np.mean([outcomes[labels == label].mean() for label in present]))
            for outcomes in (clean, robust)
        ]
        return ClassSet(
            present,
            Accuracy.of_outcomes(clean[inside]),
            Accuracy.of_outcomes(robust[inside]),
            {name: Accuracy.of_outcomes(outcomes[inside]) for name, outcomes in attacks.items()},
            *means,
        )

    everything = np.unique(labels).tolist()
    classes = tuple(one for label in everything if (one := set_of([label])) is not None)
    overall, rare = set_of(everything), set_of(sorted(under))
    well = set_of([label for label in everything if label not in under])
    if overall is None or rare is None:
        raise ResultError(
            f"{result.name}: none of its {len(labels)} examples is of an under-represented class "
            f"({', '.join(map(str, sorted(under)))}): evaluate more examples or choose others"
        )
    return PerClass(result, classes, overall, rare, well)


def _read(file: Path, result: Result) -> pd.DataFrame:
    """The rows of `examples.parquet`: one for each example and the attacks that were run on it."""
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    kinds = {"example_id": "int64", "label": "int64", "attack": "string", "broken": "bool"}
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ResultError(
            f"{file}: not found; accuracies by class are counted from it, so keep it beside "
            "result.json"
        ) from None
    except OSError as error:
        raise ResultError(f"{file}: cannot be read: {error.strerror}") from error
    if result.examples_hash and hashlib.sha256(content).hexdigest() != result.examples_hash:
        raise ResultError(
            f"{file}: is not the file that result.json was written with (its SHA-256 is another): "
            "run the same rbl evaluate command again"
        )
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read(columns=list(kinds))
        table = table.select(list(kinds)).cast(pyarrow.schema(list(kinds.items())))
        empty = [name for name in kinds if table[name].null_count]
        rows: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    except Exception as error:  # a damaged file raises nearly anything in pyarrow
        raise ResultError(f"{file}: cannot be read: {str(error).splitlines()[0][:120]}") from error
    if empty:
        raise ResultError(f"{file}: column {empty[0]!r} has rows without a value")
    return rows


def _outcomes(rows: pd.DataFrame, result: Result) -> tuple[Outcomes, dict[str, Outcomes]]:
    """Per row of the clean pass: right when clean; and right and not broken, by attack.

    Attacks have rows for the examples that are right when clean, and only for them.
    """
    passed = rows[rows["attack"] == CLEAN]
    clean: Outcomes = ~passed["broken"].to_numpy(dtype=bool)
    attacks: dict[str, Outcomes] = {}
    for name in result.attacks:
        broken: Any = rows.loc[(rows["attack"] == name) & rows["broken"], "example_id"]
        attacks[name] = clean & ~passed["example_id"].isin(broken).to_numpy(dtype=bool)
    return clean, attacks


def _check_under(under: Sequence[int], num_classes: int) -> None:
    if wrong := [label for label in under if not 0 <= label < num_classes]:
        raise ResultError(
            f"class {wrong[0]} is none of the data set's: labels are 0 to {num_classes - 1}"
        )
    if not under or len(set(under)) < len(under):
        raise ResultError(
            f"under-represented classes {list(under)}: at least one, and each named once"
        )
