"""Turn weights published elsewhere into a checkpoint, strictly and without running their code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import nn

from robustbench_lite.checkpoints.card import network_of
from robustbench_lite.checkpoints.checkpoint import (
    CARD_FILE,
    Card,
    check_weights,
    network_without_weights,
    parameter_count,
    save_checkpoint,
    some_names,
)
from robustbench_lite.checkpoints.stored_normalization import (
    check_no_conflict,
    stored_normalization,
    taken_normalization,
)
from robustbench_lite.checkpoints.weight_file import choose_weights, read_weight_file
from robustbench_lite.checkpoints.weight_names import (
    NamedWeights,
    NameRules,
    our_names,
    without_dropped,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.integrity import file_sha256
from robustbench_lite.core.provenance import current_versions, git_commit

_ADVICE = (
    "use the architecture and options of the weights, --map FILE for renamed layers, --prefix, or "
    "--drop PATTERN for entries of no layer"
)


@dataclass(frozen=True)
class ImportReport:
    """What an import did to the names in the file.

    Args:
        folder: the checkpoint written.
        weights: where in the file they were, such as `"state_dict"`; `""` for the top level.
        renamed: `(name in the file, our name)`, prefixes and last-layer names included.
        dropped: names in the file that no forward pass uses.
        added: names absent from the file that count batches; filled with 0.
        cast: our names of weights that were not float32 and are now.
        parameters: how many the network has.
    """

    folder: Path
    weights: str
    renamed: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[str, ...]
    parameters: int

    def __str__(self) -> str:
        place = f"at {self.weights} " if self.weights else ""
        renamed = some_names([f"{theirs} -> {ours}" for theirs, ours in self.renamed])
        return (
            f"{self.parameters:,} parameters {place}written to {self.folder}\n"
            f"renamed: {renamed}\n"
            f"dropped, unused: {some_names(self.dropped)}\n"
            f"added, counters only: {some_names(self.added)}\n"
            f"cast to float32: {some_names(self.cast)}"
        )


def import_weights(
    path: str | Path,
    *,
    architecture: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    dataset: str,
    name: str,
    out: str | Path,
    architecture_kwargs: Mapping[str, object],
    entry: str | None = None,
    rules: NameRules = NameRules(),  # noqa: B008 (frozen)
    use_stored_normalization: bool = False,
) -> ImportReport:
    """Write published weights as a checkpoint.

    Wrapper dictionaries and one-element lists are opened, the common prefix of wrapped, parallel,
    compiled and averaged models is removed, and public names of the family mapped to ours. The
    rest must fit.

    Args:
        path: a `torch.save` file (read with `weights_only=True`) or a `.safetensors` file.
        architecture: registered architecture the weights were made for.
        num_classes: K.
        in_channels: C.
        image_size: `(H, W)`.
        mean: the normalisation the weights were trained with; None for none.
        std: likewise.
        dataset: name of the training data.
        name: of the new checkpoint.
        out: folder to write; must not hold a checkpoint yet.
        architecture_kwargs: options of the architecture.
        entry: which weights to take when the file holds several, such as `"model_ema"` or
            `"state_dict.0"`.
        rules: prefix, entries to leave out, and renamed layers.
        use_stored_normalization: take mean and std from the file; those given are then unused.

    Returns:
        What was renamed, dropped, added and cast.

    Raises:
        InputError: one line for a file that is missing, truncated, no checkpoint, or holds pickled
            code (not run); for names, shapes or classes that do not fit; for a stored mean or std
            that is not the one given; for NaN weights.
    """
    source = Path(path)
    if (Path(out) / CARD_FILE).exists():
        raise InputError(f"{out} holds a checkpoint already: choose another folder or remove it")
    chosen, stored = choose_weights(source, read_weight_file(source), entry)
    kept = without_dropped(source, stored, rules.drop)
    layer = stored_normalization(source, kept, in_channels)
    if use_stored_normalization:
        mean, std = taken_normalization(source, layer)
    else:
        check_no_conflict(source, layer, mean, std)
    part = f" [{chosen}]" if chosen else ""
    card = Card(
        name=name,
        defense="",
        architecture=architecture,
        architecture_kwargs=dict(architecture_kwargs),
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        mean=mean,
        std=std,
        dataset=dataset,
        dataset_hash="",
        recipe={},
        seed=None,
        versions=current_versions(),
        git_commit=git_commit(),
        epoch=None,
        selection="imported",
        metrics={},
        notes=f"imported from {source.name}{part}, sha256:{file_sha256(source)}",
        parameters=0,
    )
    weights = {key: value for key, value in kept.items() if key not in dict(layer.names)}
    named, parameters = _save(source, weights, card, rules, Path(out))
    return ImportReport(
        folder=Path(out),
        weights=chosen,
        renamed=(*((key, f"{kind} of the card") for key, kind in layer.names), *named.renamed),
        dropped=(*(key for key in stored if key not in kept), *named.dropped),
        added=named.added,
        cast=named.cast,
        parameters=parameters,
    )


def _save(
    source: Path, stored: Mapping[str, object], card: Card, rules: NameRules, out: Path
) -> tuple[NamedWeights, int]:
    """Write the checkpoint; how its names came about, and its number of parameters."""
    reference = network_without_weights(card)
    named = our_names(source, stored, reference, rules)
    check_weights(named.tensors, reference, str(source), card.num_classes, advice=_ADVICE)
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, then overwritten
        model: nn.Module = network_of(card)
    model.load_state_dict(named.tensors, strict=True)
    parameters = parameter_count(model)
    save_checkpoint(out, model, msgspec.structs.replace(card, parameters=parameters))
    return named, parameters
