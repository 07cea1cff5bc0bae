"""Recipes: complete, typed, every wrong key named."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import pytest

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import DATASETS, dataset_info
from robustbench_lite.models import MODELS
from robustbench_lite.training.recipe import load_recipe, recipe_files, recipe_from_dict

# SHA-256 of what a checkpoint's card keeps of each recipe, as JSON, at commit 69a7bf3.
HASHES = json.loads((Path(__file__).parent / "recipe_hashes.json").read_text())


def test_no_recipe_is_lost():
    assert set(HASHES) <= set(recipe_files())


@pytest.mark.parametrize("name", sorted(recipe_files()))
def test_every_shipped_recipe_loads_names_what_exists_and_survives_json(name):
    recipe = load_recipe(name)
    kept = hashlib.sha256(json.dumps(recipe.as_dict()).encode()).hexdigest()
    assert kept == HASHES.get(name, kept), "it says what it always said, whatever its base"
    assert recipe_from_dict(json.loads(json.dumps(recipe.as_dict())), origin="x") == recipe
    assert recipe.name == name
    assert recipe.data.name in DATASETS
    assert recipe.model.name in MODELS
    text = recipe_files()[name].read_text()
    assert f"Command: rbl train {name}" in text, "the header gives the exact command"


def test_keys_that_may_be_left_out_are_kept_only_where_they_say_something():
    plain = load_recipe("digits_pgd_at").as_dict()["data"]
    assert "rotation" not in plain
    assert "padding_mode" not in plain
    turned = load_recipe("digits_pgd_at", ["--data.rotation", "15", "--data.padding_mode=reflect"])
    data = turned.as_dict()
    assert (data["data"]["rotation"], data["data"]["padding_mode"]) == (15.0, "reflect")
    assert recipe_from_dict(data, origin="x") == turned
    for word, message in (
        ("--data.rotation=181", "rotation"),
        ("--data.padding_mode=edge", "edge"),
    ):
        with pytest.raises(InputError, match=message):
            load_recipe("digits_pgd_at", [word])


@pytest.mark.parametrize(
    ("choice", "mean", "std"),
    [("none", None, None), ("half", (0.5,) * 3, (0.5,) * 3), ("dataset", "its own", "its own")],
)
def test_the_first_layer_is_what_normalization_says(choice, mean, std):
    info = dataset_info("cifar10")
    section = load_recipe("cifar10_pgd_at", [f"--model.normalization={choice}"]).model
    expected = (info.mean, info.std) if choice == "dataset" else (mean, std)
    assert section.mean_and_std(info) == expected


def test_overrides_are_typed():
    recipe = load_recipe(
        "digits_trades",
        ["--training.epochs", "3", "--defense.crafting.eps=8/255", "--data.flip", "true"],
    )
    assert recipe.training.epochs == 3
    assert recipe.defense.crafting.eps == Fraction(8, 255)
    assert recipe.data.flip is True


def test_choosing_another_schedule_asks_for_its_keys():
    with pytest.raises(InputError, match="unknown key schedule.peak; known: milestones, gamma"):
        load_recipe("digits_trades", ["--schedule.name", "step"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--training.epohs", "3"], "unknown key training.epohs; did you mean epochs"),
        (["--trainign.epochs", "3"], "unknown section 'trainign'; did you mean training"),
        (["--training.epochs", "x"], "training.epochs is 'x'; need an integer"),
        (["--training.epochs", "0"], "training.epochs is 0; need an integer of at least 1"),
        (["--training.epochs"], "--training.epochs has no value"),
        (["epochs=3"], "unknown argument 'epochs=3'"),
        (["--epochs", "3"], "unknown argument '--epochs'"),
        (["--defense.crafting.eps", "8"], "did you mean 8/255"),
        (["--defense.crafting.eps", "a"], "eps='a' is no number"),
        (["--defense.crafting.norm", "L3"], "norm"),
        (
            ["--defense.crafting.stepz", "1"],
            "key defense.crafting.stepz; did you mean steps",
        ),
        (["--defense.name", "tradez"], "did you mean trades"),
        (["--defense.name", "pgd_at"], "unknown key defense.beta; known: crafting"),
        (["--validation.eps", "8"], "did you mean 8/255"),
        (["--training.ema_decay", "1.0"], "ema_decay is 1.0; need a finite number below 1.0"),
        (["--optimizer.lr", "0"], "optimizer.lr is 0; need a finite number above 0.0"),
        (["--optimizer.momentum", "0"], "nesterov needs a momentum above 0"),
        (
            ["--optimizer.weight_decay", "-1"],
            "weight_decay is -1; need .* of at least 0",
        ),
        (
            ["--training.seed", str(2**63)],
            "seed is 9223372036854775808; need .* of at most",
        ),
        (["--training.batch_size", "1"], "training.batch_size is 1; need an integer of at least 2"),
        (["--data.flip.x", "1"], "no such section"),
        (["--label_loss.name", "focl"], "unknown label loss 'focl'; did you mean focal"),
        (["--imbalance.name", "step"], "missing key imbalance.ratio"),
        (["--weight_perturbation.name", "awp"], "missing key weight_perturbation.gamma"),
        (
            ["--training.precision", "float8"],
            "precision is .float8.; need one of float32",
        ),
        (["--model.normalization", "imagenet"], "model.normalization"),
    ],
)
def test_wrong_overrides_are_one_line_that_names_the_key(overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        load_recipe("digits_trades", overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 40\n", "", "missing key training.epochs"),
        ('start = "uniform"\n', "", "missing key defense.crafting.start"),
        ('name = "pgd_at"\n', "", "missing key defense.name"),
        ("[training]", "training = 3\n[trainings]", "unknown section 'trainings'"),
        ("[training]", "[training", "no valid TOML"),
        ('[schedule]\nname = "one_cycle"\npeak = 0.3\n', "", "missing key schedule.name"),
    ],
)
def test_wrong_files_name_the_key(tmp_path, old, new, message):
    text = recipe_files()["digits_pgd_at"].read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_recipe(str(path))


def test_unknown_recipes_are_named_with_near_matches():
    with pytest.raises(InputError, match="did you mean digits_trades"):
        load_recipe("digits_trads")
    with pytest.raises(InputError, match="does not exist"):
        load_recipe("nowhere/mine.toml")
    with pytest.raises(InputError, match="'mnist' is a base, not a recipe"):
        load_recipe("mnist")


def test_a_method_that_is_itself_only_with_one_label_loss_says_so():
    with pytest.raises(InputError, match="label_loss.name='focal', but defense 'mart' is itself"):
        recipe_from_dict(
            {**load_recipe("mnist_mart").as_dict(), "label_loss": {"name": "focal", "gamma": 2.0}},
            origin="x",
        )


def test_model_options_are_typed_from_files_and_flags():
    recipe = load_recipe("mnist_random_mask", ["--model.options.shallow_drop", "0.25"])
    assert recipe.model.options["shallow_drop"] == 0.25
    assert recipe.model.options["mask_seed"] == 0
    same = load_recipe("mnist_random_mask", ["--model.options.mask_pattern", "same"])
    assert same.model.options["mask_pattern"] == "same"


def test_infinity_survives_json_and_flags(tmp_path):
    path = tmp_path / "plain_at.toml"
    text = recipe_files()["mnist_irat"].read_text()
    assert "lam = -1.0" in text
    path.write_text(text.replace("lam = -1.0", "lam = inf"))
    recipe = load_recipe(str(path))
    assert recipe.defense.lam == float("inf")
    stored = json.loads(json.dumps(recipe.as_dict(), allow_nan=False))
    assert recipe_from_dict(stored, origin="x") == recipe
    assert load_recipe("mnist_irat", ["--defense.lam", ".inf"]).defense.lam == float("inf")


def test_a_method_without_smoothed_labels_refuses_smoothing():
    with pytest.raises(InputError, match="smoothing=0.1, but defense 'mart' has no smoothed"):
        load_recipe("mnist_mart", ["--label_loss.smoothing", "0.1"])
