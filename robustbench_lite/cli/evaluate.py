"""`rbl evaluate`: a network against a protocol."""

from __future__ import annotations

import argparse
import dataclasses
import sys
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
from robustbench_lite.cli.several import AddRadii, draw_curve, finish_each, one_by_one
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import shortened
from robustbench_lite.core.stopping import same_command_resumes, started_with_others

if TYPE_CHECKING:
    import torch

    from robustbench_lite.attacks.protocol import Protocol
    from robustbench_lite.checkpoints.model_source import LoadedModel
    from robustbench_lite.datasets import Split
    from robustbench_lite.datasets.selection import Selection
    from robustbench_lite.evaluation.evaluate import Settings
    from robustbench_lite.evaluation.workers import Workers


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `rbl evaluate`."""
    add_network(parser, several=True)
    parser.add_argument(
        "--protocol",
        default="linf_standard",
        metavar="NAME",
        help="or a .toml file (default: %(default)s)",
    )
    parser.add_argument(
        "--eps",
        nargs="+",
        action=AddRadii,
        metavar="E",
        help="radius, such as 8/255 or 0.031; several make a result each, and a curve",
    )
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
        "--out",
        metavar="DIR",
        help="result folder (default: results/NAME/DATASET-PROTOCOL-...); of several results the "
        "folder in place of results",
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
    parser.set_defaults(takes_checkpoints=True, takes_workers=True, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the rows, and say where the results lie."""
    from robustbench_lite.evaluation.workers import join_workers, start_workers

    same_command_resumes(not arguments.plan)
    if arguments.workers != 1 and not started_with_others():
        return start_workers(arguments.workers, arguments.argv)
    workers = join_workers()
    jobs = one_by_one(arguments)
    if arguments.plan:
        if workers.count > 1:
            raise InputError("--plan measures one process: leave --workers or torchrun out")
        _plan_each(jobs)
        return 0
    _check_radii(jobs)
    weights: dict[str, tuple[str, str | None]] = {}
    folders = finish_each(
        jobs,
        lambda job: _evaluate(job, workers, weights, several=len(jobs) > 1),
        lambda message: print(shortened(f"rbl: error: {message}"), file=sys.stderr),
        alone=workers.count == 1,
    )
    if workers.first and folders:
        _print_rows(folders, arguments, several=len(jobs) > 1)
    return 0 if len(folders) == len(jobs) else 2


def _check_radii(jobs: list[argparse.Namespace]) -> None:
    """Refuse a protocol or a radius that is wrong before the first evaluation begins."""
    from robustbench_lite.attacks.protocol import load_protocol

    for eps in {job.eps: None for job in jobs}:
        load_protocol(jobs[0].protocol, eps=eps, engine=jobs[0].engine)


def _evaluate(
    arguments: argparse.Namespace,
    workers: Workers,
    weights: dict[str, tuple[str, str | None]],
    *,
    several: bool,
) -> Path:
    """One network at one radius; returns the result's folder.

    `weights` has the hash of each network's weights and the radius at which it was first loaded.
    """
    from robustbench_lite.core.numerics import choose_device
    from robustbench_lite.evaluation.evaluate import evaluate
    from robustbench_lite.evaluation.progress_bar import evaluation_bar

    # One download, and one line about what is wrong.
    network = arguments.checkpoint or arguments.model
    with workers.first_alone(f"preparing {network} {arguments.eps}"):
        device = workers.device(choose_device(arguments.device))
        source, data, protocol, settings = _prepared(arguments, progress=workers.first)
        images = chosen_images(arguments, data)
    before, eps = weights.setdefault(network, (source.hash, arguments.eps))
    if source.hash != before:
        raise InputError(
            f"it has other weights than at eps {eps}: a factory must return the same network each "
            "time; load its weights from a file"
        )
    out = Path(arguments.out or "results")
    if several or not arguments.out:
        folder = default_folder(protocol.id, source.hash, data, images, arguments.seed)
        out = out / folder_name(source.name) / folder
    title = f"{source.name} {protocol.threat.eps_text}" if several else source.name
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
        progress=evaluation_bar(title) if workers.first else None,
        workers=workers,
    )
    if workers.first and several:
        print(f"result: {out / 'result.json'}")  # before the next one, which may take hours
    return out


def _print_rows(folders: list[Path], arguments: argparse.Namespace, *, several: bool) -> None:
    """The table of the results; of one its file, of several radii the curve."""
    from robustbench_lite.leaderboard import build_table, load_result, render

    print(render(build_table([load_result(folder) for folder in folders]), "terminal"))
    if not several:
        print(f"result: {folders[0] / 'result.json'}")
    elif len(arguments.eps or []) > 1:
        print(draw_curve(folders, Path(arguments.out or "results")))


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


def _plan_each(jobs: list[argparse.Namespace]) -> None:
    """The plan of every network; a radius changes nothing in it."""
    from robustbench_lite.core.numerics import choose_device

    radii = len({job.eps for job in jobs})
    for job in jobs[::radii]:
        device = choose_device(job.device)
        source, data, protocol, settings = _prepared(job, progress=True)
        if len(jobs) > 1:
            print(f"{source.name}{f', for each of {radii} radii' if radii > 1 else ''}:")
        images = chosen_images(job, data)
        _print_plan(source, data, protocol, settings, images=images, device=device)


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
