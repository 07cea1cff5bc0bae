"""The attacks by name. Imports no torch; `ATTACKS.load(name)` does."""

from __future__ import annotations

from robustbench_lite.core.registry import Entry, Registry

_HERE = "robustbench_lite.attacks"

ATTACKS = Registry(
    "attack",
    {
        "fgsm": Entry(
            f"{_HERE}.first_order.fgsm:Fgsm",
            "one signed gradient step of length eps",
            "Goodfellow et al. 2015, arXiv:1412.6572",
        ),
        "pgd": Entry(
            f"{_HERE}.first_order.pgd:Pgd",
            "projected gradient descent on CE, margin (CW), DLR or KL; Linf and L2",
            "Madry et al. 2018, arXiv:1706.06083",
        ),
        "pgd_int": Entry(
            f"{_HERE}.first_order.pgd_int:PgdInt",
            "PGD in whole steps of 1/255, on labels or for and against confidence; Linf",
            "Chen et al. 2020, arXiv:2003.09711 (ALOE)",
        ),
        "cw_l2": Entry(
            f"{_HERE}.first_order.cw_l2:CwL2",
            "Carlini-Wagner minimal L2 perturbation, binary search over c",
            "Carlini and Wagner 2017, arXiv:1608.04644",
        ),
        "apgd_ce": Entry(
            f"{_HERE}.autoattack.apgd:ApgdCe",
            "Auto-PGD on cross-entropy: step sizes by itself; Linf, L2 and L1",
            "Croce and Hein 2020, arXiv:2003.01690; L1: arXiv:2103.01208",
        ),
        "apgd_dlr": Entry(
            f"{_HERE}.autoattack.apgd:ApgdDlr",
            "Auto-PGD on the difference of logits ratio",
            "Croce and Hein 2020, arXiv:2003.01690",
        ),
        "apgd_t": Entry(
            f"{_HERE}.autoattack.apgd:ApgdT",
            "Auto-PGD on the targeted DLR loss, for the likeliest wrong classes",
            "Croce and Hein 2020, arXiv:2003.01690",
        ),
        "fab": Entry(
            f"{_HERE}.autoattack.fab:Fab",
            "Fast Adaptive Boundary: minimal perturbations by projecting onto the boundary",
            "Croce and Hein 2020, arXiv:1907.02044",
        ),
        "fab_t": Entry(
            f"{_HERE}.autoattack.fab:FabT",
            "Fast Adaptive Boundary towards the likeliest wrong classes",
            "Croce and Hein 2020, arXiv:1907.02044",
        ),
        "square": Entry(
            f"{_HERE}.autoattack.square:Square",
            "random search by square windows: queries only, no gradients",
            "Andriushchenko et al. 2020, arXiv:1912.00049",
        ),
        "autoattack": Entry(
            f"{_HERE}.autoattack.ensemble:AutoAttack",
            "AutoAttack (standard, plus, rand) on our engine",
            "Croce and Hein 2020, arXiv:2003.01690",
        ),
        "reference:autoattack": Entry(
            f"{_HERE}.adapters.pyautoattack:ReferenceAutoAttack",
            "AutoAttack, the authors' own code (pyautoattack), always seeded",
            "Croce and Hein 2020, arXiv:2003.01690",
        ),
        "torchattacks": Entry(
            f"{_HERE}.adapters.torchattacks:Torchattacks",
            "torchattacks:<Name>, any attack of that package",
            "Kim 2020, arXiv:2010.01950",
        ),
    },
    entry_point_group="robustbench_lite.attacks",
)
