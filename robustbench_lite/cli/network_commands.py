"""Arguments of the commands that work on networks: train, import, evaluate, transfer, detect."""

from __future__ import annotations

from robustbench_lite.cli.subcommand import Commands, add_place, command


def add_demo(commands: Commands) -> None:
    """Add `rbl demo`."""
    parser = command(
        commands,
        "demo",
        "robustbench_lite.cli.demo:run",
        "train three networks on digits, attack them, rank them (a few minutes, no download)",
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: %(default)s)")
    parser.set_defaults(resumes=True)


def add_train(commands: Commands) -> None:
    """Add `rbl train`."""
    parser = command(
        commands,
        "train",
        "robustbench_lite.cli.train:run",
        "train a recipe to a checkpoint; the same command goes on after an interruption",
        epilog="Every key of the recipe can be overridden: --training.epochs 5 "
        "--defense.crafting.eps 8/255. `rbl list recipes` names the recipes.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a shipped name, or a .toml file")
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE)")
    add_place(parser)
    parser.set_defaults(takes_overrides=True, resumes=True)


def add_import(commands: Commands) -> None:
    """Add `rbl import`."""
    parser = command(
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


def add_evaluate(commands: Commands) -> None:
    """Add `rbl evaluate`."""
    parser = command(
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
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine, one a GPU; with the same --threads the result has the "
        "same bytes (default: %(default)s)",
    )
    add_place(parser)
    parser.set_defaults(takes_workers=True, resumes=True)


def add_transfer(commands: Commands) -> None:
    """Add `rbl transfer`."""
    parser = command(
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
    add_place(parser)
    parser.set_defaults(resumes=True)


def add_detect(commands: Commands) -> None:
    """Add `rbl detect`."""
    parser = command(
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
    add_place(parser)
