"""What CONTRIBUTING says of a defense, a model and a data set, done in a package outside."""

import re
import sys
import textwrap
from pathlib import Path

import pytest

from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import DATASETS, load_split
from robustbench_lite.defenses.catalogue import DEFENSES
from robustbench_lite.leaderboard import load_result
from robustbench_lite.models import MODELS

CONTRIBUTING = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
ADDED = {"defense": "half_and_half", "model": "linear", "data set": "bars"}


def blocks(kind, language):
    """The code blocks of the section that says how to add one."""
    section = CONTRIBUTING.read_text().partition(f"## Add a {kind}\n")[2].partition("\n## ")[0]
    found = re.findall(rf"```{language}\n(.*?)```", section, re.S)
    return [textwrap.dedent(block) for block in found]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """An installed distribution with a module and an entry point for each of the three."""
    site = tmp_path / "site"
    (site / "my_additions").mkdir(parents=True)
    (site / "my_additions/__init__.py").touch()
    about = site / "my_additions-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-additions\nVersion: 1.0\n")
    for kind, name in ADDED.items():
        (code,), (points,) = blocks(kind, "python"), blocks(kind, "ini")
        (site / f"my_additions/{name}.py").write_text(code)
        with (about / "entry_points.txt").open("a") as file:
            file.write(points)
    for module in [name for name in sys.modules if name.split(".")[0] == "my_additions"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(site)
    for registry in (DEFENSES, MODELS, DATASETS):
        monkeypatch.setattr(registry, "_all", None)
        monkeypatch.setattr(registry, "_clashes", {})
    return site


def test_each_is_listed_and_all_three_train_and_are_evaluated(outside, tmp_path, capsys):
    for kind, name in ADDED.items():
        assert main(["list", kind.replace(" ", "") + "s"]) == 0
        assert re.search(rf"^{name} .*\[my-additions\]$", capsys.readouterr().out, re.M)
    (recipe,) = blocks("defense", "toml")
    path = tmp_path / "mine.toml"
    path.write_text(recipe)
    options = ["--data.name", "bars", "--data.validation", "100", "--training.epochs", "2"]
    options += ["--model.name", "linear", "--threads", "1", "--out", str(tmp_path / "run")]
    assert main(["train", str(path), *options]) == 0
    protocol = ["--protocol", "linf_quick", "--eps", "0.02", "--n", "50", "--threads", "1"]
    out = tmp_path / "result"
    assert main(["evaluate", str(tmp_path / "run/best"), *protocol, "--out", str(out)]) == 0
    result = load_result(out)
    assert (result.dataset.name, result.architecture) == ("bars", "linear")
    assert result.defense == "half_and_half"
    assert result.n_examples == 50


@pytest.mark.parametrize("code", ["import no_such_package_of_ours", "1 / 0", "def"])
def test_one_that_cannot_be_imported_is_one_line_and_only_when_it_is_asked_for(
    outside, capsys, code
):
    (outside / "my_additions/bars.py").write_text(code)
    assert main(["list", "datasets"]) == 0
    assert "bars" in capsys.readouterr().out
    assert len(load_split("digits", "test")) == 364
    with pytest.raises(InputError, match="^data set 'bars' cannot be imported from [^\\n]*$"):
        load_split("bars", "test")


def test_a_name_that_is_taken_is_refused_and_the_others_are_not(outside, capsys):
    points = outside / "my_additions-1.0.dist-info/entry_points.txt"
    points.write_text(points.read_text().replace("bars =", "mnist ="))
    assert main(["list", "datasets"]) == 0
    assert "digits" in capsys.readouterr().out
    assert len(load_split("digits", "test")) == 364
    with pytest.raises(InputError, match="'mnist' of my-additions is registered already"):
        load_split("mnist", "test")
