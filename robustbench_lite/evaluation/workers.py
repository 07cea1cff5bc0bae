"""Several equal processes on one evaluation: who does which part.

The workers share a result folder and a small store (torch's `TCPStore`, run by `start_workers` or
`torchrun`). A part is claimed by counting up a number there, so no two workers do the same one.
Nothing that the store says reaches a result.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.describe_diff import first_line
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.processes import of_this_parent
from robustbench_lite.core.stopping import (
    add_child,
    end_children,
    held,
    started_with_others,
)

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store  # type: ignore[attr-defined]

_LOOK_EVERY = 0.2  # seconds between two looks at what others have done
_REACH_STORE = timedelta(minutes=5)


@dataclass(frozen=True)
class Workers:
    """The processes that share an evaluation, seen from one of them.

    Args:
        rank: of this process, from 0; rank 0 begins the folder and writes the result.
        count: how many there are.
        local_rank: of this process on its machine.
        store: what they share; None where there is only one.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    store: Store | None = None
    _rounds: Iterator[int] = field(default_factory=itertools.count, compare=False, repr=False)

    def next_round(self) -> Workers:
        """The same processes with nothing claimed and nobody waiting: for one evaluation each."""
        if self.store is None:
            return self
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        return replace(self, store=PrefixStore(f"round {next(self._rounds)}", self.store))

    @property
    def first(self) -> bool:
        """Whether this is the process that does what only one may do."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """A card of its own for each process of a machine, unless one was chosen by its number."""
        if self.count == 1 or chosen.type != "cuda" or chosen.index is not None:
            return chosen
        import torch

        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    @contextmanager
    def first_alone(self, step: str) -> Iterator[None]:
        """A block that the first worker leaves before the others enter it.

        Args:
            step: its name, for the store; one block a name.
        """
        if not self.first:
            self._wait(lambda: self._count(f"left {step}") > 0)
        yield
        if self.first:
            self._count(f"left {step}", 1)

    def agreed(self, name: str, make: Callable[[], Any]) -> Any:
        """A value that JSON can hold, made by the first worker and read by the others."""
        store = self.store
        if store is None:
            return make()
        made = json.dumps(make()) if self.first else ""
        with _store_errors():
            if self.first:
                store.set(name, made)
            else:
                self._wait(lambda: bool(store.check([name])))
            return json.loads(store.get(name))

    def claims(self, items: int) -> Iterator[tuple[int, int]]:
        """Items that no other worker has or gets.

        Args:
            items: how many there are for all workers together.

        Yields:
            Which item, from 0, and how many all workers have finished when this one will be.
        """
        if self.store is None:
            yield from ((item, item + 1) for item in range(items))
            return
        while (item := self._count("claimed", 1) - 1) < items:
            yield item, self._count("finished") + 1
            self._count("finished", 1)

    def wait_until_all(self, step: str) -> None:
        """Go on when every worker has come here."""
        self._count(f"reached {step}", 1)
        self._wait(lambda: self._count(f"reached {step}") >= self.count)

    def _count(self, name: str, more: int = 0) -> int:
        """A number that all workers see, after adding to it; alone there is nobody to count for."""
        if self.store is None:
            return self.count
        with _store_errors():
            return int(self.store.add(name, more))

    def _wait(self, over: Callable[[], bool]) -> None:
        while not over():
            time.sleep(_LOOK_EVERY)


@contextmanager
def _store_errors() -> Iterator[None]:
    """One line when the store is gone, which is when whoever ran it was killed."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            f"the other workers are gone ({first_line(error)}); finished parts are kept: run the "
            "same command again to resume"
        ) from error


ALONE = Workers()


def join_workers(environment: Mapping[str, str] = os.environ) -> Workers:
    """The workers that this process was started with.

    Args:
        environment: with what `torchrun` sets: `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and where the
            store is.

    Returns:
        `ALONE` without them, or when there is only one.

    Raises:
        InputError: when the store cannot be reached.
    """
    if not started_with_others(environment):
        return ALONE
    from torch.distributed import rendezvous  # type: ignore[attr-defined]

    try:
        store, rank, count = next(rendezvous("env://", timeout=_REACH_STORE))
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the other workers cannot be reached ({first_line(error)}): start them with "
            "--workers N, or with torchrun"
        ) from error
    return Workers(rank, count, int(environment.get("LOCAL_RANK", rank)), store)


def start_workers(count: int, arguments: Sequence[str]) -> int:
    """Run a command of `rbl` in several processes on this machine, and wait for all of them.

    A process that fails ends the others; what they had finished is kept. On several machines
    `torchrun` starts the same processes.

    Args:
        count: how many.
        arguments: of the command line, the same for each.

    Returns:
        The exit code: 0, or that of a process that has said itself what was wrong.

    Raises:
        InputError: when `count` is no number of processes, or one of them was killed.
    """
    if count < 1:
        raise InputError(f"--workers {count} must be at least 1")
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    # Here, so that it outlives every worker; at a port that the system chooses.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    environment = _environment_of_workers(count, store.port)
    command = [sys.executable, "-m", "robustbench_lite", *arguments]
    processes = []
    try:
        for rank in range(count):
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with held():  # a worker is ended with this process from its first moment
                processes.append(subprocess.Popen(command, env=own))
                add_child(processes[-1].pid, group=False)
        return _wait_for_all(processes)
    finally:
        end_children()
        for process in processes:
            process.wait()


def _environment_of_workers(count: int, port: int) -> dict[str, str]:
    """What `torchrun` would set, but for the ranks."""
    environment = {
        # Torch's own number of threads, in each process, would be that of all cores.
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # no stack of C++ when the store is gone
        **os.environ,
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # else rank 0 would open another store
    }
    return of_this_parent(environment)


def _wait_for_all(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended well or one has not; the exit code, as of `start_workers`."""
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code and (name := _signal_name(code)):
                raise InputError(
                    f"worker {rank} of {len(codes)} was killed by {name}; finished parts are "
                    "kept: run the same command again to resume"
                )
            if code:
                return code
        if None not in codes:
            return 0
        time.sleep(_LOOK_EVERY)


def _signal_name(code: int) -> str:
    """The signal that ended a worker, by its exit code; nothing for another end."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return "" if code > 0 else f"signal {number}"
