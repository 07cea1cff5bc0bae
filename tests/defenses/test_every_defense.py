"""Every registered method: its recipe trains, lowers its objective, resumes, and evaluates."""

import functools
import json
import shutil

import pytest
import torch
from device_waits import syncs

from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.datasets import load_split
from robustbench_lite.defenses.catalogue import DEFENSES
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.models import build_model
from robustbench_lite.training.data import TrainingData
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe, recipe_files
from robustbench_lite.training.recipe_expansion import expand

CPU = torch.device("cpu")
FILES = (
    "metrics.jsonl",
    "best/model.safetensors",
    "best/card.json",
    "last/model.safetensors",
    "last/card.json",
)


def on_digits(name, teacher):
    """The method's MNIST recipe, moved to digits and cut to seconds."""
    changes = {
        "data.name": "digits",
        "data.validation": 100,
        "training.epochs": 3,
        "training.batch_size": 64,
        "optimizer.lr": 0.02,
        "validation.every": 1,
        "validation.steps": 2,
    }
    stands_in = expand(recipe_files()[f"mnist_{name}"]).origin.stands_in
    for key, value in {
        "imbalance.ratio": 4,
        "imbalance.largest": 80,
        "defense.begin_epoch": 2,
        "defense.crafting.steps": 2,
        "defense.outliers.count": 200,
        "defense.outliers.batch_size": 32,
        "defense.teachers": json.dumps([str(teacher)]),
        "defense.helper_network": str(teacher),
        "defense.m": 3,
    }.items():
        if key in stands_in and (name, key) != ("fast_at", "defense.crafting.steps"):
            changes[key] = value  # FGSM-RS is one step
    words = [word for key, value in changes.items() for word in (f"--{key}", str(value))]
    return load_recipe(f"mnist_{name}", words)


@pytest.mark.parametrize("name", DEFENSES)
def test_it_trains_resumes_with_the_same_bytes_and_evaluates(tmp_path, name, checkpoint):
    recipe, data = on_digits(name, checkpoint), load_split("digits", "train")
    assert recipe.defense_name == name
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def as_if_killed(progress):
        """What `kill -9` in the second epoch would leave."""
        if progress.epoch == 2 and progress.metrics is None and not broken.exists():
            shutil.copytree(whole, broken)

    best = train(recipe, data, out=whole, device=CPU, threads=1, progress=as_if_killed)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    if name in ("fat", "irat", "lrat", "mail_at", "mail_mart", "mail_trades", "srat", "ldam_drw"):
        rows = rows[1:]  # the objective changes after the first epoch
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not (broken / "last").exists()
    train(recipe, data, out=broken, device=CPU, threads=1)
    for file in FILES:
        assert (whole / file).read_bytes() == (broken / file).read_bytes(), file
    assert load_checkpoint(best)[1].defense == name
    out = tmp_path / "result"
    evaluate(
        resolve_model(str(best), allow_code=False, device="cpu"),
        load_split("digits", "test"),
        load_protocol("linf_quick", eps="0.05"),
        out=out,
        n=40,
        seed=0,
        settings=Settings(threads=1),
        device=CPU,
    )
    result = json.loads((out / "result.json").read_text())
    status = DEFENSES[name].status
    assert result["defense"] == (name if status == "faithful" else f"{name} ({status})")
    assert 0.0 <= result["robust_accuracy"]["value"] <= result["clean_accuracy"]["value"]


def test_each_method_has_a_recipe_for_a_cpu_and_one_for_a_gpu_in_minutes():
    load = functools.cache(load_recipe)
    for name in DEFENSES:
        for recipe in (f"mnist_{name}", f"cifar10_short_{name}"):
            assert load(recipe).defense_name == name
    gpu = [load(name) for name in recipe_files() if name.startswith("cifar10_short_")]
    assert all(r.training.epochs <= 30 and r.model.name == "preact_resnet18" for r in gpu)


def test_a_teacher_recipe_is_trained_first_inside_the_run(tmp_path):
    data = load_split("digits", "train")
    words = [
        *("--data.name", "digits", "--data.validation", "100", "--training.epochs", "1"),
        *("--defense.teachers", '["digits_standard"]', "--defense.crafting.steps", "1"),
    ]
    seen = []
    recipe = load_recipe("mnist_bgat", words)
    train(
        recipe, data, out=tmp_path / "r", device=CPU, threads=1,
        progress=lambda progress: seen.append(progress.recipe),
    )  # fmt: skip
    assert seen[0] == "digits_standard"
    assert seen[-1] == "mnist_bgat"
    assert load_checkpoint(tmp_path / "r/teacher_0/best")[1].defense == "standard"
    assert load_checkpoint(tmp_path / "r/best")[1].defense == "bgat"


@pytest.mark.parametrize("name", sorted(set(DEFENSES) - {"standard", "oe", "random_mask", "bgat"}))
def test_crafting_never_waits_for_the_device(name, checkpoint):
    recipe, data = on_digits(name, checkpoint), load_split("digits", "train")
    batch = next(TrainingData(recipe, data, CPU).epoch(2))
    networks = {
        role: build_model(
            "small_cnn", num_classes=10, in_channels=1, image_size=(8, 8), mean=None, std=None
        ).train(role == "robust")
        for role in ("robust", "helper")
    }
    crafted = []
    waits = syncs(lambda: crafted.append(recipe.defense.craft(networks, batch)))
    assert crafted[0]
    assert waits == 0
    if not recipe.defense.extra_networks:
        step = syncs(lambda: recipe.defense.objective(networks, batch, crafted[0]))
        assert step == 0, "nor does the objective"
