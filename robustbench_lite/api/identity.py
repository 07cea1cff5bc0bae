"""Which network it is: a hash for one that exists only in memory."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_lite.checkpoints.checkpoint import model_hash

_LIBRARIES = ("torch", "torchvision", "numpy", "builtins", "functools")
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def network_hash(model: nn.Module, pieces: list[object]) -> str:
    """Identity of a network in memory.

    Args:
        model: its tensors and module classes count, with the source of each class, and so do plain
            values, containers of them and functions among the attributes of each module, and hooks.
        pieces: of a plain function: what `pieces_of` found.

    Returns:
        `"sha256:..."`. What the code reads from elsewhere (files, modules that it imports) is not
        seen. A network that counts its passes in an attribute is another one after each.
    """
    digest = hashlib.sha256(model_hash(model).encode())
    classes = {type(part) for part in model.modules()} - {nn.Module}
    sources = [_source(kind) for kind in classes if not _of_library(kind)]
    for text in sorted(sources):
        digest.update(text.encode())
    for piece in [*pieces, *_held_by(model)]:
        content = _content(piece)
        digest.update(len(content).to_bytes(8, "big") + content)  # where one ends, the next begins
    return f"sha256:{digest.hexdigest()}"


def pieces_of(function: object) -> list[object]:
    """What a function computes with, as far as can be found: itself, what it closes over, its
    defaults, the globals that it names, and the same of functions among these.

    Args:
        function: any callable that is no module.

    Returns:
        Functions, modules, tensors, arrays and plain values, each once, in a fixed order.
    """
    found: list[object] = []
    seen: dict[int, object] = {}  # kept alive: the id of a thing that is gone is given again

    def walk(piece: object) -> None:
        """Note a piece, and what it refers to."""
        if id(piece) in seen:
            return
        seen[id(piece)] = piece
        if isinstance(piece, (nn.Module, Tensor, np.ndarray, *_PLAIN)):
            found.append(piece)
        elif isinstance(piece, list | tuple):
            for one in piece:
                walk(one)
        elif isinstance(piece, set | frozenset):  # in each process in another order
            walk(sorted(map(repr, piece)))
        elif isinstance(piece, Mapping):
            for key in piece:
                walk((repr(key), piece[key]))
        elif isinstance(piece, functools.partial):
            walk((piece.func, piece.args, dict(sorted(piece.keywords.items()))))
        elif callable(piece) and not inspect.isclass(piece) and _of_library(piece):
            found.append(getattr(piece, "__qualname__", type(piece).__qualname__))
        elif callable(piece) and not inspect.isclass(piece):
            found.append(piece)
            for one in _neighbours(piece):
                walk(one)

    walk(function)
    return found


def _held_by(model: nn.Module) -> Iterator[object]:
    """What the modules of a network compute with beside tensors, modules and the mode."""
    usual = vars(nn.Module()).keys() - {"_forward_hooks", "_forward_pre_hooks"}
    for name, module in model.named_modules():
        held = {key: value for key, value in vars(module).items() if key not in usual}
        hooks = {
            key: [*held.pop(key).values()] for key in sorted(held) if key.startswith("_forward_")
        }
        for key, value in sorted((held | hooks).items()):
            yield from (f"{name}.{key}", *pieces_of(value))


def _neighbours(piece: object) -> Iterator[object]:
    """What a callable refers to."""
    if isinstance(piece, MethodType):
        yield from (piece.__func__, piece.__self__)
        if not callable(piece.__self__):  # else it is found itself
            yield from vars(piece.__self__).values() if hasattr(piece.__self__, "__dict__") else ()
    elif isinstance(piece, FunctionType):
        code = piece.__code__
        yield from (cell.cell_contents for cell in piece.__closure__ or () if _is_filled(cell))
        yield from (piece.__defaults__, piece.__kwdefaults__)
        yield from (piece.__globals__.get(name) for name in sorted(code.co_names))
    else:  # an object with __call__
        yield from (vars(piece) if hasattr(piece, "__dict__") else {}).values()


def _is_filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018
    except ValueError:
        return False
    return True


def _of_library(piece: object) -> bool:
    return str(getattr(piece, "__module__", "")).split(".")[0] in _LIBRARIES


def _content(piece: object) -> bytes:
    """Bytes that stand for a piece; a module's are in the hash of the network already."""
    if isinstance(piece, nn.Module):
        return b"module"
    if isinstance(piece, Tensor):
        piece = piece.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    if isinstance(piece, np.ndarray):
        return str(piece.dtype).encode() + np.ascontiguousarray(piece).tobytes()
    if isinstance(piece, _PLAIN):
        return repr(piece).encode()
    code = getattr(piece, "__code__", None)
    if isinstance(code, CodeType) and code.co_name == "<lambda>":
        return (_source(piece) + _compiled(code)).encode()  # others may be on its line
    return _source(piece).encode()


def _source(piece: object) -> str:
    """The source of a class or function; its compiled code where it has none, as in notebooks."""
    if not inspect.isclass(piece) and not isinstance(piece, FunctionType | MethodType):
        piece = type(piece)
    try:
        return inspect.getsource(piece)
    except (OSError, TypeError):
        methods = vars(piece).values() if inspect.isclass(piece) else [piece]
        codes = [getattr(method, "__code__", None) for method in methods]
        name = str(getattr(piece, "__qualname__", ""))
        return name + "".join(_compiled(code) for code in codes if code is not None)


def _compiled(code: CodeType) -> str:
    """What a function does, without where it was written."""
    constants = []
    for one in code.co_consts:
        if isinstance(one, CodeType):
            constants.append(_compiled(one))
        else:  # the order of a set is another in each process
            constants.append(repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one))
    return repr((code.co_code.hex(), code.co_names, constants))
