"""Third-party attacks through our signature, and ours against them."""

import copy

import pyautoattack
import pytest
import torch
import torchattacks
from conftest import as_function

from robustbench_lite.attacks.adapters.pyautoattack import ReferenceAutoAttack
from robustbench_lite.attacks.adapters.torchattacks import Torchattacks
from robustbench_lite.attacks.first_order.cw_l2 import CwL2
from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.core.errors import InputError

cw_l2 = as_function(CwL2, "cw_l2")
reference_autoattack = as_function(ReferenceAutoAttack, "reference_autoattack")
torchattacks_attack = as_function(Torchattacks, "torchattacks")


@pytest.fixture
def trained(net, images):
    """The little network fitted to its seven images, so that attacks have something to break."""
    x, y = images
    net.eval()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).all()
    return net


def place(x):
    return {"ids": torch.arange(len(x)), "seed": 0}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_takes_the_same_steps_as_torchattacks(trained, images, norm):
    # In float64: steps of L2 carry rounding on, and float32 rounds otherwise on each processor.
    trained, x, y = copy.deepcopy(trained).double(), images[0].double(), images[1]
    eps, alpha, steps = (0.06, 0.02, 7) if norm == "Linf" else (0.5, 0.2, 7)
    theirs = torchattacks.PGD if norm == "Linf" else torchattacks.PGDL2
    expected = theirs(trained, eps=eps, alpha=alpha, steps=steps, random_start=False)(x, y)
    ours = pgd(
        trained,
        x,
        y,
        norm=norm,
        eps=eps,
        alpha=alpha,
        steps=steps,
        restarts=1,
        loss="ce",
        start="none",
        keep="last",
        **place(x),
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)


