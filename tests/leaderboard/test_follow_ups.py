"""A flag stays until the follow-up that it names has answered it, and the row says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_leaderboard_builder import (
    checks,
    content,
    first,
    flagged,
    hashed,
    protocol,
    simple,
    store,
)
from test_samples_compared import listed

from robustbench_lite.core.flag_rules import AUTOATTACKS, FLAGS, FOLLOW_UPS
from robustbench_lite.leaderboard import Result, build_table, load_result
from robustbench_lite.leaderboard.results.follow_ups import with_follow_ups

BLACK_BOX = "black_box_beats_white_box"
N = 100
EVEN = tuple(range(40, 80, 2))


def plan(version: str | None, eps: str = "0.1", name: str = "mine") -> dict[str, Any]:
    """A protocol of one attack `a`: PGD, or a version of AutoAttack."""
    kind = {"attack": "pgd", "steps": 20} if version is None else {"attack": "autoattack"}
    spec = {"name": "a", "title": "A", **kind, "few_classes": "margin"}
    if version is not None:
        spec["version"] = version
    terms = {"name": name, "id": f"{name}@{eps}.v1", "eps": eps, "eps_value": float(eps)}
    return hashed({**protocol([]), **terms, "attacks": [spec]})


def rising(name: str, n: int = N) -> dict[str, Any]:
    """The changes that raise a flag by a value of 2; none for no name."""
    if not name:
        return {"checks": checks(n)}
    changes = flagged(name)
    changes["flags"][0]["value"] = 2.0
    return {**changes, "checks": checks(n, **{name: 2.0})}


def read(
    folder: Path,
    robust: int,
    version: str | None = None,
    *,
    raised: str = "",
    eps: str = "0.1",
    unmeasured: str = "",
    n: int = N,
    **changes: Any,
) -> Result:
    """A stored result of the network: `robust` of `n`, with a flag or a check without points."""
    data = content("net", first(n, n), {"a": first(robust, n)}, protocol=plan(version, eps))
    data |= rising(raised, n)
    if unmeasured:
        data["checks"][unmeasured] = {"value": 0.0, "points": 0}
    return load_result(store(folder, {**data, **changes}))


def reasons(*results: Result) -> list[tuple[str, ...]]:
    return [result.reasons for result in with_follow_ups(results)]


def test_a_follow_up_that_cannot_measure_a_flag_does_not_take_it_off(tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=BLACK_BOX)
    plus = read(tmp_path / "b", 60, "plus", unmeasured=BLACK_BOX)
    assert plus.ranked, "alone nothing is known of it"
    assert reasons(row, plus) == [(BLACK_BOX,), (BLACK_BOX,)]
    (flag,) = with_follow_ups([row, plus])[1].flags
    assert flag.meaning.startswith("raised by mine@0.1.v1, not measured here: ")


def test_a_follow_up_that_confirms_a_row_answers_its_flag(tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=BLACK_BOX)
    plus = read(tmp_path / "b", 59, "plus")
    first_row, second = with_follow_ups([row, plus])
    assert (first_row.status, second.status) == ("measured", "measured")
    said = f"{BLACK_BOX} answered by mine@0.1.v1: it breaks 1 of 100 more"
    assert first_row.answered == (said,)
    table = build_table([row, plus])
    assert sorted(table["flags"]) == ["", said]
    assert set(table["status"]) == {"measured"}


def test_a_follow_up_that_breaks_more_leaves_the_flag_on_the_row(tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=BLACK_BOX)
    assert reasons(row, read(tmp_path / "b", 58, "plus")) == [(BLACK_BOX,), ()]


def test_a_follow_up_that_raises_the_flag_answers_nothing(tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=BLACK_BOX)
    plus = read(tmp_path / "b", 60, "plus", raised=BLACK_BOX)
    assert reasons(row, plus) == [(BLACK_BOX,), (BLACK_BOX,)]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"version": "standard"},
        {"eps": "0.2"},
        {"n": 50},
        {"seed": 0, "model": {"kind": "checkpoint", "hash": "sha256:b", "selection": None}},
    ],
)
def test_only_the_named_attack_on_the_same_answers(changes: dict[str, Any], tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=BLACK_BOX)
    robust = 30 if "n" in changes else 60
    other = read(tmp_path / "b", robust, **{"version": "plus", **changes})
    assert reasons(row, other)[0] == (BLACK_BOX,)


@pytest.mark.parametrize(
    ("left", "answered"), [(59, True), (58, False)], ids=["all of its own stand", "one falls"]
)
def test_a_row_of_chosen_examples_is_answered_by_their_ids(
    left: int, answered: bool, tmp_path: Path
) -> None:
    """Its ten robust ones have the ids 40, 42, ..., 58; the follow-up leaves 0 to `left` - 1."""
    some = listed(EVEN)
    row = read(tmp_path / "a", 10, "standard", raised=BLACK_BOX, n=20, examples=some)
    assert (reasons(row, read(tmp_path / "b", left, "plus"))[0] == ()) == answered


def test_examples_that_a_follow_up_lacks_are_not_answered(tmp_path: Path) -> None:
    row = read(tmp_path / "a", 10, "standard", raised=BLACK_BOX, n=20, examples=listed(EVEN))
    odd = listed(tuple(number + 1 for number in EVEN))
    other = read(tmp_path / "b", 20, "plus", n=20, examples=odd)
    assert reasons(row, other)[0] == (BLACK_BOX,)


def test_the_name_of_a_protocol_is_not_its_attack(tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=BLACK_BOX)
    weak = read(tmp_path / "b", 60, protocol=plan(None, name="aa_plus"))
    assert reasons(row, weak)[0] == (BLACK_BOX,)


def test_autoattack_answers_a_loss_scale_that_it_does_not_see(tmp_path: Path) -> None:
    quick = read(tmp_path / "a", 90, raised="loss_scale")
    standard = read(tmp_path / "b", 40, "standard", raised="loss_scale")
    assert reasons(quick) == [("loss_scale",)]
    assert reasons(quick, standard) == [("loss_scale",), ()]
    answered = with_follow_ups([standard])[0].answered
    assert answered == ("loss_scale answered by this row: it breaks 0 of 100 more",)


@pytest.mark.parametrize(("left", "expected"), [(10, ()), (11, ("huge_eps",))])
def test_a_huge_radius_is_answered_by_autoattack_there(
    left: int, expected: tuple[str, ...], tmp_path: Path
) -> None:
    from robustbench_lite.leaderboard.statistics.accuracy import pack_labels

    row = read(tmp_path / "a", 40, "standard", raised="huge_eps")
    far = content("net", first(N, N), {"a": first(left, N)}, protocol=plan("standard", "0.5"))
    far["outcomes"]["labels"] = pack_labels([i % 10 for i in range(N)])
    huge = load_result(store(tmp_path / "b", {**far, **rising("huge_eps")}))
    assert reasons(row, huge)[0] == expected
    quick = read(tmp_path / "c", 40, raised="huge_eps")
    assert reasons(quick, huge)[0] == ("huge_eps",), "PGD, which failed, is all it has"


@pytest.mark.parametrize("name", sorted({flag.name for flag in FLAGS} - set(FOLLOW_UPS)))
def test_other_flags_are_answered_by_another_network_alone(name: str, tmp_path: Path) -> None:
    row = read(tmp_path / "a", 60, "standard", raised=name)
    others = [read(tmp_path / version, 60, version) for version in ("standard", "plus", "rand")]
    assert reasons(row, *others)[0] == (name,)


def test_results_without_flags_are_left_as_they_are(tmp_path: Path) -> None:
    results = [load_result(store(tmp_path / str(i), simple("a", 30 + i))) for i in range(2)]
    assert all(a is b for a, b in zip(with_follow_ups(results), results, strict=True))


def test_follow_ups_are_of_flags_and_attacks_that_exist() -> None:
    assert set(FOLLOW_UPS) <= {flag.name for flag in FLAGS}
    assert "autoattack" in AUTOATTACKS
