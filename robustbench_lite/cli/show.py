"""`rbl show`: a recipe with the keys of its bases, or a protocol, as TOML."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl show`."""
    parser.epilog = "A value that stands in a base ends with a comment that names the base."
    parser.add_argument("kind", choices=("recipe", "protocol"))
    parser.add_argument("name", metavar="NAME", help="see rbl list; or a .toml file")


def run(arguments: argparse.Namespace) -> None:
    """Print the TOML. Saved to a file, it is a recipe or protocol of its own."""
    text = recipe_toml if arguments.kind == "recipe" else protocol_toml
    print(text(arguments.name), end="")


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
    from robustbench_lite.attacks.protocol import protocol_files
    from robustbench_lite.core.errors import InputError
    from robustbench_lite.core.registry import unknown_name

    shipped = protocol_files()
    if not name.endswith(".toml") and name not in shipped:
        raise InputError(unknown_name("protocol", name, shipped))
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise InputError(f"protocol file {name!r} does not exist")
    return path.read_text(encoding="utf-8")
