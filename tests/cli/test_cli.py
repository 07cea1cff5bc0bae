"""The command line as its users meet it: one line for a mistake, exit code 2, nothing lost."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import reseal

from robustbench_lite.cli import build_parser, main
from robustbench_lite.core.integrity import with_checksum

IMPORT = ["--arch", "resnet18", "--dataset", "cifar10", "--normalization", "none"]
QUICK = ["--protocol", "linf_quick", "--eps", "0.1", "--n", "12", "--threads", "1"]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def complaint(capsys, *arguments):
    """The one line a wrong command prints; checks exit code and form."""
    assert main([str(argument) for argument in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rbl: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_train_evaluate_leaderboard_end_to_end(capsys):
    overrides = ["--training.epochs", "1", "--defense.crafting.steps", "1"]
    assert main(["train", "digits_pgd_at", "--threads", "1", *overrides]) == 0
    out = capsys.readouterr().out
    assert "checkpoint: runs/digits_pgd_at/best" in out
    assert "next: rbl evaluate runs/digits_pgd_at/best --protocol linf_standard" in out
    assert main(["evaluate", "runs/digits_pgd_at/best", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "PGD-20" in out
    (result,) = Path("results").rglob("result.json")
    assert f"result: {result}" in out
    stored = json.loads(result.read_text())
    assert stored["protocol"]["id"] == "linf_quick@0.1.v1"
    low, high = stored["robust_accuracy"]["interval"]
    assert low <= stored["robust_accuracy"]["value"] <= high
    for kind in ("terminal", "markdown", "csv", "latex", "html", "json"):
        assert main(["leaderboard", "results", "--format", kind]) == 0
        # "digits_pgd_at", as LaTeX escapes it where it must
        assert "pgd" in capsys.readouterr().out
    assert main(["leaderboard", "results", "--format", "html", "--out", "page.html"]) == 0
    assert "<html" in Path("page.html").read_text()


FACTORY = """
import torch
from torch import nn
print("running my code")
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def raises():
    raise RuntimeError("no weights here")
