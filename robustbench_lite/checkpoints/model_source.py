"""Where a network to evaluate comes from: a checkpoint folder, or a factory of the user's own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import (
    Card,
    check_weights,
    checkpoint_hash,
    load_checkpoint,
    model_hash,
    near_paths,
    network_digest,
    parameter_count,
    put_on_device,
)
from robustbench_lite.checkpoints.sources import RUN_CODE, SOURCES
from robustbench_lite.checkpoints.sources.contract import SourceNetwork
from robustbench_lite.checkpoints.user_imports import FolderImports
from robustbench_lite.checkpoints.user_network import (
    NetworkError,
    UserNetwork,
    check_logits,
    make_usable,
    user_code,
)
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import described


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to be evaluated, and its identity.

    Args:
        model: in eval mode, on its device.
        name: the card's name, or the factory as `file.py:factory` / `package.module:factory`.
        kind: where it came from; of another source, the word before the colon.
        hash: `"sha256:..."`; of a factory: its tensors, module classes and their source files.
        card: of a checkpoint.
        num_classes: K of the card, or what the caller asked of a factory; None if neither.
        parameters: how many it has.
        defense: its name in a checkpoint, or in the words of whoever submitted it; empty when
            unknown.
        architecture: likewise.
        extra_data: whether it saw other data than the training split; None when nobody said.
        selection: how its epoch was chosen; empty when unknown.
        trained_on: content hash of its training data; empty when unknown.
        source: of another source, `KIND:NAME` with the commit or tag of its weights; else empty.
        image_shape: (C, H, W) that it was made for; None when unknown.
    """

    model: nn.Module
    name: str
    kind: str
    hash: str
    card: Card | None
    num_classes: int | None
    parameters: int
    defense: str = ""
    architecture: str = ""
    extra_data: bool | None = None
    selection: str = ""
    trained_on: str = ""
    source: str = ""
    image_shape: tuple[int, int, int] | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What the header of a run says of it."""
        stated = {"name": self.name, "kind": self.kind, "hash": self.hash}
        return stated | ({"source": self.source} if self.source else {})


def resolve_model(
    spec: str,
    *,
    allow_code: bool,
    device: str | torch.device,
    num_classes: int | None = None,
) -> LoadedModel:
    """Load what a user named on the command line.

    Args:
        spec: a checkpoint folder; `package.module:factory` or `path/file.py:factory`, where
            `factory()` returns an `nn.Module` that maps images in [0, 1] to logits; or
            `KIND:NAME` of a source in `SOURCES`.
        allow_code: the user agreed to run the code that `spec` names.
        device: where the network is put.
        num_classes: K of the data set it will meet; None when unknown.

    Returns:
        The network in eval mode with its identity.

    Raises:
        InputError: one line for anything missing, not allowed, or failing inside the user's code.
    """
    path = Path(spec)
    source, colon, attribute = spec.rpartition(":")
    if not path.exists() and spec.partition(":")[0] in SOURCES:
        return _from_source(spec, allow_code, device, num_classes)
    if not path.exists() and colon:
        return _from_factory(source, attribute, allow_code, device, num_classes)
    if path.is_file() and path.suffix == ".py":
        raise InputError(f"{spec} names no factory: write {spec}:FACTORY")
    if not path.exists():
        raise InputError(
            f"no checkpoint folder {spec}{near_paths(path)} (a network of your own is named "
            "path/file.py:factory or package.module:factory, others "
            f"{', '.join(f'{kind}:...' for kind in SOURCES)})"
        )
    if (path / "best" / "card.json").is_file():
        raise InputError(f"{path} is a run folder: give {path}/best or {path}/last")
    model, card = load_checkpoint(path, device=device)
    if num_classes is not None and card.num_classes != num_classes:
        raise InputError(
            f"checkpoint {spec} has {card.num_classes} classes, the data set has {num_classes}"
        )
    return LoadedModel(
        model=model,
        name=card.name,
        kind="checkpoint",
        hash=checkpoint_hash(path),
        card=card,
        num_classes=card.num_classes,
        parameters=card.parameters,
        defense=card.defense,
        architecture=card.architecture,
        extra_data=card.saw_extra_data,
        selection=card.selection,
        trained_on=card.dataset_hash,
        image_shape=(card.in_channels, *card.image_size),
    )


def check_model_contract(
    model: nn.Module, x_sample: Tensor, num_classes: int, *, dataset: str = ""
) -> None:
    """Check that a network maps images to finite logits `(B, K)`; one forward pass.

    Args:
        model: run in the mode it is in; no gradient is kept.
        x_sample: `(B, C, H, W)` float32 in [0, 1], on the network's device.
        num_classes: K of the data set.
        dataset: its name, for the message.

    Raises:
        InputError: when the pass fails, or gives anything but finite floating-point `(B, K)`.
    """
    shape = tuple(x_sample.shape)
    try:
        with torch.no_grad():
            returned: object = model(x_sample)
    except NetworkError:
        raise
    except Exception as error:  # of a network that came by another way than `resolve_model`
        raise NetworkError(f"model fails on images of shape {shape}: {described(error)}") from error
    logits = check_logits(returned, x_sample, name="model", classes=num_classes)
    if logits.shape[1] != num_classes:
        owner = f"data set {dataset}" if dataset else "the data set"
        raise InputError(
            f"model gives {logits.shape[1]} classes, {owner} has {num_classes}: "
            "use a model trained on these classes"
        )
    bad = int((~torch.isfinite(logits)).any(dim=1).sum())
    if bad:
        raise InputError(
            f"model gives NaN or infinite logits on {bad} of {shape[0]} images{_bad_weight(model)}"
        )


def _bad_weight(model: nn.Module) -> str:
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
            return f": its {name} holds NaN or infinite weights"
    return ": its weights are finite, look for an overflow in its forward pass"


def _from_source(
    spec: str, allow_code: bool, device: str | torch.device, num_classes: int | None
) -> LoadedModel:
    """A network of another source; its library may fail in any way."""
    kind, _, rest = spec.partition(":")
    if kind in RUN_CODE and not allow_code:
        raise InputError(f"model {spec} runs code from {rest}; add --allow-code if you trust it")
    with user_code(f"model {spec} cannot be loaded"):
        found: SourceNetwork = SOURCES.load(kind)(rest)
    source = f"{kind}:{found.name}"
    name = f"{source} ({found.note})" if found.note else source
    if found.folder is not None:
        loaded = resolve_model(
            str(found.folder), allow_code=False, device=device, num_classes=num_classes
        )
        return replace(loaded, kind=kind, name=name, source=source)
    model = found.model
    assert model is not None, kind  # a source gives a folder or a network
    with user_code(f"model {name} cannot be put to use"):
        make_usable(model, name)
        model = put_on_device(model, device).eval()
        return LoadedModel(
            model=UserNetwork(model, name),
            name=name,
            kind=kind,
            hash=network_digest(
                {"network": model_hash(model), "source": kind, **found.identity}, {}
            ),
            card=None,
            num_classes=num_classes,
            parameters=found.parameters or parameter_count(model),
            source=source,
            image_shape=found.image_shape,
        )


def _from_factory(
    source: str,
    attribute: str,
    allow_code: bool,
    device: str | torch.device,
    num_classes: int | None,
) -> LoadedModel:
    is_file = source.endswith(".py")
    path = Path(source)
    if is_file and not path.is_file():
        raise InputError(f"no file {source}{near_paths(path)}")
    if not is_file and not all(part.isidentifier() for part in source.split(".")):
        raise InputError(
            f"model {source}:{attribute} is neither a checkpoint folder{near_paths(path)} nor "
            "path/file.py:factory or package.module:factory"
        )
    if not allow_code:
        raise InputError(
            f"model {source}:{attribute} runs code from {source}; add --allow-code if you trust it"
        )
    imports = FolderImports(path.absolute().parent if is_file else Path.cwd())
    name = f"{path.name if is_file else source}:{attribute}"
    with imports.active():
        module = _run_file(path) if is_file else _import(source)
        model = _call(module, source, attribute)
        return _user_network(model, module, name, imports, num_classes=num_classes, device=device)


def _user_network(
    model: nn.Module,
    module: ModuleType,
    name: str,
    imports: FolderImports | None = None,
    *,
    num_classes: int | None,
    device: str | torch.device,
) -> LoadedModel:
    """The network of a factory, ready; its class may have replaced any method of `nn.Module`.

    An own `train()` or `to()` without `return self` is common, and does what it should.
    """
    with user_code(f"model {name} cannot be put to use"):
        make_usable(model, name)
        moved: nn.Module | None = put_on_device(model, device)
        model = model if moved is None else moved
        model.eval()
        return LoadedModel(
            model=UserNetwork(model, name, imports),
            name=name,
            kind="factory",
            hash=_factory_hash(model, module),
            card=None,
            num_classes=num_classes,
            parameters=parameter_count(model),
        )


def load_factory(
    path: Path,
    attribute: str,
    tensors: Mapping[str, Tensor],
    *,
    num_classes: int,
    device: str | torch.device,
) -> LoadedModel:
    """Run a factory of a file, then give its network weights that are stored apart.

    Args:
        path: a `.py` file, whose code is run.
        attribute: the factory.
        tensors: weights by name: all of the network's, and no others.
        num_classes: K.
        device: where the network is put.

    Raises:
        InputError: one line for whatever fails in the code, and for weights that do not fit.
    """
    module = _run_file(path)
    model = _call(module, path.name, attribute)
    name = f"{path.name}:{attribute}"
    with user_code(f"model {name}: its weights cannot be loaded"):
        check_weights(tensors, model, "the weights file", num_classes)
        model.load_state_dict(tensors, strict=True)
    return _user_network(model, module, name, num_classes=num_classes, device=device)


@contextmanager
def named_object(spec: str, *, what: str, allow_code: bool) -> Iterator[object]:
    """Something of a user's own code that is no network, such as a factory of data.

    In the block its file's folder is importable, so it is to be called there.

    Args:
        spec: `path/file.py:NAME`.
        what: the option that names it, for messages.
        allow_code: the user agreed to run that file.

    Raises:
        InputError: one line for anything missing, not allowed, or failing in the user's code.
    """
    source, _, attribute = spec.rpartition(":")
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{what} {spec}: no file {source}{near_paths(path)}")
    if not allow_code:
        raise InputError(f"{what} {spec} runs code from {source}; add --allow-code if you trust it")
    with FolderImports(path.absolute().parent).active():
        found: object = getattr(_run_file(path), attribute, None)
        if found is None:
            raise InputError(f"{what} {spec}: {source} has no {attribute!r}")
        yield found


def _import(name: str) -> ModuleType:
    with user_code(f"module {name} cannot be imported"):
        return importlib.import_module(name)


def _run_file(path: Path) -> ModuleType:
    # The resolved path makes the name unique; dataclasses and pickling look it up in sys.modules.
    unique = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(f"rbl_model_{path.stem}_{unique}", path.resolve())
    assert spec is not None, path  # a .py suffix always has a loader
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with user_code(f"{path} fails when run"):
            spec.loader.exec_module(module)
    except InputError:
        del sys.modules[spec.name]
        raise
    return module


def _call(module: ModuleType, source: str, attribute: str) -> nn.Module:
    with user_code(f"{source} fails when asked for {attribute!r}"):
        factory = getattr(module, attribute, None)
    if not callable(factory):
        names = [
            name for name in vars(module) if callable(getattr(module, name)) and name[0] != "_"
        ]
        what = "nothing callable named" if factory is not None else "no"
        raise InputError(f"{source} has {what} {attribute!r}; it has {', '.join(names) or 'none'}")
    with user_code(f"{source}:{attribute}() fails"):
        model = factory()
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source}:{attribute}() returns a {type(model).__name__}; it must return an nn.Module"
        )
    return model


def _factory_hash(model: nn.Module, module: ModuleType) -> str:
    """Tensors alone do not show an edited forward pass, so source files count too: the factory's
    own, and those that define the network's module classes. Functions they import from elsewhere
    are not seen."""
    digest = hashlib.sha256(model_hash(model).encode())
    sources = {getattr(module, "__file__", None)}
    for part in model.modules():
        if not type(part).__module__.startswith("torch."):
            with contextlib.suppress(TypeError, OSError):  # built in a session, without a file
                sources.add(inspect.getsourcefile(type(part)))
    contents = [Path(source).read_bytes() for source in sources if source is not None]
    for content in sorted(contents):  # by content: where the files lie does not matter
        digest.update(hashlib.sha256(content).digest())
    return f"sha256:{digest.hexdigest()}"
