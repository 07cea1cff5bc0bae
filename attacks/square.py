"""Square Attack: random search by square windows, from the outputs of the network alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.errors import InputError
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.losses import margin
from robustbench_lite.attacks.random_numbers import random_words
from robustbench_lite.attacks.slots import Rows, attack_in_slots
from robustbench_lite.attacks.square_moves import Moves, PatternMoves, SignMoves
from robustbench_lite.attacks.square_windows import (
    largest_window,
    random_bits,
    window_sizes,
    words_for_bits,
)
from robustbench_lite.attacks.threat_model import NORMS, Norm

_MOST_QUERIES, _MOST_RESTARTS = 2**20 - 1, 2**12  # what the random counter can tell apart
_PREPARED_VALUES = 2**21  # pixel values of windows drawn ahead: bounds the memory


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    queries: int,
    restarts: int,
    p_init: float,
    ids: Tensor,
    seed: int,
    batch_size: int,
    passes: int = 1,
    stream: str = "square",
    network: nn.Module | None = None,
) -> Tensor:
    """Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049, Algorithms 1 to 3).

    Random search on the margin: each query changes one square window (L2, L1: moves the mass of a
    second one into it), and is kept when the margin shrinks. Rules as AutoAttack's code sets them
    (margin loss, window sizes by iteration, L1 by projection); where it differs from the paper,
    see `window_sizes` and `place_windows`. One thing is ours: the authors draw one window for the
    whole batch, here each example has its own, of the same distribution, by its id.

    Args:
        model: maps (B, C, H, W) in [0, 1] to logits (B, K); it alone says what is broken.
        x: clean images (N, C, H, W) in [0, 1].
        y: labels (N,), int64.
        norm: `"Linf"`, `"L2"` or `"L1"`.
        eps: radius, in [0, 1] units.
        queries: windows tried per run; 5000 in AutoAttack.
        restarts: runs per example, one after the other until one succeeds; at least 1.
        p_init: share of the pixels in the first windows; 0.8 in AutoAttack.
        ids: example ids (N,), int64: with the seed they fix every draw.
        seed: any integer.
        batch_size: examples attacked at once.
        passes: forward passes per prediction; above 1 more than half of them must be wrong.
        stream: name of the random stream, so that two attacks on one example draw apart.
        network: the one searched on when it is another than `model`.

    Returns:
        x_adv (N, C, H, W), inside ball and box; an example that is not broken comes back clean.

    Raises:
        InputError: for parameters out of range, or logits that are not finite.

    Cost:
        `queries` + 1 forwards per run of an example that survives, no backwards; one forward for
        the clean output and one to confirm a success.
    """
    _check(norm=norm, queries=queries, restarts=restarts, p_init=p_init)
    search = SquareSearch(
        network or model,
        x,
        norm=norm,
        eps=eps,
        queries=queries,
        restarts=restarts,
        p_init=p_init,
        seed=seed,
        stream=stream,
    )
    return attack_in_slots(
        search, model, x, y, ids=ids, slots=batch_size, passes=passes, network=network
    )


def check_parameters(attack: str, params: Mapping[str, object], num_classes: int) -> None:
    """Raise InputError when a protocol's parameters make no Square Attack."""
    del attack, num_classes
    queries, restarts, p_init = (params[name] for name in ("queries", "restarts", "p_init"))
    for name, value in (("queries", queries), ("restarts", restarts)):
        if not isinstance(value, int):
            raise InputError(f"{name}={value!r} must be an integer")
    if not isinstance(p_init, int | float):
        raise InputError(f"p_init={p_init!r} must be a number")
    assert isinstance(queries, int)
    assert isinstance(restarts, int)
    _check(norm=str(params["norm"]), queries=queries, restarts=restarts, p_init=p_init)


def _check(*, norm: str, queries: int, restarts: int, p_init: float) -> None:
    if norm not in NORMS:
        raise InputError(f"norm={norm!r} is unknown; available: {', '.join(NORMS)}")
    if not 1 <= queries <= _MOST_QUERIES:
        raise InputError(f"queries={queries} must be from 1 to {_MOST_QUERIES}")
    if not 1 <= restarts <= _MOST_RESTARTS:
        raise InputError(f"restarts={restarts} must be from 1 to {_MOST_RESTARTS}")
    if not 0.0 < p_init <= 1.0:
        raise InputError(f"p_init={p_init} is a share of the pixels: above 0, at most 1")


