"""A training's log holds what `metrics.jsonl` holds: each epoch once, also after a resume."""

import json
import sys
import types

import pytest

from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.trackers import TRACKERS, RunLog

SHORT = ["--training.epochs", "2", "--defense.crafting.steps", "1", "--validation.steps", "1"]
ROWS = [{"epoch": epoch, "lr": 0.1, "loss": 2.0 / epoch, "sha256_16": "x"} for epoch in (1, 2, 3)]
SCALARS = [(row["epoch"], {"lr": 0.1, "loss": row["loss"]}) for row in ROWS]


def progress_of(recipe, metrics):
    return types.SimpleNamespace(recipe=recipe.name, metrics=metrics)


def write_metrics(run, rows):
    run.mkdir(exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class FakeRun(dict):
    """What the fakes below share: one run that remembers what it was told."""

    id = hash = "run-7"
    info = types.SimpleNamespace(run_id="run-7")

    def __init__(self):
        super().__init__()
        self.logged, self.opened_as, self.closed = [], [], 0

    def open(self, run_id):
        self.opened_as.append(run_id)
        return self

    def note(self, scalars, step):
        self.logged.append((step, scalars))

    def track(self, value, *, name, epoch, step):
        assert epoch == step
        if not self.logged or self.logged[-1][0] != step:
            self.logged.append((step, {}))
        self.logged[-1][1][name] = value

    log = note

    def close(self):
        self.closed += 1

    finish = close


def fake_module(name, run):
    module = types.ModuleType(name)
    if name == "wandb":
        module.init = lambda *, id, resume, dir, name, config: run.open(id)
    if name == "mlflow":
        module.start_run = lambda *, run_id, run_name: run.open(run_id)
        module.log_metrics, module.end_run = run.note, run.close
        module.log_dict = lambda data, file: None
    if name == "aim":
        module.Run = lambda *, run_hash, experiment: run.open(run_hash)
    return module


@pytest.mark.parametrize("name", ["wandb", "mlflow", "aim"])
def test_a_tracker_gets_each_epoch_once_also_after_a_resume(name, tmp_path, monkeypatch):
    run, recipe = FakeRun(), load_recipe("digits_pgd_at")
    monkeypatch.setitem(sys.modules, name, fake_module(name, run))
    write_metrics(tmp_path, ROWS[:1])
    log = RunLog(tmp_path, recipe, [name, name])
    log(progress_of(recipe, None))  # a batch
    log(progress_of(recipe, ROWS[0]))
    assert run.logged == SCALARS[:1]
    write_metrics(tmp_path, ROWS[:2])  # the second epoch was stored; killed before it was logged
    log = RunLog(tmp_path, recipe, [name])
    write_metrics(tmp_path, ROWS)
    log(progress_of(recipe, ROWS[2]))
    log.close()
    assert run.logged == SCALARS
    assert run.opened_as == [None, "run-7"]
    assert run.closed == 1


def test_a_teachers_epochs_are_not_the_runs(tmp_path, monkeypatch):
    run, recipe = FakeRun(), load_recipe("digits_pgd_at")
    monkeypatch.setitem(sys.modules, "wandb", fake_module("wandb", run))
    log = RunLog(tmp_path, recipe, ["wandb"])
    write_metrics(tmp_path, ROWS[:1])
    log(types.SimpleNamespace(recipe="teacher", metrics=ROWS[0]))
    assert run.logged == []


@pytest.mark.parametrize("name", ["wandb", "mlflow", "aim"])
def test_one_that_is_not_installed_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"--log {name}: {name} is not installed .*pip install"):
        RunLog(tmp_path, load_recipe("digits_pgd_at"), [name])


@pytest.mark.parametrize("text", ["", "{}", '{"run": "a", "epoch": "x"}'])
def test_a_damaged_note_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake_module("wandb", FakeRun()))
    (tmp_path / "logs/wandb").mkdir(parents=True)
    (tmp_path / "logs/wandb/run.json").write_text(text)
    with pytest.raises(InputError, match=r"run.json is damaged: .* remove .*logs/wandb to log"):
        RunLog(tmp_path, load_recipe("digits_pgd_at"), ["wandb"])


def test_an_unknown_one_is_refused_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits_pgd_at", "--log", "tensorbord"]) == 2
    assert "unknown tracker 'tensorbord'; did you mean tensorboard?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert set(TRACKERS) == {"tensorboard", "wandb", "mlflow", "aim"}


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_what_metrics_jsonl_holds(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="TensorBoard is an optional extra")
    monkeypatch.chdir(tmp_path)
    command = ["train", "digits_pgd_at", "--threads", "1", *SHORT, "--out", "run"]
    # Twice: the second call finds a finished run, and its log is neither lost nor doubled.
    for _ in range(2):
        assert main([*command, "--log", "tensorboard"]) == 0
        rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
        seen = read_events(tmp_path / "run/logs/tensorboard")
        assert set(seen) == {key for row in rows for key in row} - {"epoch", "sha256_16"}
        for tag, points in seen.items():
            expected = [(row["epoch"], row[tag]) for row in rows if tag in row]
            assert [step for step, _ in points] == [epoch for epoch, _ in expected]
            values = [value for _, value in expected]
            assert [value for _, value in points] == pytest.approx(values, rel=2**-23)


def test_a_resumed_tensorboard_log_has_no_step_twice(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is an optional extra")
    recipe = load_recipe("digits_pgd_at")
    for count in (1, 3):
        write_metrics(tmp_path, ROWS[:count])
        log = RunLog(tmp_path, recipe, ["tensorboard"])
        log(progress_of(recipe, ROWS[count - 1]))
    log.close()
    assert [step for step, _ in read_events(tmp_path / "logs/tensorboard")["loss"]] == [1, 2, 3]
