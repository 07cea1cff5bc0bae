"""Counter-based random numbers: a draw is a function of (seed, id, stream, restart, step).

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Sec. 3.3 and
Table 2) in int64 tensors, on the device of the ids. So a draw for one example does not depend on
the batch it is in, on the order, on the shard, or on what was drawn before.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # multipliers of Philox-4x32, Salmon et al. 2011, Table 2
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl constants: golden ratio and sqrt(3) - 1
_ROUNDS = 10
_STEP_BITS = 20


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox-4x32-10.

    Args:
        counter: four int64 tensors that broadcast together, each element in [0, 2**32).
        key: two integers in [0, 2**32).

    Returns:
        Four int64 tensors of the broadcast shape, elements in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # An int64 product wraps modulo 2**64, which keeps exactly the 64 bits Philox needs.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return [c0, c1, c2, c3]


def stream_id(name: str) -> int:
    """A 32-bit stream number for an attack's name: streams of different names do not overlap."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def fold_seed(seed: int, *parts: int | str) -> int:
    """A 64-bit seed derived from another and a path, such as `fold_seed(seed, "epoch", 3)`."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def random_words(
    n_words: int,
    *,
    ids: Tensor,
    seed: int,
    stream: str,
    restart: int | Tensor,
    step: int | Tensor,
) -> Tensor:
    """Uniform 32-bit words, a row per example.

    Args:
        n_words: words per example.
        ids: example ids (B,), int64 in [0, 2**32).
        seed: any integer; its low 64 bits are the key.
        stream: name of the attack, or of the purpose.
        restart: in [0, 4096); an int, or int64 (B,) when the examples are at different ones.
        step: in [0, 2**20); an int, int64 (B,), or (B, S) for S draws at once.

    Returns:
        int64 (B, n_words), or (B, S, n_words), elements in [0, 2**32), on the device of `ids`.

    Raises:
        ValueError: for an int outside its range; a tensor's elements are the caller's to hold.
    """
    for name, value, bits in (("restart", restart, 32 - _STEP_BITS), ("step", step, _STEP_BITS)):
        if isinstance(value, int) and not 0 <= value < 1 << bits:
            raise ValueError(f"{name}={value} is out of the counter's range")
    several = isinstance(step, Tensor) and step.dim() == 2
    blocks = torch.arange(-(-n_words // 4), device=ids.device)  # (blocks,)
    place = (_column(restart, ids) << _STEP_BITS) | _column(step, ids)  # (B or 1, S or 1)
    purpose = torch.full_like(blocks[:1], stream_id(stream))
    key = (seed & _MASK, (seed >> 32) & _MASK)
    counter = (blocks[None, None, :], ids.long()[:, None, None], purpose, place[:, :, None])
    words = torch.stack(philox(counter, key), dim=3).flatten(2)[:, :, :n_words]
    return words if several else words[:, 0]


def _column(value: int | Tensor, ids: Tensor) -> Tensor:
    """A place in the counter as int64 (1, 1), (B, 1) or (B, S)."""
    if isinstance(value, int):
        return torch.full((1, 1), value, dtype=torch.int64, device=ids.device)
    return value.long().view(len(value), -1)


def uniform(
    shape: torch.Size,
    *,
    ids: Tensor,
    seed: int,
    stream: str,
    restart: int | Tensor,
    step: int | Tensor,
) -> Tensor:
    """Uniform float32 numbers in [0, 1), multiples of 2**-24: (B, *shape[1:]).

    `restart` and `step` are ints, or int64 (B,).
    """
    words = random_words(
        math.prod(shape[1:]), ids=ids, seed=seed, stream=stream, restart=restart, step=step
    )
    return ((words >> 8).float() * 2.0**-24).view(shape)


def normal(
    shape: torch.Size,
    *,
    ids: Tensor,
    seed: int,
    stream: str,
    restart: int | Tensor,
    step: int | Tensor,
) -> Tensor:
    """Standard normal float32 numbers by Box and Muller (1958): (B, *shape[1:]).

    Computed in float64, so that vectorised and scalar code paths round to the same float32.
    `restart` and `step` are ints, or int64 (B,).
    """
    n = math.prod(shape[1:])
    pairs = -(-n // 2)
    words = random_words(
        2 * pairs, ids=ids, seed=seed, stream=stream, restart=restart, step=step
    ).double()
    radius = torch.sqrt(-2.0 * torch.log((words[:, :pairs] + 1.0) * 2.0**-32))
    angle = words[:, pairs:] * (2.0 * math.pi * 2.0**-32)
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :n].float().view(shape)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch, numpy and Python, which networks and attacks of others use.

    Numpy's and Python's are put back after the block; torch's are its caller's to put back.
    """
    torch.manual_seed(seed)
    before = random.getstate(), numpy.random.get_state()
    try:
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        yield
    finally:
        random.setstate(before[0])
        numpy.random.set_state(before[1])
