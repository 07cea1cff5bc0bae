"""A new submission folder, to fill in or filled in from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from robustbench_lite.checkpoints.card import Card
from robustbench_lite.checkpoints.checkpoint import WEIGHTS_FILE, load_checkpoint
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.storage import write_bytes, write_text
from robustbench_lite.core.toml_text import toml_value
from robustbench_lite.submission.manifest import CODE, FILE, NAME, PLACEHOLDER, WEIGHTS, file_hash

_MANIFEST = """\
# Every key is explained in docs/submitting.md. `rbl submit check` says what is missing.
schema_version = 1
name = {name}
authors = ["{todo}"]
licence = "{todo}"

[paper]  # both may stay empty
title = ""
url = ""

[training]
defense = {defense}
data = {data}
extra_data = {extra_data}  # true when anything but the data set's training split was used

{network}
[threat]
dataset = {dataset}
protocol = "linf_standard"
eps = "{todo}"

[claims]  # percent, of the first `examples` test images
clean_accuracy = 0.0
robust_accuracy = 0.0
examples = 1000
"""
_NETWORK = """\
[network]
factory = "build"  # of {code}; or remove {code} and write: architecture = "preact_resnet18"
sha256 = "{todo}"  # sha256sum {weights}
"""
_CODE = '''\
"""The network of this submission. Weights are loaded from model.safetensors afterwards."""

from torch import nn


def build() -> nn.Module:
    """A network that maps images in [0, 1] to logits; it normalises by itself."""
    raise NotImplementedError("{todo}: build your network here")
'''
_README = """\
# {name}

{todo}: what the defense does, how it was trained, where its code is, what to know before comparing.
"""


def new_submission(out: Path, name: str, *, checkpoint: Path | None) -> Path:
    """Write a submission folder.

    Args:
        out: the folder, which must not be there.
        name: of the submission.
        checkpoint: take network and weights from this checkpoint folder; None leaves them open.

    Returns:
        `out`.

    Raises:
        InputError: when `out` is there, or the checkpoint cannot be read.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"name {name!r} must be up to 64 letters, digits and _ . -, beginning with a letter or "
            "digit; --out says where the folder goes"
        )
    if out.exists():
        raise InputError(f"{out} is there already: choose another --out, or remove it")
    card = load_checkpoint(checkpoint)[1] if checkpoint is not None else None
    fill = {"name": toml_value(name), "todo": PLACEHOLDER}
    if card is None:
        fill |= {"defense": toml_value(PLACEHOLDER), "data": toml_value(PLACEHOLDER)}
        fill |= {"dataset": toml_value(PLACEHOLDER), "extra_data": "false"}
        network = _NETWORK.format(code=CODE, weights=WEIGHTS, todo=PLACEHOLDER)
        write_text(out / CODE, _CODE.format(todo=PLACEHOLDER))
    else:
        assert checkpoint is not None
        write_bytes(out / WEIGHTS, (checkpoint / WEIGHTS_FILE).read_bytes())
        fill |= {"defense": toml_value(card.defense or PLACEHOLDER)}
        fill |= {
            "data": toml_value(f"{card.dataset}, training split"),
            "dataset": toml_value(card.dataset),
            "extra_data": toml_value(bool(card.saw_extra_data)),
        }
        network = _network_of(card, file_hash(out / WEIGHTS))
    write_text(out / FILE, _MANIFEST.format(**fill, network=network))
    write_text(out / "README.md", _README.format(name=name, todo=PLACEHOLDER))
    return out


def _network_of(card: Card, sha256: str) -> str:
    lines = ["[network]", f"architecture = {toml_value(card.architecture)}"]
    if card.mean is not None and card.std is not None:
        lines += [f"mean = {list(card.mean)}", f"std = {list(card.std)}"]
    lines.append(f'sha256 = "{sha256}"')
    if card.architecture_kwargs:
        lines.append("[network.options]")
        lines += [f"{key} = {toml_value(value)}" for key, value in card.architecture_kwargs.items()]
    return "\n".join([*lines, ""])
