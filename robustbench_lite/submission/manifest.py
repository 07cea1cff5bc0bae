"""`submission.toml` and the files beside it, read and judged without running any of it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from robustbench_lite.attacks.protocol import Protocol, load_protocol
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.registry import unknown_name
from robustbench_lite.core.schema import Hex64, shown
from robustbench_lite.datasets import DatasetInfo, dataset_info
from robustbench_lite.models import MODELS
from robustbench_lite.submission.findings import Finding

FILE = "submission.toml"
WEIGHTS = "model.safetensors"
CODE = "model.py"
SCHEMA_VERSION = 1
PLACEHOLDER = "TODO"
MOST_WEIGHTS = 4 * 2**30  # bytes
MOST_TEXT = 2**20
MOST_LETTERS = 200  # of a value that tables show
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar")
# What may lie in the folder; `entry/` and `evaluation/` are what `rbl submit run` writes.
_FILES = {FILE, WEIGHTS, CODE, "README.md", "LICENSE", "LICENCE"}
_OUTPUT = {"entry", "evaluation"}


@dataclass(frozen=True)
class Manifest:
    """A submission as its authors describe it.

    Args:
        name: of the row and of the entry's folder.
        authors: at least one.
        licence: of code and weights, such as `MIT`.
        paper_title: empty for none.
        paper_url: http(s), or empty.
        defense: how it was trained, for the table.
        training_data: in words.
        extra_data: whether anything but the data set's training split was used.
        architecture: a registered name, or empty with a factory.
        options: of the architecture.
        factory: function in `model.py` that builds the network, or empty.
        mean, std: per channel, of the normalisation layer of a registered architecture.
        sha256: of the weights file, hexadecimal.
        dataset: registered name.
        protocol: at the submission's eps.
        clean_accuracy: claimed, percent.
        robust_accuracy: claimed, percent.
        examples: the claims are of that many first test images.
    """

    name: str
    authors: tuple[str, ...]
    licence: str
    paper_title: str
    paper_url: str
    defense: str
    training_data: str
    extra_data: bool
    architecture: str
    options: Mapping[str, Any]
    factory: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    sha256: str
    dataset: DatasetInfo
    protocol: Protocol
    clean_accuracy: float
    robust_accuracy: float
    examples: int


_Line = Annotated[str, Meta(pattern=r"\S", max_length=MOST_LETTERS)]
_Channels = tuple[Annotated[float, Meta(gt=-1e30, lt=1e30)], ...]
_Percent = Annotated[float, Meta(ge=0, le=100)]
# Short and above 0, so that ids and exact arithmetic stay small.
_RADIUS = r"^(?=[^/]*[1-9])([0-9]{1,6}/[0-9]{1,6}|[0-9]{0,6}\.?[0-9]{1,9})\Z"
# Key: the type of its value, what it must be in words, and whether it may be absent.
_KEYS: dict[str, tuple[Any, str, bool]] = {
    "schema_version": (Literal[1], f"write {SCHEMA_VERSION}", False),
    "name": (
        Annotated[str, Meta(pattern=rf"^{NAME.pattern}\Z")],
        "up to 64 letters, digits and _ . -, beginning with a letter or digit",
        False,
    ),
    "authors": (
        Annotated[tuple[_Line, ...], Meta(min_length=1)],
        'a list of names, such as ["A. Author"]',
        False,
    ),
    "licence": (_Line, 'the licence of code and weights, such as "MIT"', False),
    "paper.title": (
        Annotated[str, Meta(pattern=r"^\Z|\S", max_length=MOST_LETTERS)],
        'its title, or ""',
        False,
    ),
    "paper.url": (
        Annotated[str, Meta(pattern=r"^(https?://\S+)?\Z")],
        'an http(s) address, or ""',
        False,
    ),
    "training.defense": (_Line, "how it was trained, in a few words", False),
    "training.data": (_Line, "the training data, in words", False),
    "training.extra_data": (bool, "true or false", False),
    "network.architecture": (_Line, "a name of `rbl list models`", True),
    "network.factory": (
        Annotated[str, Meta(pattern=r"^[^\W\d]\w*\Z")],
        f"the function in {CODE} that builds the network, such as build",
        True,
    ),
    "network.options": (dict[str, Any], "a table of the architecture's", True),
    "network.mean": (_Channels, "a list of one number per channel", True),
    "network.std": (_Channels, "a list of one number per channel", True),
    "network.sha256": (Hex64, f"64 hexadecimal digits, from sha256sum {WEIGHTS}", False),
    "threat.dataset": (_Line, "a name of `rbl list datasets`", False),
    "threat.protocol": (_Line, "a name of `rbl list protocols`", False),
    "threat.eps": (
        Annotated[str, Meta(pattern=_RADIUS)],
        'the radius as text and above 0, such as "8/255"',
        False,
    ),
    "claims.clean_accuracy": (_Percent, "percent, from 0 to 100", False),
    "claims.robust_accuracy": (_Percent, "percent, from 0 to 100", False),
    "claims.examples": (
        Annotated[int, Meta(ge=1, le=10**9)],
        "how many first test images the claims are of",
        False,
    ),
}


def read_manifest(folder: Path) -> tuple[Manifest | None, list[Finding]]:
    """Read and judge a submission folder without running any of it.

    Returns:
        The manifest, or None where an error stands in the way, and what was found.

    Raises:
        InputError: when there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no submission folder {folder}; `rbl submit new NAME` makes one")
    values, findings = _read_values(folder / FILE)
    findings += _check_files(folder, values)
    if any(finding.level == "error" for finding in findings):
        return None, findings
    manifest, wrong = _meaning(values)
    findings += wrong
    if manifest is None:
        return None, findings
    findings.append(Finding("ok", f"{FILE}: every key is there and of its type"))
    weights = _check_weights_file(folder / WEIGHTS, manifest.sha256)
    return (manifest if weights.level == "ok" else None), [*findings, weights]


