"""`hub:OWNER/REPO[@REVISION]`: weights in safetensors on the Hugging Face Hub, without code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_lite.checkpoints.card import CARD_FILE
from robustbench_lite.checkpoints.checkpoint import WEIGHTS_FILE
from robustbench_lite.checkpoints.sources.contract import (
    SourceNetwork,
    normalized,
    optional_package,
    with_weights,
)
from robustbench_lite.checkpoints.sources.from_timm import build, image_shape
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import described

_CONFIG = "config.json"
# What timm.create_model takes beside options of the architecture: other files, other addresses.
_NO_OPTIONS = {"pretrained", "checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit"}
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def load(spec: str) -> SourceNetwork:
    """A network of a repository: a checkpoint of this package, or one in timm's layout.

    Only JSON and safetensors are fetched, so nothing in the repository can run.

    Args:
        spec: `OWNER/REPO`, or `OWNER/REPO@REVISION` with a branch, tag or commit. The name that is
            returned has the commit.

    Raises:
        InputError: for a library that is missing, a repository that cannot be fetched, has no
            safetensors, or does not say which architecture it is of.
    """
    repository, _, revision = spec.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"hub:{spec} must be hub:OWNER/REPO or hub:OWNER/REPO@REVISION")
    folder = _fetched(repository, revision or "main")
    name = f"{repository}@{folder.name}"  # the cache names a snapshot by its commit
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(
            f"hub:{repository} has no {WEIGHTS_FILE}: only safetensors are read; fetch other files "
            "by hand and convert them with rbl import"
        )
    if (folder / CARD_FILE).is_file():
        return SourceNetwork(name, None, folder=folder)
    return _timm_network(name, folder)


def _fetched(repository: str, revision: str) -> Path:
    hub = optional_package("huggingface_hub", wanted_by="hub:", install="hub")
    try:
        return Path(
            hub.snapshot_download(
                repository, revision=revision, allow_patterns=[WEIGHTS_FILE, "*.json"]
            )
        )
    except Exception as error:  # of the connection, the server, or the repository
        raise InputError(
            f"hub:{repository}@{revision} cannot be fetched: {described(error)}"
        ) from (error)


def _timm_network(name: str, folder: Path) -> SourceNetwork:
    """The layout of timm's `push_to_hf_hub`: `architecture` and `pretrained_cfg` in the config."""
    config = _config(folder)
    architecture, facts = config.get("architecture"), config.get("pretrained_cfg")
    if not isinstance(architecture, str):
        raise InputError(
            f"hub:{name} has no {CARD_FILE}, and its {_CONFIG} names no 'architecture' as timm's "
            "do: load it in a factory of your own (FILE.py:factory)"
        )
    facts = facts if isinstance(facts, Mapping) else {}
    options = config.get("model_args")
    options = dict(options) if isinstance(options, Mapping) else {}
    refused = [key for key in options if key in _NO_OPTIONS or key.startswith("pretrained_cfg")]
    if refused:
        raise InputError(f"hub:{name}: {_CONFIG} must not set {', '.join(refused)} in model_args")
    model = with_weights(
        lambda classes: build(architecture, {**options, "num_classes": classes}),
        folder / WEIGHTS_FILE,
    )
    return SourceNetwork(
        name=name,
        model=normalized(model, facts.get("mean"), facts.get("std")),
        identity={"architecture": architecture, "options": options},
        image_shape=image_shape(facts),
    )


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, Mapping) else {}
