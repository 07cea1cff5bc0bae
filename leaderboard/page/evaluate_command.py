"""The command that evaluates a stored result again."""

from __future__ import annotations

import shlex

from robustbench_lite.leaderboard.results.examples import Examples
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.table.text import plain

# Settings that `rbl evaluate` takes as options; the others follow from the device.
OPTIONS = ("batch_size", "chunk_size", "threads", "precision", "evidence", "device")
OF_SUBMISSIONS = ("batch_size", "threads", "device")
USUAL = {"precision": "float32", "evidence": "none"}  # said only where it is something else


def reproduce_command(result: Result) -> list[str]:
    """One line of shell that gives the same numbers, from the network whose hash the row carries.

    Args:
        result: a stored result.

    Returns:
        The command's words, quoted, with CHECKPOINT, FACTORY or SUBMISSION where the network goes;
        none for examples that do not begin at the first of the split, which no command evaluates.
    """
    if result.examples.first and not result.examples.ids:
        return []
    if result.model.kind == "submission":
        words = ["rbl", "submit", "run", "SUBMISSION", *_options(result, OF_SUBMISSIONS)]
        return [shlex.quote(plain(word)) for word in words]
    model = ["CHECKPOINT"]
    if result.model.source:
        model = ["--model", result.model.source]
    if result.model.kind in ("factory", "torchscript"):
        model = ["--model", result.model.source or "FACTORY", "--allow-code"]
    protocol, dataset = result.protocol, result.dataset
    words = ["rbl", "evaluate", *model]
    words += ["--protocol", protocol.name, "--eps", protocol.eps]
    if protocol.engine != "ours":
        words += ["--engine", protocol.engine]
    words += ["--dataset", dataset.name]
    if dataset.split != "test":
        words += ["--split", dataset.split]
    words += [*_images(result.examples), "--seed", str(result.seed)]
    words += _options(result, OPTIONS)
    return [shlex.quote(plain(word)) for word in words]


def _images(chosen: Examples) -> list[str]:
    """The options that choose the same images."""
    if chosen.is_random:
        return ["--sample", str(chosen.count), "--sample-seed", str(chosen.seed)]
    return ["--subset", chosen.file or "FILE"] if chosen.ids else ["--n", str(chosen.count)]


def _options(result: Result, names: tuple[str, ...]) -> list[str]:
    """The settings of these names, as options, where they are not the usual ones."""
    words = []
    for name in names:
        value = result.settings.get(name)
        if value is not None and value != USUAL.get(name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words
