"""`rbl list`: names, one line each. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from robustbench_lite.core.registry import Entry

KINDS = {
    "defenses": "training methods, for a recipe's [defense]",
    "attacks": "what a protocol is made of",
    "models": "architectures, for a recipe's [model] and rbl import --arch",
    "datasets": "data sets, for --dataset and a recipe's [data]",
    "protocols": "attacks in order, for rbl evaluate --protocol",
    "recipes": "for rbl train",
    "outliers": "images of no class, for training and rbl detect",
    "sources": "where a network comes from, for --model",
}
"""Kind -> what its names are for."""


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl list`."""
    parser.add_argument("kind", nargs="?", choices=KINDS, help="without it: the kinds themselves")


def run(arguments: argparse.Namespace) -> None:
    """Print every name of a kind with its line and source; without a kind, the kinds."""
    if arguments.kind is None:
        for kind, purpose in KINDS.items():
            print(f"{kind:<10} {len(_rows(kind)):>4}  {purpose}")
        print("\nrbl list KIND names them; rbl show prints a recipe, protocol, result or model.")
        return
    rows = _rows(arguments.kind)
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, summary, source in rows:
        print(f"{name:<{width}}  {summary}" + (f"  [{source}]" if source else ""))


def names(kind: str) -> list[str]:
    """Every name of one of `KINDS`."""
    if kind == "recipes":
        from robustbench_lite.training.recipe_expansion import shipped_files

        return list(shipped_files()[0])
    if kind == "protocols":
        from robustbench_lite.attacks.protocol import protocol_files

        return list(protocol_files())
    return list(_registry(kind))


def _rows(kind: str) -> list[tuple[str, str, str]]:
    if kind == "recipes":
        from robustbench_lite.training.recipe import recipe_files

        return [(name, _first_comment(path), "") for name, path in recipe_files().items()]
    if kind == "protocols":
        from robustbench_lite.attacks.protocol import protocol_summaries

        return [(name, summary, "") for name, summary in protocol_summaries().items()]
    return [
        (name, entry.summary, "; ".join(filter(None, (entry.source, entry.status))))
        for name, entry in _registry(kind).items()
    ]


def _registry(kind: str) -> Mapping[str, Entry]:
    if kind == "attacks":
        from robustbench_lite.attacks.catalogue import ATTACKS

        return ATTACKS
    if kind == "defenses":
        from robustbench_lite.defenses.catalogue import DEFENSES

        return DEFENSES
    if kind == "models":
        from robustbench_lite.models import MODELS

        return MODELS
    if kind == "outliers":
        from robustbench_lite.datasets.outliers.sources import OUTLIERS

        return OUTLIERS
    if kind == "sources":
        from robustbench_lite.checkpoints.sources import SOURCES

        return SOURCES
    from robustbench_lite.datasets import DATASETS

    return DATASETS


def _first_comment(path: Path) -> str:
    match = re.match(r"#\s*(.+)", path.read_text(encoding="utf-8"))
    return match.group(1) if match else ""
