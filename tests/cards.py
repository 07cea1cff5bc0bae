"""A card for weights that a test made."""

from torch import nn

from robustbench_lite.checkpoints.checkpoint import Card, parameter_count


def plain_card(model: nn.Module, name: str = "mine", **changes: object) -> Card:
    """The card of a small network for 10 classes of 8x8 grey images; `changes` replace its keys."""
    facts: dict[str, object] = {
        "defense": "",
        "architecture": "small_cnn",
        "architecture_kwargs": {},
        "num_classes": 10,
        "in_channels": 1,
        "image_size": (8, 8),
        "mean": None,
        "std": None,
        "dataset": "digits",
        "dataset_hash": "",
        "recipe": {},
        "seed": None,
        "versions": {},
        "git_commit": "",
        "epoch": None,
        "selection": "last",
        "metrics": {},
        "notes": "",
        "parameters": parameter_count(model),
    }
    return Card(name=name, **{**facts, **changes})  # type: ignore[arg-type]
