"""Progress: it moves with passes, says what stands, and how long the rest takes."""

import io
import sys

import pytest
import torch
from torch import nn

from robustbench_lite.attacks.contract import Cost
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core import progress_bar
from robustbench_lite.core.progress_bar import ProgressBar, duration, show_progress
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.evaluation.progress import Tracker, work
from robustbench_lite.evaluation.progress_bar import evaluation_bar, progress_text


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def tracked(works, sizes, done=None, **options):
    clock, seen = Clock(), []
    look = done or {}
    tracker = Tracker(
        seen.append, works, sizes, lambda *part: look.get(part), clock=clock, **options
    )
    return tracker, clock, seen


def test_a_backward_pass_counts_as_two():
    assert work(Cost(forwards=21, backwards=20)) == 61.0


def test_it_moves_with_the_passes_of_a_part_not_with_parts():
    tracker, clock, seen = tracked({"pgd": 100.0}, [10])
    tracker.begin("clean", 0)
    tracker.end(10, 5, 1)
    assert seen[-1].share == pytest.approx(20 / 520)  # 2 passes on 10 images, 100 on the 5 right
    tracker.begin("pgd", 0)
    for passes, now in ((100, 1.0), (150, 2.0)):
        clock.now = now
        tracker.passed(passes)
    assert [one.survived for one in seen] == [5, None, None]
    assert seen[-1].share == pytest.approx(270 / 520)
    assert (seen[-1].done, seen[-1].total, seen[-1].attacked) == (1, 2, 5)
    assert seen[-1].seconds_left == pytest.approx(2.0)  # 250 passes took 2 s, 250 are left
    clock.now = 3.0
    tracker.end(5, 1, 2)  # four broke, and spared the rest
    assert (seen[-1].share, seen[-1].seconds_left) == (1.0, 0.0)
    assert seen[-1].standing == {"clean": (5, 10), "pgd": (1, 10)}


def test_reports_inside_a_part_are_few():
    tracker, clock, seen = tracked({"pgd": 1e6}, [1])
    tracker.begin("pgd", 0)
    for step in range(1000):
        clock.now = step / 1000
        tracker.passed(1)
    assert 1 <= len(seen) <= 5


def test_an_attack_goes_on_at_its_own_pace():
    done = {("clean", 0): 10, ("clean", 1): 10, ("pgd", 0): 4}
    tracker, clock, seen = tracked({"pgd": 10.0, "aa": 1000.0}, [10, 10], done)
    tracker.begin("aa", 0)
    clock.now = 2.0
    tracker.passed(500.0)
    assert seen[-1].seconds_left == pytest.approx((9500 + 100 + 10000) / 250)
    clock.now = 4.0
    tracker.end(10, 0, 4)  # 10,000 planned passes took four seconds: most examples broke
    assert seen[-1].seconds_left == pytest.approx(10000 * 4 / 10000 + 100 * 4 / 500)


def test_an_unknown_cost_is_known_once_a_part_is_over():
    done = {("clean", 0): 2, ("clean", 1): 2}
    tracker, clock, seen = tracked({"theirs": None}, [2, 2], done)
    tracker.begin("theirs", 0)
    clock.now = 1.0
    tracker.passed(30.0)
    assert seen[-1].seconds_left is None
    clock.now = 2.0
    tracker.passed(30.0)
    tracker.end(2, 2, 3)
    assert seen[-1].share == pytest.approx((8 + 60) / (8 + 120))
    assert seen[-1].seconds_left == pytest.approx(2.0)


def test_a_resumed_run_begins_where_it_stopped_and_workers_share_what_is_left():
    done = {("clean", 0): 8, ("clean", 1): 10, ("pgd", 0): 4}
    tracker, clock, seen = tracked({"pgd": 10.0}, [10, 10], done, workers=2)
    tracker.begin("pgd", 1)
    clock.now = 1.0
    tracker.passed(50.0)
    assert seen[-1].standing == {"clean": (18, 20), "pgd": (4, 10)}
    assert seen[-1].share == pytest.approx((40 + 80 + 50) / (40 + 80 + 100))
    assert seen[-1].seconds_left == pytest.approx(0.5)
    done["pgd", 1] = 3  # another worker was quicker
    clock.now = 2.0
    tracker.begin("pgd", 1)
    tracker.end(10, 3, 4)
    assert seen[-1].share == 1.0


def test_nothing_correct_is_no_division_by_zero():
    tracker, _, seen = tracked({"pgd": 10.0}, [3], {("clean", 0): 0})
    tracker.begin("pgd", 0)
    tracker.end(0, 0, 2)
    assert seen[-1].share == 1.0


def test_an_evaluation_reports_each_part_and_ends_whole(tmp_path):
    data = load_split("digits", "test")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    source = LoadedModel(network, "net", "factory", "sha256:" + "0" * 64, None, None, 650)
    seen = []
    result = evaluate(
        source,
        data,
        load_protocol("linf_quick", eps="2/255"),
        out=tmp_path / "r",
        n=20,
        seed=0,
        settings=Settings(None, 10, 1, None, None),
        device=torch.device("cpu"),
        progress=seen.append,
    )
    over = [one for one in seen if one.survived is not None]
    assert [(one.attack, one.chunk, one.done) for one in over] == [
        ("clean", 0, 1),
        ("pgd20_ce", 0, 2),
        ("cwinf20_k50", 0, 3),
        ("clean", 1, 4),
        ("pgd20_ce", 1, 5),
        ("cwinf20_k50", 1, 6),
    ]
    assert over[-1].share == 1.0
    assert over[-1].standing["clean"] == (result["clean_accuracy"]["correct"], 20)
    for name, attack in result["attacks"].items():
        assert over[-1].standing[name] == (attack["correct"], 20)


def test_the_text_has_the_time_left_first():
    tracker, clock, seen = tracked({"pgd": 100.0}, [10, 4], {("clean", 0): 9, ("pgd", 0): 5})
    tracker.begin("clean", 1)
    clock.now = 1.0
    tracker.end(4, 4, 3)
    tracker.begin("pgd", 1)
    clock.now = 61.0
    tracker.passed(1.0)
    assert progress_text(seen[-1], over=False) == (
        "~6:39:00 left, pgd chunk 2, clean 92.9%, pgd 50.0% of 10-14"
    )
    assert progress_text(seen[0], over=True) == "clean 92.9%, pgd 50.0% of 10-14"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0s"), (59.4, "59s"), (200, "3:20"), (7400, "2:03:20")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_log_file_gets_a_line_every_thirty_seconds(monkeypatch):
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(sys, "stderr", stream)
    bar = ProgressBar("net", "batch", clock=clock)
    for second in range(100):
        clock.now = float(second)
        bar.move(second + 1, 200, "robust 40 %" if second == 20 else None, end=False)
    assert stream.getvalue().splitlines() == [
        "net: 16%, batch 31 of 200, ~2:44 left, robust 40 %",
        "net: 30%, batch 61 of 200, ~2:17 left, robust 40 %",
        "net: 46%, batch 91 of 200, ~1:48 left, robust 40 %",
    ]


def test_quiet_shows_nothing(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress_bar, "LINE_EVERY", 0.0)
    show = evaluation_bar("net")
    tracker, _, seen = tracked({"pgd": 100.0}, [10])
    tracker.begin("clean", 0)
    tracker.end(10, 9, 1)
    show_progress(False)
    try:
        show(seen[-1])
        assert stream.getvalue() == ""
    finally:
        show_progress(True)
    show(seen[-1])
    assert stream.getvalue() == "net: 2%, time left unknown, clean chunk 1, clean 90.0% of 10\n"
