from __future__ import annotations

import copy
import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard_builder import (
    TITLES,
    accuracy_of,
    demo,
    first,
    flagged,
    packed,
    protocol,
    simple,
    store,
    wilson,
)

from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.core.integrity import protocol_hash
from robustbench_lite.leaderboard import ResultError, find_results, load_result, load_results
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels

Data = dict[str, Any]


def test_load_reads_folder_and_file_alike(tmp_path: Path) -> None:
    data = demo()[1]
    file = store(tmp_path, data)
    result = load_result(file)
    assert result == load_result(tmp_path) == load_result(str(tmp_path))
    assert (result.name, result.defense, result.protocol.eps) == ("digits_pgd_at", "pgd_at", "0.1")
    assert list(result.attacks) == list(TITLES)
    assert result.cost == 3 * 40.5
    assert result.protocol.attacks[0].parameters == (("attack", "pgd"), ("steps", "20"))


def test_load_keeps_the_union_of_the_attacks(tmp_path: Path) -> None:
    result = load_result(store(tmp_path, demo()[2]))
    assert result.robust_bits is not None
    bits = np.unpackbits(np.frombuffer(result.robust_bits, dtype=np.uint8))
    assert bits.sum() == result.robust_accuracy.correct


def test_load_accepts_a_result_without_outcomes(tmp_path: Path) -> None:
    data = simple("a", 30)
    del data["outcomes"]
    assert load_result(store(tmp_path, data)).robust_bits is None


def test_keys_of_another_version_are_ignored_and_null_is_an_empty_text(tmp_path: Path) -> None:
    plain = load_result(store(tmp_path / "a", simple("a", 30, defense="", git_commit="")))
    data = simple("a", 30, defense=None, git_commit=None, later={"a": [1]})
    for place in (data["model"], data["examples"], data["robust_accuracy"], data["outcomes"]):
        place["later"] = 1
    result = load_result(store(tmp_path / "b", data))
    assert replace(result, file_hash=plain.file_hash) == plain


def _paths(data: object, path: str = "") -> list[str]:
    if not isinstance(data, dict):
        return []
    return [
        full
        for key, value in data.items()
        for full in [f"{path}{key}", *_paths(value, f"{path}{key}.")]
    ]


REQUIRED = [
    path
    for path in _paths(simple("a", 30))
    if path not in ("outcomes", "checks") and not path.startswith(("environment.", "checks."))
]


@pytest.mark.parametrize("path", REQUIRED)
def test_load_names_the_missing_key(tmp_path: Path, path: str) -> None:
    data = simple("a", 30)
    parent = data
    *folders, key = path.split(".")
    for folder in folders:
        parent = parent[folder]
    del parent[key]
    with pytest.raises(ResultError) as caught:
        load_result(store(tmp_path, data))
    assert str(caught.value).endswith(f"missing key {path}")


def _set(*path: Any) -> Callable[[Data], None]:
    *folders, key, value = path

    def change(data: Any) -> None:
        for folder in folders:
            data = data[folder]
        data[key] = value

    return change