def _read_values(path: Path) -> tuple[dict[str, object], list[Finding]]:
    """Values by dotted key, those that are what they must be as typed, and every other finding."""
    try:
        if path.stat().st_size > MOST_TEXT:
            raise ValueError("it is larger than 1 MiB")
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        fix = "`rbl submit new NAME` writes one to fill in"
        return {}, [Finding("error", f"no {FILE} in {path.parent}", fix)]
    except (OSError, ValueError, RecursionError) as error:
        return {}, [Finding("error", f"{FILE} is no readable TOML ({error})", "mend that line")]
    flat: dict[str, object] = {}
    sections = {key.partition(".")[0] for key in _KEYS if "." in key}
    for key, value in data.items():
        if isinstance(value, dict) and key in sections:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    findings = [
        Finding("error", f"{FILE}: {unknown_name('key', key, _KEYS)}", "rename or remove it")
        for key in flat
        if key not in _KEYS
    ]
    for key, (kind, must, optional) in _KEYS.items():
        if key in flat:
            try:
                flat[key] = _shown_as_it_is(msgspec.convert(flat[key], kind))
            except ValueError:
                what = f"{FILE}: {key} is {shown(flat[key])}"
                findings.append(Finding("error", what, f"it must be {must}"))
        elif not optional:
            findings.append(Finding("error", f"{FILE}: {key} is missing", f"add it: {must}"))
    return flat, findings


def _shown_as_it_is(value: object) -> object:
    """The value, filled in and visible; what turns the direction of writing is not printable."""
    for text in value if isinstance(value, tuple) else [value]:
        if isinstance(text, str) and (PLACEHOLDER in text or not text.isprintable()):
            raise ValueError
    return value


