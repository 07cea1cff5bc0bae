"""`rbl plot`: results and runs as SVG or PNG. Only the gallery needs torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.cli.options import add_data, chosen_data
from robustbench_lite.core.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robustbench_lite.datasets import Split
    from robustbench_lite.evaluation.ledger import Ledger
    from robustbench_lite.leaderboard.plots.gallery import Exhibit

Draw = Callable[[argparse.Namespace], Callable[[], "Figure"]]


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl plot`."""
    parser.epilog = (
        "eps: worst case against the radius; steps: against an attack's steps; training: "
        "curves of run folders; classes: bars of each class; gallery: adversarial images of a "
        "result evaluated with --evidence."
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
    add_data(parser, splits=False)
    parser.add_argument(
        "--allow-code", action="store_true", help="let a factory run the code of its file"
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw, and write the file that `--out` names."""
    from robustbench_lite.core.storage import write_bytes
    from robustbench_lite.leaderboard.plots.files import FORMATS, plot_bytes

    out = Path(arguments.out or f"{arguments.kind}.svg")
    format = out.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        raise InputError(f"--out {out} must end in {' or '.join(f'.{one}' for one in FORMATS)}")
    draw: dict[str, Draw] = {
        "eps": _curve,
        "steps": _curve,
        "training": _training,
        "classes": _classes,
        "gallery": _gallery,
    }
    write_bytes(out, plot_bytes(draw[arguments.kind](arguments), format))
    print(f"wrote {out}")


def _curve(arguments: argparse.Namespace) -> Callable[[], Figure]:
    from robustbench_lite.leaderboard import load_readable, load_result
    from robustbench_lite.leaderboard.plots.accuracy_curves import security_curve, steps_curve

    results = load_readable(arguments.inputs, load_result)
    draw = security_curve if arguments.kind == "eps" else steps_curve
    return lambda: draw(results)


def _training(arguments: argparse.Namespace) -> Callable[[], Figure]:
    from robustbench_lite.leaderboard.plots.training_curves import load_run, training_curves

    runs = [load_run(folder) for folder in arguments.inputs]
    return lambda: training_curves(runs)


def _classes(arguments: argparse.Namespace) -> Callable[[], Figure]:
    from robustbench_lite.cli.classes import number_of_classes
    from robustbench_lite.datasets.catalogue import class_names
    from robustbench_lite.leaderboard import load_readable
    from robustbench_lite.leaderboard.plots.class_bars import class_bars
    from robustbench_lite.leaderboard.statistics.per_class import PerClass, load_per_class

    def load(path: Path) -> PerClass:
        classes = number_of_classes(path)
        return load_per_class(path, num_classes=classes, under=range(classes))

    results = load_readable(arguments.inputs, load)
    if not results:
        raise InputError(f"{', '.join(arguments.inputs)}: no result.json there or below")
    most = max(one.labels[0] for each in results for one in each.classes) + 1
    names = class_names(results[0].result.dataset.name, most)
    return lambda: class_bars(results, names=names)


def _gallery(arguments: argparse.Namespace) -> Callable[[], Figure]:
    """The evidence of one attack of one result, beside the clean images of the data set."""
    from robustbench_lite.evaluation.header import read_header
    from robustbench_lite.evaluation.ledger import Ledger
    from robustbench_lite.leaderboard import load_result
    from robustbench_lite.leaderboard.plots.gallery import gallery

    if len(arguments.inputs) != 1:
        raise InputError("a gallery is of one result: give one folder")
    if arguments.n < 1:
        raise InputError(f"--n {arguments.n} must be at least 1")
    path = Path(arguments.inputs[0])
    folder = path if path.is_dir() else path.parent
    result = load_result(path)
    attack = _attack(arguments.attack, list(result.attacks))
    arguments.split = result.dataset.split
    data = chosen_data(arguments, result.dataset.name)
    if data.content_hash != result.dataset.hash:
        raise InputError(
            f"{folder} was measured on other pixels than these: its data hash is "
            f"{result.dataset.hash}, this is {data.content_hash}"
        )
    ledger = Ledger(folder, read_header(folder))
    exhibits = _exhibits(ledger, attack, data, result.protocol.norm.lower(), arguments.n)
    return lambda: gallery(exhibits, title=f"{result.name} · {result.protocol.id} · {attack}")


def _attack(wanted: str | None, names: Sequence[str]) -> str:
    if wanted is None:
        return names[-1]  # the strongest comes last in our protocols
    if wanted not in names:
        raise InputError(f"--attack {wanted!r}: the result has {', '.join(names)}")
    return wanted


def _exhibits(ledger: Ledger, attack: str, data: Split, norm: str, n: int) -> list[Exhibit]:
    """The first n examples that the attack breaks."""
    import torch

    from robustbench_lite.datasets.catalogue import class_names
    from robustbench_lite.evaluation.evidence import decompress
    from robustbench_lite.leaderboard.plots.gallery import Exhibit

    names = data.class_names or class_names(data.name, data.num_classes)
    exhibits: list[Exhibit] = []
    chunk = 0
    while len(exhibits) < n and ledger.has_part(attack, chunk):
        rows = ledger.read_part(attack, chunk)
        clean = data.pixels(torch.tensor(rows["example_id"].to_numpy()))
        stored = ledger.read_evidence(attack, chunk)
        if "x_adv" in stored:
            places, images = torch.arange(len(rows)), stored["x_adv"]
        else:
            places, images = decompress(stored, clean)
        for place, image in zip(places.tolist(), images, strict=True):
            row = rows.iloc[place]
            if row["broken"] and len(exhibits) < n:
                exhibits.append(
                    Exhibit(
                        example_id=int(row["example_id"]),
                        clean=clean[place].numpy(),
                        attacked=image.numpy(),
                        label=names[int(row["label"])],
                        prediction=names[int(row["prediction"])],
                        distance=f"{norm} {row[norm]:.3g}",
                    )
                )
        chunk += 1
    if not exhibits:
        raise InputError(f"{ledger.folder}: {attack} broke no example, so there is none to show")
    return exhibits