ATTACK = simple("a", 30)["attacks"]["pgd20_ce"]
TAMPERED = {
    "value edited": (_set("robust_accuracy", "value", 0.9), "robust_accuracy.value"),
    "value as text": (_set("robust_accuracy", "value", "0.75"), "finite number"),
    "correct edited": (_set("clean_accuracy", "correct", 39), "clean_accuracy.value"),
    "correct beyond n": (_set("clean_accuracy", "correct", 41), "at most n"),
    "n edited": (_set("attacks", "pgd20_ce", "n", 39), "attacks.pgd20_ce.n"),
    "interval edited": (_set("robust_accuracy", "interval", 0, 0.7), "Wilson"),
    "interval too long": (_set("robust_accuracy", "interval", [0, 0.5, 1]), "a list of length 2"),
    "interval of giants": (_set("robust_accuracy", "interval", [10**300, 1]), "Wilson"),
    "interval beyond doubles": (_set("robust_accuracy", "interval", [10**400, 1]), "out of range"),
    "n_examples edited": (_set("n_examples", 80), "examples.count"),
    "n_examples absurd": (_set("n_examples", 10**12), "n_examples"),
    "seed beyond torch's": (_set("seed", 2**63), "seed"),
    "n_examples true": (_set("n_examples", True), "n_examples"),
    "other schema": (_set("schema_version", 0), "schema_version"),
    "text schema": (_set("schema_version", "1"), "schema_version"),
    "newer schema": (_set("schema_version", 3), "newer than 2"),
    "flag without its check": (_set("flags", flagged()["flags"]), "does not raise it"),
    "unknown status": (_set("status", "gold"), "need 'verified', from the flags"),
    "eps edited": (_set("protocol", "eps_value", 0.2), "eps_value"),
    "eps not a number": (_set("protocol", "eps", "big"), "'8/255'"),
    "eps over zero": (_set("protocol", "eps", "1/0"), "'8/255'"),
    "id edited": (_set("protocol", "id", "linf_standard@0.2.v1"), "protocol.id"),
    "protocol hash edited": (_set("protocol", "hash", "sha256:0"), "protocol.hash"),
    "steps edited": (_set("protocol", "attacks", 0, "steps", 1), "from the rest of the protocol"),
    "steps as float": (_set("protocol", "attacks", 0, "steps", 20.0), "protocol.hash"),
    "protocol key added": (_set("protocol", "passes", 2), "protocol.hash"),
    "engine of another version": (_set("protocol", "engine_version", "2"), "protocol.hash"),
    "attack dropped": (_set("attacks", {}), "missing key attacks.pgd20_ce"),
    "attack invented": (_set("attacks", "mine", ATTACK), "is no attack of the protocol"),
    "no attacks": (_set("protocol", "attacks", []), "at least one attack"),
    "attack twice": (_set("protocol", protocol(["a", "a"])), "unique names"),
    "list for an object": (_set("dataset", []), "dataset is []; need a table"),
    "negative cost": (_set("attacks", "pgd20_ce", "forwards", -1), "at least 0"),
    "canonical as text": (_set("dataset", "canonical", "yes"), "true or false"),
    "empty name": (_set("name", " "), "a string that is not blank"),
    "encoding": (_set("outcomes", "encoding", "hex"), "packbits-base64"),
    "outcomes cut": (_set("outcomes", "clean", "gA=="), "40 examples need 5"),
    "outcomes not base64": (_set("outcomes", "clean", "*"), "not base64"),
    "bit removed": (_set("outcomes", "clean", packed(np.arange(40) < 39)), "39 ones; need 40"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_load_refuses_a_tampered_result_in_one_line(tmp_path: Path, case: str) -> None:
    change, message = TAMPERED[case]
    data = copy.deepcopy(simple("a", 30))
    change(data)
    file = store(tmp_path, data)
    with pytest.raises(ResultError) as caught:
        load_result(file)
    text = str(caught.value)
    assert message in text
    assert text.startswith(str(file))
    assert "\n" not in text
    assert len(text) < len(str(file)) + 250


def test_load_refuses_a_better_robust_accuracy_with_matching_interval(tmp_path: Path) -> None:
    data = simple("a", 30)
    better = {"value": 35 / 40, "correct": 35, "n": 40, "interval": wilson(35, 40)}
    for outcomes in (data["outcomes"], None):
        changed = {**data, "robust_accuracy": better, "outcomes": outcomes}
        with pytest.raises(ResultError, match=r"robust_accuracy\.correct is 35; need"):
            load_result(store(tmp_path, changed))


def test_load_refuses_a_union_above_what_the_bits_say(tmp_path: Path) -> None:
    data = demo()[1]
    standing = data["robust_accuracy"]["correct"]
    # Swap in an attack with the same count that breaks other examples: only the union notices.
    clean = np.unpackbits(np.frombuffer(_decoded(data["outcomes"]["clean"]), np.uint8))[:300] > 0
    last = data["attacks"]["aa_standard"]["correct"]
    other = np.zeros(300, dtype=bool)
    other[np.flatnonzero(clean)[-last:]] = True
    data["outcomes"]["attacks"]["aa_standard"] = packed(other)
    with pytest.raises(ResultError, match=f"is {standing}; need .* that no attack breaks"):
        load_result(store(tmp_path, data))


def test_load_refuses_robust_outcomes_of_wrong_examples(tmp_path: Path) -> None:
    data = simple("a", 30)
    clean = np.arange(40) >= 5
    data["clean_accuracy"] = {"value": 35 / 40, "correct": 35, "n": 40, "interval": wilson(35, 40)}
    data["outcomes"]["clean"] = packed(clean)
    with pytest.raises(ResultError, match="wrong when clean"):
        load_result(store(tmp_path, data))


def _decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no valid JSON"),
        ("{", "no valid JSON"),
        ("[1]", r"the file is \[1\]; need a table"),
        ('{"schema_version": NaN}', "no valid JSON.*byte 19"),
        ('{"schema_version": -Infinity}', "no valid JSON.*byte 20"),
        ('{"schema_version": 1e999}', "no valid JSON.*out of range"),
        ('{"schema_version": "\\ud800"}', "no valid JSON"),
        ('{"schema_version": ' + "9" * 5000 + "}", "no valid JSON.*out of range"),
        ('{"schema_version": ' + "9" * 30 + "}", "schema_version"),
        ("[" * 100_000, "no valid JSON.*depth"),
    ],
)  # fmt: skip
def test_load_refuses_what_is_no_result(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(ResultError, match=message) as caught:
        load_result(file)
    assert "\n" not in str(caught.value)


def test_load_refuses_binary_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ResultError, match="no valid JSON"):
        load_result(tmp_path)
    with pytest.raises(ResultError, match="not found"):
        load_result(tmp_path / "nowhere")


