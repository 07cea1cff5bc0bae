"""What the status of a stored result follows from, and what damage and edits cannot do to it."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard_builder import (
    CHECKS,
    accuracy_of,
    checks,
    content,
    first,
    flagged,
    hashed,
    protocol,
    sealed,
    simple,
    store,
    store_sealed,
)

from robustbench_lite.cli import main
from robustbench_lite.core.flag_rules import FLAGS
from robustbench_lite.leaderboard import ResultError, build_table, load_result, render
from robustbench_lite.leaderboard.results.load import load_readable
from robustbench_lite.leaderboard.results.submitted import ENTRY_FILE, VERIFICATION_FILE
from robustbench_lite.leaderboard.statistics.accuracy import wilson_interval

Data = dict[str, Any]
ENTRIES = Path(__file__).resolve().parents[2] / "leaderboard" / "entries"


def without(data: Data, *keys: str) -> Data:
    return {key: value for key, value in data.items() if key not in keys}


def test_the_builder_has_every_check_of_today() -> None:
    assert tuple(flag.name for flag in FLAGS) == CHECKS


def test_sealed_and_older_results_are_read_and_say_measured(tmp_path: Path) -> None:
    old = load_result(store(tmp_path / "old", simple("a", 30)))
    new = load_result(store_sealed(tmp_path / "new", sealed(simple("a", 30))))
    assert (old.status, new.status) == ("measured", "measured")
    assert (old.examples_hash, new.examples_hash) == ("", "0" * 64)
    assert new.ranked


def test_a_sealed_result_without_its_checksum_is_refused(tmp_path: Path) -> None:
    data = sealed(simple("a", 30))
    with pytest.raises(ResultError, match="no checksum"):
        load_result(store(tmp_path, data))


def test_every_changed_byte_of_a_sealed_result_is_refused_in_one_line(tmp_path: Path) -> None:
    file = store_sealed(tmp_path, sealed(simple("a", 30)))
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(damaged)
        with pytest.raises(ResultError) as caught:
            load_result(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(content[:-40])
    with pytest.raises(ResultError):
        load_result(file)


def test_the_entries_that_are_shipped_still_rank() -> None:
    results = [load_result(path) for path in sorted(ENTRIES.iterdir())]
    assert [(result.status, result.ranked) for result in results] == [("measured", True)] * 2
    assert set(build_table(results)["rank"]) == {"1"}  # other numbers of images


@pytest.mark.parametrize("name", CHECKS)
def test_a_flag_that_a_check_raises_cannot_be_left_out(tmp_path: Path, name: str) -> None:
    data = simple("a", 30, checks=checks(**{name: 2.0}))
    with pytest.raises(ResultError, match=f"'flags' leaves out {name}") as caught:
        load_result(store(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_a_check_cannot_be_lowered_below_its_flag(tmp_path: Path) -> None:
    data = {**simple("a", 30, **flagged()), "checks": checks()}
    with pytest.raises(ResultError, match="names zero_gradients, but its check, which is 0"):
        load_result(store(tmp_path, data))
    data = simple("a", 30, **flagged())
    data["checks"]["zero_gradients"]["value"] = 0.05
    with pytest.raises(ResultError, match="the value of flag zero_gradients is 0.1; need 0.05"):
        load_result(store(tmp_path, data))


@pytest.mark.parametrize("name", CHECKS)
def test_deleting_the_check_that_rises_gives_no_rank(tmp_path: Path, name: str) -> None:
    data = simple("a", 30, **flagged(name) if name != "double_normalisation" else {})
    del data["checks"][name]
    kept = load_result(store(tmp_path, data))
    assert not kept.ranked
    hidden = {**data, "flags": [], "status": "verified"}
    result = load_result(store(tmp_path, hidden))
    assert (result.status, result.ranked) == ("reported", False)
    assert result.reasons == (f"no check of {name} stored",)


def test_what_a_flag_means_comes_from_the_table_of_today(tmp_path: Path) -> None:
    (flag,) = load_result(store(tmp_path, simple("a", 30, **flagged()))).flags
    (rule,) = (rule for rule in FLAGS if rule.name == "zero_gradients")
    assert (flag.value, flag.threshold) == (0.1, rule.threshold)
    assert (flag.meaning, flag.follow_up) == (rule.meaning, rule.follow_up)


def test_randomised_is_no_flaw_under_a_protocol_for_it(tmp_path: Path) -> None:
    noisy = checks(randomised=0.5)
    with pytest.raises(ResultError, match="leaves out randomised"):
        load_result(store(tmp_path, simple("a", 30, checks=noisy)))
    plan = protocol(["pgd20_ce"], passes=31)
    assert load_result(store(tmp_path, simple("a", 30, checks=noisy, protocol=plan))).ranked


def test_a_flag_whose_check_is_not_known_still_counts(tmp_path: Path) -> None:
    result = load_result(store(tmp_path, simple("a", 30, **flagged("of_another_day"))))
    assert (result.status, result.reasons) == ("flagged", ("of_another_day",))


def test_results_of_the_first_versions_have_bare_checks_and_are_reported(tmp_path: Path) -> None:
    bare = {"batch_dependent": 1e-7, "randomised": 0.0, "outside_ball": 0}
    result = load_result(store(tmp_path, simple("a", 30, checks=bare)))
    assert (result.status, result.reasons) == ("reported", ("no check of 15 flags stored",))


@pytest.mark.parametrize(
    "check",
    [
        [],
        "0.0",
        True,
        {},
        {"value": 0.0},
        {"value": "0", "points": 1},
        {"value": 0.0, "points": -1},
    ],
)
def test_a_check_of_a_wrong_type_is_refused(tmp_path: Path, check: object) -> None:
    data = simple("a", 30)
    data["checks"]["huge_eps"] = check
    with pytest.raises(ResultError, match=r"checks\.huge_eps"):
        load_result(store(tmp_path, data))


def test_a_result_with_neither_outcomes_nor_checks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="neither 'outcomes' nor 'checks'"):
        load_result(store(tmp_path, without(simple("a", 30), "outcomes", "checks")))


@pytest.mark.parametrize("missing", ["outcomes", "checks"])
def test_a_result_without_outcomes_or_without_checks_is_reported_and_unranked(
    tmp_path: Path, missing: str
) -> None:
    results = [
        load_result(store(tmp_path / "a", without(simple("a", 40), missing))),
        load_result(store(tmp_path / "b", simple("b", 3))),
    ]
    table = build_table(results).set_index("name")
    assert table.loc["a", ["status", "rank"]].tolist() == ["reported", "–"]
    assert table.loc["b", ["status", "rank"]].tolist() == ["measured", "1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "unverified"}, "'verified', from the flags"),
        ({**flagged(), "status": "verified"}, "'unverified', from the flags"),
    ],
)
def test_the_stored_status_follows_from_the_flags(
    tmp_path: Path, changes: Data, words: str
) -> None:
    with pytest.raises(ResultError, match=words):
        load_result(store(tmp_path, simple("a", 30, **changes)))
    swap = {"verified": "measured", "unverified": "flagged"}
    data = {**sealed(simple("a", 30, **changes)), "status": swap[changes["status"]]}
    with pytest.raises(ResultError, match="from the flags"):
        load_result(store_sealed(tmp_path, data))


def two_kinds(pgd: int, square: int, broken_by_square: float, n: int = 40) -> Data:
    """PGD leaves the first `pgd` of `n`, Square the last `square`."""
    plan = protocol(["pgd20_ce", "square"])
    plan["attacks"][1]["attack"] = "square"
    bits = {"pgd20_ce": first(pgd, n), "square": first(square, n)[::-1]}
    found = checks(n, black_box_beats_white_box=broken_by_square)
    return content("a", first(n, n), bits, protocol=hashed(plan), checks=found)


def test_what_the_black_box_broke_is_counted_from_the_outcomes(tmp_path: Path) -> None:
    # PGD breaks examples 30 to 39; Square breaks none more: the value has to be 0.
    assert load_result(store(tmp_path, two_kinds(30, 40, 0.0))).ranked
    with pytest.raises(ResultError, match="black_box_beats_white_box.value.*need 3 of 40"):
        load_result(store(tmp_path, two_kinds(30, 37, 0.0)))
    data = two_kinds(30, 37, 3 / 40)
    with pytest.raises(ResultError, match="leaves out black_box_beats_white_box"):
        load_result(store(tmp_path, data))
    data["checks"]["black_box_beats_white_box"]["points"] = 39
    with pytest.raises(ResultError, match="points"):
        load_result(store(tmp_path, data))


def test_a_flag_of_an_older_threshold_is_judged_by_the_rule_of_today(tmp_path: Path) -> None:
    """3 of 1,000 raised it above 0.002; today the lower bound of the share decides."""
    n = 1000
    data = two_kinds(n, n - 3, 3 / n, n)
    old = {"name": "black_box_beats_white_box", "value": 3 / n, "threshold": 0.002}
    old |= {"meaning": "Of an older version.", "follow_up": "none"}
    data |= {"flags": [old], "status": "unverified"}
    result = load_result(store(tmp_path / "old", data))
    assert (result.status, result.flags) == ("measured", ())
    today = {**data, "flags": [{**old, "threshold": 0.01}]}
    with pytest.raises(ResultError, match="does not raise it"):
        load_result(store(tmp_path / "today", today))
    many = two_kinds(n, n - 30, 30 / n, n) | {
        "flags": [{**old, "value": 30 / n}],
        "status": "unverified",
    }
    (flag,) = load_result(store(tmp_path / "many", many)).flags
    assert (flag.name, flag.threshold) == ("black_box_beats_white_box", 0.01)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (1, 1), (7, 1000), (30, 1000)])
def test_the_bound_of_a_flag_is_the_interval_of_accuracies(count: int, n: int) -> None:
    (rule,) = (rule for rule in FLAGS if rule.by_lower_bound)
    bound = wilson_interval(count, n)[0]
    for threshold, raises in ((bound - 1e-9, True), (bound + 1e-9, False)):
        other = replace(rule, threshold=threshold, at_least=1)
        assert other.is_raised_by(count / n, n) == raises


def staged(pgd: int, before: int, after: int, value: float, n: int = 40) -> Data:
    """PGD and AutoAttack, whose Square starts at `before` examples and leaves `after`."""
    plan = protocol(["pgd20_ce", "aa_standard"])
    plan["attacks"][1]["attack"] = "autoattack"
    bits = {"pgd20_ce": first(pgd, n), "aa_standard": first(after, n)}
    found = checks(n, black_box_beats_white_box=value)
    data = content("a", first(n, n), bits, protocol=hashed(plan), checks=found)
    data["attacks"]["aa_standard"]["stages"] = {
        "apgd_ce": accuracy_of(first(before, n)),
        "square": accuracy_of(first(after, n)),
    }
    return data


def test_the_stages_of_autoattack_bound_what_square_broke(tmp_path: Path) -> None:
    # PGD leaves 20; AutoAttack's APGD leaves 18 and Square 10: of its 8 at most 8 are new, and
    # PGD broke 20 of the 30 that AutoAttack broke, so none has to be new.
    assert load_result(store(tmp_path, staged(20, 18, 10, 0.0))).ranked
    with pytest.raises(ResultError, match="need 0 to 8 of 40"):
        load_result(store(tmp_path, staged(20, 18, 10, 9 / 40)))
    # PGD breaks nothing: all 5 of Square's are new.
    with pytest.raises(ResultError, match="need 5 of 40"):
        load_result(store(tmp_path, staged(40, 30, 25, 0.0)))


def submitted(folder: Path, note: Callable[[Data], object] | None) -> Path:
    """An entry with a note of `rbl verify`, changed or written by `note`."""
    file = store(folder, simple("mine", 3))
    (folder / ENTRY_FILE).write_text("{}")
    hashes = {"result": load_result(file).file_hash[7:], "entry": sha256(folder / ENTRY_FILE)}
    good: Data = {**hashes, "k": 50, "seed": 1}
    written = good if note is None else note(good)
    if isinstance(written, bytes):
        (folder / VERIFICATION_FILE).write_bytes(written)
    else:
        (folder / VERIFICATION_FILE).write_text(json.dumps(written))
    return file


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_entry_is_verified_by_its_note(tmp_path: Path) -> None:
    result = load_result(submitted(tmp_path, None))
    assert (result.status, result.ranked, result.flags) == ("verified", True, ())


NOTES: dict[str, Callable[[Data], object]] = {
    "infinity": lambda note: {**note, "k": float("inf")},
    "nan": lambda note: {**note, "k": float("nan")},
    "huge": lambda note: {**note, "k": 10**400},
    "float": lambda note: {**note, "k": 50.0},
    "text": lambda note: {**note, "k": "50"},
    "true": lambda note: {**note, "k": True},
    "null": lambda note: None,
    "list": lambda note: [note],
    "missing": lambda note: without(note, "k"),
    "number for hash": lambda note: {**note, "result": 3},
    "nested": lambda note: b"[" * 100_000,
    "nested object": lambda note: b'{"a":' * 100_000,
    "binary": lambda note: b"\x80\x04\x00\xff",
    "empty": lambda note: b"",
    "not utf-8": lambda note: json.dumps(note).encode("utf-16"),
    "long": lambda note: b" " * (2**20 + 1),
    "wrong checksum": lambda note: b'{\n  "k": 50,\n  "checksum": "sha256:' + b"0" * 64 + b'"\n}\n',
}


@pytest.mark.parametrize("case", NOTES)
def test_a_note_that_cannot_be_read_costs_its_row_the_rank_and_says_so(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    submitted(tmp_path / "entry", NOTES[case])
    store(tmp_path / "mine", simple("other", 30))
    with caplog.at_level(logging.WARNING):
        table = build_table(load_readable([tmp_path], load_result)).set_index("name")
    assert table.loc["mine", ["status", "flags"]].tolist() == ["flagged", "submitted"]
    assert table.loc["other", "status"] == "measured"
    (message,) = caplog.messages
    assert VERIFICATION_FILE in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [VERIFICATION_FILE, ENTRY_FILE])
@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nothing", "endless"])
def test_an_entry_file_that_is_no_plain_file_costs_its_row_the_rank(
    tmp_path: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = submitted(tmp_path, None)
    (tmp_path / name).unlink()
    make: dict[str, Callable[[Path], None]] = {
        "folder": Path.mkdir,
        "pipe": lambda path: os.mkfifo(path),
        "link to nothing": lambda path: path.symlink_to(tmp_path / "nowhere"),
        "endless": lambda path: path.symlink_to("/dev/zero"),
    }
    make[kind](tmp_path / name)
    assert load_result(file).status == "flagged"
    assert any(name in message for message in caplog.messages)


def test_a_note_of_too_small_a_sample_or_of_other_bytes_verifies_nothing(tmp_path: Path) -> None:
    for number, change in enumerate(
        ({"k": 2}, {"result": "0" * 64}, {"entry": "0" * 64}, {"k": -1})
    ):
        file = submitted(tmp_path / str(number), lambda note, change=change: {**note, **change})
        assert load_result(file).status == "flagged"


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "binary": lambda file: file.write_bytes(b"\x80\x00"),
    "list": lambda file: file.write_text("[]"),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "endless": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_one_bad_result_costs_its_own_row(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path / "good", simple("good", 30))
    bad = store(tmp_path / "bad", simple("bad", 30))
    DAMAGE[case](bad)
    assert [result.name for result in load_readable([tmp_path], load_result)] == ["good"]
    (message,) = caplog.messages
    assert message.startswith(f"left out: {bad}")
    with pytest.raises(ResultError):
        load_readable([tmp_path / "bad"], load_result)  # nothing there can be read
    with pytest.raises(ResultError):
        load_readable([tmp_path / "good", bad], load_result)  # the user named it


def test_where_nothing_can_be_read_the_error_says_how_many_there_are(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        store(tmp_path / name, simple(name, 3)).write_text("{")
    with pytest.raises(ResultError, match=r"a/result\.json is no valid JSON.*\(and 2 more\)"):
        load_readable([tmp_path], load_result)
    assert load_readable([], load_result) == []


def test_the_better_evidence_of_equal_duplicates_is_kept(tmp_path: Path) -> None:
    data = simple("mine", 3)
    results = [
        load_result(submitted(tmp_path / "entry", None)),
        load_result(store(tmp_path / "own", data)),
        load_result(store(tmp_path / "bare", without(data, "checks"))),
    ]
    assert list(build_table(results)["status"]) == ["verified"]
    assert list(build_table(results[1:])["status"]) == ["measured"]


def test_the_tables_count_each_status(tmp_path: Path) -> None:
    rows = [simple(str(i), 30 - i) for i in range(3)]
    rows += [simple("f", 5, **flagged()), without(simple("r", 4), "outcomes")]
    results = [load_result(store(tmp_path / str(i), data)) for i, data in enumerate(rows)]
    results.append(load_result(submitted(tmp_path / "entry", None)))
    table = build_table(results)
    line = "Ranked: 3 measured, 1 verified. Unranked: 1 flagged, 1 reported."
    for format in ("terminal", "markdown", "latex"):
        assert line in render(table, format)
    (group,) = json.loads(render(table, "json"))["groups"]
    assert group["ranked"] == {"measured": 3, "verified": 1}
    assert group["unranked"] == {"flagged": 1, "reported": 1}
    assert [row["status"] for row in group["rows"]] == [
        *["measured"] * 3, "verified", "flagged", "reported"
    ]  # fmt: skip
    only = build_table([results[3]])
    assert "Ranked: none. Unranked: 1 flagged." in render(only, "terminal")


def test_damage_of_one_check_is_never_another_status(tmp_path: Path) -> None:
    """Each value of a result replaced by each of many: measured stays measured, or it is refused
    or loses its rank."""
    good = json.loads(json.dumps(simple("a", 30, **flagged())))
    wrong: list[Any] = [None, True, 0, -1, 10**30, 0.5, "", "x", [], {}, [[]], {"a": {}}]
    for path in _paths(good):
        for value in wrong:
            data = copy.deepcopy(good)
            parent: Any = data
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            with suppress(ResultError):
                assert not load_result(store(tmp_path, data)).ranked, (path, value)


def _paths(data: Any) -> list[list[Any]]:
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, value in pairs:
        found.append([key])
        if isinstance(value, dict | list):
            found += [[key, *rest] for rest in _paths(value)]
    return found


def test_outcomes_are_what_the_table_counts(tmp_path: Path) -> None:
    bits = np.arange(40) < 30
    result = load_result(store(tmp_path, content("a", first(40, 40), {"pgd20_ce": bits})))
    assert result.robust_accuracy.correct == 30


def test_the_command_shows_what_can_be_read_and_names_what_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store(tmp_path / "good", simple("good", 30))
    bad = store(tmp_path / "bad\x1b[2J", simple("bad", 30))
    bad.write_text("{")
    for format in ("terminal", "markdown", "csv", "latex", "json", "html"):
        caplog.clear()
        assert main(["leaderboard", str(tmp_path), "--format", format]) == 0
        assert "good" in capsys.readouterr().out
        (message,) = caplog.messages
        assert message.startswith("left out: ")
        assert "\x1b" not in message
    for named in (bad, bad.parent):
        assert main(["leaderboard", str(named)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "\x1b" not in err
