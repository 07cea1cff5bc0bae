"""robustbench_lite: train adversarial defenses, attack them, rank them with uncertainty.

The names below are imported when first used; `import robustbench_lite` alone imports no torch.
"""

from __future__ import annotations

import os as _os

__version__ = "0.1.0"

# In a checkout `attacks/`, `defenses/` and `leaderboard/` lie beside this folder (setup.cfg maps
# them into this package). Letting the package look there makes a bare checkout importable too.
# (Not by `pathlib`, which is slow to import: until a command's `main` runs, Ctrl-C is a traceback.)
_checkout = _os.path.dirname(_os.path.dirname(_os.path.realpath(__file__)))
if _os.path.isfile(_os.path.join(_checkout, "setup.cfg")):
    __path__.append(_checkout)

_EXPORTS = {
    "APGD": "robustbench_lite.api.attack_objects",
    "AutoAttack": "robustbench_lite.api.autoattack",
    "CW": "robustbench_lite.api.attack_objects",
    "InputError": "robustbench_lite.core.errors",
    "PGD": "robustbench_lite.api.attack_objects",
    "Report": "robustbench_lite.api.report",
    "Settings": "robustbench_lite.evaluation.evaluate",
    "Square": "robustbench_lite.api.attack_objects",
    "attack": "robustbench_lite.api.attack",
    "craft": "robustbench_lite.api.craft",
    "evaluate": "robustbench_lite.api.evaluate",
    "load_checkpoint": "robustbench_lite.checkpoints.checkpoint",
    "load_protocol": "robustbench_lite.attacks.protocol",
    "load_recipe": "robustbench_lite.training.recipe",
    "load_split": "robustbench_lite.datasets",
    "losses": "robustbench_lite.api.losses",
    "resolve_model": "robustbench_lite.checkpoints.model_source",
    "train": "robustbench_lite.training.loop",
    "verify": "robustbench_lite.verifier",
}
_MODULES = {"losses"}  # of the names above: a module, not something in it
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        from importlib import import_module

        module = import_module(_EXPORTS[name])
        return module if name in _MODULES else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