def test_load_refuses_nan_in_an_accuracy(tmp_path: Path) -> None:
    file = store(tmp_path, simple("a", 30))
    file.write_text(file.read_text().replace('"value": 0.75', '"value": NaN', 1))
    with pytest.raises(ResultError, match=r"no valid JSON.*byte \d+"):
        load_result(file)


def staged(*left: int) -> Data:
    """A result that leaves 30 of 40 after stages that leave these."""
    data = simple("a", 30)
    stages = {f"stage_{i}": accuracy_of(first(count, 40)) for i, count in enumerate(left)}
    data["attacks"]["pgd20_ce"]["stages"] = stages
    return data


def test_load_keeps_the_stages_of_an_attack_in_order(tmp_path: Path) -> None:
    stages = load_result(store(tmp_path, staged(40, 33, 30))).attacks["pgd20_ce"].stages
    assert [(name, accuracy.correct) for name, accuracy in stages] == [
        ("stage_0", 40), ("stage_1", 33), ("stage_2", 30)
    ]  # fmt: skip


@pytest.mark.parametrize("left", [(31, 33, 30), (33, 29), (29,)])
def test_load_refuses_stages_that_rise_or_leave_less_than_the_attack(
    tmp_path: Path, left: tuple[int, ...]
) -> None:
    with pytest.raises(ResultError, match=r"stages\.stage_\d\.correct is \d\d; need 30 to"):
        load_result(store(tmp_path, staged(*left)))


def test_load_refuses_an_edited_stage(tmp_path: Path) -> None:
    data = staged(35, 30)
    data["attacks"]["pgd20_ce"]["stages"]["stage_0"]["value"] = 0.9
    with pytest.raises(ResultError, match=r"stage_0\.value"):
        load_result(store(tmp_path, data))


def test_load_keeps_outcomes_labels_settings_and_checks(tmp_path: Path) -> None:
    data = simple(
        "a", 30, settings={"threads": 1}, checks={"randomised": {"value": 0.0, "points": 3}}
    )
    labels = np.arange(40) % 10
    data["outcomes"]["labels"] = pack_labels(labels)
    result = load_result(store(tmp_path, data))
    assert result.outcomes is not None
    assert result.outcomes.labels == labels.astype("<u2").tobytes()
    assert result.outcomes.clean == np.packbits(first(40, 40)).tobytes()
    assert result.outcomes.attacks == {"pgd20_ce": np.packbits(first(30, 40)).tobytes()}
    assert result.outcomes.robust == result.robust_bits
    assert result.settings == {"threads": 1}
    assert result.checks == {"randomised": {"value": 0.0, "points": 3}}


