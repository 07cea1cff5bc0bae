"""Square Attack: random search by square windows, from the outputs of the network alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from robustbench_lite.attacks.autoattack.active_set import Rows, attack_active_set
from robustbench_lite.attacks.autoattack.square_queries import Moves, PatternMoves, SignMoves
from robustbench_lite.attacks.autoattack.square_windows import (
    largest_window,
    random_bits,
    window_sizes,
    words_for_bits,
)
from robustbench_lite.attacks.contract import Cost, RunTerms, Share, TargetableAttack
from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.losses import cross_entropy, lead_of, margin
from robustbench_lite.attacks.targets import target_labels_of
from robustbench_lite.attacks.threat_model import Norm
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import random_words

_MOST_QUERIES, _MOST_RESTARTS = 2**20 - 1, 2**12  # what the random counter can tell apart
_PREPARED_VALUES = 2**21  # pixel values of windows drawn ahead: bounds the memory


@dataclass(frozen=True)
class Square(TargetableAttack):
    """Square Attack (Andriushchenko et al. 2020, arXiv:1912.00049, Algorithms 1 to 3).

    Random search on the margin: each query changes one square window (L2, L1: moves the mass of a
    second one into it), and is kept when the margin shrinks. Rules as AutoAttack's code sets them
    (margin loss, window sizes by iteration, L1 by projection); where it differs from the paper,
    see `window_sizes` and `place_windows`. One thing is ours: the authors draw one window for the
    whole batch, here each example has its own, of the same distribution, by its id.

    With a target t a query is kept when the cross-entropy of t shrinks, the loss that the authors'
    code takes for targeted attacks, or when t is predicted.

    A call returns images inside ball and box; an example that is not broken comes back clean.

    Args:
        queries: windows tried per run; 5000 in AutoAttack.
        restarts: runs per example, one after the other until one succeeds; at least 1.
        p_init: share of the pixels in the first windows, above 0; 0.8 in AutoAttack.
    """

    uses_gradients = False
    searches_elsewhere = True
    batches_itself = True

    queries: Annotated[int, Meta(ge=1, le=_MOST_QUERIES)]
    restarts: Annotated[int, Meta(ge=1, le=_MOST_RESTARTS)]
    p_init: Share

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_init == 0.0:
            raise InputError(f"p_init={self.p_init} is a share of the pixels: above 0, at most 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, terms: RunTerms) -> Tensor:
        search = SquareSearch(terms.searched(model), x, self, terms)
        return attack_active_set(
            search,
            model,
            x,
            y,
            ids=terms.ids,
            capacity=terms.batch_size,
            passes=terms.passes,
            network=terms.network,
            target=target_labels_of(self, model, x, y, terms),
        )

    def cost(self, norm: Norm, num_classes: int, passes: int) -> Cost:
        return Cost((self.queries + 1) * self.restarts + passes, 0) + self.cost_of_choice


class SquareSearch:
    """The Square Attack as a step machine: a step is a query, the first one of the start.

    A claiming row stands still, its `left` too: rejected, it goes on from where it claimed.

    Args:
        network: the one to query.
        x: any images of the shape, dtype and device to come.
        rules: the attack's parameters.
        terms: norm, radius, seed and stream.
    """

    def __init__(self, network: nn.Module, x: Tensor, rules: Square, terms: RunTerms) -> None:
        norm, eps = terms.norm, terms.eps
        self.runs = rules.restarts
        self.finite = FiniteCheck(x.device)
        self._network, self._seed, self._stream = network, terms.seed, terms.stream
        self._shape, self._advances = x.shape[1:], 0
        sizes = window_sizes(norm, self._shape, queries=rules.queries, p_init=rules.p_init)
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
            "candidate": torch.zeros_like(y, dtype=torch.bool),
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
        bar = state["margin"].masked_fill(state["candidate"], torch.inf)
        values, betters = [], []
        for k in range(len(words)):
            value = _progress(self._network(queries.propose(k)).double(), state)
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
        frozen = state["candidate"] | (claims.cumsum(dim=0) - claims.long()).bool()  # (S, B)
        self.finite.note(self._advances, values.masked_fill(frozen, 0.0))
        state["left"] = state["left"] - (~frozen).sum(dim=0)
        state["candidate"] = state["candidate"] | claims.any(dim=0)

    def reject(self, state: Rows, rows: Tensor) -> None:
        """See `Search.reject`. A rejected row claims again when it finds a larger margin."""
        state["candidate"][rows] = False

    def _words(self, n_words: int, rows: Rows, step: Tensor) -> Tensor:
        return random_words(
            n_words,
            ids=rows["ids"],
            seed=self._seed,
            stream=self._stream,
            restart=rows["run"],
            step=step,
        )


def _progress(logits: Tensor, state: Rows) -> Tensor:
    """How far queries are (B,): at least 0 exactly for a success, larger is better.

    The margin; with a `goal` its lead once it has one, and before that minus its cross-entropy,
    which is below -log 2 as long as another class has as much of the probability.
    """
    goal = state.get("goal")
    if goal is None:
        return margin(logits, state["y"])
    lead = lead_of(logits, goal)
    return torch.where(lead >= 0.0, lead, -cross_entropy(logits, goal))
