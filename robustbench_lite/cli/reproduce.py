"""`rbl reproduce`: published numbers, ours beside them, and a verdict on each."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.cli.options import (
    add_images,
    add_place,
    check_images,
    chosen_images,
    folder_name,
)
from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from robustbench_lite.checkpoints.model_source import LoadedModel
    from robustbench_lite.datasets import Split
    from robustbench_lite.datasets.selection import Selection
    from robustbench_lite.leaderboard.published.records import PublishedRow, PublishedTable
    from robustbench_lite.reproduction.measure import ReproductionOptions


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl reproduce`."""
    parser.epilog = (
        "Without --checkpoint, --train or --scale quick the published numbers are shown. "
        "With --train, keys of the recipe can be overridden as with rbl train."
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
        help="quick: small networks on digits, never comparable (default: %(default)s)",
    )
    parser.add_argument("--eps", metavar="E", help="another radius than the published one")
    parser.add_argument("--protocol", metavar="NAME", help="another protocol than the published")
    parser.add_argument(
        "--engine", choices=("ours", "reference"), help="whose AutoAttack (default: ours)"
    )
    add_images(parser, default="as published", files=False)
    parser.add_argument("--seed", type=int, default=0, help="of attacks; default: %(default)s")
    parser.add_argument("--batch-size", type=int, metavar="N", help="as of rbl evaluate")
    parser.add_argument("--results", default="results", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--runs", default="runs", metavar="DIR", help="of --train; default: %(default)s"
    )
    parser.add_argument("--format", default="terminal", choices=("terminal", "markdown", "json"))
    parser.add_argument("--out", metavar="FILE", help="write there (default: standard output)")
    add_place(parser)
    parser.set_defaults(takes_overrides=True, resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """List, check, show, or measure and compare; then print, or write where `--out` says."""
    from robustbench_lite.core.storage import write_text

    _check_arguments(arguments)
    if arguments.list or arguments.check:
        text = _listed(arguments) if arguments.list else _checked(arguments)
    else:
        text = _table(arguments)
    if arguments.out:
        write_text(Path(arguments.out), text)
        print(f"wrote {arguments.out}")
    else:
        print(text, end="")


def _check_arguments(arguments: argparse.Namespace) -> None:
    ways = {
        "--checkpoint": bool(arguments.checkpoint),
        "--train": arguments.train,
        "--scale quick": arguments.scale == "quick",
        "--list": arguments.list,
        "--check": arguments.check,
    }
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise InputError(f"{' and '.join(chosen)} exclude each other: choose one")
    if arguments.table is None and not (arguments.list or arguments.check):
        raise InputError("which table? rbl reproduce --list names them")
    if arguments.overrides and not arguments.train:
        raise InputError(
            f"unrecognized arguments: {' '.join(arguments.overrides)} (recipe keys are overridden "
            "with --train only)"
        )
    for option, wanted, way in (
        ("--seeds", arguments.seeds is not None, "--train"),
        ("--released", arguments.released, "--checkpoint"),
    ):
        if wanted and not ways[way]:
            raise InputError(f"{option} belongs to {way}")
    check_images(arguments)


def _listed(arguments: argparse.Namespace) -> str:
    from robustbench_lite.leaderboard.published.formats import render_list
    from robustbench_lite.leaderboard.published.load import load_published, published_names

    return render_list(
        [load_published(name) for name in published_names()], format=arguments.format
    )


def _checked(arguments: argparse.Namespace) -> str:
    from robustbench_lite.leaderboard.published.consistency import check_published
    from robustbench_lite.leaderboard.published.formats import render_findings
    from robustbench_lite.leaderboard.published.load import load_published, published_names

    everything = [load_published(name) for name in published_names()]
    tables = everything if arguments.table is None else [load_published(arguments.table)]
    return render_findings(check_published(tables, beside=everything), format=arguments.format)


def _table(arguments: argparse.Namespace) -> str:
    from robustbench_lite.leaderboard.published.formats import render_table
    from robustbench_lite.leaderboard.published.load import load_published

    table = load_published(arguments.table)
    rows = table.choose(arguments.rows)
    if arguments.scale == "quick":
        return _quick(arguments, table, rows)
    if arguments.train or arguments.checkpoint:
        return _full(arguments, table, rows)
    return render_table(table, rows, format=arguments.format)


def _quick(
    arguments: argparse.Namespace, table: PublishedTable, rows: Sequence[PublishedRow]
) -> str:
    from robustbench_lite.evaluation.progress_bar import evaluation_bar
    from robustbench_lite.leaderboard.published.reproduction_formats import render_reproductions
    from robustbench_lite.reproduction.small_scale import SmallNetworks, compare_small_scale
    from robustbench_lite.training.progress_bar import training_bar

    if not any(row.small_scale for row in rows):
        raise InputError(f"no row chosen of {table.id} has a small-scale recipe of its method")
    runs = Path(arguments.runs) / "small_scale"
    networks = SmallNetworks(runs, _terms(arguments), evaluation_bar, training_bar)
    found, seen = compare_small_scale(table, rows, networks)
    return render_reproductions(
        table,
        found,
        orders=seen,
        small_scale=True,
        format=arguments.format,
    )


def _full(
    arguments: argparse.Namespace, table: PublishedTable, rows: Sequence[PublishedRow]
) -> str:
    from robustbench_lite.evaluation.progress_bar import evaluation_bar
    from robustbench_lite.leaderboard.published.reproduction_formats import render_reproductions
    from robustbench_lite.reproduction.compare import assign, compare_rows

    terms = _terms(arguments)
    if arguments.train:
        networks = {row.id: _trained(arguments, row) for row in rows if row.recipe}
        if not networks:
            raise InputError(f"no row chosen of {table.id} has a recipe to train")
    else:
        networks = assign(rows, [_loaded(written, rows) for written in arguments.checkpoint])
        rows = [row for row in rows if row.id in networks]
    found = compare_rows(rows, networks, terms, progress=evaluation_bar)
    return render_reproductions(table, found, format=arguments.format)


def _loaded(written: str, rows: Sequence[PublishedRow]) -> tuple[str, LoadedModel]:
    """The row that was named before an equals sign, if any, and the checkpoint."""
    from robustbench_lite.checkpoints.model_source import resolve_model

    named, equals, path = written.partition("=")
    if not equals or Path(written).exists():
        named, path = "", written
    elif named not in {name for row in rows for name in (row.id, row.id.rpartition("/")[2])}:
        raise InputError(f"--checkpoint {written}: no row {named!r} among those chosen")
    return named, resolve_model(path, allow_code=False, device="cpu")


def _trained(arguments: argparse.Namespace, row: PublishedRow) -> list[LoadedModel]:
    """The networks of a row's recipe, one for each seed; trained where they are not there."""
    from robustbench_lite.checkpoints.model_source import resolve_model
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.datasets import load_split
    from robustbench_lite.training.loop import train
    from robustbench_lite.training.progress_bar import training_bar
    from robustbench_lite.training.recipe import load_recipe

    own = load_recipe(row.recipe).training.seed
    found = []
    for seed in [own] if arguments.seeds is None else _seeds(arguments.seeds):
        overrides = [*arguments.overrides, "--training.seed", str(seed)]
        recipe = load_recipe(row.recipe, overrides)
        folder = recipe.name if seed == own else f"{recipe.name}-seed{seed}"
        train(
            recipe,
            load_split(recipe.data.name, "train", data_dir=arguments.data_dir, progress=True),
            out=Path(arguments.runs) / folder,
            device=choose_device(arguments.device),
            threads=arguments.threads,
            progress=training_bar(),
        )
        kept = "last" if row.selection.startswith("last") else "best"
        path = Path(arguments.runs) / folder / kept
        found.append(resolve_model(str(path), allow_code=False, device="cpu"))
    return found


def _seeds(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise InputError(f"--seeds {text!r} is no list of seeds such as 0,1,2")
    return list(dict.fromkeys(map(int, text.split(","))))


def _terms(arguments: argparse.Namespace) -> ReproductionOptions:
    from robustbench_lite.cli.evaluate import default_folder
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.evaluation.evaluate import Settings
    from robustbench_lite.reproduction.measure import ReproductionOptions

    results = Path(arguments.results)

    def folder(protocol_id: str, source: LoadedModel, data: Split, images: Selection) -> Path:
        """Where `rbl evaluate` would put it, so that either finds the other's work."""
        place = default_folder(protocol_id, source.hash, data, images, arguments.seed)
        return results / folder_name(source.name) / place

    def images(data: Split, whole: int) -> Selection:
        return chosen_images(arguments, data, whole)

    return ReproductionOptions(
        results=results,
        folder=folder,
        data_dir=arguments.data_dir,
        device=choose_device(arguments.device),
        settings=Settings(batch_size=arguments.batch_size, threads=arguments.threads),
        images=images,
        seed=arguments.seed,
        eps=arguments.eps,
        protocol=arguments.protocol,
        engine=arguments.engine,
        released=arguments.released,
    )