class SquareSearch:
    """The Square Attack as a step machine: a step is a query, the first one of the start.

    A claiming row stands still, its `left` too: denied, it goes on from where it claimed.

    Args:
        network: the one to query.
        x: any images of the shape, dtype and device to come.
        norm, eps, queries, restarts, p_init, seed, stream: see `square`.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        *,
        norm: Norm,
        eps: float,
        queries: int,
        restarts: int,
        p_init: float,
        seed: int,
        stream: str,
    ) -> None:
        self.runs = restarts
        self.finite = FiniteCheck(x.device)
        self._network, self._seed, self._stream = network, seed, stream
        self._shape, self._advances = x.shape[1:], 0
        sizes = window_sizes(norm, self._shape, queries=queries, p_init=p_init)
        self._sizes = torch.tensor(sizes, device=x.device)
        self._moves: Moves = (
            SignMoves(self._shape, eps)
            if norm == "Linf"
            else PatternMoves(self._shape, norm, eps, sizes, x.device)
        )

    def begin(self, rows: Rows) -> Rows:
        """See `Search.begin`. Asks nothing yet: the first step queries the starting point."""
        x, y, n_bits = rows["x"].contiguous(), rows["y"], self._moves.start_bits
        words = self._words(words_for_bits(n_bits), rows, torch.zeros_like(y))
        return {
            **rows,
            "x": x,
            **self._moves.start(x, random_bits(words, n_bits)),
            "claim": torch.zeros_like(y, dtype=torch.bool),
            "left": torch.full_like(y, len(self._sizes)),
            # The margin of x_adv; float64 takes that of any network as it is.
            "margin": torch.full_like(y, -torch.inf, dtype=torch.float64),
        }

    def advance(self, state: Rows, steps: int) -> None:
        """See `Search.advance`; `steps` forwards."""
        now = len(self._sizes) - state["left"]  # (B,)
        step = now[:, None] + torch.arange(steps, device=now.device)  # (B, S)
        words = self._words(self._moves.words, state, step).transpose(0, 1)
        sizes = self._sizes[step].T.contiguous()  # (S, B)
        n_values = largest_window(sizes, self._shape) ** 2 * self._shape[0] * len(now)
        at_once = max(1, _PREPARED_VALUES // n_values)
        for part in range(0, steps, at_once):
            ahead = slice(part, part + at_once)
            self._ask(state, words[ahead], sizes[ahead])
        self._advances += 1

    def _ask(self, state: Rows, words: Tensor, sizes: Tensor) -> None:
        """Query once for each of `words` (S, B, n) and sides of windows (S, B)."""
        queries = self._moves.plan(state, words, sizes)
        # What a query must exceed; a row that claims is frozen by a bar that nothing exceeds.
        bar = state["margin"].masked_fill(state["claim"], torch.inf)
        values, betters = [], []
        for k in range(len(words)):
            value = margin(self._network(queries.propose(k)).double(), state["y"])
            better = value > bar
            queries.keep(better)
            bar = torch.where(better, value.masked_fill(value >= 0.0, torch.inf), bar)
            values.append(value)
            betters.append(better)
        self._settle(state, torch.stack(values), torch.stack(betters))

    def _settle(self, state: Rows, values: Tensor, betters: Tensor) -> None:
        """Take over the margins of some queries, and which of them were kept: both (S, B)."""
        kept = values.masked_fill(~betters, -torch.inf).amax(dim=0)
        state["margin"] = torch.maximum(state["margin"], kept)
        # Short of a claim all margins are below 0: a misclassified point is always better.
        claims = betters & (values >= 0.0)
        frozen = state["claim"] | (claims.cumsum(dim=0) - claims.long()).bool()  # (S, B)
        self.finite.note(self._advances, values.masked_fill(frozen, 0.0))
        state["left"] = state["left"] - (~frozen).sum(dim=0)
        state["claim"] = state["claim"] | claims.any(dim=0)

    def deny(self, state: Rows, rows: Tensor) -> None:
        """See `Search.deny`. A denied row claims again when it finds a larger margin."""
        state["claim"][rows] = False

    def _words(self, n_words: int, rows: Rows, step: Tensor) -> Tensor:
        return random_words(
            n_words,
            ids=rows["ids"],
            seed=self._seed,
            stream=self._stream,
            restart=rows["run"],
            step=step,
        )