def _check_files(folder: Path, values: Mapping[str, object]) -> list[Finding]:
    """Only what belongs in a submission, each of a sane size."""
    findings = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in _OUTPUT and path.is_dir() and not path.is_symlink():
            continue
        if path.suffix.lower() in _PICKLES:
            fix = f"save the weights as {WEIGHTS} (safetensors.torch.save_file)"
            findings.append(Finding("error", f"{name} is a pickle, which can run code", fix))
        elif name not in _FILES or path.is_symlink() or not path.is_file():
            fix = f"leave only {', '.join(sorted(_FILES - {'LICENCE'}))}, as plain files"
            findings.append(Finding("error", f"{name} does not belong in a submission", fix))
        elif path.stat().st_size > (MOST_WEIGHTS if name == WEIGHTS else MOST_TEXT):
            most = "4 GiB" if name == WEIGHTS else "1 MiB"
            findings.append(Finding("error", f"{name} is larger than {most}", "make it smaller"))
    for name in (WEIGHTS, "README.md"):
        if not (folder / name).is_file():
            findings.append(Finding("error", f"no {name} in {folder}", "add it"))
    readme = folder / "README.md"
    if readme.is_file() and PLACEHOLDER in readme.read_text(encoding="utf-8", errors="replace"):
        findings.append(Finding("error", f"README.md still says {PLACEHOLDER}", "write it"))
    if "network.factory" in values and not (folder / CODE).is_file():
        fix = f"add {CODE}, or name an architecture"
        findings.append(Finding("error", f"network.factory is given and there is no {CODE}", fix))
    if "network.factory" not in values and (folder / CODE).exists():
        fix = "remove it, or name its function as network.factory"
        findings.append(Finding("error", f"there is a {CODE} and nothing uses it", fix))
    return findings


def _meaning(values: Mapping[str, Any]) -> tuple[Manifest | None, list[Finding]]:
    """What the values mean together: data set, protocol, architecture, claims."""
    findings: list[Finding] = []

    def attempt(key: str, load: Callable[[], Any]) -> Any:
        try:
            return load()
        except InputError as error:
            findings.append(Finding("error", f"{FILE}: {key}", str(error)))
            return None

    dataset = attempt("threat.dataset", lambda: dataset_info(values["threat.dataset"]))
    protocol = attempt(
        "threat.protocol",
        lambda: load_protocol(_shipped(values["threat.protocol"]), eps=values["threat.eps"]),
    )
    architecture = values.get("network.architecture", "")
    factory = values.get("network.factory", "")
    if bool(architecture) == bool(factory):
        fix = "give exactly one of network.architecture and network.factory"
        findings.append(Finding("error", f"{FILE}: [network] names no network, or two", fix))
    elif architecture:
        attempt("network.architecture", lambda: MODELS[architecture])
    mean, std = (values.get(f"network.{key}") for key in ("mean", "std"))
    if factory and (mean or std or values.get("network.options")):
        fix = f"normalise inside {CODE}, and remove them"
        what = f"{FILE}: mean, std and options are for registered architectures"
        findings.append(Finding("error", what, fix))
    if values["claims.robust_accuracy"] > values["claims.clean_accuracy"]:
        what = f"{FILE}: the claimed robust accuracy is above the clean one"
        findings.append(Finding("error", what, "a broken clean image is never robust: mend it"))
    if findings:
        return None, findings
    manifest = Manifest(
        name=values["name"],
        authors=values["authors"],
        licence=values["licence"],
        paper_title=values["paper.title"],
        paper_url=values["paper.url"],
        defense=values["training.defense"],
        training_data=values["training.data"],
        extra_data=values["training.extra_data"],
        architecture=architecture,
        options=values.get("network.options", {}),
        factory=factory,
        mean=mean,
        std=std,
        sha256=values["network.sha256"],
        dataset=dataset,
        protocol=protocol,
        clean_accuracy=values["claims.clean_accuracy"],
        robust_accuracy=values["claims.robust_accuracy"],
        examples=values["claims.examples"],
    )
    return manifest, findings


def _shipped(name: str) -> str:
    """A protocol of one's own compares with nobody."""
    if name.endswith(".toml"):
        raise InputError(f"{name} is a file; a submission names a protocol of `rbl list protocols`")
    return name


def _check_weights_file(path: Path, claimed: str) -> Finding:
    from safetensors import SafetensorError, safe_open

    found = file_hash(path)
    if found != claimed:
        fix = f'write sha256 = "{found}" if this is the file you mean'
        return Finding("error", f"{WEIGHTS} has another sha256 than {FILE} says", fix)
    try:
        with safe_open(path, framework="pt") as file:
            count = len(list(file.keys()))
    except (SafetensorError, OSError) as error:
        fix = "save it again with safetensors.torch.save_file"
        return Finding("error", f"{WEIGHTS} is no safetensors file ({error})", fix)
    return Finding("ok", f"{WEIGHTS}: {count} tensors, sha256 as stated")


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
