"""Records of plain data: what is read, and the one line that refuses the rest."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from robustbench_lite.core.errors import InputError, ResultError
from robustbench_lite.core.schema import Finite, Record, Text, from_json, structured


class Inner(Record):
    steps: Annotated[int, Meta(ge=1)] = 1
    loss: Literal["ce", "dlr"] = "ce"
    name: Text = "x"
    weights: dict[str, Finite] = msgspec.field(default_factory=dict)
    mean: tuple[float, float] | None = None
    rest: list[Finite] = msgspec.field(default_factory=list)


class Outer(Record):
    inner: Inner
    items: list[Inner] = msgspec.field(default_factory=list)


def test_a_record_is_read_from_data_and_from_json():
    assert structured(Outer, {"inner": {"steps": 3}}, "f") == Outer(inner=Inner(steps=3))
    assert from_json(Outer, b'{"inner": {"mean": [1, 2.5]}}', "f").inner.mean == (1.0, 2.5)
    assert structured(Inner, {"steps": "3"}, "f", strict=False).steps == 3


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ({"steps": "3"}, "f: inner.steps is '3'; need an integer"),
        ({"steps": True}, "f: inner.steps is True; need an integer"),
        ({"steps": 0}, "f: inner.steps is 0; need an integer of at least 1"),
        ({"loss": "cw"}, "f: inner.loss is 'cw'; need one of ce, dlr"),
        ({"name": " "}, "f: inner.name is ' '; need a string that is not blank"),
        ({"weights": {"a": 1, "b c": "x"}}, "f: inner.weights.b c is 'x'; need a finite number"),
        ({"weights": {"a": math.inf}}, "f: inner.weights.a is inf; need a finite number"),
        ({"weights": {"a": math.nan}}, "f: inner.weights.a is nan; need a finite number"),
        ({"rest": [1, math.nan]}, "f: inner.rest[1] is nan; need a finite number"),
        ({"mean": "x"}, "f: inner.mean is 'x'; need a list or null"),
        ({"mean": [1]}, "f: inner.mean is [1]; need a list of length 2"),
        ({"mean": [1, "x"]}, "f: inner.mean[1] is 'x'; need a finite number"),
        ({"stepz": 1}, "f: unknown key inner.stepz; did you mean steps?"),
        (
            {"zzz": 1},
            "f: unknown key inner.zzz; known: steps, loss, name, weights, mean, rest",
        ),
        (5, "f: inner is 5; need a table"),
        ({"weights": {"a\nb\x1b": 1, "0": ""}}, "f: inner.weights.0 is ''; need a finite number"),
        ({"weights": {"a\nb\x1b": ""}}, r"f: inner.weights.a\nb\x1b is ''; need a finite number"),
        (
            {"weights": {"k" * 99: ""}},
            f"f: inner.weights.{'k' * 57}... is ''; need a finite number",
        ),
    ],
)
def test_a_refusal_names_file_key_value_and_what_is_allowed(inner, said):
    with pytest.raises(InputError) as caught:
        structured(Outer, {"inner": inner}, "f")
    assert str(caught.value) == said


def test_keys_in_lists_missing_keys_and_the_top_level_are_named_too():
    for data, said in [
        ({}, "f: missing key inner"),
        ({"inner": {}, "items": [{}, {"steps": 0}]}, "f: items[1].steps is 0"),
        ([1], "f: the file is [1]; need a table"),
    ]:
        with pytest.raises(ResultError, match="^" + said.replace("[", r"\[")):
            structured(Outer, data, "f", error=ResultError)
    with pytest.raises(InputError, match="^f: a.b.inner is 5; need a table"):
        structured(Outer, {"inner": 5}, "f", where="a.b")


@pytest.mark.parametrize("key", ["x\ny", "x - at `$.inner[3].z", "x` - at `$[...]", "`"])
def test_a_key_that_looks_like_a_message_is_one_line(key):
    for data in ({key: 1, "inner": {}}, {"inner": {key: 1}}):
        with pytest.raises(InputError) as caught:
            structured(Outer, data, "f")
        assert "\n" not in str(caught.value)


class Optional(Record):
    loss: Literal["ce", "dlr"] | msgspec.UnsetType = msgspec.UNSET


def test_a_key_without_a_default_is_explained_like_any_other():
    with pytest.raises(InputError, match="^f: loss is 'cw'; need one of ce, dlr$"):
        structured(Optional, {"loss": "cw"}, "f")


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"inner": NaN}', b"\xff", b'"\xff"', b'{"\xff": 1}', b"[" * 5000]
)
def test_what_is_no_json_is_one_line(content):
    with pytest.raises(InputError, match="^f is no valid JSON: "):
        from_json(Outer, content, "f")


def test_half_a_character_as_a_key_is_one_line_and_keys_of_dataclasses_are_known():
    with pytest.raises(InputError, match="^f: a key of the file is no text: "):
        structured(Outer, {"\ud800": 1}, "f")

    @dataclass
    class Plain:
        steps: int
        more: Inner | None = None

    assert structured(Plain, {"steps": 2}, "f") == Plain(2)
    for data, said in [
        ({"steps": 2, "stepz": 1}, "unknown key x.stepz; did you mean steps?"),
        ({"steps": 2, "more": {"b": 1}}, "unknown key x.more.b; known: steps, loss, "),
        ({}, "missing key x.steps"),
    ]:
        with pytest.raises(InputError, match=re.escape(said)):
            structured(Plain, data, "", where="x")


def test_types_that_msgspec_does_not_know_come_from_a_hook():
    def hook(kind, value):
        assert kind is Fraction
        if value == "x":
            raise ValueError("x is no fraction")
        return Fraction(value)

    assert structured(list[Fraction], ["1/3"], "f", hook=hook) == [Fraction(1, 3)]
    with pytest.raises(InputError, match=r"f: a\[0\]: x is no fraction"):
        structured(list[Fraction], ["x"], "f", where="a", hook=hook)
