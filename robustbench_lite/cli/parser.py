"""Every command's arguments. Imports only the standard library, so that `--help` is quick."""

from __future__ import annotations

import argparse
import difflib
from importlib import import_module
from typing import NoReturn

from robustbench_lite import __version__

KINDS = ("defenses", "attacks", "models", "datasets", "protocols", "recipes", "outliers")
FORMATS = ("terminal", "markdown", "csv", "latex", "html", "json")


class UsageError(Exception):
    """Wrong arguments, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{_with_near_match(message)} (see {self.prog} --help)")


def _with_near_match(message: str) -> str:
    """argparse names a wrong choice and all choices; put the nearest first."""
    if "invalid choice: " not in message:
        return message
    wrong, _, choices = message.partition("invalid choice: ")[2].partition(" (choose from ")
    known = [choice.strip(" '") for choice in choices.rstrip(")").split(",")]
    near = difflib.get_close_matches(wrong.strip("'"), known, n=1, cutoff=0.4)
    return f"{message}; did you mean {near[0]}?" if near else message


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rbl`: a sub-parser a command, each with `run` as its default."""
    parser = _Parser(
        prog="rbl",
        description="Train adversarial defenses, attack them with PGD, CW and AutoAttack, rank "
        "them with uncertainty.",
        epilog="First steps: rbl demo",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"robustbench_lite {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for add in (
        _demo,
        _train,
        _evaluate,
        _transfer,
        _detect,
        _leaderboard,
        _reproduce,
        _classes,
        _compare,
        _plot,
        _import,
        _list,
    ):
        add(commands)
    return parser


_Commands = argparse._SubParsersAction  # argparse has no public name for it


def _command(
    commands: _Commands[_Parser], name: str, target: str, summary: str, epilog: str = ""
) -> _Parser:
    """A sub-parser whose `run` imports `target` only when the command is run."""

    def run(arguments: argparse.Namespace) -> object:
        module, _, function = target.partition(":")
        return getattr(import_module(module), function)(arguments)

    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(run=run, takes_overrides=False)
    return parser


def _demo(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "demo",
        "robustbench_lite.cli.demo:run",
        "train three networks on digits, attack them, rank them (a few minutes, no download)",
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")


def _train(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "train",
        "robustbench_lite.cli.train:run",
        "train a recipe to a checkpoint; the same command goes on after an interruption",
        epilog="Every key of the recipe can be overridden: --training.epochs 5 "
        "--defense.crafting.eps 8/255. `rbl list recipes` names the recipes.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name, or a .toml file")
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE)")
    _add_place(parser)
    parser.set_defaults(takes_overrides=True)


def _evaluate(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "evaluate",
        "robustbench_lite.cli.evaluate:run",
        "attack a network with a protocol; the same command goes on after an interruption",
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="a checkpoint folder")
    parser.add_argument(
        "--model", metavar="FACTORY", help="instead: FILE.py:factory or package.module:factory"
    )
    parser.add_argument(
        "--allow-code", action="store_true", help="let --model run the code of its file"
    )
    parser.add_argument("--protocol", required=True, metavar="NAME", help="or a .toml file")
    parser.add_argument("--eps", metavar="E", help="radius, such as 8/255 or 0.031")
    parser.add_argument("--n", type=int, metavar="N", help="first N examples (default: all)")
    parser.add_argument("--dataset", metavar="NAME", help="default: the one it was trained on")
    parser.add_argument("--split", default="test", choices=("test", "train"))
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="default: 100 on a CPU, 500 on CUDA"
    )
    parser.add_argument("--chunk-size", type=int, metavar="N", help="examples a part; default: 500")
    parser.add_argument(
        "--evidence",
        choices=("none", "int8", "float32"),
        help="keep adversarial images: int8 those that broke, checked again (default: none)",
    )
    parser.add_argument(
        "--engine",
        choices=("ours", "reference"),
        help="whose AutoAttack: this package's, or the authors' own code (default: ours)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed"),
        help="of the search; every verdict is float32 (default: float32)",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print what it would cost, and the fastest batch size; attack nothing",
    )
    parser.add_argument("--name", help="row name in tables (default: the checkpoint's)")
    parser.add_argument(
        "--out", metavar="DIR", help="result folder (default: results/NAME/DATASET-PROTOCOL-...)"
    )
    _add_place(parser)