@pytest.mark.parametrize("labels", ["*", "gA==", 3, ""])
def test_load_refuses_labels_that_are_not_those_of_the_examples(
    tmp_path: Path, labels: object
) -> None:
    data = simple("a", 30)
    data["outcomes"]["labels"] = labels
    with pytest.raises(ResultError, match=r"outcomes\.labels"):
        load_result(store(tmp_path, data))


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    file = store(tmp_path, simple("a", 30))
    before = load_result(file).file_hash
    assert before == "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(file.read_text() + "\n")
    assert load_result(file).file_hash != before


def test_a_protocol_seen_before_is_checked_again_when_it_only_looks_equal(tmp_path: Path) -> None:
    load_result(store(tmp_path / "a", simple("a", 30)))
    for key, value in (("version", True), ("version", 1.0), ("eps_value", "0.1")):
        data = simple("b", 30)
        data["protocol"][key] = value
        with pytest.raises(ResultError, match=f"protocol\\.{key}"):
            load_result(store(tmp_path / "b", data))


@pytest.mark.parametrize(
    ("name", "engine"), [*((name, None) for name in protocol_files()), ("aa_plus", "reference")]
)
def test_the_hash_of_every_protocol_follows_from_what_is_stored(
    name: str, engine: str | None
) -> None:
    plan = load_protocol(name, eps="8/255", engine=engine)
    stored = json.loads(json.dumps({**plan.as_dict(), "hash": plan.hash}))
    assert protocol_hash(stored) == plan.hash
    stored["attacks"][0]["title"] = "another"
    assert protocol_hash(stored) == plan.hash
    stored["attacks"][0]["mine"] = "another"
    assert protocol_hash(stored) != plan.hash


@pytest.mark.parametrize(
    ("version", "shown"),
    [("1", "ours 1"), ("torchattacks 3.3.0", "torchattacks 3.3.0"), ("", "ours")],
)
def test_the_engine_says_whose_code_ran(tmp_path: Path, version: str, shown: str) -> None:
    data = simple("a", 30, protocol=protocol(["pgd20_ce"], engine_version=version))
    assert load_result(store(tmp_path, data)).protocol.engine_text == shown


def test_titles_are_free(tmp_path: Path) -> None:
    data = simple("a", 30)
    data["protocol"]["attacks"][0]["title"] = "PGD of twenty steps"
    assert load_result(store(tmp_path, data)).protocol.attacks[0].title == "PGD of twenty steps"


def test_a_nested_protocol_is_refused_in_one_line_at_every_depth(tmp_path: Path) -> None:
    text = json.dumps(simple("a", 30))
    for depth in (*range(200, 300), *range(950, 1050)):  # where writing and where reading stops
        deep = f'"deep": {"[" * depth}{"]" * depth}, "norm": "Linf"'
        (tmp_path / "result.json").write_text(text.replace('"norm": "Linf"', deep, 1))
        with pytest.raises(ResultError, match=r"nested too deeply|depth|protocol\.hash"):
            load_result(tmp_path)


def test_find_takes_a_linked_file_once_and_follows_no_linked_folder(tmp_path: Path) -> None:
    file = store(tmp_path / "a", simple("a", 30))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").symlink_to(file)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert find_results([tmp_path]) == [file]
    assert find_results([tmp_path / "c"]) == [tmp_path / "c" / "result.json"]
    assert find_results([tmp_path / "c", tmp_path, tmp_path / "b" / "result.json"]) == [file]
    assert find_results([tmp_path / "b" / ".." / "a", file]) == [file]


def test_find_is_recursive_sorted_and_free_of_repeats(tmp_path: Path) -> None:
    files = [store(tmp_path / name, simple(name, 3)) for name in ("b", "a/deep/er", "c")]
    (tmp_path / "other.json").write_text(json.dumps({}))
    assert find_results([tmp_path, files[0], tmp_path / "c"]) == sorted(files)
    assert find_results([]) == []


def test_find_refuses_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="not found"):
        find_results([tmp_path / "nowhere"])


def test_load_results_reads_all_and_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    files = [store(tmp_path / name, simple(name, 30)) for name in ("b", "a")]
    for collecting in (True, False):
        (gc.enable if collecting else gc.disable)()
        try:
            assert load_results([tmp_path]) == [load_result(file) for file in reversed(files)]
            assert gc.isenabled() is collecting
            with pytest.raises(ResultError, match="nowhere"):
                load_results([tmp_path / "nowhere"])
            assert gc.isenabled() is collecting
        finally:
            gc.enable()
