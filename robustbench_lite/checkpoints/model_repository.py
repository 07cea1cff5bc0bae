"""What makes a checkpoint folder a Hugging Face model repository: `config.json` and `README.md`.

Both are written from the card and never read back: `card.json` alone is checked and says which
network it is. `config.json` has the keys of timm's (`architecture`, `num_classes`), which the Hub
counts downloads by; the header of `README.md` is the metadata of a model card.
Source: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
import re

from robustbench_lite.checkpoints.card import Card, function_fields

CONFIG_FILE = "config.json"
README_FILE = "README.md"
LIBRARY = "robustbench_lite"
# A README without this line was written by hand; it is never replaced.
WRITTEN = "<!-- written by robustbench_lite from card.json; without this line it is kept -->"


def config_text(card: Card) -> str:
    """`config.json`: what builds the network, as in the card."""
    content = {"library_name": LIBRARY, **function_fields(card)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def readme_text(card: Card, more: str = "") -> str:
    """`README.md`, the model card: metadata for the Hub, then what `card.json` says, in words.

    Args:
        card: of the checkpoint.
        more: Markdown to end with.
    """
    tags = [
        "adversarial-robustness",
        *filter(None, (card.defense, card.architecture, card.dataset)),
    ]
    header = {
        "library_name": LIBRARY,
        "pipeline_tag": "image-classification",
        "tags": list(dict.fromkeys(tags)),
    }
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items())
    facts = "".join(f"| {name} | {_cell(value)} |\n" for name, value in _facts(card).items())
    return (
        f"---\n{front}---\n{WRITTEN}\n\n# {_cell(card.name)}\n\n"
        "An image classifier for images in [0, 1]; its normalisation is a layer inside.\n\n"
        f"|  |  |\n|---|---|\n{facts}\n"
        "```python\nimport robustbench_lite as rbl\n\n"
        'model, card = rbl.load_checkpoint("FOLDER")  # a local copy of this repository\n```\n'
        f"{more}"
    )


def is_ours(readme: str) -> bool:
    """Whether a README was written by `readme_text`, and may be written again."""
    return WRITTEN in readme.splitlines()


def _facts(card: Card) -> dict[str, str]:
    height, width = card.image_size
    facts = {
        "defense": card.defense or "unknown",
        "architecture": f"{card.architecture}, {card.parameters:,} parameters",
        "images": f"{card.in_channels} x {height} x {width}, {card.num_classes} classes",
        "mean, std": "none" if card.mean is None else f"{card.mean}, {card.std}",
        "training data": card.dataset + (" and extra images" if card.saw_extra_data else ""),
        "selection": card.selection,
        **{f"{name}, at training": f"{value:.6g}" for name, value in card.metrics.items()},
        "notes": card.notes,
    }
    return {name: value for name, value in facts.items() if value}


def _cell(text: str) -> str:
    """Text in one line of a table, without HTML or Markdown of its own."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))
