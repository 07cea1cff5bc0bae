"""Names of weights in other projects' files, and ours for them."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import some_names
from robustbench_lite.core.errors import InputError
from robustbench_lite.models.classifier import Classifier

_PREFIXES = ("module.", "model.", "_orig_mod.")  # DataParallel, wrappers, torch.compile
_BATCH_COUNTER = "num_batches_tracked"  # absent before torch 0.4.1; no part of the function
_AVERAGE_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel


@dataclass(frozen=True)
class NameRules:
    """What the user says about the names in a file.

    Args:
        prefix: what stands before each name of the network, such as `"student."`; names without
            it are left out. Empty: prefixes are recognised.
        drop: patterns as of a shell (`criterion.*`) of names in the file to leave out.
        renames: how names begin in the file, after the prefix (whole dotted parts) -> ours.
    """

    prefix: str = ""
    drop: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedWeights:
    """Weights under our names, and what was done to get there (see `ImportReport`)."""

    tensors: dict[str, Tensor]
    renamed: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    added: tuple[str, ...]
    cast: tuple[str, ...]


def read_renames(path: Path) -> dict[str, str]:
    """A TOML file of renamed layers: `"features.0" = "conv1"`, theirs = ours, one a line.

    Raises:
        InputError: when it cannot be read, is no TOML, or holds anything but names.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as a map of names: {error}") from error
    renames = dict(_flat(content, ""))
    wrong = next((name for name, ours in renames.items() if not isinstance(ours, str)), None)
    if wrong is not None or not renames:
        what = f"{wrong} = {renames[wrong]!r}" if wrong else "nothing"
        raise InputError(f'{path} holds {what}; write lines such as "features.0" = "conv1"')
    return {name: str(ours) for name, ours in renames.items()}


def _flat(table: Mapping[str, object], key: str) -> Iterator[tuple[str, object]]:
    """Names without quotes are TOML tables: `features.0 = "conv1"` means `features."0"`."""
    for name, value in table.items():
        whole = f"{key}.{name}" if key else name
        if isinstance(value, dict):
            yield from _flat(value, whole)
        else:
            yield whole, value


def without_dropped(
    path: Path, stored: Mapping[str, Any], patterns: tuple[str, ...]
) -> dict[str, Any]:
    """The names that no pattern of `NameRules.drop` matches.

    Raises:
        InputError: for a pattern that matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in stored):
            raise InputError(
                f"--drop {pattern!r} matches no name in {path}; it has {some_names(list(stored))}"
            )
    return {
        name: value
        for name, value in stored.items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def our_names(
    path: Path, stored: Mapping[str, Any], reference: nn.Module, rules: NameRules
) -> NamedWeights:
    """Our names for stored weights; what fits nowhere keeps its name, for the strict check.

    Args:
        path: of the file, for messages.
        stored: names to what is stored, without what `rules.drop` leaves out.
        reference: the network, possibly on the meta device.
        rules: what the user said.

    Raises:
        InputError: for two entries of one name, two prefixes that fit, or a rule without use.
    """
    network = _Names(reference, rules.renames)
    bare = _without_prefix(path, stored, network, rules.prefix)
    unused = [name for name in rules.renames if not any(_begins(b, name) for b in bare.values())]
    if unused:
        raise InputError(
            f"--map names {some_names(unused)}, which {path} does not hold; it has "
            f"{some_names(list(bare.values()))}"
        )
    tensors: dict[str, Tensor] = {}
    renamed: list[tuple[str, str]] = []
    dropped = [name for name in stored if name not in bare]
    cast: list[str] = []
    for name, own in bare.items():
        value, ours = stored[name], network.ours(own)
        if ours is None or not isinstance(value, Tensor):
            dropped.append(name)
            continue
        if ours in tensors:
            raise InputError(f"{path}: two entries are {ours} once prefixes are removed")
        wanted = network.expected[ours].dtype if ours in network.expected else value.dtype
        if wanted != value.dtype and wanted.is_floating_point and value.is_floating_point():
            cast.append(ours)
            value = value.to(wanted)
        if ours != name:
            renamed.append((name, ours))
        tensors[ours] = value
    added = [n for n in network.expected if n not in tensors and _last(n) == _BATCH_COUNTER]
    tensors |= {name: torch.zeros((), dtype=torch.int64) for name in added}
    return NamedWeights(tensors, tuple(renamed), tuple(dropped), tuple(added), tuple(cast))


class _Names:
    """The names of a network, and how its family's public code and the user write them."""

    def __init__(self, reference: nn.Module, renames: Mapping[str, str]) -> None:
        self.expected: Mapping[str, Tensor] = reference.state_dict()
        known = reference if isinstance(reference, Classifier) else Classifier(None, None)
        # The longest name first: the map of a user may name a layer inside another.
        self._renames = dict(sorted(renames.items(), key=lambda pair: -len(pair[0])))
        self._public = known.public_names
        self._unused = known.unused_modules

    def ours(self, bare: str) -> str | None:
        """The name in our network; None for what no forward pass uses."""
        if bare.partition(".")[0] in self._unused or bare == _AVERAGE_COUNTER:
            return None
        for theirs, ours in self._renames.items():
            if _begins(bare, theirs):
                return f"{ours}{bare.removeprefix(theirs)}"
        if bare in self.expected:
            return bare
        mapped = (
            f"{ours}{bare.removeprefix(theirs)}"
            for theirs, ours in self._public.items()
            if _begins(bare, theirs)
        )
        return next((name for name in mapped if name in self.expected), bare)

    def fits(self, bare: str) -> bool:
        """Whether it is a name of the network."""
        return self.ours(bare) in self.expected


def _without_prefix(
    path: Path, stored: Mapping[str, Any], network: _Names, prefix: str
) -> dict[str, str]:
    """Names in the file -> the same without prefix."""
    if prefix:
        prefix = prefix if prefix.endswith(".") else f"{prefix}."
        bare = {name: name.removeprefix(prefix) for name in stored if name.startswith(prefix)}
        if not bare:
            first = sorted({name.partition(".")[0] + "." for name in stored})
            raise InputError(
                f"no name in {path} begins with {prefix}; they begin with {some_names(first)}"
            )
        return bare
    bare = {name: _without_wrappers(name, network) for name in stored}
    prefix = _common_prefix(path, list(bare.values()), network)
    return {name: own.removeprefix(prefix) for name, own in bare.items()}


def _without_wrappers(name: str, network: _Names) -> str:
    while not network.fits(name):
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def _common_prefix(path: Path, names: list[str], network: _Names) -> str:
    """What stands before the most names of the network; "" when the names fit as they are."""
    fitting: dict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts)):
            bare = ".".join(parts[cut:])
            if network.fits(bare):
                fitting[name.removesuffix(bare)].add(bare)
    most = max(map(len, fitting.values()), default=0)
    best = [prefix for prefix, found in fitting.items() if len(found) == most]
    if "" in best or not best:
        return ""
    if len(best) > 1:
        raise InputError(
            f"{path} holds weights that fit after each of {some_names(best)}: name one as --prefix"
        )
    return best[0]


def _begins(name: str, theirs: str) -> bool:
    return name == theirs or name.startswith(f"{theirs}.")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
