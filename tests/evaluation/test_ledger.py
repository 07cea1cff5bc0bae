"""The ledger: whole parts or none, one set of terms a folder."""

import errno
import json
from dataclasses import replace

import pandas
import pyarrow.parquet
import pytest
import torch

from robustbench_lite.core.errors import (
    DamagedFileError,
    InputError,
    LedgerMismatchError,
    StorageError,
)
from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.core.storage import write_atomically, write_json
from robustbench_lite.evaluation.header import Header, read_header
from robustbench_lite.evaluation.ledger import COLUMNS, Ledger, fix_environment, open_ledger

HEADER = Header(
    identity={"model": {"hash": "sha256:a"}, "seed": 0},
    settings={"batch_size": 500, "chunk_size": 500, "threads": 2},
    environment={"versions": {"torch": "2.13.0"}, "git_commit": "abc"},
    about={"name": "net"},
)


def rows(n=2):
    values = {name: [0] * n for name in COLUMNS}
    values.update(
        attack=["pgd"] * n, sha256=["ab"] * n, broken=[True] * n, linf=[0.5] * n, stage=[""] * n
    )
    return pandas.DataFrame(values)


def begun(folder):
    """A folder with one finished part."""
    ledger = open_ledger(folder, HEADER, explicit_settings={})
    ledger.write_part("pgd", 0, rows(), None)
    return ledger


def test_a_folder_without_a_finished_part_takes_new_terms(tmp_path):
    open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    settings = {**HEADER.settings, "batch_size": 7}
    other = Header({"seed": 1}, settings, HEADER.environment, HEADER.about)
    assert open_ledger(tmp_path / "r", other, explicit_settings={"batch_size": 7}).header == other
    assert read_header(tmp_path / "r") == other


def test_a_part_of_another_attack_is_refused(tmp_path):
    ledger = begun(tmp_path / "r")
    ledger.part_path("cw", 0).parent.mkdir()
    ledger.part_path("pgd", 0).rename(ledger.part_path("cw", 0))
    with pytest.raises(InputError, match="holds part pgd/0 instead of cw/0"):
        ledger.read_part("cw", 0)


def test_a_part_comes_back_as_it_was_and_counts_as_done(tmp_path):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    assert ledger.missing(["pgd"], 1) == [(0, "clean"), (0, "pgd")]
    ledger.write_part("pgd", 0, rows(), None)
    assert ledger.missing(["pgd"], 1) == [(0, "clean")]
    back = ledger.read_part("pgd", 0)
    assert list(back.columns) == list(COLUMNS)
    assert back["broken"].tolist() == [True, True]


def test_an_empty_part_keeps_its_types(tmp_path):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    ledger.write_part("pgd", 0, rows(0), None)
    assert str(ledger.read_part("pgd", 0)["broken"].dtype) == "bool"


def test_images_are_kept_beside_the_part_when_asked(tmp_path):
    from safetensors.torch import load_file

    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    images = torch.rand(2, 1, 3, 3)
    ledger.write_part("pgd", 0, rows(), {"x_adv": images})
    assert torch.equal(load_file(ledger.evidence_path("pgd", 0))["x_adv"], images)


def test_another_identity_is_refused_with_the_difference(tmp_path):
    begun(tmp_path / "r")
    other = Header({"model": {"hash": "sha256:b"}, "seed": 1}, *list(vars(HEADER).values())[1:])
    with pytest.raises(
        LedgerMismatchError, match="seed: 0 there, 1 now; model.hash: sha256:a there, sha256:b now"
    ):
        open_ledger(tmp_path / "r", other, explicit_settings={})


def test_settings_come_from_the_folder_and_only_explicit_wishes_must_agree(tmp_path):
    begun(tmp_path / "r")
    settings = {"batch_size": 7, "chunk_size": 500, "threads": 1}
    later = Header(HEADER.identity, settings, HEADER.environment, HEADER.about)
    assert (
        open_ledger(tmp_path / "r", later, explicit_settings={}).header.settings["batch_size"]
        == 500
    )
    with pytest.raises(LedgerMismatchError, match="batch_size: 500 there, 7 now"):
        open_ledger(tmp_path / "r", later, explicit_settings={"batch_size": 7})


