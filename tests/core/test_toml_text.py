"""TOML is written so that the standard library reads the same values back."""

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.core.toml_text import toml_key, toml_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()
VALUES = st.recursive(
    TEXT | NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(key=TEXT, value=VALUES)
def test_what_is_written_reads_back(key, value):
    line = f"{toml_key(key)} = {toml_value(value)}"
    assert "\n" not in line
    read = tomllib.loads(line)
    assert read == {key: value}
    assert repr(read) == repr({key: value}), "types too: 1 is not 1.0 or true"


def test_not_a_number_is_written_and_nothing_is_refused():
    assert math.isnan(tomllib.loads(f"x = {toml_value(math.nan)}")["x"])
    with pytest.raises(TypeError, match="None cannot be written as TOML"):
        toml_value(None)
