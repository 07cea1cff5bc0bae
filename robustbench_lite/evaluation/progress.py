"""How far an evaluation is: passes done of those planned, accuracies so far, and seconds left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from robustbench_lite.attacks.contract import Cost
from robustbench_lite.leaderboard.results.records import CLEAN

_EVERY = 0.2  # seconds between two reports inside a part
_UNKNOWN = 100.0  # passes an example, of an attack of unknown cost where no cost is known
Part = tuple[str, int]  # attack and chunk


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: now and then inside a part, and after each part.

    Args:
        attack: the attack of this part; `"clean"` for the clean pass.
        chunk: its chunk, from 0.
        done: parts finished, of this and earlier calls, this one among them when it is over.
        total: parts in all.
        attacked: examples the attack started from.
        survived: of these, how many it did not break; None while the part is not over.
        share: of the passes that the plan counts, how many are done, from 0 to 1. Examples that
            break early spare the rest of theirs, which counts as done when the part is over.
        standing: by attack, and `"clean"`: how many examples are classified correctly under it,
            and of how many, in the parts finished so far.
        seconds_left: from the passes left and the speed so far: more likely too long than too
            short, since attacks not yet seen are counted as if they broke nothing. None while
            nothing is known.
    """

    attack: str
    chunk: int
    done: int
    total: int
    attacked: int
    survived: int | None
    share: float
    standing: Mapping[str, tuple[int, int]]
    seconds_left: float | None


def work(cost: Cost) -> float:
    """Passes of an example in forward passes: a backward pass counts as two."""
    return float(cost.forwards + 2 * cost.backwards)


class Tracker:
    """Keeps count of an evaluation, and reports.

    Args:
        report: what to call.
        works: forward passes of an example by attack, in order (see `work`); None where nobody
            can know before a part of it is over.
        sizes: examples of each chunk.
        stood: how many examples are standing in a part that another call or worker has finished;
            None while it is not finished.
        workers: processes that share the work.
        clock: in seconds.
    """

    def __init__(
        self,
        report: Callable[[Progress], None],
        works: Mapping[str, float | None],
        sizes: Sequence[int],
        stood: Callable[[str, int], int | None],
        *,
        workers: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._report, self._sizes, self._stood, self._clock = report, sizes, stood, clock
        self._works: dict[str, float | None] = {CLEAN: 2.0, **works}
        self._workers = workers
        self._standing: dict[Part, int] = {}  # of finished parts
        self._part: Part = (CLEAN, 0)
        self._passes = 0.0  # of the part in progress
        self._begun = self._reported = clock()
        # Of parts finished here, by attack: seconds, planned passes, passes, examples attacked.
        self._spent: dict[str, list[float]] = {}
        self._look()

    def begin(self, attack: str, chunk: int) -> None:
        """A part begins."""
        self._part, self._passes, self._begun = (attack, chunk), 0.0, self._clock()

    def passed(self, passes: float) -> None:
        """Images went through the network: `passes` forward passes more, as `work` counts."""
        self._passes += passes
        now = self._clock()
        if now - self._reported >= _EVERY:
            self._reported = now
            self._report(self._progress(None))

    def end(self, attacked: int, survived: int, done: int) -> None:
        """The part is over.

        Args:
            attacked: examples it started from.
            survived: how many it did not break.
            done: parts finished by all workers and calls.
        """
        spent = self._spent.setdefault(self._part[0], [0.0] * 4)
        unknown = self._works[self._part[0]] is None
        planned = self._passes if unknown else self._planned(self._part)
        more = (self._clock() - self._begun, planned, self._passes, attacked)
        self._spent[self._part[0]] = [old + new for old, new in zip(spent, more, strict=True)]
        self._standing[self._part] = survived
        if self._workers > 1:
            self._look()
        self._reported = self._clock()
        self._report(self._progress((attacked, survived, done)))

    def _look(self) -> None:
        """Note the parts that others have finished."""
        for part in self._parts():
            if part not in self._standing and (count := self._stood(*part)) is not None:
                self._standing[part] = count

    def _parts(self) -> list[Part]:
        return [(attack, chunk) for chunk in range(len(self._sizes)) for attack in self._works]

    def _examples(self, part: Part) -> int:
        """Examples that a part starts from; all of its chunk while the clean pass is not done."""
        size = self._sizes[part[1]]
        return size if part[0] == CLEAN else self._standing.get((CLEAN, part[1]), size)

    def _planned(self, part: Part) -> float:
        """Passes of a part if it breaks nothing."""
        per_example = self._works[part[0]]
        if per_example is None:
            _, _, passes, examples = self._spent.get(part[0], [0.0] * 4)
            known = [one for name, one in self._works.items() if one is not None and name != CLEAN]
            per_example = sum(known) / len(known) if known else _UNKNOWN
            per_example = passes / examples if examples else per_example
        return per_example * self._examples(part)

    def _progress(self, over: tuple[int, int, int] | None) -> Progress:
        planned = {part: self._planned(part) for part in self._parts()}
        left = {part: passes for part, passes in planned.items() if part not in self._standing}
        if self._part in left:
            left[self._part] = max(0.0, left[self._part] - self._passes)
        total = sum(planned.values())
        attack, chunk = self._part
        attacked, survived, done = over or (self._examples(self._part), None, len(self._standing))
        return Progress(
            attack=attack,
            chunk=chunk,
            done=done,
            total=len(planned),
            attacked=attacked,
            survived=survived,
            share=1.0 - sum(left.values()) / total if total else 1.0,
            standing=self._accuracies(),
            seconds_left=self._seconds(left),
        )

    def _accuracies(self) -> dict[str, tuple[int, int]]:
        found = {}
        for attack in self._works:
            chunks = [chunk for name, chunk in self._standing if name == attack]
            if chunks:
                standing = sum(self._standing[attack, chunk] for chunk in chunks)
                found[attack] = (standing, sum(self._sizes[chunk] for chunk in chunks))
        return found

    def _seconds(self, left: Mapping[Part, float]) -> float | None:
        """Of each attack at its own pace where one of its parts is over: seconds a planned pass.
        Of the others at the pace of all passes so far."""
        running = self._part in left
        spent = list(self._spent.values())
        passes = sum(one[2] for one in spent) + self._passes * running
        seconds = sum(one[0] for one in spent if one[2])
        seconds += (self._clock() - self._begun) * running
        total = 0.0
        for (attack, _), passes_left in left.items():
            own = self._spent.get(attack, [0.0] * 4)
            if own[1]:
                total += passes_left * own[0] / own[1]
            elif passes and self._works[attack] is not None:
                total += passes_left * seconds / passes
            elif passes_left and attack != CLEAN:
                return None
        return total / self._workers