def test_what_is_only_shown_is_that_of_the_latest_call(tmp_path):
    begun(tmp_path / "r")
    later = replace(HEADER, about={"defense": "another word"})
    assert open_ledger(tmp_path / "r", later, explicit_settings={}).header == later
    assert read_header(tmp_path / "r") == later


def test_another_environment_is_refused_while_work_is_left(tmp_path):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    fix_environment(ledger, HEADER.environment, begin=True)
    with pytest.raises(LedgerMismatchError, match=r"versions.torch: 2.13.0 there, 2.14.0 now"):
        fix_environment(ledger, {"versions": {"torch": "2.14.0"}, "git_commit": "abc"}, begin=False)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"not empty and no result folder \(thesis.tex\)"):
        open_ledger(tmp_path, HEADER, explicit_settings={})
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_leftover_of_a_killed_process_does_not_stop_the_next(tmp_path):
    (tmp_path / ".header.json.123.tmp").write_text("{")
    open_ledger(tmp_path, HEADER, explicit_settings={})
    assert read_header(tmp_path) == HEADER


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema_version": 1}',
        '{"schema_version": 9}',
        '{"schema_version": 1, "identity": 5, "settings": {}, "environment": {}, "about": {}}',
    ],
)
def test_an_unreadable_header_is_one_line(tmp_path, content):
    (tmp_path / "header.json").write_text(content)
    with pytest.raises(InputError, match="header") as caught:
        read_header(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_header_without_its_checksum_is_damaged(tmp_path):
    open_ledger(tmp_path, HEADER, explicit_settings={})
    stored = json.loads((tmp_path / "header.json").read_text())
    del stored["checksum"]
    (tmp_path / "header.json").write_text(json.dumps(stored))
    with pytest.raises(DamagedFileError, match="it has no checksum.*restore it, or remove"):
        read_header(tmp_path)


def flipped(content, bit):
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


DAMAGES = [
    lambda content: content[: len(content) // 2],
    lambda content: b"",
    lambda content: b"x" * 99,
    lambda content: content + b"x",
    lambda content: content[:100] + bytes(50) + content[150:],
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_named_and_put_aside_with_its_images(tmp_path, damage):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    for chunk in (0, 1):
        ledger.write_part("pgd", chunk, rows(), {"x_adv": torch.rand(2, 1, 3, 3)})
    path, images = ledger.part_path("pgd", 0), ledger.evidence_path("pgd", 0)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedFileError, match=r"00000.parquet is damaged .* run the same"):
        ledger.read_part("pgd", 0)
    assert ledger.put_damaged_aside(["pgd"], 2) == [path]
    assert ledger.missing(["pgd"], 2) == [(0, "clean"), (0, "pgd"), (1, "clean")]
    for file in (path, images):
        assert not file.exists()
        assert file.with_name(f"{file.name}.damaged").exists()
    ledger.write_part("pgd", 0, rows(), None)
    path.write_bytes(b"")
    ledger.put_damaged_aside(["pgd"], 2)
    assert path.with_name("00000.parquet.damaged2").exists(), "the first one is kept"


def test_no_flipped_bit_of_a_part_changes_a_row_or_ends_in_another_error(tmp_path):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    ledger.write_part("pgd", 0, rows(), None)
    path, sound = ledger.part_path("pgd", 0), ledger.read_part("pgd", 0)
    content = path.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(content), 31):
        path.write_bytes(flipped(content, bit))
        try:
            assert ledger.read_part("pgd", 0).equals(sound), bit
        except DamagedFileError:
            refused += 1
    assert refused > len(content) // 31


@pytest.mark.parametrize("damage", [*DAMAGES, lambda content: flipped(content, 4003), None])
def test_damaged_or_missing_images_put_their_part_aside(tmp_path, damage):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    ledger.write_part("pgd", 0, rows(), {"x_adv": torch.rand(2, 1, 30, 30)})
    images = ledger.evidence_path("pgd", 0)
    if damage is None:
        images.unlink()
    else:
        images.write_bytes(damage(images.read_bytes()))
    with pytest.raises(DamagedFileError, match=r"00000.safetensors is damaged"):
        ledger.read_evidence("pgd", 0)
    assert ledger.put_damaged_aside(["pgd"], 1) == [ledger.part_path("pgd", 0)]
    assert "pgd" in [attack for _, attack in ledger.missing(["pgd"], 1)]


def test_parts_that_changed_places_are_damaged(tmp_path):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    for attack in ("pgd", "fgsm"):
        for chunk in (0, 1):
            ledger.write_part(attack, chunk, rows().assign(attack=attack), None)
    first, second, third = (ledger.part_path(*of) for of in (("pgd", 0), ("pgd", 1), ("fgsm", 0)))
    first.write_bytes(second.read_bytes())
    second.write_bytes(third.read_bytes())
    assert ledger.put_damaged_aside(["pgd", "fgsm"], 2) == [first, second]


def test_a_part_without_a_checksum_is_read_in_folders_of_older_versions_only(tmp_path):
    ledger = open_ledger(tmp_path / "r", HEADER, explicit_settings={})
    ledger.write_part("pgd", 0, rows(), None)
    path = ledger.part_path("pgd", 0)
    table = pyarrow.parquet.read_table(path).replace_schema_metadata({})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(DamagedFileError, match="no checksum"):
        ledger.read_part("pgd", 0)
    older = Ledger(ledger.folder, replace(ledger.header, schema_version=3))
    with pytest.raises(LedgerMismatchError, match="a part of another evaluation"):
        older.read_part("pgd", 0)
    old = {"robustbench_lite.terms": ledger.terms}
    pyarrow.parquet.write_table(table.replace_schema_metadata(old), path)
    assert older.read_part("pgd", 0)["broken"].tolist() == [True, True]


def test_no_flipped_bit_of_a_header_changes_it(tmp_path):
    begun(tmp_path / "r")
    path = tmp_path / "r" / "header.json"
    content, sound = path.read_bytes(), read_header(tmp_path / "r")
    for bit in range(8 * len(content)):
        path.write_bytes(flipped(content, bit))
        try:
            assert read_header(tmp_path / "r") == sound
        except InputError as error:
            assert "header.json" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017


def test_a_full_disk_keeps_the_old_file_and_leaves_no_rubbish(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def write(temporary):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="disk full while writing .*a.json"):
        write_atomically(path, write)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_recognised_behind_other_libraries_errors(tmp_path):
    from safetensors import SafetensorError

    def write(temporary):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    with pytest.raises(StorageError, match="disk full"):
        write_atomically(tmp_path / "a", write)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*file/a.json: (Not a directory|File ex)"):
        write_json(tmp_path / "file" / "a.json", {"a": 1})


def test_other_errors_while_writing_are_not_hidden(tmp_path):
    def write(temporary):
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        write_atomically(tmp_path / "a", write)


@pytest.mark.parametrize("value", [0, -1, "500", 2.0, True, None])
@pytest.mark.parametrize("name", ["batch_size", "chunk_size", "threads"])
def test_settings_that_are_no_numbers_are_refused(tmp_path, name, value):
    begun(tmp_path / "r")
    stored = json.loads((tmp_path / "r" / "header.json").read_text())
    stored["settings"][name] = value
    (tmp_path / "r" / "header.json").write_text(with_checksum(stored))
    with pytest.raises(InputError, match=f"no readable header: settings.{name} is"):
        open_ledger(tmp_path / "r", HEADER, explicit_settings={})
