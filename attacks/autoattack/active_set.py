"""The active set: the examples under attack at one time, one row of the batch each.

An attack that does the same on every example is a `Search`: it advances rows step by step. An
example leaves the active set when the plain network confirms that it is broken, or when its last
run is over; the next waiting example takes its row. Which row an example gets depends only on ids
and on what was confirmed, never on time. Rows are independent: draws are by example id, and a row
with a candidate does not change, so results do not depend on how often candidates are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustbench_lite.attacks.finite_check import FiniteCheck
from robustbench_lite.attacks.model_state import attacked
from robustbench_lite.attacks.targets import succeeded
from robustbench_lite.core.pixels import check_pixels

Rows = dict[str, Tensor]  # every tensor has one row per example
_LONGEST_PERIOD = 32  # steps between two checks for candidates


class Search(Protocol):
    """One attack, step by step over rows that are independent of each other."""

    @property
    def runs(self) -> int:
        """Runs (restarts, targets) per example, one after the other until one succeeds."""

    @property
    def finite(self) -> FiniteCheck:
        """Takes the note of losses and gradients; its step counts advances of this search."""

    def begin(self, rows: Rows) -> Rows:
        """The state in which a run begins.

        Args:
            rows: `x` (B, C, H, W) clean, `y` (B,), `ids` (B,), `logits` (B, K) of the clean
                images, `run` (B,) int64 from 0; of a targeted attack the classes `goal` (B,).

        Returns:
            A new dictionary that holds all of `rows`, and at least: `x_adv` (B, C, H, W), the
            candidate; `candidate` bool (B,), whether the candidate is inside the ball and
            misclassified as far as the search can tell; `left` int64 (B,), steps left, above 0.
        """

    def advance(self, state: Rows, steps: int) -> None:
        """Take `steps` steps, in place; no row has fewer left.

        Lowers `left`. A row with a candidate is frozen: its `x_adv` no longer changes.
        """

    def reject(self, state: Rows, rows: Tensor) -> None:
        """Drop the candidates of some rows (indices): the plain network did not confirm them."""


@dataclass(frozen=True)
class Found:
    """What a search found, one entry per example.

    Args:
        x_adv: (N, C, H, W); the confirmed candidate, or the clean image.
        broken: bool (N,).
    """

    x_adv: Tensor
    broken: Tensor


def predictions(model: nn.Module, x: Tensor, *, passes: int) -> Tensor:
    """Predicted class (N,) of a plain forward pass; by majority when `passes` is above 1."""
    return majority([model(x) for _ in range(passes)])


def majority(logits: list[Tensor]) -> Tensor:
    """The class most passes predict, the lowest on a tie: a list of (N, K) to (N,)."""
    if len(logits) == 1:
        return logits[0].argmax(dim=1)
    classes = logits[0].shape[1]
    votes = [nn.functional.one_hot(each.argmax(dim=1), classes) for each in logits]
    return torch.stack(votes).sum(dim=0).argmax(dim=1)


def attack_active_set(
    search: Search,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    ids: Tensor,
    capacity: int,
    passes: int = 1,
    network: nn.Module | None = None,
    keep_best_of_run: bool = False,
    target: Tensor | None = None,
) -> Tensor:
    """Run a search on every example that is right when clean (targeted: not yet its target).

    Args:
        search: the attack.
        model: the plain network; only its predictions confirm a candidate.
        x: clean images (N, C, H, W) in [0, 1].
        y: labels (N,), int64.
        ids: example ids (N,), int64.
        capacity: rows per forward pass.
        passes: forward passes per prediction; above 1 the majority decides.
        network: the one searched on, when it is another (half precision); held frozen too.
        keep_best_of_run: the search proposes the best of each run: attack every example, for a few
            passes do not say which a randomised network has right, and return the last candidate
            even where it was not confirmed.
        target: classes (N,), int64, that the images should be taken for; the rows then hold them
            as `goal`. An image whose label is its target is left out. None: any wrong class.

    Returns:
        (N, C, H, W): for a broken example the confirmed candidate, else the clean image (with
        `keep_best_of_run` the last candidate).

    Raises:
        InputError: for images outside [0, 1], or when a loss or gradient was not finite.
    """
    check_pixels(x)
    with attacked(model), attacked(network or model), torch.no_grad():
        logits = [_clean_logits(model, x, capacity) for _ in range(passes)]
        to_do = ~succeeded(majority(logits), y, target) | keep_best_of_run
        if target is not None:
            to_do &= target != y
        chosen = to_do.nonzero().flatten()
        found = x.clone()
        if len(chosen):
            rows = {"x": x, "y": y, "ids": ids, "logits": logits[0]}
            rows |= {} if target is None else {"goal": target}
            rows = {name: values[chosen] for name, values in rows.items()}

            def confirm(x_adv: Tensor, classes: Tensor) -> Tensor:
                # A success is what the verifier calls one: more than half of the passes are wrong,
                # or hit the target.
                same = sum((model(x_adv).argmax(dim=1) == classes).int() for _ in range(passes))
                assert isinstance(same, Tensor)
                return 2 * (passes - same if target is None else same) > passes

            found[chosen] = run_active_set(
                search, rows, capacity=capacity, confirm=confirm, keep_rejected=keep_best_of_run
            ).x_adv
    return found


def _clean_logits(model: nn.Module, x: Tensor, capacity: int) -> Tensor:
    starts = range(0, max(len(x), 1), capacity)  # one empty batch says how many classes there are
    return torch.cat([model(x[begin : begin + capacity]).float() for begin in starts])


def run_active_set(
    search: Search,
    rows: Rows,
    *,
    capacity: int,
    confirm: Callable[[Tensor, Tensor], Tensor],
    keep_rejected: bool = False,
) -> Found:
    """Run a search on all rows, `capacity` at a time.

    Args:
        search: the attack.
        rows: see `Search.begin`, without `run`; may be empty of examples.
        capacity: rows held at once, at least 1.
        confirm: candidates (B, C, H, W) and labels (B,), or the rows' `goal`, to whether each is
            broken (B,).
        keep_rejected: of an example that is never broken, return the last candidate.
    """
    out, broken = rows["x"].clone(), torch.zeros_like(rows["y"], dtype=torch.bool)
    waiting = torch.arange(len(broken), device=broken.device)
    state: Rows | None = None
    period = 1
    while True:
        held = 0 if state is None else len(state["row_of"])
        if held < capacity and len(waiting):
            mine, waiting = waiting[: capacity - held], waiting[capacity - held :]
            fresh = search.begin(_select(rows, mine) | {"run": torch.zeros_like(mine)})
            state = _join(state, fresh | {"row_of": mine})
            period = 1 if len(mine) >= held else period
        if state is None or len(state["row_of"]) == 0:
            return Found(out, broken)
        search.advance(state, min(period, int(state["left"].min())))
        search.finite.raise_if_not("loss or gradient", "step {} of the search")
        if keep_rejected:
            out[state["row_of"][state["candidate"]]] = state["x_adv"][state["candidate"]]
        done, rejected = _confirmed(search, state, confirm)
        # A rejected row has not moved since it proposed: it may propose again in the next step.
        period = 1 if rejected else min(2 * period, _LONGEST_PERIOD)
        out[state["row_of"][done]] = state["x_adv"][done]
        broken[state["row_of"][done]] = True
        state = _next_runs(search, state, done)


def _confirmed(
    search: Search, state: Rows, confirm: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, bool]:
    """Which rows are broken (B,), as confirmed, and whether any other candidate was rejected."""
    candidates = state["candidate"].nonzero().flatten()
    done = torch.zeros_like(state["candidate"])
    if not len(candidates):
        return done, False
    held = confirm(state["x_adv"][candidates], state.get("goal", state["y"])[candidates])
    done[candidates[held]] = True
    rejected = candidates[~held]
    if len(rejected):
        search.reject(state, rejected)
    return done, bool(len(rejected))


def _next_runs(search: Search, state: Rows, done: Tensor) -> Rows:
    """Rows that go on: those in the middle of a run, then those that begin their next one."""
    spent = ~done & (state["left"] == 0)
    if not bool((done | spent).any()):
        return state
    on = _select(state, (~done & ~spent).nonzero().flatten())
    again = (spent & (state["run"] + 1 < search.runs)).nonzero().flatten()
    if not len(again):
        return on
    names = ("x", "y", "ids", "logits", "run", "row_of", "goal")
    rows = {name: state[name][again] for name in names if name in state}
    rows["run"] = rows["run"] + 1
    return _join(on, search.begin(rows))


def _select(rows: Rows, which: Tensor) -> Rows:
    return {name: values[which] for name, values in rows.items()}


def _join(state: Rows | None, fresh: Rows) -> Rows:
    if state is None or len(state["row_of"]) == 0:
        return fresh
    return {name: torch.cat([values, fresh[name]]) for name, values in state.items()}
