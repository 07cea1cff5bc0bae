"""`rbl.attack`: adversarial images in one call."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_lite.api.attack_objects import AttackObject, Eps, chosen_attack, target_of
from robustbench_lite.api.network import Network, classes_of, ready
from robustbench_lite.api.target import Aim, target_labels
from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import Norm
from robustbench_lite.checkpoints.user_network import passes_of
from robustbench_lite.core.numerics import check_count, check_seed, deterministic, plain_numerics
from robustbench_lite.core.random_numbers import seeded
from robustbench_lite.datasets.in_memory import WHAT, as_images, as_labels, as_split, sample_of
from robustbench_lite.evaluation.settings import DEFAULT_BATCH_SIZE


def attack(
    model: Network,
    x: object,
    y: object,
    attack: str | AttackObject = "pgd20_ce",
    eps: Eps | None = None,
    *,
    norm: Norm | None = None,
    target: Aim | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """Adversarial images by any attack of this package, with the parameters of the literature.

    The same attack as in an evaluation: the network is in eval mode and frozen meanwhile, and
    left as it was; draws depend on the seed and on an image's place in `x`, not on the batch.

    Args:
        model: an `nn.Module` or a function, from images (B, C, H, W) in [0, 1] to logits (B, K).
        x: images (N, C, H, W): a tensor or an array, uint8 or floats in [0, 1].
        y: labels (N,), int64, 0 to K - 1.
        attack: a name (`rbl list attacks` and those of protocols, such as `"pgd20_ce"`,
            `"apgd_ce"`, `"aa_standard"`, `"cw_l2"`), or an object such as `rbl.PGD(steps=50)`.
        eps: radius in [0, 1] units: 8/255, "8/255", 0.031 or a Fraction. Attacks that look for the
            smallest perturbation do not need it.
        norm: `"Linf"`, `"L2"` or `"L1"`; None takes the attack's own, Linf before the others.
        target: what the network should be made to predict: `"least_likely"`, `"random"` or
            `"next"` (the class after the label); or a class for each image (N,), or one for
            all. An image whose label is its target is left as it is. None: any wrong class.
        seed: of every random draw.
        batch_size: images at once; by default 100 on a CPU, 500 on CUDA.
        device: where to compute; by default where the network is.

    Returns:
        float32 (N, C, H, W), on the device of `x`: inside [0, 1], and inside the ball of `eps` but
        for attacks that look for the smallest perturbation. Those of AutoAttack give back the
        clean image where they fail.

    Raises:
        InputError: one line for whatever is wrong with the images, labels, network or parameters,
            and for a `target` of an attack that cannot aim.
    """
    check_seed(seed)
    if batch_size is not None:  # a loop over batches of -1 would attack nothing
        check_count("batch_size", batch_size)
    spec, threat = chosen_attack(attack, eps, norm, target)
    images = as_images(x)
    labels = as_labels(y, images)
    threat.check_diameter(images[0].numel())
    with ready(model, device=device) as (source, place), plain_numerics():
        classes = classes_of(source, sample_of(images).to(place))
        spec.check(threat, num_classes=classes)
        data = as_split(images, labels, classes=classes, name=WHAT).to(place)
        clean = data.pixels(slice(None))
        aims = target_labels(target_of(attack, target), data.labels, classes)
        numerics = deterministic(threads=torch.get_num_threads(), seed=seed)
        with numerics, seeded(seed), passes_of(source.model):
            network = search_network(
                source.model, precision="float32", device=place, like=clean[0]
            ).module
            found = run_attack(
                spec,
                source.model,
                clean,
                data.labels,
                threat=threat,
                ids=torch.arange(len(clean), device=place),
                seed=seed,
                batch_size=batch_size or DEFAULT_BATCH_SIZE[place.type],
                network=network,
                target_labels=aims,
            )
    return found.detach().to(images.device)
