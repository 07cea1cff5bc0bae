"""FGSM-RS, N-FGSM and free training against transcriptions of the published algorithms."""

from fractions import Fraction

import pytest
import torch
from defense_cases import Z_ADV, Recording, Y, crafting, evaluate, example_images, make_batch
from torch import nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.random_numbers import uniform
from robustbench_lite.datasets import load_split
from robustbench_lite.defenses.contract import ROBUST
from robustbench_lite.defenses.methods.fast_at import FastAt
from robustbench_lite.defenses.methods.free_at import FreeAt
from robustbench_lite.defenses.methods.n_fgsm import NFgsm
from robustbench_lite.defenses.methods.pgd_at import PgdAt
from robustbench_lite.training import loop
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.run_folder import RunFolder

EPS, ALPHA = 0.1, 0.125
CE_OF_Z_ADV = 1.1479408815  # the sheets' example


def fast_at(**changes):
    arguments = {"alpha": Fraction(1, 8), "steps": 1, "start": "uniform", "bn_mode": "train"}
    return FastAt(crafting(**(arguments | changes)))


def n_fgsm(noise="2", bn_mode="train"):
    return NFgsm(Fraction(1, 10), Fraction(1, 10), Fraction(noise), bn_mode)


def draws(x, stream):
    """Uniform numbers in [-1, 1), as crafting draws them for the ids and seed of `make_batch`."""
    u = uniform(x.shape, ids=torch.arange(len(x)), seed=0, stream=stream, restart=0, step=0)
    return 2.0 * u.to(x.dtype) - 1.0


def input_gradient(model, x, y):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)[0]


def double_case():
    """A network in float64, images and labels; some pixels at the walls of the box."""
    x, y = example_images()
    x = x.double()
    x[0, 0, 0], x[1, 0, 2] = 0.0, 1.0
    return Recording().double().train(), x, y


# --- FGSM-RS


def test_fgsm_rs_is_the_cross_entropy_of_the_crafted_batch_alone():
    crafts_nothing = FastAt(crafting(alpha=Fraction(0), steps=1, start="uniform"))
    model = evaluate(PgdAt(crafting()), ["z_adv"])[1]
    expected = torch.tensor(Z_ADV, dtype=torch.float64).softmax(1) - torch.eye(3).double()[Y]
    torch.testing.assert_close(model.z_adv.grad, expected / 3, rtol=0, atol=1e-12)
    objective = crafts_nothing.objective(
        {ROBUST: lambda _: torch.tensor(Z_ADV, dtype=torch.float64)},
        make_batch(torch.rand(3, 1, 2, 2), Y),
        {"x_adv": torch.rand(3, 1, 2, 2)},
    )
    assert objective.loss.item() == pytest.approx(CE_OF_Z_ADV, abs=1e-9)


def test_fgsm_rs_is_algorithm_3_in_train_mode():
    model, x, y = double_case()
    crafted = fast_at().craft({ROBUST: model}, make_batch(x, y))["x_adv"]
    reference = Recording().double().train()
    delta = (x + EPS * draws(x, "crafting")).clamp(0, 1) - x
    gradient = input_gradient(reference, x + delta, y)
    delta = (delta + ALPHA * gradient.sign()).clamp(-EPS, EPS)
    torch.testing.assert_close(crafted, (x + delta).clamp(0, 1), rtol=0, atol=1e-12)
    assert model.norm.num_batches_tracked.item() == 1, "crafting's one pass"
    torch.testing.assert_close(model.norm.running_mean, reference.norm.running_mean)


def test_fgsm_rs_stays_in_ball_and_box_and_makes_two_passes():
    model, x, y = double_case()
    networks, batch = {ROBUST: model}, make_batch(x, y)
    crafted = fast_at().craft(networks, batch)
    fast_at().objective(networks, batch, crafted)
    assert len(model.seen) == model.norm.num_batches_tracked.item() == 2
    start, x_adv = model.seen
    for seen in (start, x_adv):
        assert (seen - x).abs().max() <= EPS + 1e-12
        assert ((seen >= 0) & (seen <= 1)).all()
    at_the_wall = ((x_adv - x).abs() >= EPS - 1e-12).float().mean()
    assert 0.3 < at_the_wall < 1.0, "a step of 1.25 eps ends inside where it crossed the ball"


