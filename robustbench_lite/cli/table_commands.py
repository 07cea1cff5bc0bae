"""Arguments of the commands that read results, show tables or list names."""

from __future__ import annotations

from robustbench_lite.cli.subcommand import Commands, add_place, command

KINDS = ("defenses", "attacks", "models", "datasets", "protocols", "recipes", "outliers")
FORMATS = ("terminal", "markdown", "csv", "latex", "html", "json")


def add_leaderboard(commands: Commands) -> None:
    """Add `rbl leaderboard`."""
    parser = command(
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


def add_reproduce(commands: Commands) -> None:
    """Add `rbl reproduce`."""
    parser = command(
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
    add_place(parser)
    parser.set_defaults(takes_overrides=True, resumes=True)


def add_classes(commands: Commands) -> None:
    """Add `rbl classes`."""
    parser = command(
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


def add_compare(commands: Commands) -> None:
    """Add `rbl compare`."""
    parser = command(
        commands,
        "compare",
        "robustbench_lite.cli.compare:run",
        "two results on the same examples: paired test, who resists what, by class",
    )
    parser.add_argument("a", metavar="A", help="a result folder or result.json")
    parser.add_argument("b", metavar="B", help="another, of the same data")
    parser.add_argument("--format", default="terminal", choices=("terminal", "markdown", "json"))


def add_plot(commands: Commands) -> None:
    """Add `rbl plot`."""
    parser = command(
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


def add_list(commands: Commands) -> None:
    """Add `rbl list`."""
    parser = command(commands, "list", "robustbench_lite.cli.listing:run", "what there is, by name")
    parser.add_argument("kind", choices=KINDS)
