"""`rbl.craft`: what the trainers craft, and nothing else changed."""

from fractions import Fraction

import pytest
import torch
from conftest import small_net
from defense_cases import crafting, make_batch
from torch import nn

import robustbench_lite as rbl
from robustbench_lite.core.errors import InputError

X = torch.rand(4, 2, 6, 5, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 4])


def crafted(model=None, x=X, y=LABELS, **options):
    return rbl.craft(model or small_net().train(), x, y, **({"steps": 3, "seed": 7} | options))


@pytest.mark.parametrize("loss", ["ce", "kl"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_it_is_what_the_trainers_craft(loss, norm):
    start = "gaussian" if loss == "kl" else "uniform"
    attack = crafting(steps=3, start=start, norm=norm)
    batch = make_batch(X, LABELS, seed=7, classes=5)
    expected = attack(small_net().train(), batch, loss=loss)
    found = crafted(loss=loss, norm=norm, eps=0.1, alpha=0.025)
    assert torch.equal(found, expected)
    assert not torch.equal(found, X)


def test_the_defaults_are_ten_steps_of_2_in_a_ball_of_8():
    model = small_net().train()
    written_out = crafting(eps=Fraction(8, 255), alpha=Fraction(2, 255), steps=10, start="uniform")
    expected = written_out(model, make_batch(X, LABELS, seed=7), loss="ce")
    assert torch.equal(rbl.craft(model, X, LABELS, seed=7), expected)


@pytest.mark.parametrize("eps", ["8/255", 8 / 255, Fraction(8, 255)])
def test_it_stays_inside_the_ball_and_the_box(eps):
    x_adv = crafted(eps=eps, alpha="2/255")
    assert (x_adv - X).abs().max().item() <= 8 / 255 + 1e-7
    assert x_adv.min() >= 0.0
    assert x_adv.max() <= 1.0
    assert torch.equal(x_adv, crafted(eps="8/255", alpha=2 / 255))


def test_the_network_is_left_as_it_was():
    model = small_net().train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = X.clone().requires_grad_()
    x_adv = crafted(model, x)
    assert not x_adv.requires_grad
    assert x.grad is None
    assert [part.training for part in model] == [True, True, True, False, True, True]
    assert not model[0].weight.requires_grad
    assert model[5].weight.requires_grad
    assert torch.equal(model[5].weight.grad, torch.ones_like(model[5].weight))
    assert model[0].bias.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_network_is_left_as_it_was_where_it_fails():
    model = nn.Sequential(small_net(), nn.Flatten(0)).train()
    with pytest.raises(InputError, match="must give floating-point logits"):
        crafted(model)
    assert all(part.training for part in model.modules())
    assert all(value.requires_grad for value in model.parameters())


def test_batchnorm_moves_only_when_crafting_in_train_mode():
    model = small_net().train()
    crafted(model, bn_mode="train")
    assert model[1].num_batches_tracked == 3


# --- random state


def test_a_seed_fixes_the_start_and_leaves_torchs_generator_alone():
    model = small_net()
    before = torch.get_rng_state()
    assert torch.equal(crafted(model), crafted(model))
    assert not torch.equal(crafted(model), crafted(model, seed=8))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_seed_each_call_starts_elsewhere_and_torchs_seed_repeats_them():
    model = small_net()
    torch.manual_seed(3)
    first = [crafted(model, seed=None) for _ in range(2)]
    torch.manual_seed(3)
    assert all(torch.equal(crafted(model, seed=None), one) for one in first)
    assert not torch.equal(*first)


def test_with_ids_a_start_does_not_depend_on_the_batch():
    whole = crafted(steps=0, ids=torch.tensor([5, 6, 7, 8]))
    half = crafted(x=X[2:], y=LABELS[2:], steps=0, ids=torch.tensor([7, 8]))
    assert torch.equal(whole[2:], half)
    assert not torch.equal(crafted(steps=0), whole)


# --- where it is called


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(block):
    model, expected = small_net(), crafted()
    with block():
        found = crafted(model, X * 1.0, LABELS * 1)
    assert torch.equal(found, expected)
    assert not found.is_inference()


def test_it_works_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = crafted()
    assert x_adv.dtype == torch.float32
    assert (x_adv - X).abs().max() > 0.02


def test_it_works_in_float64_and_for_one_image():
    x = X[:1].double()
    x_adv = crafted(small_net().double(), x, LABELS[:1])
    assert x_adv.dtype == torch.float64
    assert x_adv.shape == x.shape


class Other(nn.Module):
    """`train` without `return self`, and logits in a tuple."""

    def __init__(self):
        super().__init__()
        self.network = small_net()

    def train(self, mode=True):
        super().train(mode)

    def forward(self, x):
        return self.network(x), None


def test_a_network_that_returns_a_tuple_and_whose_train_returns_nothing():
    assert torch.equal(crafted(Other()), crafted())


def test_a_function_is_a_network_whose_modules_are_put_into_eval_mode_and_back():
    network = small_net().train()
    assert torch.equal(crafted(lambda x: network(x)), crafted())
    assert all(part.training for part in network.modules())


def test_kappa_counts_the_iterates_that_resist():
    kappa, count = rbl.losses.steps_resisted(LABELS)
    model = small_net().eval()
    with torch.no_grad():
        y = model(X).argmax(dim=1)
    kappa, count = rbl.losses.steps_resisted(y)
    crafted(model, y=y, eps=0, alpha=0, start="none", on_step=count)
    assert kappa.tolist() == [3, 3, 3, 3]


# --- what is refused


def made_in_inference_mode():
    with torch.inference_mode():
        return small_net()


class Broken(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :5] * torch.nan


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": "much"}, "eps='much' is no number"),
        ({"alpha": -1}, "alpha=-1 is negative"),
        ({"alpha": "x"}, "alpha='x' is no number"),
        ({"norm": "L3"}, "norm='L3' is unknown"),
        ({"norm": "L1"}, "norm='L1' is unknown; available: Linf, L2"),
        ({"loss": "nll"}, "unknown loss 'nll'; available: ce"),
        ({"loss": "margin"}, "needs kappa"),
        ({"start": "corner"}, "start='corner'"),
        ({"keep": "first"}, "keep='first'"),
        ({"bn_mode": "off"}, "bn_mode='off' is unknown; available: eval, train"),
        ({"steps": -1}, "steps=-1"),
        ({"x": X * 255}, "divide by 255"),
        ({"x": (X - 0.5) / 0.2}, "normalised"),
        ({"x": (X * 255).byte()}, "x is torch.uint8"),
        ({"y": LABELS + 1}, "row 3 has label 5, but there are 5 classes"),
        ({"y": LABELS.float()}, "labels.long"),
        ({"ids": torch.arange(3)}, r"ids is torch.int64 \(3,\)"),
        ({"model": small_net}, "model small_net fails"),
        ({"model": nn.Linear}, "model is the class Linear"),
        ({"model": "net"}, "model is a str"),
        ({"model": made_in_inference_mode()}, "made under torch.inference_mode"),
        ({"model": Broken()}, "not finite at step 0 of 3"),
    ],
)
def test_what_cannot_be_crafted_is_refused_in_one_line(options, words):
    with pytest.raises(InputError, match=words) as caught:
        crafted(**options)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)
