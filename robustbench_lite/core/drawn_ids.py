"""A seeded draw of ids without replacement that is the same on every machine and version.

Imports only the standard library, so that the leaderboard can draw the ids of a result again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

EVALUATION = "rbl evaluate"  # the purpose of `--sample`


def draw_ids(candidates: Iterable[int], n: int, *, seed: int, purpose: str) -> list[int]:
    """The `n` candidates whose SHA-256 of the text `"<purpose> <seed> <id>"` is smallest.

    Digests are compared as bytes. A smaller draw of the same seed is part of a larger one.

    Args:
        candidates: ids, each once, in any order.
        n: how many; with as many candidates or fewer, all of them.
        seed: any integer.
        purpose: draws of different purposes are independent.

    Returns:
        The ids drawn, ascending.
    """

    def key(example: int) -> bytes:
        return hashlib.sha256(f"{purpose} {seed} {example}".encode()).digest()

    return sorted(sorted(candidates, key=key)[:n])


@lru_cache(maxsize=16)
def sample_of_split(n: int, size: int, seed: int) -> tuple[int, ...]:
    """The ids that `--sample n --sample-seed seed` takes of a split of `size` images, ascending."""
    return tuple(draw_ids(range(size), n, seed=seed, purpose=EVALUATION))


def ids_sha256(ids: Sequence[int]) -> str:
    """`"sha256:..."` of ids as decimal text joined by commas."""
    return f"sha256:{hashlib.sha256(','.join(map(str, ids)).encode()).hexdigest()}"
