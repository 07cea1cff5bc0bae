"""`rbl evaluate`: a network against a protocol."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_lite.cli.options import (
    add_data,
    add_images,
    add_network,
    add_place,
    check_data,
    check_images,
    chosen_data,
    chosen_images,
    chosen_network,
    folder_name,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.stopping import same_command_resumes, started_with_others

if TYPE_CHECKING:
    import torch

    from robustbench_lite.attacks.protocol import Protocol
    from robustbench_lite.checkpoints.model_source import LoadedModel
    from robustbench_lite.datasets import Split
    from robustbench_lite.datasets.selection import Selection
    from robustbench_lite.evaluation.evaluate import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl evaluate`."""
    add_network(parser)
    parser.add_argument("--protocol", required=True, metavar="NAME", help="or a .toml file")
    parser.add_argument("--eps", metavar="E", help="radius, such as 8/255 or 0.031")
    add_images(parser)
    add_data(parser)
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
        help="precision of the attack; predictions are always float32 (default: float32)",
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


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the row, and say where the result lies."""
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.evaluation.evaluate import evaluate
    from robustbench_lite.evaluation.progress_bar import evaluation_bar
    from robustbench_lite.evaluation.workers import join_workers, start_workers
    from robustbench_lite.leaderboard import build_table, load_result, render

    same_command_resumes(not arguments.plan)
    if arguments.workers != 1 and not started_with_others():
        return start_workers(arguments.workers, arguments.argv)
    workers = join_workers()
    with workers.first_alone("preparing"):  # one download, and one line about what is wrong
        device = workers.device(choose_device(arguments.device))
        source, data, protocol, settings = _prepared(arguments, progress=workers.first)
        images = chosen_images(arguments, data)
    if arguments.plan:
        if workers.count > 1:
            raise InputError("--plan measures one process: leave --workers or torchrun out")
        _print_plan(source, data, protocol, settings, images=images, device=device)
        return 0
    folder = default_folder(protocol.id, source.hash, data, images, arguments.seed)
    out = Path(arguments.out or Path("results") / folder_name(source.name) / folder)
    evaluate(
        source,
        data,
        protocol,
        out=out,
        n=None,
        images=images,
        seed=arguments.seed,
        settings=settings,
        device=device,
        progress=evaluation_bar(source.name) if workers.first else None,
        workers=workers,
    )
    if workers.first:
        print(render(build_table([load_result(out)]), "terminal"))
        print(f"result: {out / 'result.json'}")
    return 0


def _prepared(
    arguments: argparse.Namespace, *, progress: bool
) -> tuple[LoadedModel, Split, Protocol, Settings]:
    """What is evaluated on what and how, from the command line."""
    from robustbench_lite.attacks.protocol import load_protocol
    from robustbench_lite.evaluation.evaluate import Settings

    protocol = load_protocol(arguments.protocol, eps=arguments.eps, engine=arguments.engine)
    settings = Settings(
        arguments.batch_size,
        arguments.chunk_size,
        arguments.threads,
        arguments.evidence,
        arguments.precision,
    )
    check_images(arguments)
    check_data(arguments)
    source = chosen_network(arguments)
    if arguments.name:
        source = dataclasses.replace(source, name=arguments.name)
    data = chosen_data(arguments, source.card.dataset if source.card else "", progress=progress)
    return source, data, protocol, settings


def _print_plan(
    source: LoadedModel,
    data: Split,
    protocol: Protocol,
    settings: Settings,
    *,
    images: Selection,
    device: torch.device,
) -> None:
    """What the evaluation would cost, on the network and the threads that it would use."""
    import torch

    from robustbench_lite.attacks.acceleration.search_network import search_network
    from robustbench_lite.checkpoints.user_network import passes_of
    from robustbench_lite.core.numerics import deterministic, plain_numerics
    from robustbench_lite.evaluation.cost_plan import make_plan, render_plan

    filled = settings.filled(device)
    x = data.subset(torch.tensor(images.ids[:100])).to(device).pixels(slice(None))
    numerics = deterministic(threads=int(str(filled["threads"])), seed=0)
    with numerics, plain_numerics(), passes_of(source.model, "--plan"):
        network = search_network(
            source.model.to(device).eval(),
            precision=filled["precision"],  # type: ignore[arg-type]
            device=device,
            like=x[0],
        )
        plan = make_plan(network.module, protocol, x, n=len(images), num_classes=data.num_classes)
    print(render_plan(plan))
    for note in network.notes:
        print(f"search network: {note}")


def default_folder(
    protocol_id: str, model_hash: str, data: Split, images: Selection, seed: int
) -> str:
    """One folder per (data, protocol, network, examples, seed): a call finds its own result."""
    weights = model_hash.removeprefix("sha256:")[:8]
    name = data.name
    if data.class_names:  # not registered: the name says little about the pixels
        name += f"-{data.content_hash.removeprefix('sha256:')[:8]}"
    return folder_name(f"{name}-{protocol_id}-{weights}-{data.split}{images.word}-seed{seed}")