@pytest.mark.parametrize(
    ("changes", "words"), [({"steps": 2}, "steps=2"), ({"start": "none"}, "start='none'")]
)
def test_fgsm_rs_is_one_step_from_a_uniform_start(changes, words):
    with pytest.raises(InputError, match=f"crafting.{words}: fast_at is one step"):
        fast_at(**changes)


# --- N-FGSM


@pytest.mark.parametrize("noise", ["2", "1/2", "0"])
def test_n_fgsm_is_a_step_from_large_noise_without_a_projection(noise):
    model, x, y = double_case()
    crafted = n_fgsm(noise).craft({ROBUST: model}, make_batch(x, y))["x_adv"]
    k = float(Fraction(noise))
    noisy = (x + k * EPS * draws(x, "crafting")).clamp(0, 1)
    gradient = input_gradient(Recording().double().train(), noisy, y)
    expected = (noisy + EPS * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(crafted, expected, rtol=0, atol=1e-12)
    distance = (crafted - x).abs().max().item()
    assert distance <= k * EPS + EPS + 1e-12
    if k == 2.0:
        assert distance > 1.5 * EPS, "it leaves the ball: that is the method"


def test_n_fgsm_noise_fills_its_cube_evenly():
    x = torch.full((64, 1, 8, 8), 0.5, dtype=torch.float64)
    start = n_fgsm()._start(nn.Identity(), make_batch(x, [0] * 64), loss="ce") - x
    assert start.abs().max() <= 0.2
    assert start.abs().max() > 0.199
    assert start.mean().abs() < 0.01
    assert start.var().item() == pytest.approx(0.4**2 / 12, rel=0.05)


def test_n_fgsm_stays_in_the_box_and_makes_two_passes_or_one():
    for bn_mode, passes in (("train", 2), ("eval", 1)):
        model, x, y = double_case()
        networks, batch = {ROBUST: model}, make_batch(x, y)
        crafted = n_fgsm(bn_mode=bn_mode).craft(networks, batch)
        objective = n_fgsm(bn_mode=bn_mode).objective(networks, batch, crafted)
        assert model.norm.num_batches_tracked.item() == passes
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert ((crafted["x_adv"] >= 0) & (crafted["x_adv"] <= 1)).all()
        assert not crafted["x_adv"].requires_grad
        logits = Recording().double().train()(crafted["x_adv"])
        expected = nn.functional.cross_entropy(logits, y).item()
        assert objective.loss.item() == pytest.approx(expected, abs=1e-12)


def test_n_fgsm_refuses_what_is_no_noise():
    with pytest.raises(InputError, match="defense.noise=-1 must be"):
        n_fgsm("-1")
    with pytest.raises(InputError, match="eps"):
        n_fgsm("20")


# --- free training


def steps_of(defense, model, batches, lr=0.1):
    """What the training loop does: replays, the carried perturbation, plain SGD."""
    carried, seen = {}, []
    for x, y in batches:
        for _ in range(defense.replays):
            batch = make_batch(x, y, carried=carried)
            crafted = defense.craft({ROBUST: model}, batch)
            loss = defense.objective({ROBUST: model}, batch, crafted).loss
            model.zero_grad()
            loss.backward()
            carried = defense.carry(batch, crafted)
            seen.append(loss.item())
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= lr * parameter.grad
    return carried["delta"], seen


def algorithm_1(model, batches, eps, m, lr=0.1):
    """Shafahi et al. 2019, Algorithm 1, image clipped as in their code."""
    delta, seen = torch.zeros_like(batches[0][0]), []
    for x, y in batches:
        for _ in range(m):
            pert = delta[: len(x)].clone().requires_grad_(True)
            loss = nn.functional.cross_entropy(model((x + pert).clamp(0, 1)), y)
            gradients = torch.autograd.grad(loss, [*model.parameters(), pert])
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=False):
                    parameter -= lr * gradient
                delta[: len(x)] += eps * gradients[-1].sign()
                delta.clamp_(-eps, eps)
            seen.append(loss.item())
    return delta, seen


