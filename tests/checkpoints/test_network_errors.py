"""Networks that misbehave: one line that names the fault and the place, exit code 2, parts kept."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.checkpoints.user_network import (
    NetworkError,
    UserNetwork,
    passes_of,
    user_code,
)
from robustbench_lite.cli import main
from robustbench_lite.core.messages import LONGEST, described

# A network that is honest until its AFTER-th pass. (The search runs on a copy: count for all.)
CODE = """
import sys
import torch
from torch import nn

PASSES = [0]

class Ends(BaseException):
    pass

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if PASSES[0] > AFTER:
            FAULT
        return gradient

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.head = nn.Flatten(), nn.Linear(64, 10)

    def forward(self, x):
        PASSES[0] += 1
        x = Backward.apply(x) if BACKWARD else x
        logits = self.head(self.flat(x))
        if PASSES[0] > AFTER and not BACKWARD:
            FAULT
        return logits

def build():
    return Net()
"""
FAULTS = {
    "raise SystemExit(0)": "SystemExit: 0",
    "sys.exit()": "SystemExit",
    "raise GeneratorExit('over')": "GeneratorExit: over",
    "raise StopIteration": "StopIteration",
    "raise Ends('the end')": "Ends: the end",
    "raise ValueError('two\\nlines ' + 5000 * 'x')": "ValueError: two lines xxx",
    "open('no_such_file')": "FileNotFoundError: [Errno 2]",
    "assert False, 'never'": "AssertionError: never",
    "return logits[:, :9]": "gives 9 classes",
    "return logits[:-1]": "it must give floating-point logits",
    "return logits[:, 0]": "it must give floating-point logits",
    "return [logits]": "returns a list; it must return logits",
    "return None": "returns a NoneType",
    "return logits.long()": "torch.int64",
    "return logits.to(torch.complex64)": "torch.complex64",
    "return logits.to('meta')": "logits on meta for images on cpu",
    "return logits * float('nan')": "NaN or infinite",
}
TERMS = ["--allow-code", "--dataset", "digits", "--threads", "1", "--n", "6", "--eps", "0.1"]
EVALUATE = ["evaluate", "--model", "net.py:build", "--protocol", "linf_quick", *TERMS]
TRANSFER = [
    *("transfer", "--source", "net.py:build", "--target", "net.py:build"),
    *("--protocol", "linf_quick", "--attack", "pgd20_ce", *TERMS),
]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def network(fault, *, after, backward=False):
    code = CODE.replace("FAULT", fault).replace("AFTER", str(after))
    Path("net.py").write_text(code.replace("BACKWARD", str(backward)))


def complaint(capsys, command):
    code = main(command)
    out, err = capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith("rbl: error: ")
    assert err.count("\n") == 1
    assert len(err) <= LONGEST + 1
    assert out == ""
    return err


def passes_needed(capsys, command):
    """How many passes a command makes of the honest network."""
    network("pass", after=10**9)
    found = []
    real = UserNetwork.forward

    def counted(self, x):
        found.append(len(x))
        return real(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UserNetwork, "forward", counted)
        assert main([*command, "--out", "honest"]) == 0
    capsys.readouterr()
    return len(found)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_middle_of_an_attack_is_one_line(fault, capsys):
    total = passes_needed(capsys, EVALUATE)
    network(fault, after=total - 20)
    err = complaint(capsys, EVALUATE)
    assert FAULTS[fault] in err
    assert "cwinf20_k50, chunk 0: " in err
    assert "net.py:build" in err or "NaN" in err
    # What was finished is kept, and there is no result.
    parts = {path.parent.name for path in Path("results").rglob("parts/*/*.parquet")}
    assert parts == {"clean", "pgd20_ce"}
    assert not list(Path("results").rglob("result.json"))
    # The mended network has other code, so it is another network, with a folder of its own.
    network("pass", after=total)
    assert main(EVALUATE) == 0


@pytest.mark.parametrize("fault", ["raise SystemExit(0)", "raise OSError('disk')", "1 / 0"])
def test_a_fault_in_the_backward_pass_is_one_line(fault, capsys):
    total = passes_needed(capsys, EVALUATE)
    network(fault, after=total - 20, backward=True)
    err = complaint(capsys, EVALUATE)
    assert "cwinf20_k50, chunk 0: fails on model net.py:build" in err
    assert "-v shows where" in err


@pytest.mark.parametrize("fault", ["raise SystemExit(0)", "return logits[:-1]", "1 / 0"])
@pytest.mark.parametrize("after", [0, 1, 3, 10, 40])
def test_a_fault_in_the_checks_is_one_line(fault, after, capsys):
    network(fault, after=after)
    err = complaint(capsys, EVALUATE)
    assert "checks " in err or "clean, chunk 0" in err
    assert not list(Path("results").rglob("result.json"))


@pytest.mark.parametrize("fault", ["raise SystemExit(0)", "return logits[:, :9]", "1 / 0"])
def test_a_fault_in_a_transfer_is_one_line(fault, capsys):
    total = passes_needed(capsys, TRANSFER)  # the last two by the target, which counts for itself
    for after, words in (
        (0, "net.py:build"),
        (8, "crafting pgd20_ce"),
        (total - 3, "crafted images: "),
    ):
        network(fault, after=after)
        assert words in complaint(capsys, TRANSFER)
    assert not list(Path("results").rglob("transfer.json"))


def test_a_fault_while_planning_is_one_line(capsys):
    network("raise SystemExit(0)", after=30)
    assert "--plan: model net.py:build fails" in complaint(capsys, [*EVALUATE, "--plan"])


NET = "import torch\nclass Net(torch.nn.Module):\n  def {}\nbuild = Net"
LOADING = {
    "raise SystemExit(0)": "net.py fails when run: SystemExit",
    "raise GeneratorExit": "net.py fails when run: GeneratorExit",
    "class Ends(BaseException): pass\nraise Ends('x')": "net.py fails when run: Ends: x",
    "class Bad(Exception):\n  def __str__(self): exit(0)\nraise Bad": "fails when run: Bad",
    "def build(): raise SystemExit(0)": "net.py:build() fails: SystemExit: 0",
    "def build(): raise GeneratorExit": "net.py:build() fails: GeneratorExit",
    "def __getattr__(name): raise SystemExit(0)": "net.py fails when",
    NET.format("state_dict(self, *a, **k): exit(0)"): "cannot be put to use: SystemExit: 0",
    NET.format("eval(self): 1 / 0"): "cannot be put to use: ZeroDivisionError",
    NET.format("to(self, *a): return 3"): "cannot be put to use: AttributeError",
}


@pytest.mark.parametrize("code", LOADING)
def test_a_fault_while_loading_is_one_line(code, capsys):
    Path("net.py").write_text(code)
    assert LOADING[code] in complaint(capsys, EVALUATE)


def test_a_copy_that_ends_the_program_is_one_line(capsys):
    network("pass", after=0)
    path = Path("net.py")
    path.write_text(
        path.read_text().replace(
            "    def forward(self, x):\n        PASSES",
            "    def __deepcopy__(self, memo):\n        raise SystemExit(0)\n\n"
            "    def forward(self, x):\n        PASSES",
        )
    )
    assert "checks before the first attack: fails on model" in complaint(capsys, EVALUATE)


def test_ctrl_c_inside_a_network_stays_ctrl_c(capsys):
    network("raise KeyboardInterrupt", after=30)
    assert main(EVALUATE) == 130


def test_verbose_shows_where(capsys, monkeypatch):
    import logging

    network("1 / 0", after=30)
    monkeypatch.setattr(logging.root, "handlers", [])
    level = logging.root.level
    try:
        assert main(["-v", *EVALUATE]) == 2
    finally:
        logging.root.setLevel(level)
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert 'net.py", line' in err
    assert err.splitlines()[-1].startswith("rbl: error: ")


def test_the_guarded_network_is_the_network(capsys):
    network("pass", after=0)
    loaded = resolve_model("net.py:build", allow_code=True, device="cpu").model
    inner = loaded.network
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded(x), inner(x))
    twin = copy.deepcopy(loaded)
    twin.network.head.weight.data.zero_()
    assert not torch.equal(twin(x), loaded(x))
    loaded.train()
    assert inner.training


def test_faults_of_our_own_stay_what_they_are():
    own = nn.Flatten()
    with pytest.raises(ZeroDivisionError), passes_of(own, "somewhere"):
        1 / 0  # noqa: B018
    with pytest.raises(NetworkError, match="somewhere: it is"), passes_of(own, "somewhere"):
        raise NetworkError("it is")
    with pytest.raises(OSError, match="full"), passes_of(UserNetwork(own, "n"), "somewhere"):
        raise OSError(28, "full")
    with pytest.raises(torch.OutOfMemoryError), user_code("n"):
        raise torch.OutOfMemoryError("none left")


def test_exceptions_are_described_whatever_they_are():
    class Silent(Exception):
        def __str__(self):
            raise ValueError

    assert described(Silent()) == "Silent"
    assert described(ValueError("a\nb\x1b[2J")) == "ValueError: a b?[2J"
    assert len(described(ValueError(10**4 * "word "))) <= 160
