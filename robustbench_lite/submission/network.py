"""The network of a submission: registered architecture or submitted factory, with its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from robustbench_lite.checkpoints.card import Card, function_fields, network_of
from robustbench_lite.checkpoints.checkpoint import (
    check_weights,
    network_digest,
    network_without_weights,
    parameter_count,
    put_on_device,
)
from robustbench_lite.checkpoints.model_source import LoadedModel, load_factory
from robustbench_lite.submission.manifest import CODE, WEIGHTS, Manifest


def load_network(folder: Path, manifest: Manifest, *, device: str | torch.device) -> LoadedModel:
    """Build the network and load its weights. Runs the submitted `model.py`, if there is one.

    Args:
        folder: of the submission.
        manifest: read from it.
        device: where the network is put.

    Returns:
        The network in eval mode. Its hash is over weights and code; that of a registered
        architecture is the hash of the same network's checkpoint.

    Raises:
        InputError: when the code fails, or weights and network do not fit.
    """
    tensors = load_file(folder / WEIGHTS)
    classes = manifest.dataset.num_classes
    if manifest.factory:
        loaded = load_factory(
            folder / CODE, manifest.factory, tensors, num_classes=classes, device=device
        )
    else:
        loaded = _registered(manifest, tensors, device)
    return replace(
        loaded,
        name=manifest.name,
        kind="submission",
        defense=manifest.defense,
        architecture=manifest.architecture or CODE,
        extra_data=manifest.extra_data,
    )


def _registered(
    manifest: Manifest, tensors: dict[str, Tensor], device: str | torch.device
) -> LoadedModel:
    """A network of ours; no code of the submission is run."""
    card, classes = _card(manifest), manifest.dataset.num_classes
    # Without memory first: options may ask for a network of any size.
    check_weights(tensors, network_without_weights(card), WEIGHTS, classes)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
        model = network_of(card)
    model.load_state_dict(tensors, strict=True)
    return LoadedModel(
        model=put_on_device(model, device).eval(),
        name=manifest.name,
        kind="checkpoint",
        hash=network_digest(function_fields(card), tensors),
        card=None,
        num_classes=classes,
        parameters=parameter_count(model),
    )


def _card(manifest: Manifest) -> Card:
    """The record that builds the architecture; only what determines the function is filled in."""
    info = manifest.dataset
    return Card(
        name=manifest.name,
        defense=manifest.defense,
        architecture=manifest.architecture,
        architecture_kwargs=dict(manifest.options),
        num_classes=info.num_classes,
        in_channels=info.channels,
        image_size=info.image_size,
        mean=manifest.mean,
        std=manifest.std,
        dataset=info.name,
        dataset_hash="",
        recipe={},
        seed=None,
        versions={},
        git_commit="",
        epoch=None,
        selection="",
        metrics={},
        notes="",
        parameters=0,
    )
