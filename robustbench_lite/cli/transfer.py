"""`rbl transfer`: images crafted on source networks, judged on target networks."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.cli.options import (
    add_data,
    add_images,
    add_place,
    check_data,
    check_images,
    chosen_data,
    chosen_images,
    folder_name,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.plain_text import plain

if TYPE_CHECKING:
    from robustbench_lite.attacks.protocol import AttackSpec, Protocol
    from robustbench_lite.checkpoints.model_source import LoadedModel

_HEADINGS = ("Source", "Target", "Clean", "Kept", "of", "Same label", "Accuracy", "95%")


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl transfer`."""
    for role, deed in (("source", "craft on"), ("target", "test")):
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
    add_images(parser)
    parser.add_argument(
        "--pixels",
        default="8bit",
        choices=("8bit", "float"),
        help="test with images rounded to 8 bits, or as crafted (default: %(default)s)",
    )
    add_data(parser)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=500, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="result folder (default: results/transfer/DATASET-...)"
    )
    add_place(parser)
    parser.set_defaults(resumes=True)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print the table, and say where the file lies."""
    from robustbench_lite.attacks.protocol import load_protocol
    from robustbench_lite.checkpoints.model_source import resolve_model
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.transfer.evaluate import FILE, evaluate_transfer

    check_images(arguments)
    protocol = load_protocol(arguments.protocol, eps=arguments.eps)
    spec = _chosen(protocol, arguments.attack)
    device = choose_device(arguments.device)
    check_data(arguments)
    sources, targets = (
        [resolve_model(name, allow_code=arguments.allow_code, device=device) for name in names]
        for names in (arguments.source, arguments.target)
    )
    data = chosen_data(arguments, arguments.dataset or _trained_on([*sources, *targets]))
    images = chosen_images(arguments, data)
    hashes = "".join(network.hash for network in (*sources, *targets))
    which = f"{data.split}{images.word}-seed{arguments.seed}"
    terms = f"{protocol.id}-{spec.name}-{arguments.pixels}-{which}"
    networks = hashlib.sha256(hashes.encode()).hexdigest()[:8]
    folder = folder_name(f"{data.name}-{terms}-{networks}")
    out = Path(arguments.out or Path("results") / "transfer" / folder)
    result = evaluate_transfer(
        sources,
        targets,
        data,
        protocol,
        spec,
        out=out,
        n=None,
        images=images,
        seed=arguments.seed,
        pixels=arguments.pixels,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
        device=device,
    )
    print(table(result))
    print(f"result: {out / FILE}")


def _chosen(protocol: Protocol, name: str | None) -> AttackSpec:
    """The attack of that name; an only attack needs none."""
    from robustbench_lite.core.registry import unknown_name

    specs = {spec.name: spec for spec in protocol.attacks}
    if name is None and len(specs) == 1:
        return protocol.attacks[0]
    if name is None:
        raise InputError(f"protocol {protocol.name} has attacks {', '.join(specs)}: give --attack")
    if name not in specs:
        raise InputError(unknown_name("attack", name, specs))
    return specs[name]


def _trained_on(networks: Sequence[LoadedModel]) -> str:
    """The data set that the checkpoints' cards name."""
    names = sorted({network.card.dataset for network in networks if network.card})
    if len(names) != 1:
        found = f"were trained on {' and '.join(names)}" if names else "do not say their data set"
        raise InputError(f"the networks {found}: add --dataset NAME")
    return names[0]


def table(result: Mapping[str, Any]) -> str:
    """The pairs of a `transfer.json` as aligned columns.

    "Kept" is the defense success rate, over the images named in "of"; "Same label" the share of
    them to which the target gives the source's wrong label; "Accuracy" that over all images. Below
    the pairs each target has a row for all sources together, if they are several.
    """
    from robustbench_lite.leaderboard.table.text import aligned

    rows: list[tuple[str, ...]] = [_HEADINGS]
    names = _names([*result["sources"], *result["targets"]])
    for pair in (*result["pairs"], *result["unions"]):
        kept, reached = pair["defense_success_rate"], pair["accuracy"]
        share = pair["repeat_label_share"]
        rows.append(
            (
                names[pair["source"]] if "source" in pair else f"any of {len(pair['sources'])}",
                names[pair["target"]],
                _percent(pair["clean_accuracy"]["value"]),
                "n/a" if kept is None else _percent(kept["value"]),
                str(pair["counted"]),
                "n/a" if share is None else _percent(share),
                _percent(reached["value"]),
                "{}-{}".format(*(f"{100 * end:.1f}" for end in reached["interval"])),
            )
        )
    lines, _ = aligned(rows, right=[place >= 2 for place in range(len(_HEADINGS))])
    pixels = "8-bit images" if result["pixels"] == "8bit" else "float32 images"
    title = (
        f"{result['attack']} of {result['protocol']['id']}, {result['dataset']['name']} "
        f"{result['dataset']['split']}, {result['examples']['count']} {pixels}"
    )
    return "\n".join([plain(title), *lines])


def _names(networks: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Hash -> name, with a piece of the hash where two networks share a name."""
    named = {network["hash"]: plain(network["name"]) for network in networks}
    counts = Counter(named.values())
    return {
        key: f"{name} ({key.removeprefix('sha256:')[:8]})" if counts[name] > 1 else name
        for key, name in named.items()
    }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"
