"""Which images of a split are evaluated: the first N, a random sample, or those of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustbench_lite.core.drawn_ids import ids_sha256, sample_of_split
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.schema import shown

Chosen = Literal["first", "random", "subset"]


@dataclass(frozen=True)
class Selection:
    """Some images of a split.

    Args:
        chosen: `"first"` (the first N, or all), `"random"`, or `"subset"` (ids given by the user).
        ids: their row numbers in the split, ascending, each once.
        size: images of the whole split.
        seed: of a random sample; 0 otherwise.
        file: name of the file that the ids of a subset were read from; empty otherwise.
    """

    chosen: Chosen
    ids: Sequence[int]
    size: int
    seed: int = 0
    file: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def identity(self) -> dict[str, object]:
        """What fixes the images in a header: equal only for the same ones chosen the same way."""
        count = len(self.ids)
        if self.chosen == "first":
            return {"first": 0, "count": count}  # as before samples were known
        seed = {"seed": self.seed, "of": self.size} if self.chosen == "random" else {}
        ids = {"sha256": ids_sha256(self.ids), "ids": list(self.ids)}
        return {"chosen": self.chosen, **seed, "count": count, **ids}

    @property
    def about(self) -> dict[str, object]:
        """What tables say of the images besides `identity`."""
        return {"of": self.size, **({"file": self.file} if self.file else {})}

    @property
    def word(self) -> str:
        """A piece of a folder's name: `100`, `random100-sample0`, `subset100-1a2b3c4d`."""
        count = len(self.ids)
        if self.chosen == "first":
            return str(count)
        if self.chosen == "random":
            return f"random{count}-sample{self.seed}"
        return f"subset{count}-{ids_sha256(self.ids).removeprefix('sha256:')[:8]}"


def first_images(n: int | None, size: int, *, what: str) -> Selection:
    """The first `n` images of a split.

    Args:
        n: how many; None takes all.
        size: images of the split.
        what: names the split in messages.

    Raises:
        InputError: when there are not as many.
    """
    n = size if n is None else n
    if not 1 <= n <= size:
        raise InputError(f"n={n}: {what} has 1 to {size} examples to take")
    return Selection("first", range(n), size)


def random_images(n: int, size: int, seed: int) -> Selection:
    """A random sample without replacement (`robustbench_lite.core.drawn_ids.draw_ids`).

    Args:
        n: how many, at least 1; with `size` or more, all images in their order.
        size: images of the split.
        seed: of the draw, at least 0.

    Raises:
        InputError: when `n` or `seed` is out of range.
    """
    if n < 1:
        raise InputError(f"--sample {n} must be at least 1")
    if not 0 <= seed < 2**63:
        raise InputError(f"--sample-seed {seed} must be in [0, 2**63)")
    if n >= size:
        return Selection("first", range(size), size)
    return Selection("random", sample_of_split(n, size, seed), size, seed)


def listed_images(path: str | Path, size: int, *, what: str) -> Selection:
    """The images that a file names: one integer id a line, or a JSON list of them.

    Args:
        path: a text file; blank lines are left out. The order does not matter.
        size: images of the split.
        what: names the split in messages.

    Raises:
        InputError: for a file that cannot be read, holds no ids or something else, an id twice, or
            one that the split does not have.
    """
    path = Path(path)
    ids = _read_ids(path)
    if not ids:
        raise InputError(f"--subset {path} names no image; need one integer id a line")
    seen: set[int] = set()
    for one in ids:
        if not 0 <= one < size:
            raise InputError(
                f"--subset {path}: id {shown(one)} is not in {what}; ids are 0 to {size - 1}"
            )
        if one in seen:
            raise InputError(f"--subset {path}: id {one} is there twice; name each image once")
        seen.add(one)
    ids.sort()
    if ids == list(range(len(ids))):
        return Selection("first", range(len(ids)), size)
    return Selection("subset", tuple(ids), size, file=path.name)


def _read_ids(path: Path) -> list[int]:
    """The integers in a file, in its order."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise InputError(f"--subset {path} cannot be read: {why}") from error
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--subset {path} is no JSON list of ids: {error}") from error
        for value in values:
            if type(value) is not int:
                raise InputError(f"--subset {path} holds {shown(value)}; need integer ids only")
        return list(values)
    ids = []
    for number, line in enumerate(text.splitlines(), start=1):
        if word := line.strip():
            if not (word.isascii() and word.isdigit() and len(word) < 20):
                raise InputError(
                    f"--subset {path}, line {number}: {shown(word)} is no id; need one integer of "
                    "at least 0 a line, or a JSON list"
                )
            ids.append(int(word))
    return ids
