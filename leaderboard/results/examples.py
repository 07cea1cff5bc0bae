"""Which examples of a split a result is over, and whether what is stored about them is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NoReturn

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from robustbench_lite.core.drawn_ids import ids_sha256, sample_of_split
from robustbench_lite.core.errors import ResultError
from robustbench_lite.core.plain_text import plain
from robustbench_lite.core.schema import Count, Positive, Sha256, shown

MOST_IMAGES = 2_000_000  # of a split: a sample is drawn again when its result is read


class StoredExamples(Struct, frozen=True, kw_only=True):
    """Which examples of the split were evaluated: consecutive ones from `first`, or `ids`.

    `of` is the size of the split, which results of before do not state; `seed` belongs to
    `chosen = "random"`, `file` to `"subset"`.
    """

    first: Count | None = None
    count: Positive
    of: Annotated[int, Meta(ge=1, le=MOST_IMAGES)] | None = None
    chosen: Literal["random", "subset"] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    file: str = ""
    sha256: Sha256 | None = None
    ids: list[Count] | None = None


@dataclass(frozen=True)
class Examples:
    """Some examples of a split.

    Args:
        first: the smallest id.
        count: how many.
        of: size of the split; None where the result does not state it.
        ids: ascending, when they were drawn or listed; empty for consecutive ones from `first`.
        seed: of a random sample; None for others.
        file: name of the file that listed them; empty when not stated.
    """

    first: int
    count: int
    of: int | None = None
    ids: tuple[int, ...] = ()
    seed: int | None = None
    file: str = ""

    @property
    def from_the_first(self) -> bool:
        """Whether they are the first of the split, or all of it."""
        return not self.ids and self.first == 0

    @property
    def is_prefix(self) -> bool:
        """Whether they are known to be the first of a larger split."""
        return self.from_the_first and self.of is not None and self.count < self.of

    @property
    def is_random(self) -> bool:
        """Whether they are a random sample of the split."""
        return self.seed is not None

    @property
    def digest(self) -> str:
        """Hash of the ids; empty for consecutive ones, which `first` and `count` identify."""
        return ids_sha256(self.ids) if self.ids else ""

    @property
    def id_array(self) -> NDArray[np.int64]:
        """The ids, ascending, (count,)."""
        if self.ids:
            return np.array(self.ids, dtype=np.int64)
        return np.arange(self.first, self.first + self.count, dtype=np.int64)

    @property
    def text(self) -> str:
        """`n=100`, with the range or the choice where they are not the first."""
        return examples(self.first, self.count, self.choice if self.ids else "")

    @property
    def choice(self) -> str:
        """`all 1000`, `first 100 of 1000`, `random 100 of 1000 (seed 0)` or `subset FILE`; empty
        where the result does not say of how many."""
        if self.is_random:
            return f"random {self.count} of {self.of} (seed {self.seed})"
        if self.ids:
            return f"subset {plain(self.file)}".strip()
        if self.of is None or self.first:
            return ""
        return f"first {self.count} of {self.of}" if self.is_prefix else f"all {self.count}"

    def same_as(self, identity: Mapping[str, object]) -> bool:
        """Whether they are those that the header of an evaluation names."""
        if "ids" in identity:
            return list(self.ids) == identity["ids"]
        return not self.ids and (self.first, self.count) == (identity["first"], identity["count"])


def examples(first: int, n: int, choice: str = "") -> str:
    """Which examples were evaluated: how many, and the range unless it starts the split.

    Args:
        first: the first id.
        n: how many; for 0, which stands for not stated, the text is empty.
        choice: how they were chosen, when they are no range.
    """
    if n == 0:
        return ""
    if choice:
        return f"n={n} ({choice})"
    return f"n={n}" if first == 0 else f"n={n} (examples {first} to {first + n - 1})"


def read_examples(stored: StoredExamples) -> Examples:
    """The examples of a result, after checking what is stored against itself.

    Raises:
        ResultError: naming the key that is missing or cannot be right.
    """
    if stored.chosen is None:
        if stored.first is None:
            raise ResultError("missing key examples.first")
        if stored.ids is not None:
            raise ResultError("missing key examples.chosen, which results with examples.ids have")
        if stored.of is not None and stored.first + stored.count > stored.of:
            _refuse("count", stored.count, f"at most {stored.of}, the size of the split")
        return Examples(stored.first, stored.count, stored.of)
    ids = tuple(stored.ids or ())
    if len(ids) != stored.count:
        _refuse("ids", f"a list of {len(ids)}", f"{stored.count} ids, as examples.count says")
    _check_ids(ids, stored.of)
    if stored.sha256 != ids_sha256(ids):
        _refuse("sha256", stored.sha256, f"{ids_sha256(ids)}, of examples.ids")
    if stored.chosen == "subset":
        return Examples(ids[0], stored.count, stored.of, ids, file=stored.file)
    if stored.of is None:
        raise ResultError("missing key examples.of, the size of the split that a sample is of")
    if ids != sample_of_split(stored.count, stored.of, stored.seed):
        drawn = f"what seed {stored.seed} draws of {stored.of}"
        _refuse("ids", f"{list(ids[:5])}...", drawn)
    return Examples(ids[0], stored.count, stored.of, ids, seed=stored.seed)


def _check_ids(ids: Sequence[int], size: int | None) -> None:
    """Ascending, each once, and in the split."""
    for one, other in pairwise(ids):
        if one >= other:
            _refuse("ids", f"{one}, then {other}", "ascending ids, each once")
    if size is not None and ids[-1] >= size:
        _refuse("ids", f"a list with {ids[-1]}", f"ids below {size}, the size of the split")


def _refuse(key: str, value: object, need: str) -> NoReturn:
    raise ResultError(f"examples.{key} is {shown(value)}; need {need}")
