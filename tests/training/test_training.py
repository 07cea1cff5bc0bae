"""The training loop: one for all, resumable, honest about best and last."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.datasets import hold_out, load_split
from robustbench_lite.datasets.imbalance import Balanced
from robustbench_lite.defenses.contract import ROBUST, Defense, Objective
from robustbench_lite.defenses.methods.standard import Standard
from robustbench_lite.training.data import TrainingData
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.state import read_state

CPU = torch.device("cpu")
QUICK = ["--training.batch_size", "128"]
CRAFT = ["--defense.crafting.steps", "2"]


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "train")


def run(out, data, name="digits_pgd_at", epochs=2, extra=(), **options):
    craft = [] if name == "digits_standard" else CRAFT
    overrides = [*QUICK, *craft, "--training.epochs", str(epochs), *extra]
    return train(load_recipe(name, overrides), data, out=out, device=CPU, threads=1, **options)


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class Killed(Exception):
    pass


def kill_at(step):
    def watch(progress):
        if progress.step >= step and progress.metrics is None:
            raise Killed

    return watch


FILES = (
    "metrics.jsonl",
    "best/model.safetensors",
    "best/card.json",
    "last/model.safetensors",
    "last/card.json",
)


@pytest.mark.parametrize("ema", ["0.0", "0.9"])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, digits, ema):
    extra = ["--training.ema_decay", ema, "--validation.every", "1"]
    run(tmp_path / "whole", digits, epochs=3, extra=extra)
    with pytest.raises(Killed):  # in the middle of the second epoch
        run(tmp_path / "broken", digits, epochs=3, extra=extra, progress=kill_at(14))
    assert len(metrics(tmp_path / "broken")) == 1
    run(tmp_path / "broken", digits, epochs=3, extra=extra)
    for name in FILES:
        whole, broken = (tmp_path / folder / name for folder in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes(), name


def test_best_is_the_earliest_of_the_best_validated_epochs(tmp_path, digits, monkeypatch):
    # Sheet "robust overfitting", check 1: index 4 from 0 is chosen, the last epoch is kept too.
    trace = iter([0.41, 0.45, 0.46, 0.51, 0.52, 0.52, 0.45])
    monkeypatch.setattr(
        "robustbench_lite.training.loop.validate",
        lambda *a, **k: {"clean_accuracy": 0.9, "robust_accuracy": next(trace)},
    )
    best = run(
        tmp_path / "r", digits, "digits_standard", epochs=7,
        extra=["--validation.every", "1", "--validation.select_by", "robust_accuracy"],
    )  # fmt: skip
    card = load_checkpoint(best)[1]
    assert (card.epoch, card.metrics["robust_accuracy"]) == (5, 0.52)
    assert card.metrics["gap_to_best"] == 0.0
    assert card.selection == "best validation robust accuracy"
    last = load_checkpoint(tmp_path / "r" / "last")[1]
    assert (last.epoch, last.metrics["robust_accuracy"], last.selection) == (7, 0.45, "last epoch")
    assert last.metrics["gap_to_best"] == pytest.approx(0.07)


def test_validation_examples_are_never_trained_on(tmp_path, digits):
    seen = set()

    class Watcher(Standard):
        def objective(self, networks, batch, crafted):
            seen.update(image.numpy().tobytes() for image in batch.x)
            return super().objective(networks, batch, crafted)

    recipe = load_recipe("digits_standard", ["--training.epochs", "1"])
    watched = type(recipe)(**{**vars(recipe), "defense": Watcher()})
    train(watched, digits, out=tmp_path / "r", device=CPU, threads=1)
    train_ids, held_out = hold_out(digits, recipe.data.validation, recipe.training.seed)
    x = digits.pixels(slice(None))
    training = {x[i].numpy().tobytes() for i in train_ids}
    assert seen == training
    assert not set(train_ids.tolist()) & set(held_out.tolist())


def test_lr_follows_the_schedule_and_validation_its_interval(tmp_path, digits):
    recipe_file = tmp_path / "mine.toml"
    recipe_file.write_text(
        'base = "digits_standard"\n[schedule]\nname = "step"\nmilestones = [2]\ngamma = 0.1\n'
    )
    overrides = [*QUICK, "--training.epochs", "3", "--validation.every", "2"]
    out = tmp_path / "r"
    train(load_recipe(str(recipe_file), overrides), digits, out=out, device=CPU, threads=1)
    rows = metrics(out)
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.01, 0.01])
    assert ["robust_accuracy" in row for row in rows] == [False, True, True]


def test_averaged_weights_are_what_is_delivered(tmp_path, digits):
    plain, averaged = (
        load_checkpoint(run(tmp_path / ema, digits, extra=["--training.ema_decay", ema]))[0]
        for ema in ("0.0", "0.99")
    )
    assert not torch.equal(plain.state_dict()["head.weight"], averaged.state_dict()["head.weight"])


def check_resume(recipe, data, folder):
    """Train two epochs whole, and again with a stop in the second; checks that bytes agree."""
    whole, broken = folder / "whole", folder / "broken"
    train(recipe, data, out=whole, device=CPU, threads=1)
    with pytest.raises(Killed):
        train(recipe, data, out=broken, device=CPU, threads=1, progress=kill_at(13))
    train(recipe, data, out=broken, device=CPU, threads=1)
    for name in FILES:
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
    return whole


def test_a_second_network_is_trained_and_resumed(tmp_path, digits):
    words = ["--data.name", "digits", "--data.validation", "200", "--training.epochs", "2"]
    words += [*QUICK, *CRAFT]
    whole = check_resume(load_recipe("mnist_lbgat", words), digits, tmp_path)
    state = read_state((whole / "state.safetensors").read_bytes(), CPU)
    roles = state["networks"]
    assert not torch.equal(roles["natural"]["head.weight"], roles[ROBUST]["head.weight"])
    assert len(state["optimizer"]["param_groups"][0]["params"]) == 2 * len(
        list(load_checkpoint(whole / "best")[0].parameters())
    )


def test_a_loss_that_is_not_finite_stops_with_epoch_and_batch(tmp_path, digits):
    for name in ("digits_pgd_at", "digits_standard"):
        with pytest.raises(
            InputError, match=r"training loss is not finite at epoch 1, batch [1-9]"
        ):
            run(tmp_path / name, digits, name, extra=["--optimizer.lr", "1e30"])
        assert not (tmp_path / name / "best").exists()


def test_another_recipe_in_the_same_folder_is_refused_with_the_difference(tmp_path, digits):
    run(tmp_path / "r", digits, epochs=1)
    before = (tmp_path / "r/best/model.safetensors").read_bytes()
    with pytest.raises(LedgerMismatchError, match=r"recipe.training.epochs: 1 there, 2 now"):
        run(tmp_path / "r", digits, epochs=2)
    assert (tmp_path / "r/best/model.safetensors").read_bytes() == before


def test_a_folder_without_a_finished_epoch_takes_another_recipe(tmp_path, digits):
    with pytest.raises(InputError, match="did you mean small_cnn"):
        run(tmp_path / "r", digits, epochs=1, extra=["--model.name", "small_cn"])
    (tmp_path / "r" / ".recipe.json.123.tmp").write_text("{")  # left by a killed process
    assert run(tmp_path / "r", digits, epochs=1).exists()


def test_a_finished_run_is_left_alone_and_an_unfinished_one_needs_its_environment(
    tmp_path, digits, monkeypatch
):
    run(tmp_path / "done", digits)
    with pytest.raises(Killed):
        run(tmp_path / "left", digits, progress=kill_at(14))
    before = {name: (tmp_path / "done" / name).read_bytes() for name in FILES}
    monkeypatch.setattr("robustbench_lite.training.run_folder.git_commit", lambda: "another")
    run(tmp_path / "done", digits)
    assert before == {name: (tmp_path / "done" / name).read_bytes() for name in FILES}
    with pytest.raises(LedgerMismatchError, match="git_commit: .* there, another now"):
        run(tmp_path / "left", digits)


class Drawing(Defense):
    """A method that draws from torch's own generator, as a network with dropout does."""

    def objective(self, networks, batch, crafted):
        x = batch.x + 0.1 * torch.randn_like(batch.x)
        return Objective(nn.functional.cross_entropy(networks[ROBUST](x), batch.y), {})