def test_free_training_is_algorithm_1():
    _, x, y = double_case()
    batches = [(x, y), (x.flip(0), y.flip(0)), (x[:5], y[:5])]  # a shorter last batch
    ours, theirs = Recording().double().train(), Recording().double().train()
    delta, seen = steps_of(FreeAt(Fraction(1, 10), 3), ours, batches)
    expected, expected_seen = algorithm_1(theirs, batches, 0.1, 3)
    assert seen == pytest.approx(expected_seen, abs=1e-12)
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-12)
    assert delta.shape == x.shape
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    assert ours.norm.num_batches_tracked.item() == 9, "one pass a replay, three of each batch"


def test_free_training_begins_at_the_image_and_stays_in_ball_and_box():
    model, x, y = double_case()
    steps_of(FreeAt(Fraction(1, 10), 4), model, [(x, y)] * 2)
    assert torch.equal(model.seen[0], x)
    assert not torch.equal(model.seen[4], x), "the second batch begins where the first ended"
    for seen in model.seen:
        assert (seen - x).abs().max() <= 0.1 + 1e-12
        assert ((seen >= 0) & (seen <= 1)).all()


def test_a_pixel_outside_of_the_box_keeps_its_perturbation():
    """The image is clipped, so the gradient there is 0 and delta's sign step with it."""
    x, y = torch.zeros(2, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1])
    defense, model = FreeAt(Fraction(1, 10), 1), Recording().double().eval()
    batch = make_batch(x, y, carried={"delta": torch.full_like(x, -0.05)})
    crafted = defense.craft({ROBUST: model}, batch)
    defense.objective({ROBUST: model}, batch, crafted).loss.backward()
    assert torch.equal(defense.carry(batch, crafted)["delta"], torch.full_like(x, -0.05))


def test_free_training_refuses_no_replay_and_a_radius_in_255ths():
    with pytest.raises(InputError, match="defense.m=0 must be at least 1"):
        FreeAt(Fraction(1, 10), 0)
    with pytest.raises(InputError, match="8/255"):
        FreeAt(Fraction(8), 8)


def test_the_loop_replays_each_batch_moves_the_rate_and_stores_what_is_carried(
    tmp_path, monkeypatch
):
    words = [
        *("--data.name", "digits", "--data.validation", "100", "--training.epochs", "2"),
        *("--training.batch_size", "256", "--validation.steps", "1", "--defense.m", "3"),
    ]
    recipe, data = load_recipe("mnist_free_at", words), load_split("digits", "train")
    cpu, steps, times = torch.device("cpu"), [], []
    set_lr = loop._Run._set_lr
    monkeypatch.setattr(loop._Run, "_set_lr", lambda run, t: (times.append(t), set_lr(run, t)))
    loop.train(
        recipe, data, out=tmp_path / "r", device=cpu, threads=1,
        progress=lambda p: steps.append((p.step, p.total)) if p.metrics is None else None,
    )  # fmt: skip
    batches = -(-(len(data) - 100) // 256)
    assert steps == [(i + 1, 2 * batches) for i in range(2 * batches)]
    assert times == pytest.approx([(i + 1) / (3 * batches) for i in range(6 * batches)])
    folder = RunFolder(tmp_path / "r", recipe, data, cpu, 1, facts={}, subfolders=())
    delta = folder.load_state(cpu)["carried"]["delta"]
    assert delta.shape == (256, 1, 8, 8)
    assert delta.abs().max().item() == pytest.approx(0.15)
