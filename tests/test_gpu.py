"""On a CUDA device: the same numbers, the same verdicts, the same bytes after an interruption."""

import pytest
import torch
from conftest import as_function

from robustbench_lite.attacks.first_order.cw_l2 import CwL2
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.core.random_numbers import normal, random_words
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.models import build_model
from robustbench_lite.training.data import TrainingData
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe

cw_l2 = as_function(CwL2, "cw_l2")

pytestmark = pytest.mark.gpu
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
PLACE = {"seed": 3, "stream": "s", "restart": 1, "step": 2}


def test_random_words_are_those_of_the_cpu():
    ids = torch.arange(100)
    on_cpu, on_gpu = (random_words(50, ids=ids.to(d), **PLACE) for d in (CPU, CUDA))
    assert torch.equal(on_cpu, on_gpu.cpu())


def test_normal_numbers_are_those_of_the_cpu():
    ids, shape = torch.arange(100), torch.Size((100, 33))
    on_cpu, on_gpu = (normal(shape, ids=ids.to(d), **PLACE) for d in (CPU, CUDA))
    torch.testing.assert_close(on_cpu, on_gpu.cpu(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_breaks_the_same_images_as_on_the_cpu(checkpoint, norm):
    data = load_split("digits", "test")
    broken = {}
    for device in (CPU, CUDA):
        model = resolve_model(str(checkpoint), allow_code=False, device=device).model
        split = data.to(device)
        x, y = split.pixels(slice(0, 200)), split.labels[:200]
        x_adv = pgd(
            model,
            x,
            y,
            norm=norm,
            eps=0.1 if norm == "Linf" else 0.8,
            alpha=0.025 if norm == "Linf" else 0.2,
            steps=20,
            restarts=1,
            loss="ce",
            start="uniform",
            keep="best_loss",
            ids=torch.arange(200, device=device),
            seed=0,
        )
        broken[device.type] = (model(x_adv).argmax(1) != y).cpu()
    assert (broken["cpu"] != broken["cuda"]).sum() <= 2  # float rounding at the boundary
    assert 0 < broken["cpu"].sum() < 200


def test_cw_l2_runs_on_the_device(checkpoint):
    data = load_split("digits", "test").to(CUDA)
    model = resolve_model(str(checkpoint), allow_code=False, device=CUDA).model
    x, y = data.pixels(slice(0, 20)), data.labels[:20]
    x_adv = cw_l2(
        model,
        x,
        y,
        kappa=0.0,
        lr=0.01,
        steps=50,
        search_steps=5,
        initial_c=0.1,
        ids=torch.arange(20, device=CUDA),
        seed=0,
    )
    assert x_adv.device.type == "cuda"
    assert (model(x_adv).argmax(1) != y).all()


def test_an_interrupted_evaluation_ends_with_the_same_bytes(checkpoint, tmp_path):
    data, protocol = load_split("digits", "test"), load_protocol("linf_quick", eps="0.1")

    def run(name):
        source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
        settings = Settings(batch_size=50, chunk_size=50)
        out = tmp_path / name
        return evaluate(
            source, data, protocol, out=out, n=200, seed=0, settings=settings, device=CUDA
        )

    run("whole")
    run("broken")
    for part in ("pgd20_ce/00001.parquet", "cwinf20_k50/00003.parquet"):
        (tmp_path / "broken/parts" / part).unlink()
    run("broken")
    for name in ("result.json", "examples.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def test_the_verifier_turns_tf32_off(checkpoint):
    from robustbench_lite.core.numerics import plain_numerics

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with plain_numerics():
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("name", ["digits_pgd_at", "digits_trades"])
def test_training_runs_and_resumes_on_the_device(tmp_path, name):
    overrides = ["--training.epochs", "2", "--validation.every", "1"]
    data = load_split("digits", "train")
    best = train(load_recipe(name, overrides), data, out=tmp_path / "r", device=CUDA)
    assert (best / "model.safetensors").exists()
    assert train(load_recipe(name, overrides), data, out=tmp_path / "r", device=CUDA) == best


@pytest.mark.parametrize("name", ["pgd_at", "trades", "irat", "lbgat_trades", "mart"])
def test_crafting_never_waits_for_the_device(name):
    words = ["--data.name", "digits", "--data.validation", "100"]
    recipe = load_recipe(f"mnist_{name}", words)
    batch = next(TrainingData(recipe, load_split("digits", "train"), CUDA).epoch(1))
    network = build_model(
        "small_cnn", num_classes=10, in_channels=1, image_size=(8, 8), mean=None, std=None
    )
    networks = {"robust": network.to(CUDA).train()}
    recipe.defense.craft(networks, batch)  # constants and kernels are loaded by the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        recipe.defense.craft(networks, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_the_device_learns_what_it_learns_on_a_cpu(tmp_path, precision):
    words = ["--training.epochs", "8", "--training.precision", precision]
    recipe, data = load_recipe("digits_pgd_at", words), load_split("digits", "train")
    rows = {}
    for device in (CPU, CUDA):
        best = train(recipe, data, out=tmp_path / device.type, device=device)
        rows[device.type] = load_checkpoint(best)[1].metrics
    assert abs(rows["cpu"]["robust_accuracy"] - rows["cuda"]["robust_accuracy"]) < 0.1
    assert rows["cuda"]["robust_accuracy"] > 0.5
