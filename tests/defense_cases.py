"""What the tests of defenses share: the sheets' example, and networks that script or record."""

from fractions import Fraction

import torch
from torch import nn

from robustbench_lite.defenses.contract import ROBUST, Batch
from robustbench_lite.defenses.crafting import Crafting
from robustbench_lite.defenses.label_losses import CrossEntropy

# The worked example that the baselines, instance-reweighting and LRAT sheets share.
Z_ADV = [[2.0, 0, -1], [0, 1, 3], [1, 1.5, 0]]
Z = [[3.0, 0, -1], [0, 2, 1], [1.5, 1, 0]]
Y = [0, 1, 0]


class Scripted(nn.Module):
    """Gives prescribed logits: those named in `order` in turn in train mode, z in eval mode.

    `logits` are parameters by name, so that gradients with respect to each can be read.
    """

    def __init__(self, order, eval_name="z", **logits):
        super().__init__()
        for name, rows in logits.items():
            value = torch.tensor(rows, dtype=torch.float64)
            setattr(self, name, nn.Parameter(value))
        self.order, self.calls, self.eval_name = order, 0, eval_name

    def forward(self, x):
        if not self.training:
            return getattr(self, self.eval_name)
        name = self.order[self.calls]
        self.calls += 1
        return getattr(self, name)


class Recording(nn.Module):
    """A network with BatchNorm that keeps every batch it sees in train mode."""

    def __init__(self, seed=0, classes=3):
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.out = nn.BatchNorm2d(1), nn.Linear(9, classes)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return self.out(self.norm(x).flatten(1))


def crafting(**changes):
    """Linf 0.1 in steps of 0.025 without a start; `changes` override fields."""
    arguments = {
        "norm": "Linf",
        "eps": Fraction(1, 10),
        "alpha": Fraction(1, 40),
        "steps": 0,
        "start": "none",
        "bn_mode": "eval",
    }
    return Crafting(**(arguments | changes))


def make_batch(x, y, *, epoch=1, seed=0, classes=3, **changes):
    """A batch of plain cross-entropy on `classes` balanced classes."""
    arguments = {
        "ids": torch.arange(len(y)),
        "class_counts": torch.full((classes,), 100),
        "label_loss": CrossEntropy(0.0),
    }
    return Batch(x, torch.as_tensor(y), epoch=epoch, seed=seed, **(arguments | changes))


def example_images(n=8):
    """Images (n, 1, 3, 3) away from the box's walls, and labels 0, 1, 2, 0, ..."""
    x = 0.2 + 0.6 * torch.rand(n, 1, 3, 3, generator=torch.Generator().manual_seed(3))
    return x, torch.arange(n) % 3


def step(defense, networks, batch):
    """Craft, then the objective: one step of the training loop without its update."""
    return defense.objective(networks, batch, defense.craft(networks, batch))


def evaluate(defense, order, y=Y, **logits):
    """Loss, scripted network (with gradients) and scalars of one step on prescribed logits."""
    model = Scripted(order, **(logits or {"z": Z, "z_adv": Z_ADV}))
    batch = make_batch(torch.rand(len(y), 1, 2, 2, dtype=torch.float64), y)
    objective = step(defense, {ROBUST: model}, batch)
    objective.loss.backward()
    assert model.calls == len(order), "every scripted forward pass happens, in this order"
    assert all(not value.requires_grad for value in objective.scalars.values())
    return objective.loss.item(), model


def one_step(defense, y=None, seed=0, epoch=1):
    """(network, images, BatchNorm updates, objective) of one step on real images."""
    model = Recording().train()
    x, labels = example_images()
    before = model.norm.num_batches_tracked.item()
    batch = make_batch(x, labels if y is None else y, seed=seed, epoch=epoch)
    objective = step(defense, {ROBUST: model}, batch)
    assert model.training
    return model, x, model.norm.num_batches_tracked.item() - before, objective


class Trajectory(Scripted):
    """Scripted, and attackable: run r of `steps` eval passes is right kappas[r][i] times on i."""

    def __init__(self, order, kappas, steps, y=Y, **logits):
        super().__init__(order, **(logits or {"z": Z, "z_adv": Z_ADV}))
        self.kappas, self.steps, self.attacked = torch.tensor(kappas), steps, 0
        self.own = nn.functional.one_hot(torch.tensor(y), 3).double()

    def forward(self, x):
        if self.training:
            return super().forward(x)
        run, k = divmod(self.attacked, self.steps)
        self.attacked += 1
        right = (k < self.kappas[run])[:, None]
        return torch.where(right, self.own, -self.own) + 0.0 * x.flatten(1).sum(1, keepdim=True)


def objective_of(defense, model, y=Y, **changes):
    """The objective of one step on images that mean nothing to `model`, with gradients."""
    batch = make_batch(torch.rand(len(y), 1, 2, 2, dtype=torch.float64), y, **changes)
    objective = step(defense, {ROBUST: model}, batch)
    objective.loss.backward()
    assert model.calls == len(model.order), "every scripted forward pass happens, in this order"
    return objective
