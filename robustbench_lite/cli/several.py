"""Several networks and radii in one call of `rbl evaluate`: one evaluation after the other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

from robustbench_lite.core.errors import InputError, ResultError

_NUMBER = re.compile(r"[-+.]?[0-9]")


class AddRadii(argparse.Action):
    """`--eps 2/255 4/255`, also repeated.

    A checkpoint that follows the radii would be read as one of them. It is known by its first
    character, or because there is such a folder, and joins the checkpoints.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        assert isinstance(values, list)
        radii: list[str] = list(values[:1])
        checkpoints: list[str] = []
        for value in values[1:]:
            radius = _NUMBER.match(value) and not Path(value).is_dir()
            (radii if radius else checkpoints).append(value)
        namespace.eps = [*(namespace.eps or []), *radii]
        namespace.after_eps = [*getattr(namespace, "after_eps", []), *checkpoints]


def one_by_one(arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments of each evaluation: every network at every radius, in the order given.

    Args:
        arguments: of `rbl evaluate`, with lists in `checkpoint`, `model` and `eps`.

    Returns:
        Copies with one `checkpoint` or `model` and one `eps` each; radii that are equal are
        evaluated once. No network at all gives one copy with neither, for the message about it.

    Raises:
        InputError: for what several networks cannot share, and for a radius that is none.
    """
    from robustbench_lite.attacks.threat_model import parse_eps

    checkpoints = [*arguments.checkpoint, *getattr(arguments, "after_eps", [])]
    networks = [(path, None) for path in dict.fromkeys(checkpoints)]
    networks += [(None, model) for model in dict.fromkeys(arguments.model or [])]
    if len(networks) > 1 and arguments.name:
        raise InputError(
            f"--name {arguments.name!r} is for one network, {len(networks)} are given: leave it "
            "out, each row has its network's own name"
        )
    radii = {parse_eps(eps): eps for eps in reversed(arguments.eps or [])}
    jobs = []
    for checkpoint, model in networks or [(None, None)]:
        for eps in list(reversed(radii.values())) or [None]:
            job = copy(arguments)
            job.checkpoint, job.model, job.eps = checkpoint, model, eps
            jobs.append(job)
    return jobs


def finish_each(
    jobs: Sequence[argparse.Namespace],
    evaluate: Callable[[argparse.Namespace], Path],
    complain: Callable[[str], None],
    *,
    alone: bool,
) -> list[Path]:
    """Do every evaluation; one that fails is said in one line and does not stop the others.

    Args:
        jobs: of `one_by_one`.
        evaluate: does one, and returns its folder.
        complain: takes the line about one that failed.
        alone: whether this is the only process; with other workers, who would wait for a result
            that does not come, the first error ends the call.

    Returns:
        The folders of those that were finished, in order.

    Raises:
        InputError: the error itself where there is one evaluation only, or other workers.
    """
    folders = []
    said = set()
    for job in jobs:
        try:
            folders.append(evaluate(job))
        except (InputError, ResultError) as error:
            if len(jobs) == 1 or not alone:
                raise
            network = job.checkpoint or job.model
            if (network, str(error)) not in said:  # what is wrong at every radius is said once
                said.add((network, str(error)))
                complain(f"{network}{f' at eps {job.eps}' if job.eps else ''}: {error}")
    return folders


def draw_curve(folders: Sequence[Path], base: Path) -> str:
    """Draw robust accuracy against the radius into an SVG.

    Args:
        folders: of the results, each network at each radius.
        base: where these folders lie; of one network the file goes to the network's own folder.

    Returns:
        A line that says where the curve lies, or why there is none.
    """
    from robustbench_lite.core.storage import write_bytes
    from robustbench_lite.leaderboard import load_result
    from robustbench_lite.leaderboard.plots.accuracy_curves import security_curve
    from robustbench_lite.leaderboard.plots.files import plot_bytes

    results = [load_result(folder) for folder in folders]
    parents = {folder.parent for folder in folders}
    # Named as the results' folders, without the radius and, of several networks, the weights.
    terms = re.sub(r"@.+?\.v(?=\d)", ".v", folders[0].name)
    if len(parents) > 1:
        data_and_protocol, _, images, seed = terms.rsplit("-", 3)
        terms = f"{data_and_protocol}-{images}-{seed}"
    out = (parents.pop() if len(parents) == 1 else base) / f"curve-{terms}.svg"
    try:
        write_bytes(out, plot_bytes(lambda: security_curve(results), "svg"))
    except ResultError as error:
        return f"no curve: {error}"
    return f"curve: {out}"
