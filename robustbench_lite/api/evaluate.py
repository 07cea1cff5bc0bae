"""`rbl.evaluate`: a network in memory against a protocol, in one call."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import torch

from robustbench_lite.api.attack_objects import AttackObject, Eps, chosen_attack
from robustbench_lite.api.network import Network, classes_of, identified, ready
from robustbench_lite.api.report import Report
from robustbench_lite.attacks.protocol import OUR_ENGINE, Protocol, load_protocol
from robustbench_lite.attacks.threat_model import parse_eps
from robustbench_lite.checkpoints.model_source import LoadedModel
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.numerics import check_count
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.datasets.in_memory import WHAT, as_split, read, sample_of
from robustbench_lite.datasets.selection import Selection
from robustbench_lite.evaluation.evaluate import Progress
from robustbench_lite.evaluation.evaluate import evaluate as evaluate_split
from robustbench_lite.evaluation.progress_bar import evaluation_bar
from robustbench_lite.evaluation.settings import Evidence, Settings
from robustbench_lite.evaluation.workers import ALONE, Workers

_MOST_BYTES = 2**30  # of adversarial images that are kept as they are without being asked for


def evaluate(
    model: Network,
    data: object,
    protocol: str | Protocol | AttackObject = "linf_standard",
    eps: Eps | None = None,
    *,
    n: int | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    dataset: str | None = None,
    split: str = "test",
    data_dir: str | Path | None = None,
    image_size: int | str | None = None,
    classes: int | str | Path | None = None,
    seed: int = 0,
    engine: str | None = None,
    batch_size: int | None = None,
    evidence: Evidence | None = None,
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    progress: bool | Callable[[Progress], None] = False,
    workers: Workers = ALONE,
    images: Selection | None = None,
) -> Report:
    """Robust accuracy of a network under every attack of a protocol, judged by one verifier.

    The same evaluation as `rbl evaluate`, with the same checks, flags and result folder.

    Args:
        model: an `nn.Module` or a function, from images (B, C, H, W) in [0, 1] to logits (B, K);
            or the folder of a checkpoint. Modules are put into eval mode, and back. Logits inside
            a tuple, a dict or an object are taken out; the report says so.
        data: a pair (images, labels) of tensors or arrays; a `DataLoader`, a `Dataset`, a
            `Split`, or the name of a data set or source (`"cifar10"`, `"folder:DIR"`,
            `"npz:FILE"`). Images are uint8, or floats in [0, 1].
        protocol: a name of `rbl list protocols`, a `.toml` file, a `Protocol`, or one attack such
            as `rbl.PGD(steps=50)`.
        eps: radius in [0, 1] units: 8/255, "8/255", 0.031 or a Fraction.
        n: only the first n images.
        out: a result folder: the same call goes on where it was interrupted, and
            `rbl leaderboard` finds it. None writes to a temporary folder that goes away with the
            report.
        name: of the network in tables.
        dataset: name of your data in tables.
        split: of a named data set.
        data_dir: where a named data set lies.
        image_size: of a named source, such as 224 or `"224x192"`; see `rbl.load_split`.
        classes: of a named source: a file of class names, or how many there are.
        seed: of every random draw.
        engine: `"ours"`, or `"reference"` for the authors' AutoAttack; None as in the protocol.
        batch_size: images at once; by default 100 on a CPU, 500 on CUDA.
        evidence: which adversarial images are kept for `Report.adversarial`: `"float32"` all,
            `"int8"` those that broke something, in a quarter of the memory, or `"none"`. A
            folder begun before goes on as it was; otherwise the default is `"float32"` up to 1 GiB,
            `"int8"` above.
        settings: all settings of an evaluation, in place of the last two.
        device: where to compute; by default where the network is.
        progress: True shows a bar; or a function that is called after each part.
        workers: processes that do this together; see `robustbench_lite.evaluation.workers`.
        images: which examples, in place of `n`.

    Returns:
        A report; `report.robust_accuracy` is a float with `.interval` and `.n`.

    Raises:
        InputError: one line for whatever is wrong with data, labels, network or parameters.
    """
    chosen = _protocol(protocol, eps, engine)
    if n is not None:
        check_count("n", n)
    loaded = _read(data, n, split=split, data_dir=data_dir, image_size=image_size, classes=classes)
    with ready(model, name=name, device=device) as (source, place):
        whole = _split(loaded, source, place, dataset or WHAT)
        source = identified(source)
        if name is not None:
            source = dataclasses.replace(source, name=name)
        folder = Path(mkdtemp(prefix="robustbench_lite_") if out is None else out)
        asked = settings or Settings(batch_size=batch_size)
        count = len(images) if images else min(n or len(whole), len(whole))
        kept = evidence or asked.evidence or _evidence(folder, whole, chosen, count)
        try:
            evaluate_split(
                source,
                whole,
                chosen,
                out=folder,
                n=n,
                seed=seed,
                settings=dataclasses.replace(asked, evidence=kept),
                device=place,
                progress=evaluation_bar(source.name) if progress is True else progress or None,
                workers=workers,
                images=images,
            )
            report = Report(folder, whole)
        except BaseException:
            if out is None:
                rmtree(folder, ignore_errors=True)
            raise
    if out is None:  # when nobody has the report any more, and when Python ends
        weakref.finalize(report, rmtree, folder, ignore_errors=True)
    return report


def _read(
    data: object,
    n: int | None,
    *,
    split: str,
    data_dir: str | Path | None,
    image_size: int | str | None,
    classes: int | str | Path | None,
) -> Split | tuple[torch.Tensor, torch.Tensor]:
    if isinstance(data, str):
        return load_split(data, split, data_dir=data_dir, image_size=image_size, classes=classes)
    if (image_size, classes, data_dir) != (None, None, None):
        raise InputError(
            "image_size, classes and data_dir are for data by name, such as 'folder:DIR'; images "
            f"given as {type(data).__name__} have their size, and the network says how many classes"
        )
    return data if isinstance(data, Split) else read(data, n)


def _split(
    loaded: Split | tuple[torch.Tensor, torch.Tensor],
    source: LoadedModel,
    device: torch.device,
    name: str,
) -> Split:
    """The data as a split, with as many classes as the network has."""
    if isinstance(loaded, Split):
        classes_of(source, loaded.pixels(slice(0, 1)).to(device))  # lazy weights come with it
        return loaded
    x, y = loaded
    return as_split(x, y, classes=classes_of(source, sample_of(x).to(device)), name=name)


def _protocol(
    protocol: str | Protocol | AttackObject, eps: Eps | None, engine: str | None
) -> Protocol:
    """The protocol of a name or of a single attack, at its radius."""
    if isinstance(protocol, str):
        return load_protocol(protocol, eps=eps, engine=engine)
    if isinstance(protocol, AttackObject):
        if eps is None:
            raise InputError("an evaluation needs a radius: give eps, such as eps=8/255")
        if not isinstance(protocol.target, str | None):
            raise InputError(
                "an evaluation aims by a rule: give target='least_likely', 'random' or 'next'; "
                "rbl.attack takes a class for each image"
            )
        spec, threat = chosen_attack(protocol, eps, None)
        return Protocol(
            spec.name, 1, threat, "ours", OUR_ENGINE, passes=1, attacks=(spec,), summary=spec.title
        )
    if not isinstance(protocol, Protocol):
        raise InputError(
            f"protocol is {type(protocol).__name__}; give a name such as 'linf_standard', a "
            "Protocol, or an attack such as rbl.PGD()"
        )
    if eps is not None and parse_eps(eps) != protocol.threat.eps:
        raise InputError(
            f"eps={eps} is not that of the protocol, {protocol.id}: give one of the two"
        )
    return protocol


def _evidence(folder: Path, data: Split, protocol: Protocol, count: int) -> Evidence | None:
    """What is kept when nobody said: as a folder was begun, else all images up to a limit."""
    if folder.is_dir() and any(folder.glob("parts/*/*.parquet")):
        return None
    size = 4 * data.images[0].numel() * count * len(protocol.attacks)
    return "float32" if size <= _MOST_BYTES else "int8"