def test_torchattacks_by_name_is_repeatable_and_leaves_the_generator_alone(trained, images):
    x, y = images
    state = torch.get_rng_state()
    params = {"alpha": 0.02, "steps": 3, "random_start": True}
    runs = [
        torchattacks_attack(
            trained, x, y, name="PGD", params=params, norm="Linf", eps=0.06, **place(x)
        )
        for _ in range(2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(state, torch.get_rng_state())
    assert not trained.training


def test_attacks_that_draw_from_numpy_repeat_too(trained, images):
    import numpy

    x, y = images
    state = numpy.random.get_state()[1].copy()
    runs = [
        torchattacks_attack(
            trained,
            x[:2],
            y[:2],
            name="OnePixel",
            params={"pixels": 1, "steps": 2, "popsize": 3},
            norm="Linf",
            eps=0.06,
            **place(x[:2]),
        )
        for _ in range(2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert (numpy.random.get_state()[1] == state).all()


def test_two_attacks_of_one_class_draw_apart(trained, images):
    x, y = images
    params = {"alpha": 0.0, "steps": 1, "random_start": True}
    runs = [
        torchattacks_attack(
            trained,
            x,
            y,
            name="PGD",
            params=params,
            norm="Linf",
            eps=0.06,
            stream=stream,
            **place(x),
        )
        for stream in ("a", "b")
    ]
    assert not torch.equal(runs[0], runs[1])


def test_cw_l2_says_that_a_gradient_is_not_finite(images):
    class Overflow(torch.nn.Module):
        def forward(self, x):
            return torch.sqrt(x.flatten(1)[:, :5] * 0.0)

    x, y = images
    with pytest.raises(InputError, match=r"gradient is not finite at step 0 of 3 of cw_l2"):
        cw_l2(
            Overflow(),
            x,
            y,
            kappa=0.0,
            lr=0.01,
            steps=3,
            search_steps=1,
            initial_c=1.0,
            **place(x),
        )


def test_torchattacks_names_and_arguments_are_checked(trained, images):
    x, y = images
    common = {"norm": "Linf", "eps": 0.1, **place(x)}
    with pytest.raises(InputError, match="did you mean PGD"):
        torchattacks_attack(trained, x, y, name="PDG", params={}, **common)
    with pytest.raises(InputError, match="PGD has no argument stepz"):
        torchattacks_attack(trained, x, y, name="PGD", params={"stepz": 1}, **common)


def test_cw_l2_perturbs_no_more_than_torchattacks(trained, images):
    x, y = images
    theirs = torchattacks.CW(trained, c=1, kappa=0, steps=200, lr=0.01)(x, y)
    ours = cw_l2(
        trained,
        x,
        y,
        kappa=0.0,
        lr=0.01,
        steps=200,
        search_steps=9,
        initial_c=1e-3,
        **place(x),
    )
    sizes = [(adv - x).flatten(1).norm(dim=1) for adv in (ours, theirs)]
    wrong = [trained(adv).argmax(1) != y for adv in (ours, theirs)]
    assert wrong[0].all()
    assert wrong[1].all()
    assert sizes[0].mean() <= sizes[1].mean()
    # Single images may end at another class's boundary, a few percent further away.
    assert (sizes[0] <= 1.06 * sizes[1]).all()
    assert ((ours >= 0) & (ours <= 1)).all()


def test_cw_l2_comes_within_2_percent_of_the_exact_distance(linear):
    model, x, y = linear
    exact = (x.flatten(1) @ model.weight + model.bias).abs() / model.weight.norm()
    clear = exact > 0.02
    ours = cw_l2(
        model, x, y, kappa=0.0, lr=0.01, steps=300, search_steps=9, initial_c=0.1, **place(x)
    )
    sizes = (ours - x).flatten(1).norm(dim=1)
    assert (model(ours).argmax(1) != y).all()
    assert (sizes >= exact - 1e-5).all()
    assert (sizes[clear] <= 1.02 * exact[clear]).all()


def test_cw_l2_moves_pixels_that_are_exactly_0_or_1():
    class Corner(torch.nn.Module):
        def forward(self, x):
            score = 4 * x.flatten(1).mean(dim=1, keepdim=True) - 1
            return torch.cat([torch.zeros_like(score), score], dim=1)

    x, y = torch.zeros(1, 1, 4, 4), torch.tensor([0])
    out = cw_l2(
        Corner(), x, y, kappa=0.0, lr=0.01, steps=200, search_steps=6, initial_c=1.0, **place(x)
    )
    assert Corner()(out).argmax(1).item() == 1
    assert (out - x).norm().item() == pytest.approx(1.0, rel=0.02)  # 16 pixels of 0.25


def test_cw_l2_returns_the_clean_image_where_it_fails(images):
    x, y = images

    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.eye(5)[torch.zeros(len(x)).long()] + 0.0 * x.flatten(1).sum(1)[:, None]

    out = cw_l2(
        Constant(),
        x,
        torch.zeros_like(y),
        kappa=0.0,
        lr=0.01,
        steps=3,
        search_steps=2,
        initial_c=1.0,
        **place(x),
    )
    assert torch.equal(out, x)


def test_the_reference_is_pyautoattack_with_our_seed(trained, images):
    x, y = images
    y = y.clone()
    y[2] = (trained(x[2:3]).argmax() + 1) % 5  # one that is wrong when clean
    direct = pyautoattack.AutoAttack(trained, norm="Linf", eps=0.04, seed=7, device="cpu")
    direct.apgd_targeted.n_target_classes = direct.fab.n_target_classes = 4
    correct = trained(x).argmax(1) == y
    state = torch.get_rng_state()
    ours = reference_autoattack(
        trained,
        x[correct],
        y[correct],
        version="standard",
        norm="Linf",
        eps=0.04,
        ids=torch.arange(len(x))[correct],
        seed=7,
        batch_size=4,
    )
    assert torch.equal(state, torch.get_rng_state())
    expected, _ = direct.run_standard_evaluation(x, y, batch_size=4)
    assert torch.equal(ours, expected[correct])


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_the_reference_aims_at_as_many_classes_as_its_authors_do(
    images, monkeypatch, norm, version
):
    x, y = images
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 12))
    seen = []

    def run(attack, images, labels, *, batch_size):
        seen.append((attack.apgd_targeted.n_target_classes, attack.fab.n_target_classes))
        return [images]

    direct = pyautoattack.AutoAttack(model, norm=norm, eps=0.1, version=version, device="cpu")
    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", run)
    place = {"ids": torch.arange(len(x)), "seed": 0, "batch_size": 10}
    reference_autoattack(model, x, y, version=version, norm=norm, eps=0.1, **place)
    assert seen == [(direct.apgd_targeted.n_target_classes, direct.fab.n_target_classes)]


def test_the_reference_gets_our_seed_and_radius(trained, images, monkeypatch):
    given = {}
    original = pyautoattack.AutoAttack.__init__

    def spy(self, model, **options):
        given.update(options)
        original(self, model, **options)
        self.attacks_to_run = ["apgd-ce"]

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", spy)
    x, y = images
    reference_autoattack(
        trained,
        x,
        y,
        version="standard",
        norm="L2",
        eps=0.2,
        ids=torch.arange(len(x)),
        seed=7,
        batch_size=4,
    )
    assert (given["seed"], given["eps"], given["norm"]) == (7, 0.2, "L2")


@pytest.mark.parametrize(
    ("version", "classes", "message"),
    [("fast", 5, "version is 'fast'"), ("standard", 3, "at least 4 classes")],
)
def test_the_reference_says_what_it_cannot_do(images, version, classes, message):
    x, y = images
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, classes))
    with pytest.raises(InputError, match=message):
        reference_autoattack(
            model,
            x,
            y,
            version=version,
            norm="Linf",
            eps=0.1,
            ids=torch.arange(len(x)),
            seed=0,
            batch_size=4,
        )
