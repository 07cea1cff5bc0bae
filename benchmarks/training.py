"""How fast is PGD-10 training? Ours against two common loops, same machine, same run, as ratios.

    python benchmarks/training.py                                       # CPU: minutes
    python benchmarks/training.py --device cuda --batch-size 128 --steps 50 --precision bfloat16
    python benchmarks/training.py --device cuda --precision bfloat16 --accuracy --seeds 3 \
        --epochs 5 --data-dir DIR                                       # and equal PGD-20 accuracy?

`plain`: float32, a DataLoader, and crafting by `loss.backward()` through the parameters.
`trades`: the same, but crafting by `autograd.grad` on the input only.
`ours`: the training loop of `rbl train`, with everything that it logs.
All train PreActResNet-18 on 3x32x32 images with the same batch, steps and step sizes. Rounds
interleave the three, so that a busy machine slows all; the ratio is that of medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from robustbench_lite.checkpoints.checkpoint import load_checkpoint
from robustbench_lite.core.numerics import choose_device, device_name
from robustbench_lite.core.provenance import current_versions
from robustbench_lite.datasets import Split, hold_out, load_split, pad_crop_flip
from robustbench_lite.models import build_model
from robustbench_lite.training.loop import train
from robustbench_lite.training.recipe import load_recipe
from robustbench_lite.training.validation import validate

EPS, ALPHA, PGD_STEPS = 8 / 255, 2 / 255, 10
SIZES = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32)}
NORMALIZATION = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}


def other_loop(kind, images, labels, *, device, batch_size, schedule, watch, augment):
    """Train by `plain` or `trades`; `watch(step)` after each step; returns the network."""
    model = build_model("preact_resnet18", **SIZES, **NORMALIZATION).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        TensorDataset(images.float() / 255, labels), batch_size, shuffle=True, drop_last=True
    )
    step = 0
    while step < len(schedule):
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            if augment is not None:
                x = augment(x)
            x_adv = craft(kind, model, x, y)
            for group in optimizer.param_groups:
                group["lr"] = schedule[step]
            optimizer.zero_grad()
            functional.cross_entropy(model(x_adv), y).backward()
            optimizer.step()
            step += 1
            watch(step)
            if step == len(schedule):
                break
    return model


def craft(kind, model, x, y):
    """PGD-10 in eval mode from a uniform start."""
    model.eval()
    x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(PGD_STEPS):
        x_adv = x_adv.detach().requires_grad_(True)
        loss = functional.cross_entropy(model(x_adv), y)
        if kind == "plain":
            loss.backward()
            gradient = x_adv.grad
        else:
            (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + ALPHA * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    return x_adv.detach()


def cheaply_augmented(x):
    """The usual pad-4 crop and flip, one draw a batch: what costs the other loops least."""
    i, j = torch.randint(0, 9, (2,)).tolist()
    x = functional.pad(x, (4, 4, 4, 4))[:, :, i : i + 32, j : j + 32]
    return x.flip(3) if torch.rand(()) < 0.5 else x


def fairly_augmented(x, *, generator):
    """Our own augmentation, for comparing what is learnt."""
    return pad_crop_flip((255 * x).round().byte(), generator, padding=4, flip=True).float() / 255


class Enough(Exception):
    """Raised to leave a loop after the wanted steps."""


class Clock:
    """Seconds of the steps after `warm` ones."""

    def __init__(self, device, warm, steps):
        self.device, self.warm, self.steps, self.begin, self.seconds = device, warm, steps, 0.0, 0.0

    def __call__(self, step):
        if step == self.warm:
            self._wait()
            self.begin = time.perf_counter()
        if step == self.warm + self.steps:
            self._wait()
            self.seconds = time.perf_counter() - self.begin
            raise Enough

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def time_ours(split, arguments, device, clock):
    recipe = load_recipe("cifar10_short_pgd_at", overrides(arguments, seed=0, epochs=1000))

    def watch(progress):
        if progress.metrics is None:
            clock(progress.step)

    with tempfile.TemporaryDirectory() as folder:
        train(
            recipe,
            split,
            out=Path(folder) / "run",
            device=device,
            threads=arguments.threads,
            progress=watch,
        )


def overrides(arguments, *, seed, epochs):
    return [
        *("--training.batch_size", str(arguments.batch_size)),
        *("--training.precision", arguments.precision),
        *("--training.epochs", str(epochs), "--training.seed", str(seed)),
        *("--validation.every", "1000"),
    ]


def speed(arguments, device):
    """Images per second of each loop, a list over rounds."""
    n = 1000 + arguments.batch_size * (arguments.warm + arguments.steps)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split("cifar10", "train", images, torch.arange(n) % 10, 10)
    schedule = [0.01] * (arguments.warm + arguments.steps)
    found = {"plain": [], "trades": [], "ours": []}
    for _ in range(arguments.rounds):
        for kind, rates in found.items():
            clock = Clock(device, arguments.warm, arguments.steps)
            try:
                if kind == "ours":
                    time_ours(split, arguments, device, clock)
                else:
                    other_loop(
                        kind,
                        split.images,
                        split.labels,
                        device=device,
                        batch_size=arguments.batch_size,
                        schedule=schedule,
                        watch=clock,
                        augment=cheaply_augmented,
                    )
            except Enough:
                rates.append(arguments.steps * arguments.batch_size / clock.seconds)
    return found


def accuracy(arguments, device):
    """PGD-20 accuracy on test after a short run of the plain loop and of ours, by seed."""
    data, test = (
        load_split("cifar10", split, data_dir=arguments.data_dir) for split in ("train", "test")
    )
    if arguments.n:
        data, test = data.subset(range(arguments.n)), test.subset(range(min(arguments.n, 10000)))
    test = test.to(device)
    section = load_recipe("cifar10_short_pgd_at", ["--validation.steps", "20"]).validation
    found = {"plain": [], "ours": []}
    for seed in range(arguments.seeds):
        recipe = load_recipe(
            "cifar10_short_pgd_at", overrides(arguments, seed=seed, epochs=arguments.epochs)
        )
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            train(recipe, data, out=out, device=device, threads=arguments.threads)
            ours = load_checkpoint(out / "last", device=device)[0]
        found["ours"].append(validate(ours, test, section, seed=0)["robust_accuracy"])
        torch.manual_seed(seed)
        train_ids, _ = hold_out(data, recipe.data.validation, seed)  # as ours
        per_epoch = len(train_ids) // arguments.batch_size
        generator = torch.Generator(device).manual_seed(seed)
        schedule = [
            recipe.optimizer.lr * recipe.schedule.factor((i + 1) / per_epoch, arguments.epochs)
            for i in range(per_epoch * arguments.epochs)
        ]
        plain = other_loop(
            "plain",
            data.images[train_ids],
            data.labels[train_ids],
            device=device,
            batch_size=arguments.batch_size,
            schedule=schedule,
            watch=lambda step: None,
            augment=partial(fairly_augmented, generator=generator),
        ).eval()
        found["plain"].append(validate(plain, test, section, seed=0)["robust_accuracy"])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--warm", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=2, help="steps timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--n", type=int, default=0, help="images for --accuracy; 0 is all")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads)
    report = {
        "device": device_name(device),
        "versions": current_versions(),
        "settings": {k: str(v) for k, v in vars(arguments).items()},
        "images_per_second": speed(arguments, device),
    }
    middle = {k: statistics.median(v) for k, v in report["images_per_second"].items()}
    report["ratio_to_plain"] = middle["ours"] / middle["plain"]
    report["ratio_to_trades"] = middle["ours"] / middle["trades"]
    print(f"{report['device']}, batch {arguments.batch_size}, {arguments.precision}:")
    for kind, rates in report["images_per_second"].items():
        print(
            f"  {kind:<7}{middle[kind]:9.1f} images/s  (rounds {min(rates):.1f}-{max(rates):.1f})"
        )
    print(f"  ours / plain {report['ratio_to_plain']:.2f}, ", end="")
    print(f"ours / trades {report['ratio_to_trades']:.2f}")
    if arguments.accuracy:
        report["pgd20_accuracy"] = accuracy(arguments, device)
        means = {k: 100 * statistics.mean(v) for k, v in report["pgd20_accuracy"].items()}
        print(f"  PGD-20 accuracy, mean of {arguments.seeds} seeds: ", end="")
        print(f"plain {means['plain']:.2f} %, ours {means['ours']:.2f} %")
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