def _transfer(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "transfer",
        "robustbench_lite.cli.transfer:run",
        "craft images on source networks, judge them on target networks (black-box transfer)",
    )
    for role, deed in (("source", "craft on"), ("target", "judge")):
        parser.add_argument(
            f"--{role}",
            action="append",
            required=True,
            metavar="CHECKPOINT",
            help=f"a network to {deed}; or FILE.py:factory; may be repeated",
        )
    parser.add_argument(
        "--allow-code", action="store_true", help="let a factory run the code of its file"
    )
    parser.add_argument("--protocol", required=True, metavar="NAME", help="or a .toml file")
    parser.add_argument("--eps", metavar="E", help="radius, such as 16/255 or 0.3")
    parser.add_argument("--attack", metavar="NAME", help="which attack of the protocol")
    parser.add_argument("--n", type=int, metavar="N", help="first N examples (default: all)")
    parser.add_argument(
        "--pixels",
        default="8bit",
        choices=("8bit", "float"),
        help="judge images rounded to 8 bits, or as crafted (default: %(default)s)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="default: the one they were trained on")
    parser.add_argument("--split", default="test", choices=("test", "train"))
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=500, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="result folder (default: results/transfer/DATASET-...)"
    )
    _add_place(parser)


def _detect(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "detect",
        "robustbench_lite.cli.detect:run",
        "tell outliers by a network's confidence, without and with an attack on both sides",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a checkpoint folder")
    parser.add_argument(
        "--outliers",
        action="append",
        required=True,
        metavar="NAME",
        help="see rbl list outliers; may be repeated",
    )
    parser.add_argument("--score", default="msp", choices=("msp", "odin"))
    parser.add_argument(
        "--eps", default="1/255", metavar="E", help="Linf radius, k/255 (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=10, metavar="N", help="of 1/255 each (default: %(default)s)"
    )
    parser.add_argument("--n", type=int, metavar="N", help="first N images (default: all)")
    parser.add_argument("--dataset", metavar="NAME", help="default: the one it was trained on")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=500, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="result (default: results/NAME/detection-...json)"
    )
    _add_place(parser)


def _add_place(parser: argparse.ArgumentParser) -> None:
    """Where data comes from and where work is done: the same for train and evaluate."""
    parser.add_argument(
        "--data-dir", metavar="DIR", help="local Parquet folder or archives, instead of a download"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")


def _leaderboard(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "leaderboard",
        "robustbench_lite.cli.leaderboard:run",
        "results to a ranked table or page",
    )
    parser.add_argument(
        "results", nargs="+", metavar="RESULTS", help="folders or result.json files"
    )
    parser.add_argument("--format", default="terminal", choices=FORMATS)
    parser.add_argument(
        "--reported",
        action="append",
        default=[],
        metavar="TABLE",
        help="show a published table too, see rbl reproduce --list; may be repeated",
    )
    parser.add_argument("--out", metavar="FILE", help="write there (default: standard output)")


def _reproduce(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "reproduce",
        "robustbench_lite.cli.reproduce:run",
        "published numbers, ours beside them, and a verdict on each",
        epilog="Without --checkpoint, --train or --scale quick the published numbers are shown. "
        "With --train, keys of the recipe can be overridden as with rbl train.",
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="see --list; or a .toml file")
    parser.add_argument("--list", action="store_true", help="the published tables")
    parser.add_argument(
        "--check", action="store_true", help="what does not fit together in a table, or in all"
    )
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="ids or globs")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="DIR",
        help="checkpoint folders, or ROW=DIR; several of one row are seeds of its recipe",
    )
    parser.add_argument(
        "--released", action="store_true", help="the checkpoints are the published weights"
    )
    parser.add_argument("--train", action="store_true", help="train the rows' recipes first")
    parser.add_argument(
        "--seeds", metavar="LIST", help="of --train, such as 0,1,2 (default: the recipe's own)"
    )
    parser.add_argument(
        "--scale",
        default="full",
        choices=("quick", "full"),
        help="quick: small stand-ins on digits, never comparable (default: %(default)s)",
    )
    parser.add_argument("--eps", metavar="E", help="another radius than the published one")
    parser.add_argument("--protocol", metavar="NAME", help="another protocol than the published")
    parser.add_argument(
        "--engine", choices=("ours", "reference"), help="whose AutoAttack (default: ours)"
    )
    parser.add_argument("--n", type=int, metavar="N", help="first N images (default: as published)")
    parser.add_argument("--seed", type=int, default=0, help="of attacks; default: %(default)s")
    parser.add_argument("--batch-size", type=int, metavar="N", help="as of rbl evaluate")
    parser.add_argument("--results", default="results", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--runs", default="runs", metavar="DIR", help="of --train; default: %(default)s"
    )
    parser.add_argument("--format", default="terminal", choices=("terminal", "markdown", "json"))
    parser.add_argument("--out", metavar="FILE", help="write there (default: standard output)")
    _add_place(parser)
    parser.set_defaults(takes_overrides=True)


