"""Several processes on one evaluation: claims, turns, and what they say when something is wrong.

Real processes, killed ones among them, are in test_kill_and_resume.py.
"""

import itertools
import threading
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

import robustbench_lite.evaluation.workers as workers_module
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.evaluation.workers import ALONE, Workers, join_workers, start_workers

SAFETY = 600  # seconds: only turns a hang into a failure


@pytest.fixture
def waiting(monkeypatch):
    """Set each time that a worker has looked for another and found that it must wait."""
    event, never = threading.Event(), threading.Event()

    def sleep(seconds):
        event.set()
        never.wait(seconds)

    monkeypatch.setattr(workers_module, "time", SimpleNamespace(sleep=sleep))
    return event


def together(count, work):
    """Run `work(workers)` in as many threads, each with a rank; what they returned, by rank."""
    store, results, errors = HashStore(), {}, []

    def run(rank):
        try:
            results[rank] = work(Workers(rank, count, rank, store))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=SAFETY)
        assert not thread.is_alive(), "they wait for each other for ever"
    assert not errors, errors
    return [results[rank] for rank in range(count)]


def test_every_item_is_claimed_once():
    all_have_one = threading.Barrier(3)

    def work(workers):
        claimed = []
        for item, finished in workers.claims(40):
            if not claimed:
                all_have_one.wait(SAFETY)
            claimed.append((item, finished))
        return claimed

    claimed = together(3, work)
    assert sorted(item for one in claimed for item, _ in one) == list(range(40))
    assert all(one for one in claimed), "each had some"
    assert max(finished for one in claimed for _, finished in one) <= 40


def test_what_is_finished_is_counted_for_all():
    store = HashStore()
    first, second = (Workers(rank, 2, rank, store).claims(5) for rank in range(2))
    assert [next(first), next(first), next(second), next(first)] == [(0, 1), (1, 2), (2, 2), (3, 3)]
    assert next(second) == (4, 4)


def test_a_second_evaluation_begins_anew():
    def work(workers):
        claimed = []
        for _ in range(2):
            this = workers.next_round()
            agreed = this.agreed("items", lambda: len(claimed) + 5)  # rank 0 makes it
            claimed.append([item for item, _ in this.claims(agreed)])
            this.wait_until_all("end")
        return claimed

    first, second = zip(*together(2, work), strict=True)
    assert sorted(itertools.chain(*first)) == list(range(5))
    assert sorted(itertools.chain(*second)) == list(range(6))


def test_alone_takes_all_in_order_and_waits_for_nobody():
    assert list(ALONE.claims(3)) == [(0, 1), (1, 2), (2, 3)]
    assert ALONE.agreed("a", lambda: [1, "x"]) == [1, "x"]
    with ALONE.first_alone("a"):
        ALONE.wait_until_all("b")


def test_the_first_leaves_a_block_before_the_others_enter(waiting):
    entered = []

    def work(workers):
        with workers.first_alone("block"):
            if workers.first:
                assert waiting.wait(SAFETY)
            entered.append(workers.rank)
            waiting.set()  # so that who enters too early does not keep the first

    together(3, work)
    assert entered[0] == 0
    assert sorted(entered) == [0, 1, 2]


def test_nobody_enters_when_the_first_fails(waiting):
    store, entered = HashStore(), []

    def other():
        with Workers(1, 2, 1, store).first_alone("block"):
            entered.append(1)
            waiting.set()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    with pytest.raises(ValueError, match="wrong"), Workers(0, 2, 0, store).first_alone("block"):
        raise ValueError("wrong")
    for _ in range(2):  # the first may be of a look before the failure
        waiting.clear()
        assert waiting.wait(SAFETY)
    assert not entered
    store.add("left block", 1)  # lets the thread end
    thread.join(timeout=SAFETY)
    assert entered


def test_all_agree_on_what_the_first_made():
    values = together(3, lambda workers: workers.agreed("x", lambda: [workers.rank, "made"]))
    assert values == [[0, "made"]] * 3


def test_nobody_goes_on_before_all_have_come(waiting):
    come = []

    def work(workers):
        if workers.rank == 2:
            assert waiting.wait(SAFETY)
        come.append(workers.rank)
        workers.wait_until_all("end")
        waiting.set()  # so that who goes on too early does not keep the last
        return len(come)

    assert together(3, work) == [3, 3, 3]


def test_each_process_of_a_machine_has_a_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cards = [Workers(rank, 4, rank).device(torch.device("cuda")).index for rank in range(4)]
    assert cards == [0, 1, 0, 1]
    assert Workers(1, 2, 1).device(torch.device("cuda:0")).index == 0, "chosen by its number"
    assert Workers(1, 2, 1).device(torch.device("cpu")) == torch.device("cpu")
    assert ALONE.device(torch.device("cuda")) == torch.device("cuda")


def test_without_others_one_is_alone():
    place = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert join_workers({}) is ALONE
    assert join_workers({**place, "WORLD_SIZE": "1"}) is ALONE
    assert join_workers({"WORLD_SIZE": "4"}) is ALONE, "some clusters set it for every process"


def test_a_lost_store_is_told_in_one_line():
    class Gone:
        def add(self, name, more):
            raise RuntimeError("Connection reset by peer\n and a long stack")

    with pytest.raises(InputError, match="workers are gone .Connection reset by peer.; finished"):
        next(Workers(1, 2, 1, Gone()).claims(3))


def test_a_number_that_is_none_is_refused():
    with pytest.raises(InputError, match="--workers 0 must be at least 1"):
        start_workers(0, [])


@pytest.mark.parametrize("command", [["train", "digits_pgd_at"], ["list", "attacks"]])
def test_commands_for_one_process_are_refused_under_torchrun(monkeypatch, capsys, command):
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"rbl: error: rbl {command[0]} works in one process: start it without torchrun\n"
    )
