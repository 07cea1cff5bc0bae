"""`timm:NAME[@FILE]`: networks of timm (PyTorch Image Models)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from robustbench_lite.checkpoints.sources.contract import (
    SourceNetwork,
    known_name,
    name_and_file,
    normalized,
    optional_package,
    with_weights,
)
from robustbench_lite.core.messages import one_line


def load(spec: str) -> SourceNetwork:
    """A pretrained network of timm, or one of its architectures with weights of a file.

    Args:
        spec: `NAME` or `NAME.TAG` as timm writes it, downloaded by timm; or `NAME@FILE`.

    Raises:
        InputError: for a library that is missing, an unknown name, or weights that do not fit.
    """
    timm = optional_package("timm", wanted_by="timm:")
    name, path = name_and_file(spec)
    architecture = name.partition(".")[0]
    known_name("timm", architecture, timm.list_models())
    if path is None:
        model: nn.Module = timm.create_model(name, pretrained=True)
    else:
        model = with_weights(lambda classes: build(name, {"num_classes": classes}), path)
    facts = pretrained_facts(model)
    tag = facts.get("tag")
    pinned = f"{architecture}.{tag}" if tag and path is None else name
    return SourceNetwork(
        name=f"{pinned}@{path.name}" if path else pinned,
        model=normalized(model, facts.get("mean"), facts.get("std")),
        identity={"architecture": architecture},
        image_shape=image_shape(facts),
    )


def build(architecture: str, options: Mapping[str, object]) -> nn.Module:
    """An architecture of timm without weights.

    Args:
        architecture: its name in timm, with or without a tag.
        options: of `timm.create_model`; those that are None are left to timm.

    Raises:
        InputError: for a library that is missing, or an unknown name.
    """
    timm = optional_package("timm", wanted_by=f"the architecture {one_line(architecture)}")
    known_name("timm", architecture.partition(".")[0], timm.list_models())
    given = {key: value for key, value in options.items() if value is not None}
    model: nn.Module = timm.create_model(architecture, pretrained=False, **given)
    return model


def pretrained_facts(model: nn.Module) -> Mapping[str, Any]:
    """What timm states of a network's weights: mean, std, input size and tag."""
    facts = getattr(model, "pretrained_cfg", None) or {}
    return facts if isinstance(facts, Mapping) else {}


def image_shape(facts: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(C, H, W) of what timm states; None where it states none."""
    size = facts.get("input_size")
    if not isinstance(size, list | tuple) or len(size) != 3:
        return None
    channels, height, width = map(int, size)
    return channels, height, width
