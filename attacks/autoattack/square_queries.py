"""How the Square Attack makes a query from the best point so far: the part that the norm decides.

A query changes one or two small windows, so it is written into the best point itself, asked, and
taken back where it was no better: no step touches the whole image (L1: its projection does).
Several steps of draws are prepared at once, in tensors (S, B, ...); see `square_windows`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from robustbench_lite.attacks.autoattack.active_set import Rows
from robustbench_lite.attacks.autoattack.square_windows import (
    PatternTable,
    largest_window,
    pattern,
    place_windows,
    random_bits,
    words_for_bits,
)
from robustbench_lite.attacks.projections import l1_norm, l1_projection, l2_norm, per_example
from robustbench_lite.attacks.threat_model import Norm

_INSIDE = 1.0 - 1e-6  # of the radius: rounding of x + delta stays in the ball
_TINY = 1e-12  # keeps divisions by norms finite, as in the authors' code


class Queries(Protocol):
    """S prepared queries of each row of a state; they change the state's `x_adv` in place."""

    def propose(self, k: int) -> Tensor:
        """The k-th query (B, C, H, W), to be kept or taken back before the next."""

    def keep(self, better: Tensor) -> None:
        """Keep the last query where `better`, bool (B,); take it back elsewhere."""


class Moves(Protocol):
    """The starting point and the queries of one norm, for images of one shape."""

    start_bits: int  # random bits that a starting point takes
    words: int  # random words that a query takes

    def start(self, x: Tensor, bits: Tensor) -> Rows:
        """`x_adv` and what else the queries need, from images and random bits (B, n)."""

    def plan(self, state: Rows, words: Tensor, sizes: Tensor) -> Queries:
        """Queries from random words (S, B, n) and the sides of their windows (S, B)."""


class SignMoves:
    """Linf (Andriushchenko et al. 2020, Algorithm 2): a window takes one sign per channel.

    A pixel moved by 2 eps and clipped to ball and box is at its upper or lower limit, and the
    start is vertical stripes of such pixels.

    Args:
        shape: of an image, (C, H, W).
        eps: radius.
    """

    def __init__(self, shape: torch.Size, eps: float) -> None:
        channels, _, width = shape
        self._shape, self._eps = shape, eps
        self.start_bits = channels * width
        self.words = 2 + words_for_bits(channels)

    def start(self, x: Tensor, bits: Tensor) -> Rows:
        low, high = (x - self._eps).clamp_min(0.0), (x + self._eps).clamp_max(1.0)
        stripes = bits.view(len(x), x.shape[1], 1, x.shape[3])
        limits = torch.cat([low.flatten(2), high.flatten(2)], dim=2)  # (B, C, 2 * H * W)
        return {"x_adv": torch.where(stripes, high, low), "limits": limits}

    def plan(self, state: Rows, words: Tensor, sizes: Tensor) -> Queries:
        return _SignQueries(self._shape, state, words, sizes)


class _SignQueries:
    def __init__(self, shape: torch.Size, state: Rows, words: Tensor, sizes: Tensor) -> None:
        channels, height, width = shape
        side = largest_window(sizes, shape)
        pixels = place_windows(words, sizes, shape, side=side).pixels(width)[:, :, None]
        signs = random_bits(words[..., 2:], channels)[..., None]  # (S, B, C, 1)
        self._pixels = pixels.expand(-1, -1, channels, -1).unbind()  # S of (B, C, D * D)
        self._limit = (pixels + signs * (height * width)).unbind()
        self._limits, self._x_adv = state["limits"], state["x_adv"]
        self._flat = self._x_adv.view(len(self._x_adv), channels, -1)  # written through
        self._is_start = (sizes[0] == 0)[:, None, None]

    def propose(self, k: int) -> Tensor:
        self._k, self._old = k, self._flat.gather(2, self._pixels[k])
        self._new = self._limits.gather(2, self._limit[k])
        if k == 0:  # rows that begin, do so with the first step: it queries the start itself
            self._new = torch.where(self._is_start, self._old, self._new)
        self._flat.scatter_(2, self._pixels[k], self._new)
        return self._x_adv

    def keep(self, better: Tensor) -> None:
        values = torch.where(better[:, None, None], self._new, self._old)
        self._flat.scatter_(2, self._pixels[self._k], values)