def _classes(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "classes",
        "robustbench_lite.cli.classes:run",
        "results by class, with the errors of frequent and under-represented classes",
    )
    parser.add_argument("results", nargs="+", metavar="RESULT", help="folders or result.json files")
    parser.add_argument(
        "--under",
        metavar="LABELS",
        help="under-represented classes, such as 5,6,7,8,9 (default: the last half)",
    )
    parser.add_argument(
        "--format", default="terminal", choices=("terminal", "markdown", "csv", "json")
    )


def _compare(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "compare",
        "robustbench_lite.cli.compare:run",
        "two results on the same examples: paired test, who resists what, by class",
    )
    parser.add_argument("a", metavar="A", help="a result folder or result.json")
    parser.add_argument("b", metavar="B", help="another, of the same data")
    parser.add_argument("--format", default="terminal", choices=("terminal", "markdown", "json"))


def _plot(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "plot",
        "robustbench_lite.cli.plot:run",
        "results and runs as SVG or PNG",
        epilog="eps: worst case against the radius; steps: against an attack's steps; training: "
        "curves of run folders; classes: bars of each class; gallery: adversarial images of a "
        "result evaluated with --evidence.",
    )
    parser.add_argument("kind", choices=("eps", "steps", "training", "classes", "gallery"))
    parser.add_argument(
        "inputs", nargs="+", metavar="FOLDER", help="of results; for training: runs"
    )
    parser.add_argument("--out", metavar="FILE", help=".svg or .png (default: KIND.svg)")
    parser.add_argument(
        "--attack", metavar="NAME", help="gallery: whose images (default: the last)"
    )
    parser.add_argument(
        "--n", type=int, default=8, metavar="N", help="gallery: how many (default: %(default)s)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="gallery: local data, as for evaluate")


def _import(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands,
        "import",
        "robustbench_lite.cli.import_weights:run",
        "weights of another project (.pt, .pth, .safetensors) to a checkpoint; runs no code of it",
    )
    parser.add_argument("weights", metavar="FILE")
    parser.add_argument("--arch", required=True, metavar="NAME", help="see rbl list models")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="gives classes and sizes")
    parser.add_argument(
        "--normalization",
        required=True,
        choices=("none", "dataset"),
        help="none: the network takes [0, 1] images (TRADES, LBGAT); dataset: its usual mean, std",
    )
    parser.add_argument("--entry", metavar="KEY", help="which weights, when the file holds several")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the architecture, such as final_bn=false; may be repeated",
    )
    parser.add_argument("--name", help="default: the file's stem")
    parser.add_argument("--out", required=True, metavar="DIR", help="checkpoint folder to write")


def _list(commands: _Commands[_Parser]) -> None:
    parser = _command(
        commands, "list", "robustbench_lite.cli.listing:run", "what there is, by name"
    )
    parser.add_argument("kind", choices=KINDS)
