"""robustbench_lite: train adversarial defenses, attack them, rank them with uncertainty."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a checkout `attacks/`, `defenses/` and `leaderboard/` lie beside this folder (setup.cfg maps
# them into this package). Letting the package look there makes a bare checkout importable too.
_checkout = _Path(__file__).resolve().parent.parent
if (_checkout / "setup.cfg").is_file():
    __path__.append(str(_checkout))
