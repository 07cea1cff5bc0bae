"""`robustbench:[DATASET/NORM/]NAME[@FILE]`: RobustBench's model zoo, by its own package."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.checkpoints.sources.contract import (
    SourceNetwork,
    known_name,
    name_and_file,
    optional_package,
)
from robustbench_lite.checkpoints.weight_file import torch_release
from robustbench_lite.core.errors import InputError

_SAFE_TORCH = (2, 10)  # as of rbl import


def load(spec: str) -> SourceNetwork:
    """A network of the model zoo: architecture and normalisation by their code.

    Args:
        spec: an id such as `Carmon2019Unlabeled`, with `cifar10/Linf/` before it where the id is
            in several lists; downloaded by their code to the folder `models`, or read from
            `@FILE`.

    Raises:
        InputError: for a package that is missing, an unknown or ambiguous id, or a torch so old
            that a weights file can run code.
    """
    name, path = name_and_file(spec)
    _check_installed()
    zoo = optional_package("robustbench.model_zoo.models", wanted_by="robustbench:").model_dicts
    dataset, threat, network = _chosen(name, _lists(zoo))
    if torch_release(torch.__version__) < _SAFE_TORCH:
        raise InputError(
            f"robustbench: opens pickled files, which can run code on torch {torch.__version__}: "
            f"upgrade to torch>={_SAFE_TORCH[0]}.{_SAFE_TORCH[1]}"
        )
    utils = optional_package("robustbench.utils", wanted_by="robustbench:")
    with tempfile.TemporaryDirectory() as folder:
        place = Path("models")
        if path is not None:  # where their code looks for a file that it has fetched before
            place = Path(folder)
            (place / dataset / threat).mkdir(parents=True)
            (place / dataset / threat / f"{network}.pt").symlink_to(path.resolve())
        model: nn.Module = utils.load_model(
            network,
            model_dir=str(place),
            dataset=dataset,
            threat_model=threat,
            custom_checkpoint=str(path or ""),  # the way of those that timm builds
        )
    pinned = f"{dataset}/{threat}/{network}"
    return SourceNetwork(
        name=f"{pinned}@{path.name}" if path else pinned,
        model=model,
        identity={"network": pinned},
        image_shape=(3, 224, 224) if dataset == "imagenet" else (3, 32, 32),
    )


def _check_installed() -> None:
    """torchattacks brings a folder `robustbench` of 2022, so a folder of this name says nothing."""
    try:
        metadata.version("robustbench")
    except metadata.PackageNotFoundError as error:
        raise InputError(
            "robustbench: needs robustbench, which is not installed: "
            "pip install 'robustbench-lite[robustbench]'"
        ) from error


def _lists(zoo: Mapping[Any, Mapping[Any, Mapping[str, Any]]]) -> dict[str, tuple[str, str, str]]:
    """`DATASET/NORM/NAME` of every network -> its three parts."""
    return {
        f"{dataset.value}/{threat.value}/{name}": (dataset.value, threat.value, name)
        for dataset, threats in zoo.items()
        for threat, networks in threats.items()
        for name in networks
    }


def _chosen(name: str, networks: Mapping[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    if name in networks:
        return networks[name]
    same = [full for full, parts in networks.items() if parts[2] == name]
    if len(same) > 1:
        raise InputError(f"RobustBench has {name} in several lists: name one of {', '.join(same)}")
    if not same:
        known_name("RobustBench", name, [*networks, *{parts[2] for parts in networks.values()}])
    return networks[same[0]]
