"""`rbl show`: a recipe with the keys of its bases, a protocol, a result or a model, as TOML."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from robustbench_lite.cli.show_records import model_toml, result_toml

KINDS = ("recipe", "protocol", "result", "model")


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl show`."""
    parser.epilog = (
        "recipe, protocol: a name of rbl list, or a .toml file; a value of a recipe's base ends "
        "with a comment that names the base. result: a result folder. model: a checkpoint folder, "
        "or an architecture of rbl list models."
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", metavar="NAME", help="a name, a file or a folder: see below")


def run(arguments: argparse.Namespace) -> None:
    """Print the TOML. Saved to a file, a recipe or protocol is one of its own."""
    text = {
        "recipe": recipe_toml,
        "protocol": protocol_toml,
        "result": result_toml,
        "model": model_toml,
    }
    print(text[arguments.kind](arguments.name), end="")


def recipe_toml(name: str) -> str:
    """A recipe in full.

    Args:
        name: a shipped name or a path that ends in `.toml`.

    Returns:
        TOML that needs no base: the comments at the top of the recipe's file, then every section.

    Raises:
        InputError: for what `load_recipe` refuses.
    """
    from robustbench_lite.core.toml_text import toml_value
    from robustbench_lite.training.recipe import SECTIONS, load_recipe, recipe_path
    from robustbench_lite.training.recipe_expansion import expand, shipped_files

    load_recipe(name)  # what is shown can be trained
    path = recipe_path(name)
    expanded = expand(path)
    names = {str(file): base for files in shipped_files() for base, file in files.items()}
    comments = {
        key: f"  # from {names.get(file, file)}"
        for key, file in expanded.origin.stands_in.items()
        if file != expanded.origin.file
    }
    lines = list(takewhile(_is_comment, path.read_text(encoding="utf-8").splitlines()))
    if "name" in expanded.data:
        lines += ["", f"name = {toml_value(expanded.data['name'])}"]
    for section in SECTIONS:
        lines += ["", *_table(section, expanded.data[section], comments)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_comment(line: str) -> bool:
    return line.startswith("#")


def _table(name: str, table: Mapping[str, Any], comments: Mapping[str, str]) -> Iterator[str]:
    """Lines of a section: its own values, then its tables."""
    from robustbench_lite.core.toml_text import toml_key, toml_value
    from robustbench_lite.training.recipe_expansion import WHOLE

    inner = {key for key in table if isinstance(table[key], dict) and (name, key) not in WHOLE}
    yield f"[{name}]"
    for key in table:
        if key not in inner:
            comment = comments.get(f"{name}.{key}", "")
            yield f"{toml_key(key)} = {toml_value(table[key])}{comment}"
    for key in table:
        if key in inner:
            yield ""
            yield from _table(f"{name}.{key}", table[key], comments)


def protocol_toml(name: str) -> str:
    """The text of a protocol's file.

    Args:
        name: a shipped name or a path that ends in `.toml`.

    Raises:
        InputError: for an unknown name, or a file that does not exist.
    """
    from robustbench_lite.attacks.protocol import protocol_path

    return protocol_path(name).read_text(encoding="utf-8")
