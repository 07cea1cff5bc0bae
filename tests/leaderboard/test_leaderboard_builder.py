"""Synthetic `result.json` contents for the leaderboard tests, and a test that they are sound."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.leaderboard.results.load import load_result

Outcomes = np.ndarray[Any, np.dtype[np.bool_]]

TITLES = {"pgd20_ce": "PGD-20", "cwinf30_k50": "CW-30", "aa_standard": "AutoAttack"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"quotes\' & <b>bold</b>" onmouseover=alert(1)',
    "right\u202eto\u2066left\u200f",
    "pipe | back`tick` [link](javascript:alert(1)) ![i](http://x.test/i.png)",
    "\x1b[2J\x1b]0;owned\x07 bell\nnew line",
    r"\input{/etc/passwd} $x^2$ 100% #1 a_b ~",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><img src=http://x.test/i.png>",
    "x" * 500,
]


def wilson(correct: int, n: int) -> list[float]:
    """The closed form of the 95% Wilson interval (Wilson 1927)."""
    z = 1.959963984540054
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def packed(bits: Outcomes) -> str:
    """Base64 of the bits, first example highest; written apart from the package."""
    import base64

    return base64.b64encode(np.packbits(bits, bitorder="big").tobytes()).decode()


def accuracy_of(bits: Outcomes) -> dict[str, Any]:
    correct, n = int(bits.sum()), len(bits)
    return {"value": correct / n, "correct": correct, "n": n, "interval": wilson(correct, n)}


def first(count: int, n: int) -> Outcomes:
    """Outcomes with ones for the first `count` of `n` examples."""
    return np.arange(n) < count


def content(
    name: str, clean: Outcomes, attacks: dict[str, Outcomes], **changes: Any
) -> dict[str, Any]:
    """The parsed content of a sound `result.json`; `changes` replace top-level keys."""
    robust = np.logical_and.reduce([clean, *attacks.values()])
    data: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "defense": "pgd_at",
        "architecture": "small_cnn",
        "parameters": 21326,
        "extra_data": False,
        "dataset": {"name": "digits", "split": "test", "hash": "sha256:data", "canonical": True},
        "model": {
            "kind": "checkpoint",
            "hash": f"sha256:model of {name}",
            "selection": "best validation robust accuracy",
        },
        "protocol": protocol(list(attacks)),
        "n_examples": len(clean),
        "examples": {"first": 0, "count": len(clean)},
        "seed": 0,
        "clean_accuracy": accuracy_of(clean),
        "robust_accuracy": accuracy_of(robust),
        "attacks": {
            attack: {**accuracy_of(bits), "forwards": 20.0, "backwards": 20.5}
            for attack, bits in attacks.items()
        },
        "outcomes": {
            "encoding": "packbits-base64",
            "clean": packed(clean),
            "attacks": {attack: packed(bits) for attack, bits in attacks.items()},
        },
        "flags": [],
        "checks": checks(len(clean)),
        "status": "verified",
        "environment": {"torch": "2.13.0", "numpy": "2.4.6"},
        "git_commit": "0123456789abcdef",
    }
    return {**data, **changes}


def protocol(attacks: list[str], **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": "linf_standard@0.1.v1",
        "name": "linf_standard",
        "version": 1,
        "norm": "Linf",
        "eps": "0.1",
        "eps_value": 0.1,
        "engine": "ours",
        "engine_version": "1",
        "attacks": [
            {"name": name, "title": TITLES.get(name, name), "attack": "pgd", "steps": 20}
            for name in attacks
        ],
    }
    return hashed({**data, **changes})


def hashed(plan: dict[str, Any]) -> dict[str, Any]:
    """A protocol with the hash of its content; written apart from the package."""
    kept = {key: value for key, value in plan.items() if key != "hash"}
    kept["attacks"] = [{k: v for k, v in spec.items() if k != "title"} for spec in plan["attacks"]]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return {**plan, "hash": "sha256:" + hashlib.sha256(text.encode()).hexdigest()}


def simple(name: str, robust: int, n: int = 40, **changes: Any) -> dict[str, Any]:
    """A result with one attack that leaves the first `robust` of `n` examples standing."""
    return content(name, first(n, n), {"pgd20_ce": first(robust, n)}, **changes)


CHECKS = (
    *("batch_dependent", "bn_train_mode", "randomised", "probabilities", "zero_gradients"),
    *("nan_gradients", "gradient_disagrees", "loss_scale", "huge_eps", "double_normalisation"),
    *("transfer_beats_white_box", "black_box_beats_white_box", "test_time_optimisation"),
    *("answers_depend_on_history", "outside_ball"),
)


def checks(points: int = 40, **values: float) -> dict[str, Any]:
    """Every check of today, at 0 where `values` does not say otherwise."""
    return {name: {"value": values.get(name, 0.0), "points": points} for name in CHECKS}


def flagged(name: str = "zero_gradients") -> dict[str, Any]:
    """The changes that flag a result; a name that is none of ours has no check."""
    flag = {
        "name": name,
        "value": 0.1,
        "threshold": 0.05,
        "meaning": "Of an older version.",
        "follow_up": "rbl evaluate --protocol adaptive",
    }
    found = {name: 0.1} if name in CHECKS else {}
    return {"flags": [flag], "status": "unverified", "checks": checks(**found)}


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """A content as schema 2 has it: `store_sealed` adds the checksum."""
    status = "flagged" if data["flags"] else "measured"
    return {**data, "schema_version": 2, "status": status, "examples_sha256": "0" * 64}


def store_sealed(folder: Path, data: dict[str, Any]) -> Path:
    """Write a content of schema 2, as it stands, with the checksum of its text."""
    file = store(folder, data)
    file.write_text(with_checksum(data), encoding="utf-8")
    return file


def store(folder: Path, data: dict[str, Any]) -> Path:
    """Write a content to `folder/result.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "result.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def demo(n: int = 300) -> list[dict[str, Any]]:
    """Three rows as the embedded demo has them: undefended, PGD-AT, TRADES."""
    rng = np.random.default_rng(0)
    rows = []
    for name, defense, clean_rate, rates in (
        ("digits_standard", "standard", 0.98, (0.05, 0.04, 0.0)),
        ("digits_pgd_at", "pgd_at", 0.975, (0.9, 0.89, 0.88)),
        ("digits_trades", "trades", 0.965, (0.91, 0.90, 0.89)),
    ):
        clean = rng.random(n) < clean_rate
        strength = rng.random(n)
        attacks = {
            attack: clean & (strength < rate) for attack, rate in zip(TITLES, rates, strict=True)
        }
        rows.append(content(name, clean, attacks, defense=defense))
    return rows


def test_leaderboard_builder_contents_load(tmp_path: Path) -> None:
    for i, data in enumerate([*demo(), simple("one", 3), simple("two", 0, **flagged())]):
        result = load_result(store(tmp_path / str(i), data))
        assert result.name == data["name"]
        assert result.robust_accuracy.correct == data["robust_accuracy"]["correct"]
