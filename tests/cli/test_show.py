"""`rbl show`: what it prints is complete, and says where it comes from."""

import json
import tomllib
from pathlib import Path

import pytest
from cards import plain_card

from robustbench_lite.attacks.protocol import protocol_files
from robustbench_lite.checkpoints.checkpoint import save_checkpoint
from robustbench_lite.cli import main
from robustbench_lite.cli.listing import KINDS
from robustbench_lite.cli.show import recipe_toml
from robustbench_lite.models import build_model
from robustbench_lite.training.recipe import load_recipe, recipe_files
from robustbench_lite.training.recipe_expansion import expand

OF_EACH_KIND = [
    *("digits_pgd_at", "mnist_random_mask", "cifar10_aloe", "cifar10_short_ldam_drw"),
    *("cifar100_lbgat_trades_alpha6_wrn34_20", "cifar10_srat", "mnist_lrat", "svhn_pgd_at_l2"),
]


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_shown_recipe_has_every_key_and_its_files_header(name):
    text = recipe_toml(name)
    path = recipe_files()[name]
    assert tomllib.loads(text) == expand(path).data
    header = path.read_text().partition("\n\n")[0]
    assert text.startswith(f"{header}\n\n[data]\n")


def test_a_value_that_a_base_gives_says_which():
    lines = recipe_toml("mnist_irat").splitlines()
    assert 'name = "irat"' in lines
    assert 'start = "uniform"' in lines
    assert "steps = 5  # from mnist_adversarial" in lines
    assert "momentum = 0.9  # from mnist" in lines
    assert "# from" not in recipe_toml("digits_pgd_at"), "it has no base"


def test_a_shown_recipe_trains_the_same_from_a_file_of_its_own(tmp_path, capsys):
    (tmp_path / "lower.toml").write_text('base = "mnist_random_mask"\n[training]\nepochs = 9\n')
    mine = tmp_path / "mine.toml"
    text = '# Mine.\n\nbase = "lower.toml"\nname = "a \\"b\\" \\u007f é"\n[optimizer]\nlr = 1e-5\n'
    mine.write_text(text)
    assert main(["show", "recipe", str(mine)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith('# Mine.\n\nname = "')
    assert f"epochs = 9  # from {tmp_path / 'lower.toml'}" in shown.splitlines()
    copy = tmp_path / "copy.toml"
    copy.write_text(shown)
    assert load_recipe(str(copy)) == load_recipe(str(mine))


def test_infinity_and_lists_are_written_as_toml(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "mnist_irat"\n[defense]\nlam = inf\n[schedule]\nbegin = [1, 4]\n')
    shown = tomllib.loads(recipe_toml(str(mine)))
    assert shown["defense"]["lam"] == float("inf")
    assert shown["schedule"]["begin"] == [1, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe", "digits_trads"], "unknown recipe 'digits_trads'; did you mean digits_trades"),
        (["recipe", "mnist"], "'mnist' is a base, not a recipe"),
        (["recipe", "mine.toml"], "recipe file 'mine.toml' does not exist"),
        (["protocol", "linf_quik"], "unknown protocol 'linf_quik'; did you mean linf_quick"),
        (["protocol", "mine.toml"], "protocol file 'mine.toml' does not exist"),
        (["receipt", "mnist_irat"], "invalid choice: 'receipt'"),
        (["recipe", "mnist_irat", "--training.epochs", "3"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_shown_is_one_line(capsys, words, message):
    assert main(["show", *words]) == 2
    out, line = capsys.readouterr()
    assert out == ""
    assert message in line
    assert line.count("\n") == 1


def test_a_protocol_is_shown_as_it_was_written(capsys, tmp_path):
    text = protocol_files()["linf_quick"].read_text(encoding="utf-8")
    assert main(["show", "protocol", "linf_quick"]) == 0
    assert capsys.readouterr().out == text
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    assert main(["show", "protocol", str(tmp_path / "mine.toml")]) == 0
    assert capsys.readouterr().out == text


def test_a_bare_list_names_the_kinds_and_how_many_there_are(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()[: len(KINDS)]
    counts = {line.split()[0]: int(line.split()[1]) for line in lines}
    assert list(counts) == list(KINDS)
    assert counts["protocols"] == len(protocol_files())
    assert counts["recipes"] == len(recipe_files())


def test_a_shown_result_is_toml_of_what_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("n.py").write_text(
        "from torch import nn\nnet = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    )
    command = ["evaluate", "--model", "n.py:net", "--allow-code", "--dataset", "digits", "--n", "3"]
    assert main([*command, "--protocol", "linf_quick", "--eps", "2/255", "--out", "r"]) == 0
    capsys.readouterr()
    assert main(["show", "result", "r"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    stored = json.loads(Path("r/result.json").read_text())
    assert shown["robust_accuracy"]["value"] == stored["robust_accuracy"]["value"]
    assert shown["protocol"]["id"] == "linf_quick@2/255.v1"
    assert set(shown["attacks"]) == {"pgd20_ce", "cwinf20_k50"}
    assert shown["data"]["examples"] == "n=3"
    assert {"settings", "environment", "status"} <= set(shown)


def test_a_shown_model_is_its_card_or_its_architecture(tmp_path, capsys):
    network = build_model(
        "small_cnn", num_classes=10, in_channels=1, image_size=(8, 8), mean=None, std=None
    )
    card = plain_card(network, selection="imported")
    save_checkpoint(tmp_path / "run" / "best", network, card)
    for place in ("run", "run/best"):
        assert main(["show", "model", str(tmp_path / place)]) == 0
        out = capsys.readouterr().out
        shown = tomllib.loads(out)
        assert shown["architecture"] == "small_cnn"
        assert shown["parameters"] == card.parameters
        assert "# mean: unknown" in out
    assert main(["show", "model", "preact_resnet18"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["options"]["final_bn"] in (True, False)
    assert "arXiv:1603.05027" in shown["source"]
