"""Shell completion by argcomplete, where it is installed.

A shell asks for it by an environment variable, so nothing is imported in an ordinary call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from importlib import import_module

from robustbench_lite.core.errors import InputError


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell with what may come next, and end the process.

    Args:
        parser: of `rbl`, with the arguments of every command filled in.

    Raises:
        InputError: when argcomplete is not installed; the shell shows nothing then.
    """
    try:
        argcomplete = import_module("argcomplete")  # an optional extra
    except ImportError as error:
        raise InputError(
            "shell completion needs argcomplete: pip install 'robustbench-lite[completion]'"
        ) from error
    for each in _with_steps(parser):
        _add_names(each)
    argcomplete.autocomplete(parser)


def _with_steps(parser: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
    """The parser, and those of its commands and of their steps."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _with_steps(command)


def _add_names(parser: argparse.ArgumentParser) -> None:
    """Complete what is a registered name; the rest are files."""
    kinds = {"protocol": "protocols", "dataset": "datasets", "recipe": "recipes", "arch": "models"}
    for action in parser._actions:
        names: Callable[..., Iterable[str]] | None = None
        if action.dest in kinds and action.choices is None:
            names = _names(kinds[action.dest])
        elif action.dest == "log":
            names = _trackers
        elif parser.prog.endswith(" show") and action.dest == "name":
            names = _of_kind
        if names is not None:
            action.completer = names  # type: ignore[attr-defined]


def _names(kind: str) -> Callable[..., Iterable[str]]:
    from robustbench_lite.cli.listing import names

    return lambda **_: names(kind)


def _of_kind(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    from robustbench_lite.cli.listing import names

    kinds = {"recipe": "recipes", "protocol": "protocols", "model": "models"}
    return names(kinds[parsed_args.kind]) if parsed_args.kind in kinds else ()


def _trackers(**_: object) -> Iterable[str]:
    from robustbench_lite.training.trackers import TRACKERS

    return list(TRACKERS)