def test_a_method_that_draws_by_itself_resumes_with_the_same_bytes(tmp_path, digits):
    recipe = load_recipe("digits_standard", [*QUICK, "--training.epochs", "2"])
    drawing = type(recipe)(**{**vars(recipe), "defense": Drawing()})
    check_resume(drawing, digits, tmp_path)


def test_threads_below_one_are_refused(tmp_path, digits):
    recipe = load_recipe("digits_standard")
    for threads in (0, -1):
        with pytest.raises(InputError, match=f"threads={threads} must be at least 1"):
            train(recipe, digits, out=tmp_path / "r", device=CPU, threads=threads)


def test_a_folder_with_something_else_is_refused(tmp_path, digits):
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty and no run folder"):
        run(tmp_path, digits)


@pytest.mark.parametrize("name", ["state.safetensors", "recipe.json"])
def test_damaged_files_are_one_line(tmp_path, digits, name):
    run(tmp_path / "r", digits, epochs=1)
    path = tmp_path / "r" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=name) as caught:
        run(tmp_path / "r", digits, epochs=1)
    assert "\n" not in str(caught.value)


def test_a_finished_run_writes_a_damaged_last_again_and_refuses_a_damaged_best(tmp_path, digits):
    run(tmp_path / "r", digits, epochs=1)
    last, best = (tmp_path / "r" / name / "model.safetensors" for name in ("last", "best"))
    content = last.read_bytes()
    last.write_bytes(content[:100])
    run(tmp_path / "r", digits, epochs=1)
    assert last.read_bytes() == content
    best.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"best/model.safetensors is damaged"):
        run(tmp_path / "r", digits, epochs=1)


