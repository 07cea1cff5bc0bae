"""PYTHONPATH=tests python tests/browser/pages.py FOLDER: made-up pages for the browser tests.

`sample.html` has tables, ties, flags and stages; `hostile.html` what an attacker would call his
network; `many.html` a row with nine attacks and a reported table; `empty.html` none. The numbers
are made up.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from test_leaderboard_builder import (
    HOSTILE,
    accuracy_of,
    checks,
    content,
    flagged,
    protocol,
    store,
)
from test_leaderboard_page import hostile
from test_leaderboard_reported import published

from robustbench_lite.leaderboard import load_result, write_page
from robustbench_lite.leaderboard.published.reported import reported_rows
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels

STAGES = ("apgd_ce", "apgd_t", "fab_t", "square")
FULL = "0123456789abcdef" * 4
SETTINGS = {
    "batch_size": 500,
    "chunk_size": 500,
    "threads": 1,
    "evidence": "int8",
    "device": "cuda",
}
ENVIRONMENT = {
    "versions": {"robustbench_lite": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
    "device_name": "made up",
}
# name, defense, architecture, parameters, clean, PGD-20, CW, AutoAttack
CIFAR10 = (
    ("cifar10_trades", "trades", "wrn34_10", 46_160_474, 84.9, 56.6, 54.2, 53.1),
    ("cifar10_lbgat", "lbgat", "wrn34_10", 46_160_474, 88.2, 55.9, 54.3, 52.9),
    ("cifar10_mart", "mart", "preact_resnet18", 11_172_170, 81.3, 54.4, 49.6, 47.1),
    ("cifar10_pgd_at", "pgd_at", "preact_resnet18", 11_172_170, 82.9, 51.8, 50.1, 48.2),
    ("cifar10_mail_trades", "mail_trades", "preact_resnet18", 11_172_170, 81.8, 53.4, 50.9, 50.0),
    ("cifar10_irat", "irat", "preact_resnet18", 11_172_170, 83.5, 52.6, 49.7, 47.7),
    ("cifar10_random_mask", "random_mask", "preact_resnet18", 11_172_170, 86.4, 41.9, 36.0, 9.4),
    ("cifar10_standard", "standard", "preact_resnet18", 11_172_170, 94.8, 0.1, 0.0, 0.0),
)
L2 = (
    ("cifar10_l2_pgd_at", "pgd_at", "preact_resnet18", 11_172_170, 89.1, 69.2, 68.3, 66.9),
    ("cifar10_l2_trades", "trades", "preact_resnet18", 11_172_170, 87.4, 70.6, 69.5, 67.8),
)
CIFAR100 = (
    ("cifar100_lbgat_trades", "lbgat_trades", "wrn34_10", 46_218_164, 60.6, 34.9, 30.7, 29.3),
    ("cifar100_trades", "trades", "wrn34_10", 46_218_164, 56.5, 30.9, 28.4, 26.9),
    ("cifar100_pgd_at", "pgd_at", "resnet18", 11_220_132, 55.2, 29.5, 27.0, 24.8),
)
PLANS = {
    "linf": {"id": "linf_standard@8/255.v2", "version": 2, "eps": "8/255", "eps_value": 8 / 255},
    "l2": {
        "id": "l2_standard@0.5.v2", "name": "l2_standard", "version": 2, "norm": "L2", "eps": "0.5",
        "eps_value": 0.5,
    },
}  # fmt: skip


def dataset(name: str, canonical: bool) -> dict[str, Any]:
    return {
        "name": name,
        "split": "test",
        "hash": f"sha256:{name.encode().hex()}{FULL}",
        "canonical": canonical,
    }


def rows(
    table: tuple[Any, ...], data: dict[str, Any], plan: str, n: int = 1000
) -> list[dict[str, Any]]:
    """Results whose outcomes follow the percentages; every AutoAttack has its stages."""
    rng = np.random.default_rng(0)
    strength = rng.random(n)
    made = []
    for name, defense, architecture, parameters, clean_rate, *rates in table:
        clean = (rng.random(n) < clean_rate / 100) | (strength < rates[0] / 100)
        pgd, cw, aa = (clean & (strength < rate / 100) for rate in rates)
        attacks = {"pgd20_ce": pgd, "cwinf30_k50": cw, "aa_standard": aa}
        row = content(
            name,
            clean,
            attacks,
            defense=defense,
            architecture=architecture,
            parameters=parameters,
            dataset=data,
            protocol=protocol(list(attacks), **PLANS[plan]),
            settings=SETTINGS,
            environment=ENVIRONMENT,
            checks=checks(n, batch_dependent=1.2e-7),
        )
        row["model"]["hash"] = f"sha256:{(defense.encode().hex() + FULL)[:64]}"
        left = (pgd, aa | (pgd & (strength < rates[2] / 100 + 0.002)), aa, aa)
        row["attacks"]["aa_standard"].update(
            stages={stage: accuracy_of(bits) for stage, bits in zip(STAGES, left, strict=True)},
            forwards=6903.4,
            backwards=1688.2,
        )
        made.append(row)
    return made


def sample() -> list[dict[str, Any]]:
    cifar10, cifar100 = dataset("cifar10", True), dataset("cifar100", False)
    linf = rows(CIFAR10, cifar10, "linf")
    linf[6].update(flagged())
    for row in linf[:-1]:  # the last one is of a version that stored no labels
        row["outcomes"]["labels"] = pack_labels(np.arange(1000) % 10)
    return [*linf, *rows(L2, cifar10, "l2"), *rows(CIFAR100, cifar100, "linf")]


def many() -> dict[str, Any]:
    """A row with more attacks than a table has room for."""
    n = 100
    attacks = {f"attack_with_a_long_name_{i}": np.arange(n) < 60 - i for i in range(9)}
    return content("many", np.arange(n) < 90, attacks)


def main(folder: Path) -> None:
    """Write the pages."""
    pages = {
        "sample": (sample(), "Robustness leaderboard"),
        "hostile": (hostile(), HOSTILE[0]),
        "many": ([many()], "Many attacks, and reported rows"),
        "empty": ([], "Nothing"),
    }
    for name, (contents, title) in pages.items():
        results = [
            load_result(store(folder / name / str(i), data)) for i, data in enumerate(contents)
        ]
        reported = reported_rows([published()]) if name == "many" else []
        write_page(folder / f"{name}.html", results, title=title, reported=reported)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