"""


def test_any_network_of_the_user_is_evaluated_with_allow_code(capsys):
    Path("net.py").write_text(FACTORY)
    command = ["evaluate", "--model", "net.py:make", "--dataset", "digits", *QUICK]
    assert "add --allow-code" in complaint(capsys, *command)
    assert main([*command, "--allow-code", "--name", "mine"]) == 0
    (result,) = Path("results/mine").rglob("result.json")
    assert json.loads(result.read_text())["model"]["kind"] == "factory"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["trian"], ["invalid choice", "did you mean train?"]),
        (["list", "model"], ["did you mean models?"]),
        (["evaluate", "x"], ["'linf_standard' names no radius: give --eps"]),
        (["evaluate", "x", *QUICK, "--speed", "9"], ["unrecognized arguments: --speed 9"]),
        (["evaluate", "x", *QUICK, "--batchsize", "9"], ["did you mean --batch-size?"]),
        (["evaluate", "x", "--epsilon=8/255"], ["did you mean --eps?"]),
        (["evaluate", "x", *QUICK, "--n_ex", "9"], ["did you mean --n?"]),
        (["evaluate", "x", "--eps", "0.1", "--protocol", "autoattack"], ["mean linf_standard?"]),
        (["evaluate", "x", "--eps", "0.1", "--protocol", "Auto-Attack"], ["mean linf_standard?"]),
        (["evaluate", "x", "--eps", "0.1", "--protocol", "pgd"], ["mean linf_quick?"]),
        (["evaluate", "x", "--eps", "0.1", "--protocol", "linf_standart"], ["linf_standard"]),
        (["train", "digits_trades", "--epochs", "3"], ["did you mean --training.epochs?"]),
        (["train", "digits_trades", "--batch-size=3"], ["did you mean --training.batch_size?"]),
        (
            ["train", "digits_trades", "--eps", "3"],
            ["did you mean --defense.crafting.eps or --validation.eps?"],
        ),
        (["train", "digits_trades", "--momentun", "3"], ["did you mean --optimizer.momentum?"]),
        (["train", "digits_trades", "--fast", "3"], ["'--fast': recipe keys are overridden as"]),
        (["show", "result", "nowhere"], ["nowhere"]),
        (["show", "model", "resnet19"], ["did you mean resnet18"]),
        (["show", "recipes", "x"], ["did you mean recipe?"]),
        (["evaluate", *QUICK], ["CHECKPOINT folder or --model"]),
        (["evaluate", "nowhere", *QUICK], ["no checkpoint folder nowhere"]),
        (["evaluate", "nowhere", "--protocol", "linf_quik", "--eps", "0.1"], ["linf_quick"]),
        (["evaluate", "nowhere", "--protocol", "linf_quick"], ["give --eps"]),
        (["evaluate", "nowhere", "--protocol", "linf_quick", "--eps", "8"], ["did you mean 8/255"]),
        (["evaluate", "nowhere", *QUICK, "--dataset", "cifar"], ["did you mean cifar10"]),
        (["evaluate", "nowhere", *QUICK, "--device", "gpu"], ["device 'gpu' is unknown"]),
        (["evaluate", "nowhere", *QUICK, "--device", "mps"], ["device 'mps' is unknown"]),
        (["evaluate", "nowhere", *QUICK, "--batch-size", "0"], ["batch_size=0"]),
        (["evaluate", "nowhere", *QUICK, "--n", "x"], ["invalid int value: 'x'"]),
        (["train", "digits_trads"], ["did you mean digits_trades"]),
        (["train", "digits_trades", "--training.epoch", "3"], ["did you mean epochs"]),
        (["train", "mnist_pgd_at", "--data-dir", "nowhere"], ["nowhere"]),
        (["leaderboard", "nowhere"], ["nowhere"]),
        (["leaderboard", "x", "--format", "markdwon"], ["did you mean markdown?"]),
        (
            [
                "import",
                "nowhere.pth",
                "--arch",
                "resnet18",
                "--dataset",
                "cifar10",
                "--normalization",
                "none",
                "--out",
                "c",
            ],
            ["nowhere.pth"],
        ),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, words):
    line = complaint(capsys, *arguments)
    for word in words:
        assert word in line


def damaged(checkpoint, name, change):
    folder = Path(name)
    shutil.copytree(checkpoint, folder)
    change(folder)
    return folder


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def nan_weights(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    reseal(folder)


def wrong_classes(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(with_checksum(card | {"num_classes": 7}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, ["model.safetensors"]),
        (nan_weights, ["NaN"]),
        (wrong_classes, ["7", "10"]),
        (lambda folder: (folder / "card.json").unlink(), ["card.json"]),
        (lambda folder: (folder / "card.json").write_text("{"), ["card.json"]),
    ],
)
def test_bad_checkpoints_are_one_line(capsys, checkpoint, change, words):
    folder = damaged(checkpoint, "bad", change)
    line = complaint(capsys, "evaluate", folder, *QUICK)
    for word in words:
        assert word in line
    assert not Path("results").exists()


def test_import_takes_options_of_the_architecture_and_its_checkpoint_evaluates(capsys):
    from robustbench_lite.models import build_model

    common = {"num_classes": 10, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
    model = build_model("preact_resnet18", **common, final_bn=False)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, "w.pth")
    command = ["import", "w.pth", "--arch", "preact_resnet18", "--dataset", "digits"]
    command += ["--normalization", "none", "--out", "c"]
    assert "final_bn" in complaint(capsys, *command, "--option", "final_bn")
    assert main([*command, "--option", "final_bn=false"]) == 0
    assert "11,1" in capsys.readouterr().out  # millions of parameters
    assert main(["evaluate", "c", *QUICK]) == 0


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt"])
def test_a_pickle_with_code_is_refused_and_not_run(capsys, name):
    Path(name).write_bytes(pickle.dumps({"state_dict": Malicious()}))
    torch.save({"state_dict": Malicious()}, "torch-" + name)
    for file in (name, "torch-" + name):
        complaint(capsys, "import", file, *IMPORT, "--out", "c")
        complaint(capsys, "evaluate", file, *QUICK)
    assert not Path("pwned").exists()
    assert not Path("c").exists()


def test_a_network_of_another_data_set_is_one_line(capsys, checkpoint):
    Path("net.py").write_text(FACTORY.replace("64, 10", "64, 100"))
    line = complaint(
        capsys, "evaluate", "--model", "net.py:make", "--allow-code", "--dataset", "digits", *QUICK
    )
    assert "100 classes" in line
    assert "10" in line
    line = complaint(
        capsys,
        "evaluate",
        "--model",
        "net.py:raises",
        "--allow-code",
        "--dataset",
        "digits",
        *QUICK,
    )
    assert "no weights here" in line


def test_a_run_folder_instead_of_a_checkpoint_says_which(capsys, checkpoint):
    line = complaint(capsys, "evaluate", checkpoint.parent, *QUICK)
    assert "/best or" in line


def test_a_result_folder_of_another_protocol_is_refused_and_kept(capsys, checkpoint):
    assert main(["evaluate", str(checkpoint), *QUICK, "--out", "r"]) == 0
    before = Path("r/result.json").read_bytes()
    capsys.readouterr()
    other = ["--protocol", "linf_quick", "--eps", "0.2", "--n", "12", "--threads", "1"]
    line = complaint(capsys, "evaluate", checkpoint, *other, "--out", "r")
    assert "protocol.eps: 0.1 there, 0.2 now" in line
    assert Path("r/result.json").read_bytes() == before


def test_a_full_disk_ends_in_one_line_and_the_next_call_goes_on(capsys, checkpoint, monkeypatch):
    import pyarrow.parquet

    written, real = [], pyarrow.parquet.write_table

    def full_after_two(table, path, **options):
        written.append(path)
        if len(written) == 3:
            Path(path).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(table, path, **options)

    monkeypatch.setattr(pyarrow.parquet, "write_table", full_after_two)
    line = complaint(capsys, "evaluate", checkpoint, *QUICK, "--out", "r")
    assert "disk full" in line
    assert len(list(Path("r/parts").rglob("*.parquet"))) == 2
    assert not list(Path("r").rglob("*.tmp"))
    assert main(["evaluate", str(checkpoint), *QUICK, "--out", "r"]) == 0
    assert main(["evaluate", str(checkpoint), *QUICK, "--out", "unbroken"]) == 0
    assert Path("r/result.json").read_bytes() == Path("unbroken/result.json").read_bytes()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda folder: None, "data"),
        (lambda folder: (folder / "test-0.parquet").write_bytes(b"PAR1 rubbish PAR1"), "test-0"),
    ],
)
def test_an_empty_data_folder_and_a_corrupt_parquet_are_one_line(capsys, checkpoint, make, word):
    Path("data").mkdir()
    make(Path("data"))
    line = complaint(
        capsys, "evaluate", checkpoint, *QUICK, "--dataset", "mnist", "--data-dir", "data"
    )
    assert word in line


def test_interruption_says_that_the_same_command_resumes(capsys, checkpoint, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("robustbench_lite.evaluation.evaluate.run_attack", interrupt)
    assert main(["evaluate", str(checkpoint), *QUICK, "--out", "r"]) == 130
    said = "rbl: interrupted; run the same command again to resume\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("defenses", ["standard", "pgd_at", "trades"]),
        ("attacks", ["fgsm", "pgd", "cw_l2", "reference:autoattack", "torchattacks"]),
        ("models", ["small_cnn", "preact_resnet18", "wrn28_10", "wrn34_10", "wrn34_20"]),
        ("datasets", ["digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"]),
        ("protocols", ["linf_quick", "linf_standard", "l2_quick", "l2_standard"]),
        ("recipes", ["digits_pgd_at", "mnist_trades"]),
    ],
)
def test_list_names_everything_with_a_line(capsys, kind, names):
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines]
    assert set(names) <= set(listed)
    assert all(len(line.split()) > 2 for line in lines)


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from robustbench_lite.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'matplotlib', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_every_command_has_help():
    parser = build_parser()
    commands = next(a for a in parser._actions if a.dest == "command").choices
    assert set(commands) == {
        *("demo", "doctor", "train", "evaluate", "transfer", "detect"),
        *("leaderboard", "compare", "plot", "reproduce", "classes", "import", "list"),
        *("submit", "verify", "show", "selftest", "export", "models"),
    }
    for command in commands.values():
        assert command.description


def test_a_finished_run_whose_files_are_damaged_is_one_line(capsys):
    command = ["train", "digits_standard", "--threads", "1", "--training.epochs", "1"]
    assert main([*command, "--out", "mein lauf"]) == 0
    assert "next: rbl evaluate 'mein lauf/best' --protocol" in capsys.readouterr().out
    for name in ("card.json", "model.safetensors"):
        file = Path("mein lauf/best") / name
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert name in complaint(capsys, *command, "--out", "mein lauf")
        file.write_bytes(whole)


def test_nothing_to_train_on_is_one_line(capsys):
    line = complaint(capsys, "train", "digits_standard", "--data.validation", "1432")
    assert "data.validation=1432 leaves 1 of 1433 images to train on" in line


def test_a_wrong_number_of_epochs_is_named_before_what_depends_on_it(capsys):
    line = complaint(capsys, "train", "digits_pgd_at", "--training.epochs", "-1")
    assert "training.epochs is -1; need an integer of at least 1" in line


def test_a_folder_without_results_is_a_mistake(capsys):
    Path("empty").mkdir()
    assert "empty: no result.json there or below" in complaint(capsys, "leaderboard", "empty")


def test_best_before_the_weights_begin_is_told(checkpoint):
    from robustbench_lite.cli.train import summary
    from robustbench_lite.training.recipe import load_recipe

    recipe = load_recipe("mnist_irat", ["--training.epochs", "4", "--defense.begin_epoch", "4"])
    assert "irat weighs examples from epoch 4 on, so this is not" in summary(recipe, checkpoint)
    assert "weighs" not in summary(load_recipe("digits_pgd_at"), checkpoint)


def test_detect_overwrites_only_its_own_results(checkpoint, capsys):
    command = ["detect", str(checkpoint), "--outliers", "rademacher", "--n", "20", "--out"]
    Path("thesis.tex").write_text("precious")
    assert "thesis.tex is there and no result of" in complaint(capsys, *command, "thesis.tex")
    assert Path("thesis.tex").read_text() == "precious"
    for _ in range(2):
        assert main([*command, "own.json"]) == 0


def test_a_terminal_that_cannot_show_everything_is_no_error(checkpoint, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "robustbench_lite", "reproduce", "--list"],
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout
