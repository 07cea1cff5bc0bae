"""Training with extra images: what a batch holds, resuming, what the card says."""

import json

import numpy as np
import pytest
import torch

from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.datasets import load_split
from robustbench_lite.submission.template import new_submission
from robustbench_lite.training.data import TrainingData
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe, recipe_from_dict

CPU = torch.device("cpu")
N = 500


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "train")


@pytest.fixture
def file(tmp_path):
    """Extra digits; label and place can be read off the pixels, which no digit has."""
    images = np.full((N, 8, 8, 1), 253, dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(N) % 10, np.arange(N) // 2
    np.savez(tmp_path / "extra.npz", image=images, label=np.arange(N) % 10)
    return tmp_path / "extra.npz"


def recipe(file, *words, name="digits_pgd_at", fraction="0.7", batch="100"):
    craft = ["--defense.crafting.steps", "1"] if name == "digits_pgd_at" else []
    extra = ["--data.extra", str(file), "--data.extra_fraction", fraction]
    sizes = ["--training.batch_size", batch, "--training.epochs", "2", "--validation.every", "1"]
    return load_recipe(name, [*craft, *extra, *sizes, *words])


def is_extra(batch):
    return (batch.x[:, 0, 7, 7] * 255).round() == 253


@pytest.mark.parametrize(("fraction", "own"), [("0.7", 30), ("0.29", 72), ("0.999", 1)])
def test_each_batch_has_its_share_of_extra_images(digits, file, fraction, own):
    data = TrainingData(recipe(file, fraction=fraction), digits, CPU)
    batches = list(data.epoch(1))
    n = len(data.data)
    # As in the authors' code: as many batches as the whole split fills, held-out images included.
    assert len(batches) == len(data) == -(-len(digits) // 100)
    seen = []
    for batch in batches:
        assert len(batch.x) == len(batch.y) == len(batch.ids) == 100
        mine, extra = batch.ids[batch.ids < n], batch.ids[batch.ids >= n] - n
        assert len(mine) in (own, n % own)
        assert torch.equal(is_extra(batch), batch.ids >= n)
        assert torch.equal(batch.y[batch.ids < n], data.data.labels[mine])
        x, y = batch.x[batch.ids >= n], batch.y[batch.ids >= n]
        assert torch.equal(y, extra % 10)
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), extra % 10)
        assert torch.equal((x[:, 0, 0, 1] * 255).round().long(), extra // 2)
        seen.append(mine)
    rows = torch.cat(seen)
    assert len(rows[:n].unique()) == min(n, len(rows)), "no own image twice before all were seen"


def test_a_pass_over_few_own_images_ends_with_a_batch_filled_up(digits, file):
    few = digits.subset(torch.arange(260))
    data = TrainingData(recipe(file, "--data.validation", "215"), few, CPU)
    sizes = [int((batch.ids < 45).sum()) for batch in data.epoch(1)]
    assert sizes == [30, 15, 30]


def test_draws_differ_from_epoch_to_epoch_and_repeat(digits, file):
    data = TrainingData(recipe(file), digits, CPU)
    first, again, second = (
        torch.cat([batch.ids for batch in data.epoch(epoch)]) for epoch in (1, 1, 2)
    )
    assert torch.equal(first, again)
    extra = [ids[ids >= len(data.data)] for ids in (first, second)]
    assert not torch.equal(*extra)
    assert len(extra[0].unique()) > 400, "from the whole file"


def test_extra_images_are_augmented_as_the_own_ones(digits, file):
    data = TrainingData(recipe(file, "--data.flip", "true"), digits, CPU)
    corner = torch.cat([batch.x[is_extra(batch), 0, 0, 7] for batch in data.epoch(1)])
    assert 0.3 < (corner < 0.5).float().mean() < 0.7, "mirrored"


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, digits, file):
    def kill(progress):
        if progress.step >= 8 and progress.metrics is None:  # of 6 an epoch
            raise Killed

    few = digits.subset(torch.arange(600))
    wanted = recipe(file, "--data.validation", "50", "--validation.steps", "1")
    train(wanted, few, out=tmp_path / "whole", device=CPU, threads=1)
    with pytest.raises(Killed):
        train(wanted, few, out=tmp_path / "broken", device=CPU, threads=1, progress=kill)
    assert len((tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()) == 1
    train(wanted, few, out=tmp_path / "broken", device=CPU, threads=1)
    names = ("metrics.jsonl", "state.safetensors", "best/model.safetensors", "best/card.json")
    for name in (*names, "last/model.safetensors", "last/card.json"):
        whole, broken = (tmp_path / folder / name for folder in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes(), name


def test_the_card_names_the_images_by_their_content(tmp_path, digits, file):
    wanted = recipe(file, "--training.epochs", "1", name="digits_standard")
    best = train(wanted, digits, out=tmp_path / "r", device=CPU, threads=1)
    card = load_checkpoint(best)[1]
    found = TrainingData(wanted, digits, CPU).extra.content_hash
    assert card.recipe["data"]["extra_hash"] == found
    assert card.recipe["data"]["extra_fraction"] == 0.7
    assert resolve_model(str(best), allow_code=False, device=CPU).extra_data is True
    assert "| digits and extra images |" in (best / "README.md").read_text()
    manifest = new_submission(tmp_path / "entry", "mine", checkpoint=best) / "submission.toml"
    assert "extra_data = true" in manifest.read_text()
    # What the card keeps is a recipe, and trains on no other file.
    again = recipe_from_dict(json.loads(json.dumps(card.recipe)), origin="card")
    assert TrainingData(again, digits, CPU).recipe == again
    np.savez(file, image=np.zeros((9, 8, 8), dtype=np.uint8), label=np.zeros(9, dtype=np.int64))
    with pytest.raises(InputError, match="another file") as caught:
        TrainingData(again, digits, CPU)
    assert len(str(caught.value)) <= 300 + len(str(file))
    with pytest.raises(LedgerMismatchError, match="extra_hash"):
        train(wanted, digits, out=tmp_path / "r", device=CPU, threads=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.extra_fraction", "0.7"], "data.extra_fraction is given without data.extra"),
        (["--data.extra_hash", f"sha256:{'0' * 64}"], "extra_hash is given without data.extra"),
        (["--data.extra", "a.npz"], "data.extra_fraction=0.0 gives no extra image"),
        (["--data.extra", "a.npz", "--data.extra_fraction", "0.001"], "gives no extra image"),
        (["--data.extra", "a.npz", "--data.extra_fraction", "1"], "extra_fraction is 1"),
        (["--data.extra", "a.npz", "--data.extra_hash", "sha256:1"], "extra_hash is 'sha256:1'"),
    ],
)
def test_wrong_keys_are_one_line(words, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("digits_pgd_at", words)
    assert "\n" not in str(caught.value)


def test_an_imbalanced_set_takes_no_extra_images():
    words = ["--data.extra", "a.npz", "--data.extra_fraction", "0.5"]
    with pytest.raises(InputError, match="data.extra with imbalance.name="):
        load_recipe("mnist_srat", words)
