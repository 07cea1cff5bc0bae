"""What `rbl show result` and `rbl show model` print: stored records as TOML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_lite.leaderboard.results.records import Accuracy, Result


def result_toml(path: str) -> str:
    """A stored result without its examples: what was measured, on what, and what came out.

    Args:
        path: a `result.json`, or the folder that holds it.

    Raises:
        ResultError: where there is none, or it does not agree with itself.
    """
    from robustbench_lite.leaderboard import load_result

    result = load_result(path)
    data: dict[str, Any] = {
        "name": result.name,
        "status": result.status,
        "clean_accuracy": _accuracy(result.clean_accuracy),
        "robust_accuracy": _accuracy(result.robust_accuracy),
        "attacks": {name: _attack(result, name) for name in result.attacks},
        "flags": {flag.name: _flag(flag) for flag in result.flags},
        "model": {
            "hash": result.model.hash,
            "kind": result.model.kind,
            "architecture": result.architecture,
            "defense": result.defense,
            "parameters": result.parameters,
            "selection": result.model.selection,
            "extra_data": result.extra_data,
        },
        "data": {
            "name": result.dataset.name,
            "split": result.dataset.split,
            "examples": result.examples.text,
            "seed": result.seed,
            "hash": result.dataset.hash,
        },
        "protocol": {
            "id": result.protocol.id,
            "norm": result.protocol.norm,
            "eps": result.protocol.eps,
            "engine": result.protocol.engine_text,
            "hash": result.protocol.hash,
        },
        "settings": result.settings,
        "environment": {**result.environment, "git_commit": result.git_commit},
    }
    return "\n".join(_lines(data)) + "\n"


def model_toml(name: str) -> str:
    """The card of a checkpoint, or what is known of an architecture.

    Args:
        name: a checkpoint folder, or a name of `rbl list models`.

    Raises:
        InputError: for a name that is neither, and for a damaged card.
    """
    from robustbench_lite.checkpoints.card import CARD_FILE, read_card
    from robustbench_lite.models import MODELS, architecture_options

    path = Path(name)
    if name not in MODELS and path.is_dir():
        if (path / "best" / CARD_FILE).is_file() and not (path / CARD_FILE).is_file():
            path = path / "best"
        from msgspec.structs import asdict

        return "\n".join(_lines(asdict(read_card(path / CARD_FILE)))) + "\n"
    entry = MODELS[name]
    data = {
        "name": name,
        "summary": entry.summary,
        "source": entry.source,
        "target": entry.target,
        "options": architecture_options(name),
    }
    return "\n".join(_lines(data)) + "\n"


def _accuracy(accuracy: Accuracy) -> dict[str, object]:
    low, high = accuracy.interval
    rounded = [round(low, 4), round(high, 4)]
    return {"value": accuracy.value, "correct": accuracy.correct, "n": accuracy.n} | {
        "interval_95": rounded
    }


def _attack(result: Result, name: str) -> dict[str, object]:
    attack = result.attacks[name]
    stages = {stage: accuracy.value for stage, accuracy in attack.stages}
    return _accuracy(attack.accuracy) | {
        "forwards_per_example": round(attack.forwards, 1),
        "backwards_per_example": round(attack.backwards, 1),
        **({"left_after": stages} if stages else {}),
    }


def _flag(flag: Any) -> dict[str, object]:
    names = ("value", "threshold", "meaning", "follow_up")
    return {name: getattr(flag, name) for name in names}


def _lines(data: Mapping[str, Any], name: str = "") -> Iterator[str]:
    """TOML of nested mappings: the values of a table, then its tables. TOML has no word for what
    is unknown, so that is a comment."""
    from robustbench_lite.core.toml_text import toml_key, toml_value

    inner = {key: value for key, value in data.items() if isinstance(value, Mapping) and value}
    for key, value in data.items():
        if key in inner or isinstance(value, Mapping):
            continue
        yield f"# {key}: unknown" if value is None else f"{toml_key(key)} = {toml_value(value)}"
    for key, value in inner.items():
        place = f"{name}.{toml_key(key)}" if name else toml_key(key)
        if not all(isinstance(each, Mapping) for each in value.values()):
            yield ""
            yield f"[{place}]"
        yield from _lines(value, place)