def test_a_recipe_without_its_checksum_is_refused(tmp_path, digits):
    run(tmp_path / "r", digits, epochs=1)
    path = tmp_path / "r" / "recipe.json"
    stored = json.loads(path.read_text())
    del stored["checksum"]
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="recipe.json .*no checksum"):
        run(tmp_path / "r", digits, epochs=1)


def test_a_validation_split_that_leaves_nothing_is_refused(tmp_path, digits):
    with pytest.raises(InputError, match="leaves nothing to train on"):
        run(tmp_path / "r", digits, extra=["--data.validation", "5000"])


def test_seeds_matter_and_repeat(tmp_path, digits):
    weights = [
        (run(tmp_path / f"{i}", digits, epochs=1, extra=["--training.seed", seed])
         / "model.safetensors").read_bytes()
        for i, seed in enumerate(("0", "0", "1"))
    ]  # fmt: skip
    assert weights[0] == weights[1] != weights[2]


WITH_AWP = [
    *("--weight_perturbation.name", "awp", "--weight_perturbation.gamma", "0.005"),
    *("--weight_perturbation.begin_epoch", "2"),
]
WITH_ENCOURAGING = ["--label_loss.log_end", "0.75"]


@pytest.mark.parametrize(
    "extra", [WITH_AWP, WITH_ENCOURAGING, ["--training.precision", "bfloat16"]], ids=str
)
def test_ingredients_work_with_any_method_and_resume(tmp_path, digits, extra):
    words = ["--training.epochs", "2", "--validation.every", "1", *QUICK, *CRAFT]
    path = tmp_path / "mine.toml"
    label_loss = '[label_loss]\nname = "encouraging"\n' if extra is WITH_ENCOURAGING else ""
    path.write_text(f'base = "digits_trades"\n{label_loss}')
    whole = check_resume(load_recipe(str(path), [*words, *extra]), digits, tmp_path)
    plain = run(tmp_path / "plain", digits, "digits_trades", extra=["--validation.every", "1"])
    weights = [load_checkpoint(folder)[0].head.weight for folder in (whole / "last", plain)]
    assert not torch.equal(*weights), "the ingredient changes what is learnt"


