"""`rbl doctor`: what a bug report needs, also from a broken installation."""

import sys

import torch

from robustbench_lite import __version__
from robustbench_lite.cli import main
from robustbench_lite.core.numerics import device_name


def _rows(capsys) -> dict[str, str]:
    lines = capsys.readouterr().out.splitlines()
    return {name.strip(): text for name, _, text in (line.partition("  ") for line in lines)}


def test_it_says_versions_device_threads_capability_and_folders(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTBENCH_LITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MY_TOKEN", "secret")
    assert main(["doctor"]) == 0
    rows = _rows(capsys)
    assert rows["robustbench_lite"].strip() == __version__
    assert rows["torch"].strip() == torch.__version__
    assert rows["CPU capability"].strip() == device_name(torch.device("cpu"))
    assert rows["CPU threads"].strip() == str(torch.get_num_threads())
    assert str(tmp_path / "cache") in rows["data cache"]
    assert "not there yet" in rows["data cache"]
    assert "OMP_NUM_THREADS=3" in rows["environment"]
    assert "pytest" in rows["optional packages"]
    assert "secret" not in str(rows)  # nobody wants a token in a public issue


def test_a_torch_that_cannot_be_imported_is_a_line_of_the_report(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor"]) == 0
    assert "cannot be imported" in _rows(capsys)["torch"]
