"""Robust accuracy against the radius, and against the steps of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustbench_lite.core.errors import ResultError
from robustbench_lite.leaderboard.plots.files import COLOURS, new_figure, percent_axis
from robustbench_lite.leaderboard.results.records import Accuracy, ProtocolAttack, Result
from robustbench_lite.leaderboard.table.text import plain, short_hash, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABEL_WIDTH = 36
LEAST_GAP = 0.09  # of the axis, between two radii that are both written out
Points = list[tuple[float, Accuracy]]


def security_curve(results: Sequence[Result]) -> Figure:
    """Worst case against eps, one line per network, with 95% Wilson bands; clean at eps 0.

    Args:
        results: of one or several networks under one protocol at two radii or more.

    Raises:
        ResultError: for results of different data, examples, norms or protocols, one radius only,
            or two results of a network at one radius.
    """
    _check_alike(results, norm_and_protocol=True)
    lines: dict[str, Points] = {}
    for label, of_one in _networks(results).items():
        points = [(result.protocol.eps_value, result.robust_accuracy) for result in of_one]
        radii = [eps for eps, _ in points]
        if len(set(radii)) < len(radii):
            raise ResultError(f"{label}: two results at one radius; give one for each")
        lines[label] = sorted([(0.0, of_one[0].clean_accuracy), *points], key=lambda one: one[0])
    if len({result.protocol.eps_value for result in results}) < 2:
        raise ResultError("a curve against eps needs results at two radii or more")
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    _draw(axes, lines)
    first = results[0]
    axes.set_title(f"{_data(first)} · {_protocol(first)}")
    axes.set_xlabel(f"{plain(first.protocol.norm)} eps")
    axes.set_xlim(left=0)
    _label_radii(axes, {one.protocol.eps_value: plain(one.protocol.eps) for one in results})
    return figure


def _label_radii(axes: Axes, radii: dict[float, str]) -> None:
    """Ticks at the radii as they were given, where there is room: from the largest down to 0."""
    largest = max(radii)
    labelled: dict[float, str] = {}
    for radius in sorted(radii, reverse=True):
        room = min([*labelled, 2 * largest]) - radius
        if min(room, radius) >= LEAST_GAP * largest:
            labelled[radius] = radii[radius]
    axes.set_xticks([0.0, *labelled], ["0", *labelled.values()])


def steps_curve(results: Sequence[Result]) -> Figure:
    """Robust accuracy against an attack's steps, one line per network and kind of attack.

    Attacks are of one kind when they differ in steps and step size alone.

    Args:
        results: at one radius, which between them hold an attack with different steps.

    Raises:
        ResultError: for results of different data, examples, norms or radii, or when no attack
            occurs with two numbers of steps.
    """
    _check_alike(results, norm_and_protocol=False)
    if len({(result.protocol.norm, result.protocol.eps_value) for result in results}) > 1:
        raise ResultError("a curve against steps needs results of one norm at one radius")
    kinds: dict[tuple[str, tuple[str, ...]], dict[float, Accuracy]] = {}
    for label, of_one in _networks(results).items():
        for result in of_one:
            for spec in result.protocol.attacks:
                if (steps := _steps(spec)) is not None:
                    points = kinds.setdefault((label, _kind(spec)), {})
                    points[steps] = result.attacks[spec.name].accuracy
    several = {key: sorted(points.items()) for key, points in kinds.items() if len(points) > 1}
    short = [(label, kind[0]) for label, kind in several]
    lines = {
        f"{label}: {kind[0] if short.count((label, kind[0])) == 1 else ', '.join(kind)}": points
        for (label, kind), points in several.items()
    }
    if not lines:
        raise ResultError(
            "no attack occurs with two numbers of steps: evaluate with protocols that differ in "
            "steps alone"
        )
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    _draw(axes, lines)
    axes.set_title(f"{_data(results[0])} · {plain(results[0].protocol.norm)}")
    axes.set_xlabel("steps")
    axes.set_xscale("log")
    ticks = sorted({steps for points in lines.values() for steps, _ in points})
    axes.set_xticks(ticks, [f"{steps:g}" for steps in ticks])
    axes.minorticks_off()
    return figure


def _check_alike(results: Sequence[Result], *, norm_and_protocol: bool) -> None:
    if not results:
        raise ResultError("there are no results to plot")
    for result in results:
        for what, one, other in _terms(results[0], result, norm_and_protocol):
            if one != other:
                raise ResultError(
                    f"{results[0].name} and {result.name} do not share a curve: {what} is {one} "
                    f"and {other}"
                )


def _terms(a: Result, b: Result, norm_and_protocol: bool) -> list[tuple[str, str, str]]:
    terms = [
        ("data", f"{a.dataset.name} {a.dataset.hash}", f"{b.dataset.name} {b.dataset.hash}"),
        ("split", a.dataset.split, b.dataset.split),
        (
            "examples",
            _which(a),
            _which(b),
        ),
    ]
    if norm_and_protocol:
        terms += [
            ("norm", a.protocol.norm, b.protocol.norm),
            ("protocol", _protocol(a), _protocol(b)),
        ]
    return terms


def _which(result: Result) -> str:
    """The examples of a result in words that only the same ones share."""
    digest = result.examples.digest
    return f"{result.examples.text}, ids {short_hash(digest)}" if digest else result.examples.text


def _networks(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by network, under its name; two networks of one name carry their hashes."""
    by_hash: dict[str, list[Result]] = {}
    for result in results:
        by_hash.setdefault(result.model.hash, []).append(result)
    names = [of_one[0].name for of_one in by_hash.values()]
    networks = {}
    for digest, of_one in by_hash.items():
        name = shortened(plain(of_one[0].name), LABEL_WIDTH)
        if names.count(of_one[0].name) > 1:
            name = f"{name} {plain(digest.rpartition(':')[2][:8])}"
        networks[name] = of_one
    return networks


def _draw(axes: Axes, lines: dict[str, Points]) -> None:
    for i, (label, points) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        x = [at for at, _ in points]
        low, high = ([100 * accuracy.interval[bound] for _, accuracy in points] for bound in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        y = [100 * accuracy.value for _, accuracy in points]
        style = "-" if i < len(COLOURS) else "--"
        axes.plot(x, y, style, color=colour, marker="o", markersize=4, label=label, clip_on=False)
    percent_axis(axes, "robust accuracy, %")
    axes.legend()


def _steps(spec: ProtocolAttack) -> float | None:
    text = dict(spec.parameters).get("steps", "")
    return float(text) if text.isdecimal() else None


def _kind(spec: ProtocolAttack) -> tuple[str, ...]:
    """What an attack is apart from its steps: registered name and loss first, then the rest."""
    parameters = dict(spec.parameters)
    start = " ".join(parameters.get(name, "") for name in ("attack", "loss")).strip()
    rest = (
        f"{name} {text}"
        for name, text in spec.parameters
        if name not in ("steps", "alpha", "attack", "loss")
    )
    return (plain(start), *map(plain, rest))


def _data(result: Result) -> str:
    where = f"{plain(result.dataset.name)} {plain(result.dataset.split)}"
    return f"{where}, {result.examples.text}"


def _protocol(result: Result) -> str:
    protocol = result.protocol
    return f"{plain(protocol.name)}.v{protocol.version}, {plain(protocol.engine_text)}"