def test_an_imbalanced_set_is_chosen_from_all_images_and_rare_classes_keep_theirs(digits):
    words = [
        *("--imbalance.name", "step", "--imbalance.ratio", "10", "--imbalance.largest", "100"),
        *("--imbalance.seed", "0"),
    ]
    recipe = load_recipe("digits_standard", [*words, "--data.validation", "110"])
    data = TrainingData(recipe, digits, CPU)
    chosen = recipe.imbalance.choose(digits.labels, 10)
    assert torch.equal(data.data.images, digits.images[chosen])
    assert data.class_counts.tolist() == [100] * 5 + [10] * 5
    assert torch.equal(data.class_counts, torch.bincount(data.data.labels))
    assert torch.bincount(data.validation.labels).tolist() == [20] * 5 + [2] * 5
    seen = {image.numpy().tobytes() for image in data.data.images}
    assert not any(image.numpy().tobytes() in seen for image in data.validation.images)


def test_outliers_come_in_consecutive_blocks_from_another_place_each_epoch(digits, monkeypatch):
    words = ["--data.name", "digits", "--data.validation", "200", "--training.batch_size", "256"]
    words += ["--defense.outliers.count", "50", "--defense.outliers.batch_size", "30"]
    recipe = load_recipe("mnist_oe", words)
    store = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 1, 8, 8)
    asked = []
    monkeypatch.setattr(
        "robustbench_lite.training.data.load_outliers",
        lambda source, like, *, count, seed: asked.append(like) or store,
    )
    data = TrainingData(recipe, digits, CPU)
    assert asked == [data.data], "made from what is trained on, not from what is held out"
    begins = []
    for epoch in (1, 2):
        batches = list(data.epoch(epoch))
        rows = torch.cat([(batch.outliers[:, 0, 0, 0] * 255).round() for batch in batches])
        assert torch.equal((rows[1:] - rows[:-1]) % 50, torch.ones(len(rows) - 1))
        assert all(batch.outliers.shape == (30, 1, 8, 8) for batch in batches)
        begins.append(rows[0].item())
    assert begins[0] != begins[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [("mnist_cb_reweight", []), ("mnist_ldam_drw", ["--defense.weights", "none"])],
)
def test_a_class_without_images_is_refused_where_its_number_divides(digits, name, words):
    some = digits.subset((digits.labels != 3).nonzero().flatten())
    words = [*words, "--data.name", "digits", "--data.validation", "100"]
    recipe = load_recipe(name, words)
    plain = dataclasses.replace(recipe, imbalance=Balanced())
    with pytest.raises(InputError, match="class 3 has no training images"):
        TrainingData(plain, some, CPU)
    unweighted = load_recipe("digits_pgd_at")
    assert TrainingData(unweighted, some, CPU).class_counts[3] == 0


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("mnist_irat", ["--training.epochs", "1"], "defense.begin_epoch=3 is after the last"),
        ("mnist_trades", ["--defense.beta", "-1"], "mnist_trades.toml: defense.beta=-1.0 must be"),
        ("mnist_pgd_at", ["--defense.crafting.steps", "-1"], "crafting.steps=-1"),
        (
            "mnist_oe",
            ["--defense.outliers.batch_size", "0"],
            "outliers.batch_size=0 must be at least 1",
        ),
    ],
)
def test_values_that_would_undo_a_method_are_refused_at_once(name, words, message):
    with pytest.raises(InputError, match=message):
        load_recipe(name, words)


def test_a_teacher_is_trained_without_its_students_held_out_images(tmp_path, digits):
    words = [
        *("--data.name", "digits", "--data.validation", "150", "--training.epochs", "1"),
        *("--defense.teachers", '["digits_standard"]', "--defense.crafting.steps", "1"),
        *("--training.seed", "5"),
    ]
    train(load_recipe("mnist_bgat", words), digits, out=tmp_path / "r", device=CPU, threads=1)
    student, teacher = (
        json.loads((tmp_path / "r" / name / "card.json").read_text())["recipe"]
        for name in ("best", "teacher_0/best")
    )
    for key in (("training", "seed"), ("data", "validation"), ("imbalance", "name")):
        assert student[key[0]][key[1]] == teacher[key[0]][key[1]]
