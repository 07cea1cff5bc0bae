"""Attacks as contracts: one from outside is treated as what it states; ours draw what they drew."""

import hashlib
import re
import textwrap
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from msgspec import Meta
from torch import nn

from robustbench_lite.attacks.catalogue import ATTACKS
from robustbench_lite.attacks.contract import Attack, Share
from robustbench_lite.attacks.protocol import OUR_ENGINE, AttackSpec, load_protocol, protocol_files
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.leaderboard import build_table, load_result, render
from robustbench_lite.leaderboard.published.load import published_folder
from robustbench_lite.transfer.evaluate import evaluate_transfer

CPU = torch.device("cpu")
CONTRIBUTING = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
PROTOCOL = """
id = "outside"
version = 1
norm = "Linf"
engine = "ours"
summary = "PGD and an attack of another package"
passes = 1
eps = "0.1"
[[attacks]]
name = "pgd5"
title = "PGD-5"
attack = "pgd"
loss = "ce"
steps = 5
alpha_over_eps = "1/4"
restarts = 1
start = "none"
keep = "best_loss"
[[attacks]]
name = "corners20"
title = "Corners-20"
attack = "corners"
tries = 20
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A distribution, made by the three steps of CONTRIBUTING.md and nothing else; a protocol."""
    section = CONTRIBUTING.read_text().partition("## Add an attack")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    (points,) = re.findall(r"```ini\n(.*?)```", section, re.S)
    code, points = textwrap.dedent(code), textwrap.dedent(points)
    site = tmp_path / "site"
    (site / "corner_attacks").mkdir(parents=True)
    (site / "corner_attacks/__init__.py").touch()
    (site / "corner_attacks/corners.py").write_text(code)
    about = site / "corner_attacks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: corner-attacks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(ATTACKS, "_all", None)
    path = tmp_path / "outside.toml"
    path.write_text(PROTOCOL)
    return path


