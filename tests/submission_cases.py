"""Submissions for tests: complete ones, and tools to spoil them."""

import json
import re

import torch
from safetensors.torch import save_file

from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.leaderboard.statistics.accuracy import (
    accuracy,
    pack_outcomes,
    unpack_outcomes,
)
from robustbench_lite.submission.isolation import Limits
from robustbench_lite.submission.manifest import file_hash
from robustbench_lite.submission.review import RunOptions
from robustbench_lite.submission.template import new_submission

HERE = RunOptions(data_dir=None, device="cpu", batch_size=50, threads=1)
LIMITS = Limits(seconds=900, gigabytes=8)  # the time only turns a hang into a failure
EXAMPLES = 40

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat = nn.Flatten()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.flat(x))

def build():
    return Net()
"""


def from_checkpoint(folder, checkpoint, *, clean, robust, protocol="linf_quick"):
    """A complete submission of a digits checkpoint; its claims are of the first 40 images."""
    new_submission(folder, "mine", checkpoint=checkpoint)
    fill_in(folder, clean=clean, robust=robust, protocol=protocol)
    return folder


def with_code(folder, code=CODE, *, clean=100.0, robust=0.0):
    """A complete submission of a linear network in `model.py`, fitted to the test images."""
    from robustbench_lite.datasets import load_split

    new_submission(folder, "mine", checkpoint=None)
    data = load_split("digits", "test")
    x, y = data.pixels(slice(0, EXAMPLES)).flatten(1), data.labels[:EXAMPLES]
    targets = torch.nn.functional.one_hot(y, 10).float()
    inputs = torch.cat([x, torch.ones(EXAMPLES, 1)], dim=1).double()
    # 65 unknowns for 40 images: an exact fit. Some pixels are never on, hence the driver.
    solution = torch.linalg.lstsq(inputs, 10 * targets.double(), driver="gelsd").solution.float()
    save_file(
        {"head.weight": solution[:64].T.contiguous(), "head.bias": solution[64].contiguous()},
        folder / "model.safetensors",
    )
    (folder / "model.py").write_text(code)
    fill_in(folder, clean=clean, robust=robust)
    return folder


def fill_in(folder, *, clean, robust, protocol="linf_quick"):
    edit(folder, "authors", '["A. Author"]')
    edit(folder, "licence", '"MIT"')
    edit(folder, "defense", '"pgd_at"')
    edit(folder, "data", '"digits, training split"')
    edit(folder, "dataset", '"digits"')
    edit(folder, "protocol", f'"{protocol}"')
    edit(folder, "eps", '"0.15"')
    edit(folder, "clean_accuracy", clean)
    edit(folder, "robust_accuracy", robust)
    edit(folder, "examples", EXAMPLES)
    seal(folder)
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("TODO", "A test"))


def edit(folder, key, value):
    """Set a key of `submission.toml`, or remove it with None."""
    path = folder / "submission.toml"
    line = "" if value is None else f"{key} = {value}"
    text, count = re.subn(rf"^{key} = .*$", lambda _: line, path.read_text(), flags=re.M)
    assert count == 1, key
    path.write_text(text)


def seal(folder):
    """State the hash of the weights that are there."""
    edit(folder, "sha256", f'"{file_hash(folder / "model.safetensors")}"')


def reseal(entry, submission):
    """Make `entry.json` fit the files again, as a forger would."""
    path = entry / "entry.json"
    data = json.loads(path.read_text())
    data["weights"] = file_hash(submission / "model.safetensors")
    data["submission"] = file_hash(entry / "submission.toml")
    data["result"] = file_hash(entry / "result.json")
    data["evidence"] = {
        name: file_hash(entry / "evidence" / f"{name}.safetensors") for name in data["evidence"]
    }
    path.write_text(json.dumps(data))


def relabel(entry, submission, examples, *, robust):
    """Change the outcomes of examples under every attack, and all numbers that follow."""
    path = entry / "result.json"
    result = json.loads(path.read_text())
    n, outcomes = result["n_examples"], result["outcomes"]
    union = unpack_outcomes(outcomes["clean"], n).copy()
    for name, packed in outcomes["attacks"].items():
        bits = unpack_outcomes(packed, n).copy()
        bits[examples] = robust
        outcomes["attacks"][name] = pack_outcomes(bits)
        result["attacks"][name] |= accuracy(int(bits.sum()), n)
        union &= bits
    result["robust_accuracy"] = accuracy(int(union.sum()), n)
    path.write_text(with_checksum(result))
    edit(submission, "robust_accuracy", round(100 * float(union.mean()), 2))
    (entry / "submission.toml").write_bytes((submission / "submission.toml").read_bytes())
    reseal(entry, submission)
