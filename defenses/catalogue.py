"""The defenses by name. Imports no torch; `DEFENSES.load(name)` does."""

from __future__ import annotations

from robustbench_lite.attacks.registry import Entry, Registry

_HERE = "robustbench_lite.defenses"

DEFENSES = Registry(
    "defense",
    {
        "standard": Entry(
            f"{_HERE}.standard:Standard",
            "cross-entropy on clean images: the undefended baseline",
            "empirical risk minimisation",
        ),
        "pgd_at": Entry(
            f"{_HERE}.pgd_at:PgdAt",
            "PGD adversarial training: cross-entropy on crafted images",
            "Madry et al. 2018, arXiv:1706.06083",
        ),
        "trades": Entry(
            f"{_HERE}.trades:Trades",
            "clean cross-entropy plus beta times KL(clean || crafted)",
            "Zhang et al. 2019, arXiv:1901.08573",
        ),
    },
    entry_point_group="robustbench_lite.defenses",
)
