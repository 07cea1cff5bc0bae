"""Files that carry a checksum of themselves."""

import json

import pytest

from robustbench_lite.core.integrity import (
    ChecksumError,
    check_line,
    file_sha256,
    has_checksum,
    line_with_checksum,
    with_checksum,
)

DATA = {"schema_version": 2, "name": "né", "value": 0.1, "list": [1, {"a": None}]}


def test_the_text_is_the_data_and_a_checksum_as_its_last_key() -> None:
    text = with_checksum(DATA)
    stored = json.loads(text)
    assert list(stored)[-1] == "checksum"
    assert {key: stored[key] for key in DATA} == DATA
    assert has_checksum(text.encode())


def test_a_checksum_in_the_data_is_made_anew() -> None:
    assert with_checksum({**DATA, "checksum": "sha256:old"}) == with_checksum(DATA)


def test_every_flipped_bit_is_found_or_leaves_no_checksum() -> None:
    content = with_checksum(DATA).encode()
    for i in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[i // 8] ^= 1 << i % 8
        try:
            found = has_checksum(bytes(damaged))
        except ChecksumError:
            continue
        # Only a damaged key hides the checksum; readers demand it of the schemas that have one.
        assert not found


def test_every_truncation_is_found_or_leaves_no_checksum() -> None:
    content = with_checksum(DATA).encode()
    for length in range(len(content)):
        try:
            assert not has_checksum(content[:length])
        except ChecksumError:
            continue


def test_an_edit_and_another_layout_are_refused() -> None:
    text = with_checksum(DATA)
    for changed in (text.replace("0.1", "0.2"), json.dumps(json.loads(text)), text + " "):
        with pytest.raises(ChecksumError):
            has_checksum(changed.encode())


def test_a_file_without_a_checksum_is_no_error() -> None:
    assert not has_checksum(json.dumps(DATA).encode())


@pytest.mark.parametrize("data", [{}, {"checksum": "x"}, {"value": float("nan")}])
def test_what_has_no_checksum_is_refused(data) -> None:
    with pytest.raises(ValueError, match="checksum|JSON"):
        with_checksum(data)


def test_a_line_carries_a_checksum_and_no_flipped_bit_changes_a_value() -> None:
    line = line_with_checksum({"epoch": 3, "robust_accuracy": 0.51})
    assert json.loads(line)["robust_accuracy"] == 0.51
    check_line('{"epoch": 3}')  # of an older version
    for i in range(8 * len(line)):
        damaged = bytearray(line.encode())
        damaged[i // 8] ^= 1 << i % 8
        try:
            text = damaged.decode()
            check_line(text)
            stored = json.loads(text)
        except ValueError:
            continue
        values = {"epoch": stored.get("epoch"), "robust_accuracy": stored.get("robust_accuracy")}
        assert values == {"epoch": 3, "robust_accuracy": 0.51}, text


def test_the_hash_of_a_file(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