class PatternMoves:
    """L2 (Andriushchenko et al. 2020, Algorithm 3), and L1 after Croce and Hein 2021.

    The first window gets the pattern of its size, with one sign per channel, on top of what it
    has, and with it the mass of both windows and what the ball leaves; the second one is emptied.
    The start is a grid of such patterns.

    Args:
        shape: of an image, (C, H, W).
        norm: `"L2"` or `"L1"`.
        eps: radius.
        sizes: the sides of windows that occur.
        device: of the images.
    """

    def __init__(
        self, shape: torch.Size, norm: Norm, eps: float, sizes: list[int], device: torch.device
    ) -> None:
        channels, height, width = shape
        self._shape, self._norm, self._eps = shape, norm, eps
        self._patterns = PatternTable(sizes, norm, device)
        self._tile = max(height // 5, 1)  # below 5 rows the authors' code divides by 0
        self._down, self._across = height // self._tile, width // self._tile
        self.start_bits = self._down * self._across * (1 + channels)
        self.words = 4 + words_for_bits(1 + channels)

    def start(self, x: Tensor, bits: Tensor) -> Rows:
        delta = self._grid_of_patterns(x, bits)
        if self._norm == "L1":
            return {"x_adv": x + l1_projection(x, delta, self._eps * _INSIDE)}
        factor = self._eps * _INSIDE / (_TINY + l2_norm(delta))
        x_adv = (x + delta * per_example(factor, delta)).clamp(0.0, 1.0)
        mass = (x_adv - x).double().square().sum(dim=(1, 2, 3))
        room = ((self._eps * _INSIDE) ** 2 - mass) / x.shape[1]
        return {"x_adv": x_adv, "room": room[:, None, None]}

    def plan(self, state: Rows, words: Tensor, sizes: Tensor) -> Queries:
        pair = _WindowPair(self._norm, self._shape, self._patterns, words, sizes)
        if self._norm == "L1":
            return _L1Queries(state, pair, self._eps)
        return _L2Queries(state, pair)

    def _grid_of_patterns(self, x: Tensor, bits: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        grid = bits.view(len(x), self._down, self._across, 1 + channels).permute(0, 3, 1, 2)
        grid = grid.repeat_interleave(self._tile, 2).repeat_interleave(self._tile, 3)
        eta = pattern(self._tile, self._norm).to(x)
        upright, turned = (each.repeat(self._down, self._across) for each in (eta, eta.T))
        painted = torch.where(grid[:, :1], turned, upright) * (grid[:, 1:] * 2.0 - 1.0)
        delta = torch.zeros_like(x, memory_format=torch.contiguous_format)
        # Tiles that stick out are cut at the edge; the authors' code fails on such heights.
        first = max((height - 5 * self._tile) // 2, 0)
        there = painted[:, :, : height - first, : width - first]
        delta[:, :, first : first + there.shape[2], first : first + there.shape[3]] = there
        return delta


class _WindowPair:
    """The two windows of L2 and L1 queries, one after the other along the last dimension.

    Args:
        norm: `"L2"` or `"L1"`.
        shape: of an image, (C, H, W).
        patterns: of all sides.
        words: random words (S, B, n).
        sizes: sides (S, B).
    """

    def __init__(
        self, norm: Norm, shape: torch.Size, patterns: PatternTable, words: Tensor, sizes: Tensor
    ) -> None:
        channels, _, width = shape
        side = largest_window(sizes, shape)
        places = words[..., :4].reshape(*words.shape[:2], 2, 2)
        pair = place_windows(places, sizes[..., None].expand(-1, -1, 2), shape, side=side)
        window, emptied = pair.part(0), pair.part(1)
        counts = pair.inside()  # (S, B, 2, D * D)
        counts[:, :, 1] &= ~emptied.inside_of(window)
        bits = random_bits(words[..., 4:], 1 + channels)
        eta = patterns.values(window, bits[..., 0])[:, :, None] * (bits[..., 1:, None] * 2.0 - 1.0)
        pixels = pair.pixels(width)[:, :, None].expand(-1, -1, channels, -1, -1)
        self.n = side * side  # places of one window
        self._norm, self._channels = norm, channels
        self._eta = eta.unbind()  # S of (B, C, n)
        self._both_pixels = pixels.flatten(3).unbind()  # S of (B, C, 2 * n)
        self._pixels = [part.unbind() for part in pixels.unbind(3)]
        self._counts = counts.flatten(2)[:, :, None].double().unbind()
        self._window_counts = counts[:, :, :1].double().unbind()
        self._is_start = (sizes[0] == 0)[:, None, None]

    def read(self, k: int, flat: Tensor) -> Tensor:
        """Values of (B, C, H * W) at the places of the k-th pair (B, C, 2 * n)."""
        return flat.gather(2, self._both_pixels[k])

    def write(self, k: int, flat: Tensor, window: Tensor, emptied: Tensor) -> None:
        """Set the places of the k-th pair, each (B, C, n); where they overlap, `window` stays."""
        flat.scatter_(2, self._pixels[1][k], emptied)
        flat.scatter_(2, self._pixels[0][k], window)

    def mass(self, k: int, delta: Tensor) -> Tensor:
        """Mass up to each place of the k-th pair (B, C, 2 * n), or of its first window (B, C, n).

        Summed up in order, so that places that do not count change no bit of it: how far windows
        are padded depends on the largest one in the batch, and the result must not.
        """
        counts = self._counts if delta.shape[2] > self.n else self._window_counts
        mass = delta * delta if self._norm == "L2" else delta.abs()
        return (mass * counts[k]).cumsum(dim=2)

    def repainted(self, k: int, delta: Tensor, mass: Tensor, room: Tensor) -> Tensor:
        """New perturbation of the first windows (B, C, n).

        Args:
            k: which query.
            delta: float64 perturbation of the first windows (B, C, n).
            mass: of both windows, see `mass`.
            room: mass that the ball leaves to each channel (B, 1, 1).
        """
        here, both = mass[..., self.n - 1 : self.n], mass[..., -1:]
        new = torch.addcdiv(self._eta[k], delta, self._root(here) + _TINY)
        size = self._root(self.mass(k, new)[..., -1:])
        target = room.clamp_min(0.0) + both
        # L1 in the authors' code gives every channel all of it, and leaves the rest to projection.
        target = target.sqrt() if self._norm == "L2" else target * self._channels
        return new * (target / (size + _TINY))

    def unless_start(self, k: int, new: Tensor, old: Tensor) -> Tensor:
        """`new`, but `old` for rows that begin, with the first step: it queries the start."""
        return torch.where(self._is_start, old, new) if k == 0 else new

    def _root(self, mass: Tensor) -> Tensor:
        return mass.sqrt() if self._norm == "L2" else mass


class _L2Queries:
    """The mass outside the windows is known from the last query, so nothing else is looked at.

    The authors scale the whole perturbation to the sphere at the end of a query; what the window
    gets has put it there already.
    """

    def __init__(self, state: Rows, pair: _WindowPair) -> None:
        self._state, self._pair = state, pair
        self._flat = state["x_adv"].view(*state["x"].shape[:2], -1)  # written through
        self._clean = state["x"].flatten(2)

    def propose(self, k: int) -> Tensor:
        """Query k, written into the state's images in place."""
        pair, n, room = self._pair, self._pair.n, self._state["room"]
        old, clean = pair.read(k, self._flat), pair.read(k, self._clean)
        delta = (old - clean).double()
        clean, gone = clean[..., :n], clean[..., n:]
        self._k, self._old = k, (old[..., :n], old[..., n:])
        mass = pair.mass(k, delta)
        new = pair.repainted(k, delta[..., :n], mass, room)
        new = (new + clean).clamp_(0.0, 1.0).to(old.dtype)
        now = pair.mass(k, (new - clean).double())
        change = (now[..., -1:] - mass[..., -1:]).cumsum(dim=1)[:, -1:] / old.shape[1]
        self._room = pair.unless_start(k, room - change, room)
        self._new = tuple(
            pair.unless_start(k, *each) for each in zip((new, gone), self._old, strict=True)
        )
        pair.write(k, self._flat, *self._new)
        return self._state["x_adv"]

    def keep(self, better: Tensor) -> None:
        """Undo the query in the rows that did not improve."""
        better = better[:, None, None]
        values = (torch.where(better, *each) for each in zip(self._new, self._old, strict=True))
        self._pair.write(self._k, self._flat, *values)
        self._state["room"] = torch.where(better, self._room, self._state["room"])


class _L1Queries:
    """Each query ends with a projection, which touches the whole image."""

    def __init__(self, state: Rows, pair: _WindowPair, eps: float) -> None:
        self._state, self._pair, self._eps = state, pair, eps

    def propose(self, k: int) -> Tensor:
        """Query k as new images, projected onto the ball."""
        pair, x = self._pair, self._state["x"]
        delta = self._state["x_adv"] - x
        room = (self._eps - l1_norm(delta))[:, None, None] / x.shape[1]
        flat = delta.flatten(2)
        old = pair.read(k, flat)
        window, emptied = old[..., : pair.n], old[..., pair.n :]
        mass = pair.mass(k, old.double())
        new = pair.repainted(k, window.double(), mass, room).to(x.dtype)
        new = pair.unless_start(k, new, window)
        pair.write(k, flat, new, pair.unless_start(k, torch.zeros_like(emptied), emptied))
        self._new = x + l1_projection(x, delta, self._eps * _INSIDE)
        return self._new

    def keep(self, better: Tensor) -> None:
        """Take the query in the rows that improved."""
        # A weight of 0 or 1 is exact, and faster than `where`.
        weight = per_example(better.to(self._new), self._new)
        self._state["x_adv"] = torch.lerp(self._state["x_adv"], self._new, weight)
