"""`checks.json`: read back as written; anything else is refused in one line."""

import pytest

from robustbench_lite.core.errors import DamagedFileError
from robustbench_lite.core.flag_rules import MEASURED, Check
from robustbench_lite.core.storage import write_sealed_json
from robustbench_lite.evaluation.flags.thresholds import NetworkChecks, read_measured

SOUND = NetworkChecks({name: Check(0.5, 7) for name in MEASURED}, 3, (1, 2))


def test_checks_are_read_as_they_were_written(tmp_path):
    write_sealed_json(tmp_path / "checks.json", {"terms": "t", **SOUND.as_dict()})
    assert read_measured(tmp_path / "checks.json", terms="t") == SOUND


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"terms": "other"}, "another evaluation"),
        ({"checks": {}}, MEASURED[0]),
        ({"crafted_on_copies": {"points": "x", "broken": []}}, "crafted_on_copies.points is 'x'"),
        ({"checks": {MEASURED[0]: {"value": "0", "points": 1}}}, "value is '0'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, words):
    write_sealed_json(tmp_path / "checks.json", {"terms": "t", **SOUND.as_dict(), **change})
    with pytest.raises(DamagedFileError, match="cannot be read") as refusal:
        read_measured(tmp_path / "checks.json", terms="t")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
