"""Damage to a file of a finished folder never changes a number and never ends in a traceback."""

import sys
from collections import Counter
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_no_damage_changes_a_number_or_ends_in_a_traceback(tmp_path, monkeypatch):
    """The short form of `python benchmarks/damage.py`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import damage

    try:
        counts, bad = damage.damage(tmp_path, tries=400, seed=7, redo=3)
    finally:
        del sys.modules["damage"]
    assert bad == []
    total = sum(counts.values(), Counter())
    assert total["refused"] > 100
    assert total["computed again"] > 100, "parts and checks are made anew"
    assert len(counts) >= 15, "every kind of file was damaged"
