"""What the benchmarks of attacks share: network and images, both AutoAttacks, a process a side."""

import multiprocessing

import torch

from robustbench_lite import load_split, resolve_model
from robustbench_lite.attacks.autoattack.ensemble import stages
from robustbench_lite.attacks.contract import RunTerms
from robustbench_lite.models import build_model

STAGES = ("apgd_ce", "apgd_t", "fab_t", "square")


def add_network(parser) -> None:
    """Arguments that say what is attacked, and where."""
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument(
        "--architecture", help="instead of a checkpoint: random weights, 3x32x32 noise images"
    )
    parser.add_argument("--eps", required=True)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir")
    parser.add_argument("--device", default="cpu")


def load(arguments):
    """The network, images and labels, on the device."""
    if arguments.checkpoint:
        source = resolve_model(arguments.checkpoint, allow_code=False, device="cpu")
        model = source.model
        data = load_split(source.card.dataset, "test", data_dir=arguments.data_dir)
        x, y = data.pixels(slice(0, arguments.n)), data.labels[: arguments.n]
    else:
        torch.manual_seed(0)
        sizes = {"num_classes": 10, "in_channels": 3, "image_size": (32, 32)}
        model = build_model(arguments.architecture, **sizes, mean=(0.5,) * 3, std=(0.25,) * 3)
        x, y = torch.rand(arguments.n, 3, 32, 32), None
    model, x = model.to(arguments.device).eval(), x.to(arguments.device)
    # Random weights know no labels: what they predict is right, so that nothing is skipped.
    y = predictions(model, x) if y is None else y
    return model, x, y.to(arguments.device)


def predictions(model, x, batch_size=250):
    """Classes that the network predicts."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in x.split(batch_size)])


def reference_stage(stage, model, x, y, *, norm, eps, seed, batch_size):
    """Candidates of one stage of pyautoattack's standard version."""
    from pyautoattack import AutoAttack

    targets = min(9, model(x[:1]).shape[1] - 1)
    attack = AutoAttack(model, norm=norm, eps=eps, seed=seed, device=x.device)
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
    attack.attacks_to_run = [stage.replace("_", "-")]
    return attack.run_standard_evaluation(x, y, batch_size=batch_size)[0].detach()


def our_stage(stage, model, x, y, *, norm, eps, seed, batch_size, ids, network):
    """Candidates of one stage of our own engine, which searches on `network`."""
    terms = RunTerms(
        norm=norm,
        eps=eps,
        ids=ids,
        seed=seed,
        stream=f"aa_standard/{stage}",
        batch_size=batch_size,
        network=network,
    )
    return stages("standard", norm)[stage](model, x, y, terms)


def start_sides(work, sides):
    """A process for each side.

    Args:
        work: called in it with a connection and what `sides` holds of it.
        sides: by name.

    Returns:
        The other ends of the connections, by name.
    """
    context = multiprocessing.get_context("spawn")
    connections = {}
    for name, side in sides.items():
        connections[name], end = context.Pipe()
        context.Process(target=work, args=(end, *side), daemon=True).start()
        end.close()  # so that a process that dies is seen
    return connections
