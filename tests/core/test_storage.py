"""What `--out` may name: files, links, devices, pipes, and what it may not."""

import os
import threading
from pathlib import Path

import pytest

from robustbench_lite.cli import main
from robustbench_lite.core.errors import StorageError
from robustbench_lite.core.storage import write_text


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("target.csv")
    write_text(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "target.csv").read_text() == "new"


def test_a_link_to_nothing_makes_what_it_names(tmp_path):
    (tmp_path / "link.csv").symlink_to("target.csv")
    write_text(tmp_path / "link.csv", "new")
    assert (tmp_path / "target.csv").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(
        target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True
    )
    reader.start()
    write_text(tmp_path / "pipe", "rows")
    reader.join(timeout=900)  # only turns a hang into a failure
    assert read == ["rows"]
    assert (tmp_path / "pipe").is_fifo()


def test_the_null_device_stays_one():
    write_text(Path(os.devnull), "rows")
    assert not os.path.isfile(os.devnull)


@pytest.mark.parametrize("name", [".", "/", "folder"])
def test_a_folder_is_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="it is a folder"):
        write_text(Path(name), "rows")


def test_text_that_utf8_cannot_hold_is_one_line(tmp_path):
    with pytest.raises(StorageError, match=r"UTF-8 has no '\\udcff'"):
        write_text(tmp_path / "x", "a\udcff")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_tells_both_in_one_line(tmp_path, monkeypatch, capsys, checkpoint):
    monkeypatch.chdir(tmp_path)
    quick = ["--protocol", "linf_quick", "--eps", "0.1", "--n", "10", "--threads", "1"]
    for more in (["--name", "a\udcff"], ["--name", "fine", "--out", "r"]):
        code = main(["evaluate", str(checkpoint), *quick, *more])
        err = capsys.readouterr().err
        assert (code, err.count("\n")) == ((2, 1) if "fine" not in more else (0, 0)), err
    for out in (".", "r"):
        assert main(["leaderboard", "r", "--out", out]) == 2
        assert capsys.readouterr().err.endswith("it is a folder\n")