class Masked(nn.Module):
    """Right wherever the network inside is, with no gradient; wrong for most of what it calls 0 to
    5 as soon as the first pixel, black in every digit, is not."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        classes = self.inside((x > 0.5).float()).argmax(dim=1)
        moved = (x[:, 0, 0, 0] > 0.05) & (classes < 6)
        logits = 9.0 * nn.functional.one_hot((classes + moved.long()) % 10, 10).float()
        return logits + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


@pytest.fixture
def masked(checkpoint):
    model = resolve_model(str(checkpoint), allow_code=False, device="cpu").model.eval()
    return LoadedModel(Masked(model), "masked", "factory", "sha256:m", None, None, 0)


def run(source, protocol, out, n=60):
    return evaluate(
        source,
        load_split("digits", "test"),
        protocol,
        out=out,
        n=n,
        seed=0,
        settings=Settings(threads=1, batch_size=20, chunk_size=30),
        device=CPU,
    )


def test_a_gradient_free_attack_of_another_package_is_a_black_box_in_flags_table_and_resume(
    outside, masked, tmp_path
):
    protocol = load_protocol(str(outside), eps=None)
    result = run(masked, protocol, tmp_path / "r")
    clean, pgd, corners = (
        part["correct"] for part in (result["clean_accuracy"], *(result["attacks"].values()))
    )
    assert pgd == clean > 30, "PGD breaks none"
    assert corners <= 0.4 * clean
    assert "black_box_beats_white_box" in {flag["name"] for flag in result["flags"]}
    check = result["checks"]["black_box_beats_white_box"]
    assert (check["value"], check["points"]) == (pytest.approx((clean - corners) / 60), 60)
    assert all("stages" not in attack for attack in result["attacks"].values())
    table = build_table([load_result(tmp_path / "r")])
    assert table["Corners-20"].tolist() == [corners / 60]
    assert "Corners-20" in render(table, "terminal")
    before = (tmp_path / "r/result.json").read_bytes()
    (tmp_path / "r/parts/corners20/00001.parquet").unlink()
    run(masked, protocol, tmp_path / "r")
    assert (tmp_path / "r/result.json").read_bytes() == before


def test_alone_in_its_row_it_says_nothing_about_white_boxes(outside, masked, tmp_path):
    protocol = load_protocol(str(outside), eps=None)
    alone = replace(protocol, attacks=protocol.attacks[1:])
    checks = run(masked, alone, tmp_path / "r")["checks"]
    for name in ("black_box_beats_white_box", "transfer_beats_white_box"):
        assert (checks[name]["value"], checks[name]["points"]) == (0.0, 0)


def test_its_cost_is_planned_and_its_images_transfer(outside, masked, checkpoint, tmp_path, capsys):
    words = ["--dataset", "digits", "--n", "30", "--protocol", str(outside), "--threads", "1"]
    assert main(["evaluate", str(checkpoint), *words, "--plan"]) == 0
    assert re.search(r"corners20 +20 +0 ", capsys.readouterr().out)
    protocol = load_protocol(str(outside), eps=None)
    other = replace(masked, model=masked.model.inside, name="inside", hash="sha256:i")
    result = evaluate_transfer(
        [masked],
        [masked, other],
        load_split("digits", "test"),
        protocol,
        protocol.attacks[1],
        out=tmp_path / "t",
        n=40,
        seed=0,
        pixels="float",
        batch_size=20,
        threads=1,
        device=CPU,
    )
    assert result["crafted"][0]["fooled"] > 15
    assert 0 < result["crafted"][0]["largest_linf"] <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tries = 20", "trys = 20", "'corners20': unknown key trys; did you mean tries"),
        ("tries = 20", "", "'corners20': missing key tries"),
        ("tries = 20", "tries = 0", "'corners20': tries is 0; need an integer of at least 1"),
        ("tries = 20", "tries = 2.5", "'corners20': tries is 2.5; need an integer"),
        ("tries = 20", "tries = 20\nids = 3", "'corners20': may not set ids"),
        ('norm = "Linf"', 'norm = "L2"', "'corners20': norm='L2' is unknown here; available: Linf"),
        ('attack = "corners"', 'attack = "corner"', "did you mean corners"),
        ('attack = "corners"', 'attack = "corners:x"', "there is no variant 'x'"),
    ],
)
def test_its_parameters_are_checked_when_the_protocol_is_read(outside, old, new, message):
    outside.write_text(PROTOCOL.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_protocol(str(outside), eps=None)


def test_what_is_registered_must_be_a_contract(outside, tmp_path):
    points = next(tmp_path.glob("site/*.dist-info")) / "entry_points.txt"
    points.write_text(points.read_text().replace(":Corners", ":attacked"))
    with pytest.raises(InputError, match="which is no dataclass derived from .*contract.Attack"):
        load_protocol(str(outside), eps=None)


@dataclass(frozen=True)
class Every(Attack):
    count: Annotated[int, Meta(ge=1, le=9)]
    share: Share
    word: Literal["a", "b"]
    text: str
    on: bool
    maybe: float | None = None

    def __call__(self, model, x, y, terms):
        return x


GOOD = {"count": 2, "share": 1, "word": "a", "text": "", "on": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count is True; need an integer"),
        ({"count": 10}, "count is 10; need an integer of at most 9"),
        ({"share": 1.5}, "share is 1.5; need a finite number of at most 1.0"),
        ({"share": float("nan")}, "share is nan; need a finite number of at least 0.0"),
        ({"share": False}, "share is False; need a finite number"),
        ({"word": "c"}, "word is 'c'; need one of a, b"),
        ({"word": 1}, "word is 1; need one of a, b"),
        ({"text": 1}, "text is 1; need a string"),
        ({"on": 1}, "on is 1; need true or false"),
        ({"maybe": "x"}, "maybe is 'x'; need a finite number or null"),
        ({"maybe": float("inf")}, "maybe=inf must be finite"),
    ],
)
def test_every_kind_of_parameter_is_checked(change, message):
    assert Every.from_parameters(GOOD).maybe is None
    assert Every.from_parameters(GOOD | {"maybe": 3}).maybe == 3
    with pytest.raises(InputError, match=message):
        Every.from_parameters(GOOD | change)


def test_every_attack_states_what_it_is():
    without, minimal, elsewhere = set(), set(), set()
    for name in set(ATTACKS) - {"torchattacks"}:
        kind = ATTACKS.load(name)
        assert issubclass(kind, Attack)
        for facts, stated in (
            (without, not kind.uses_gradients),
            (minimal, kind.minimises_norm),
            (elsewhere, not kind.searches_elsewhere),
        ):
            facts |= {name} if stated else set()
    assert without == {"square"}
    assert minimal == {"cw_l2"}
    assert elsewhere == {"cw_l2", "reference:autoattack"}


@pytest.mark.parametrize("name", ["PGD", "Square", "GN", "CW", "DeepFool", "AutoAttack"])
def test_the_adapter_states_what_its_library_does(name):
    attack = AttackSpec("a", "A", f"torchattacks:{name}", {}).contract
    assert attack.uses_gradients == (name not in ("Square", "GN"))
    assert attack.minimises_norm == (name in ("CW", "DeepFool"))
    assert attack.stages("Linf") == {}


# What must not change: hashes of protocols, and draws, as they were before attacks were contracts.

HASHES = {
    "aa_plus": "e7e4239de2f45db5",
    "aa_plus_l2": "3f881630bb17fc28",
    "aa_rand": "d3e3c87a175c0e65",
    "aa_rand_l2": "0b2430848267da38",
    "aa_standard": "42e1649081229396",
    "aa_standard_l1": "dc3c16735f2f0456",
    "aa_standard_l2": "d20307a109411d5f",
    "aa_torchattacks10": "b769f804d280a929",
    "l1_quick": "df66f622a6890dae",
    "l2_quick": "40d11fd4f4f4cc87",
    "l2_standard": "436c64b3e6bab8c6",
    "linf_black_box": "14ef49e847909b97",
    "linf_quick": "e3e555f2d86fc73c",
    "linf_standard": "7fa0489495fc40d0",
    "linf_targeted": "70bedd025452e487",
    "linf_transfer": "6ff294b1810779dc",
    "cwinf20_k50_a003": "30e782d5962ee2eb",
    "fgsm": "e69600c365faf954",
    "pgd10_ce": "db55cf6ad330b60d",
    "pgd10_ce_a8": "a5469cb34d30997e",
    "pgd10_ce_l2_a15": "93d7eb1c505f20af",
    "pgd20_ce_a003": "0d895057e059ef10",
    "pgd20_ce_last": "ac79f4f4d20785ee",
    "pgd_plus": "e4af31451a55f4d7",
    "linf_standard reference": "a137c40ae0a94164",
    "aa_plus_l2 reference": "52e1efc39489a548",
    "aa_rand reference": "ec5dff235b594bde",
    "aa_standard_l1 reference": "c965122cbb008f97",
}


@pytest.mark.parametrize("name", HASHES)
def test_the_hashes_of_shipped_protocols_are_what_they_were(name):
    stem, _, engine = name.partition(" ")
    own = published_folder() / f"protocols/{stem}.toml"
    found = load_protocol(stem if stem in protocol_files() else str(own), eps="8/255")
    if engine:
        found = load_protocol(stem, eps="8/255", engine=engine)
        found = replace(found, engine_version="pinned")
    elif found.engine_version != OUR_ENGINE:  # another package's version, which is part of it
        found = replace(found, engine_version=OUR_ENGINE)
    assert found.hash.removeprefix("sha256:")[:16] == HASHES[name]
    again = [AttackSpec.from_dict(spec.as_dict()) for spec in found.attacks]
    assert again == list(found.attacks)
    assert [spec.contract for spec in again] == [spec.contract for spec in found.attacks]


def test_every_shipped_protocol_has_its_hash_here():
    own = {path.stem for path in (published_folder() / "protocols").glob("*.toml")}
    assert {name for name in HASHES if " " not in name} == {*protocol_files(), *own}


class Touched(nn.Module):
    """Wrong as soon as an image is off the grid of sixteenths: attacks return their first draw."""

    def forward(self, x):
        off = (x * 16 != (x * 16).round()).flatten(1).any(dim=1).float()[:, None]
        return torch.cat([1.0 - off, off, 0.0 * off, 0.0 * off], dim=1) + 0.0 * x.sum()


APGD = {"steps": 3, "restarts": 1, "rho": 0.75, "eot": 1, "staged_eps": False}
PGD = {"alpha": 4 / 255, "steps": 2, "start": "uniform", "loss": "ce"}
DRAWS = {
    "pgd": "a2a9b8361c7a1f51",
    "pgd_int": "6bbb630ae6223934",
    "apgd_ce": "424c9171de0616d8",
    "apgd_t": "424c9171de0616d8",
    "square": "97669b01d3bffeb4",
    "autoattack": "9aad8e35bdb1ffe1",
}


@pytest.mark.parametrize("case", DRAWS)
def test_attacks_draw_what_they_drew(case):
    """Of such a network every candidate is a draw and elementwise arithmetic: the same bytes on
    every machine."""
    attack, params = {
        "pgd": ("pgd", PGD | {"restarts": 1, "keep": "last"}),
        "pgd_int": ("pgd_int", PGD | {"rounding": "round"}),
        "apgd_ce": ("apgd_ce", APGD),
        "apgd_t": ("apgd_t", APGD | {"targets": 2}),
        "square": ("square", {"queries": 5, "restarts": 1, "p_init": 0.8}),
        "autoattack": ("autoattack", {"version": "standard", "few_classes": "margin"}),
    }[case]
    x = (torch.arange(3 * 16) % 17).view(3, 1, 4, 4) / 16
    x_adv = run_attack(
        AttackSpec("column", "Column", attack, params),
        Touched(),
        x,
        torch.zeros(3, dtype=torch.long),
        threat=ThreatModel("Linf", Fraction(8, 255)),
        ids=torch.tensor([3, 1, 4]),
        seed=5,
        batch_size=2,
    )
    assert (x_adv != x).flatten(1).any(dim=1).all()
    assert hashlib.sha256(x_adv.numpy().tobytes()).hexdigest()[:16] == DRAWS[case]
