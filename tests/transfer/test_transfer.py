"""Transfer: whole measurements, from several sources, interrupted, and by the command."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from cards import plain_card
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.attacks.first_order.pgd import pgd
from robustbench_lite.attacks.protocol import Protocol, load_protocol
from robustbench_lite.attacks.run_attack import run_attack
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.checkpoints.checkpoint import Card, save_checkpoint
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.models import build_model
from robustbench_lite.transfer import measurement as transfer_measurement
from robustbench_lite.transfer.eight_bit_images import round_to_8bit
from robustbench_lite.transfer.evaluate import evaluate_transfer
from robustbench_lite.transfer.success_rate import count_transfer
from robustbench_lite.verifier import verify

DIGITS = {"num_classes": 10, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
N = 60
PGD = "pgd20_ce_clean_start"


def test_step_sizes_of_the_shipped_protocol_are_those_of_the_source() -> None:
    alpha = {
        eps: {spec.name: spec.params.get("alpha") for spec in load_protocol(name, eps=eps).attacks}
        for name, eps in (("linf_transfer", "16/255"), ("linf_transfer", "0.3"))
    }
    assert alpha["16/255"][PGD] == pytest.approx(1 / 255, abs=1e-15)
    assert alpha["0.3"]["pgd40_ce_clean_start"] == pytest.approx(0.01, abs=1e-15)
    for spec in load_protocol("linf_transfer", eps="0.3").attacks[1:]:
        assert spec.params["start"] == "none"
        assert spec.params["keep"] == "last"


@pytest.fixture(scope="module")
def digits() -> Split:
    return load_split("digits", "test")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks that read digits, of other weights and one of them masked: seconds to train."""
    folder = tmp_path_factory.mktemp("networks")
    return [trained(folder, 0, {}), trained(folder, 1, {"shallow_drop": 0.5})]


@pytest.fixture(scope="module")
def three(checkpoints: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [*checkpoints, trained(tmp_path_factory.mktemp("networks"), 2, {})]


def trained(folder: Path, seed: int, options: dict[str, object]) -> Path:
    data = load_split("digits", "train")
    x, y = data.pixels(slice(0, 400)), data.labels[:400]
    torch.manual_seed(seed)
    model = build_model("small_cnn", **DIGITS, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    name = f"net{seed}"
    save_checkpoint(folder / name, model, card_for(options, name=name, model=model))
    return folder / name


def card_for(options: dict[str, object], *, name: str, model: torch.nn.Module) -> Card:
    return plain_card(
        model,
        name,
        defense="standard",
        architecture_kwargs=options,
        selection="last epoch",
        **DIGITS,
    )


def loaded(folder: Path) -> LoadedModel:
    return resolve_model(str(folder), allow_code=False, device="cpu")


def measure(
    sources: list[Path],
    targets: list[Path],
    data: Split,
    out: Path,
    *,
    protocol: Protocol | None = None,
    attack: str = PGD,
    pixels: str = "8bit",
    seed: int = 0,
) -> dict[str, object]:
    protocol = protocol or load_protocol("linf_transfer", eps="0.1")
    (spec,) = (spec for spec in protocol.attacks if spec.name == attack)
    return evaluate_transfer(
        [loaded(folder) for folder in sources],
        [loaded(folder) for folder in targets],
        data,
        protocol,
        spec,
        out=out,
        n=N,
        seed=seed,
        pixels=pixels,
        batch_size=25,
        threads=1,
        device=torch.device("cpu"),
    )


def test_a_measurement_is_what_a_hand_made_one_gives(
    checkpoints: list[Path], digits: Split, tmp_path: Path
) -> None:
    result = measure(checkpoints[:1], checkpoints, digits, tmp_path)
    stored = json.loads((tmp_path / "transfer.json").read_text())
    assert stored.pop("checksum").startswith("sha256:")
    assert result == stored
    source, target = (loaded(folder).model for folder in checkpoints)
    x, y = digits.pixels(slice(0, N)), digits.labels[:N]
    options = {"alpha": 0.1 / 16, "steps": 20, "restarts": 1, "loss": "ce", "start": "none"}
    x_adv = pgd(
        source, x, y, norm="Linf", eps=0.1, keep="last", ids=torch.arange(N), seed=0, **options
    )
    rounded = round_to_8bit(x_adv, x, ThreatModel("Linf", Fraction(1, 10)))
    with torch.no_grad():
        for images, place in ((rounded, lambda pair: pair), (x_adv, before_rounding)):
            expected = count_transfer(
                y,
                source_clean=source(x).argmax(dim=1),
                source_adv=source(images).argmax(dim=1),
                target_clean=target(x).argmax(dim=1),
                target_adv=target(images).argmax(dim=1),
            )
            found = place(result["pairs"][1])
            assert {key: found[key] for key in expected.as_dict()} == expected.as_dict()
            assert 10 < expected.counted < N, "otherwise the test says little"
            assert 0 < expected.kept < expected.counted
        clean = int((target(x).argmax(dim=1) == y).sum())
    assert result["pairs"][1]["clean_accuracy"]["correct"] == clean
    (crafted,) = result["crafted"]
    assert crafted["largest_linf"] == pytest.approx(25 / 255, abs=1e-6)  # 25.5 levels are allowed
    delta = (rounded.double() - x.double()).flatten(1)
    assert crafted["largest_l2"] == pytest.approx(delta.norm(dim=1).max().item())
    assert crafted["largest_l1"] == pytest.approx(delta.abs().sum(dim=1).max().item())
    assert result["attack"] == PGD
    assert result["protocol"]["id"] == "linf_transfer@0.1.v1"
    assert result["dataset"]["hash"] == digits.content_hash
    assert [network["hash"] for network in result["targets"]] == [
        loaded(folder).hash for folder in checkpoints
    ]
    assert "torch" in result["environment"]["versions"]


def before_rounding(pair: dict[str, object]) -> dict[str, object]:
    return pair["before_rounding"]


def test_a_network_keeps_nothing_of_what_was_crafted_on_itself(
    checkpoints: list[Path], digits: Split, tmp_path: Path
) -> None:
    result = measure(checkpoints, checkpoints, digits, tmp_path, pixels="float")
    rates = {
        (pair["source"], pair["target"]): pair["defense_success_rate"] for pair in result["pairs"]
    }
    for folder in checkpoints:
        own = loaded(folder).hash
        assert rates[own, own]["value"] == 0.0
        assert rates[own, own]["n"] > 10
    assert all(pair["before_rounding"] is None for pair in result["pairs"])
    assert all(
        pair["repeat_label_share"] == 1.0
        for pair in result["pairs"]
        if pair["source"] == pair["target"]
    )


def test_several_sources_together_are_worse_than_each_alone(
    three: list[Path], digits: Split, tmp_path: Path
) -> None:
    result = measure(three, three, digits, tmp_path)
    hashes = [loaded(folder).hash for folder in three]
    y = digits.labels[:N].tolist()
    parts = {
        part["crafted"]["source"]: part
        for part in map(json.loads, (path.read_text() for path in tmp_path.glob("parts/*.json")))
    }
    clean = {
        folder_hash: loaded(folder).model(digits.pixels(slice(0, N))).argmax(dim=1).tolist()
        for folder, folder_hash in zip(three, hashes, strict=True)
    }
    assert [union["target"] for union in result["unions"]] == hashes
    for union in result["unions"]:
        target = union["target"]
        others = [source for source in hashes if source != target]
        assert union["sources"] == others, "what was crafted on the target itself is no transfer"
        for version, found in ((0, union), (1, union["before_rounding"])):
            counted = kept = correct = 0
            for i in range(N):
                said = [parts[source]["target_adv"][target][version][i] for source in others]
                correct += all(label == y[i] for label in said)
                of = [
                    label
                    for source, label in zip(others, said, strict=True)
                    if clean[source][i] == y[i] == clean[target][i]
                    and parts[source]["source_adv"][version][i] != y[i]
                ]
                counted += bool(of)
                kept += bool(of) and all(label == y[i] for label in of)
            assert found["counted"] == counted
            assert found["defense_success_rate"]["correct"] == kept
            assert found["accuracy"]["correct"] == correct
        alone = [
            pair["accuracy"]["correct"]
            for pair in result["pairs"]
            if pair["target"] == target != pair["source"]
        ]
        assert len(alone) == 2
        assert union["accuracy"]["correct"] < min(alone)


def test_an_interrupted_measurement_goes_on_with_the_next_source(
    three: list[Path], digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(three, three[2:], digits, tmp_path / "unbroken")
    crafted = []

    def craft(*arguments: object, **options: object) -> Tensor:
        crafted.append(arguments[1])
        if len(crafted) == 2:
            raise KeyboardInterrupt
        return run_attack(*arguments, **options)

    monkeypatch.setattr(transfer_measurement, "run_attack", craft)
    with pytest.raises(KeyboardInterrupt):
        measure(three, three[2:], digits, tmp_path / "broken")
    assert not (tmp_path / "broken" / "transfer.json").exists()
    measure(three, three[2:], digits, tmp_path / "broken")
    assert len(crafted) == 2 + 2, "the first source is not attacked again"
    files = [(tmp_path / name / "transfer.json").read_bytes() for name in ("unbroken", "broken")]
    assert files[0] == files[1]


def test_parts_of_two_sources_that_changed_places_are_not_used(
    checkpoints: list[Path], digits: Split, tmp_path: Path
) -> None:
    expected = measure(checkpoints[:2], checkpoints[2:], digits, tmp_path)
    (tmp_path / "transfer.json").unlink()
    first, second = sorted((tmp_path / "parts").glob("*.json"))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    assert measure(checkpoints[:2], checkpoints[2:], digits, tmp_path) == expected
    assert (first.read_bytes(), second.read_bytes()) == contents


def test_parts_of_other_terms_are_not_used(
    checkpoints: list[Path], digits: Split, tmp_path: Path
) -> None:
    expected = measure(checkpoints[:1], checkpoints[1:], digits, tmp_path / "new", seed=1)
    measure(checkpoints[:1], checkpoints[1:], digits, tmp_path / "old")
    (tmp_path / "old" / "transfer.json").unlink()
    (part,) = (tmp_path / "old" / "parts").glob("*.json")
    stored = json.loads(part.read_text())
    stored["target_adv"] = {key: [[0] * N] * 2 for key in stored["target_adv"]}
    part.write_text(with_checksum(stored))
    found = measure(checkpoints[:1], checkpoints[1:], digits, tmp_path / "old", seed=1)
    assert found == expected
    (tmp_path / "old" / "transfer.json").unlink()
    part.write_text("{")
    assert measure(checkpoints[:1], checkpoints[1:], digits, tmp_path / "old", seed=1) == expected


OWN_ENGINE = """
id = "own"
version = 1
norm = "{norm}"
engine = "ours"
summary = "parts of AutoAttack, one by one"
passes = {passes}
[[attacks]]
name = "apgd"
title = "APGD-CE"
attack = "apgd_ce"
steps = 10
restarts = 1
rho = 0.75
eot = 1
staged_eps = false
[[attacks]]
name = "fab"
title = "FAB-T"
attack = "fab_t"
steps = 10
targets = 2
restarts = 1
alpha_max = 0.1
eta = 1.05
beta = 0.9
[[attacks]]
name = "square"
title = "Square"
attack = "square"
queries = 100
restarts = 1
p_init = 0.8
"""


@pytest.mark.parametrize("attack", ["apgd", "fab", "square"])
@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.2"), ("L2", "1.5"), ("L1", "8")])
def test_attacks_of_our_engine_transfer_in_every_norm(
    attack: str, norm: str, eps: str, checkpoints: list[Path], digits: Split, tmp_path: Path
) -> None:
    (tmp_path / "own.toml").write_text(OWN_ENGINE.format(norm=norm, passes=1))
    protocol = load_protocol(str(tmp_path / "own.toml"), eps=eps)
    result = measure(
        checkpoints[:1], checkpoints, digits, tmp_path, protocol=protocol, attack=attack
    )
    (crafted,) = result["crafted"]
    assert crafted["fooled"] > 0.2 * N
    assert 0.1 * float(eps) < crafted[f"largest_{norm.lower()}"] <= float(eps) * (1 + 1e-6)
    own, other = result["pairs"]
    assert own["counted"] == crafted["fooled"]
    assert own["accuracy"]["correct"] < other["accuracy"]["correct"] <= N, "it transfers in part"


class WrongInThreeOfFive(torch.nn.Module):
    """Right when clean; in five passes of a moved image 0, 0, 1, 2, 3: label 0 leads, and loses."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        said = (0, 0, 1, 2, 3)[self.calls % 5]
        self.calls += 1
        moved = (x != x.flatten(1).amax(dim=1).view(-1, 1, 1, 1)).flatten(1).any(dim=1)
        logits = F.one_hot(torch.where(moved, said, 0), 10).float()
        return logits + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


NOISE = {"loss": "ce", "alpha": 0.0, "steps": 1, "restarts": 1, "start": "uniform", "keep": "last"}


def measure_noise(
    networks: list[torch.nn.Module], out: Path, *, count: int, passes: int
) -> dict[str, object]:
    """Random noise, crafted on each of some networks and judged on each, on grey images."""
    found = [
        LoadedModel(network, f"net{k}", "factory", f"sha256:{k}", None, 10, 0)
        for k, network in enumerate(networks)
    ]
    protocol = load_protocol("linf_transfer", eps="0.1")
    noise = replace(protocol.attacks[0], attack="pgd", params=NOISE)
    images = torch.full((count, 1, 2, 2), 100, dtype=torch.uint8)
    return evaluate_transfer(
        found,
        found,
        Split("digits", "test", images, torch.zeros(count, dtype=torch.int64), num_classes=10),
        replace(protocol, passes=passes, attacks=(noise,)),
        noise,
        out=out,
        n=count,
        seed=0,
        pixels="float",
        batch_size=count,
        threads=1,
        device=torch.device("cpu"),
    )


def test_several_passes_say_broken_by_the_same_rule_as_the_verifier(tmp_path: Path) -> None:
    result = measure_noise([WrongInThreeOfFive()], tmp_path, count=4, passes=5)
    assert result["crafted"][0]["fooled"] == 4
    assert result["crafted"][0]["clean_accuracy"]["value"] == 1.0
    assert result["pairs"][0]["accuracy"]["value"] == 0.0
    assert result["pairs"][0]["counted"] == 4


class RandomLabels(torch.nn.Module):
    """Label 0 or 1, whatever the image."""

    def forward(self, x: Tensor) -> Tensor:
        labels = torch.randint(0, 2, (len(x),))
        return F.one_hot(labels, 10).float() + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)


def test_randomised_networks_draw_the_same_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = [RandomLabels(), RandomLabels()]
    measure_noise(networks, tmp_path / "unbroken", count=64, passes=1)
    calls = []

    def craft(*arguments: object, **options: object) -> Tensor:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_attack(*arguments, **options)

    monkeypatch.setattr(transfer_measurement, "run_attack", craft)
    with pytest.raises(KeyboardInterrupt):
        measure_noise(networks, tmp_path / "broken", count=64, passes=1)
    measure_noise(networks, tmp_path / "broken", count=64, passes=1)
    files = [(tmp_path / name / "transfer.json").read_bytes() for name in ("unbroken", "broken")]
    assert files[0] == files[1]


def test_searches_and_verdicts_take_as_many_passes_as_the_protocol_says(
    checkpoints: list[Path], digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def noting(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            given.append((function.__name__, options["passes"]))
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(transfer_measurement, "run_attack", noting(run_attack))
    monkeypatch.setattr(transfer_measurement, "verify", noting(verify))
    (tmp_path / "own.toml").write_text(OWN_ENGINE.format(norm="Linf", passes=3))
    protocol = load_protocol(str(tmp_path / "own.toml"), eps="0.2")
    measure(checkpoints[:1], checkpoints, digits, tmp_path, protocol=protocol, attack="apgd")
    assert set(given) == {("run_attack", 3), ("verify", 3)}


MINIMAL_NORM = """
id = "minimal"
version = 1
norm = "L2"
engine = "ours"
summary = "an attack that knows no radius"
passes = 1
[[attacks]]
name = "cw_l2"
title = "CW-L2"
attack = "cw_l2"
kappa = 0.0
lr = 0.05
steps = 30
search_steps = 2
initial_c = 10.0
"""


def test_images_that_the_verifier_does_not_allow_fool_nobody(
    checkpoints: list[Path], digits: Split, tmp_path: Path
) -> None:
    (tmp_path / "cw.toml").write_text(MINIMAL_NORM)
    protocol = load_protocol(str(tmp_path / "cw.toml"), eps="0.01")
    result = measure(
        checkpoints[:1], checkpoints, digits, tmp_path, protocol=protocol, attack="cw_l2"
    )
    assert result["crafted"][0]["fooled"] == 0
    assert result["crafted"][0]["largest_l2"] > 0.02, "the attack left the ball"
    for pair in result["pairs"]:
        assert pair["counted"] == 0
        assert pair["accuracy"]["correct"] == pair["clean_accuracy"]["correct"]


def test_the_one_verifier_judges_every_version_on_every_network(
    checkpoints: list[Path], digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(*arguments: object, **options: object) -> object:
        calls.append(options)
        return verify(*arguments, **options)

    monkeypatch.setattr(transfer_measurement, "verify", counting)
    measure(checkpoints[:1], checkpoints, digits, tmp_path)
    # two clean passes; rounded and unrounded images on the source and on both targets
    assert len(calls) == 2 + 2 + 4
    assert all(call["threat"].eps == Fraction(1, 10) for call in calls)


def test_the_same_terms_are_read_and_other_terms_are_refused(
    checkpoints: list[Path], digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(checkpoints[:1], checkpoints[1:], digits, tmp_path)
    before = (tmp_path / "transfer.json").read_bytes()

    def never(*_arguments: object, **_options: object) -> None:
        raise AssertionError("crafted again")

    monkeypatch.setattr(transfer_measurement, "run_attack", never)
    assert measure(checkpoints[:1], checkpoints[1:], digits, tmp_path) == first
    with pytest.raises(LedgerMismatchError, match="another measurement: seed: 0 there, 1 now"):
        measure(checkpoints[:1], checkpoints[1:], digits, tmp_path, seed=1)
    with pytest.raises(LedgerMismatchError, match="sources"):
        measure(checkpoints[1:], checkpoints[1:], digits, tmp_path)
    assert (tmp_path / "transfer.json").read_bytes() == before
    (tmp_path / "transfer.json").write_text("{")
    with pytest.raises(InputError, match="is no transfer.json of this version"):
        measure(checkpoints[:1], checkpoints[1:], digits, tmp_path)


COMMAND = ["--protocol", "linf_transfer", "--eps", "0.1", "--n", str(N), "--threads", "1"]


def test_the_command_prints_a_table_and_writes_a_file(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--source", checkpoints[0], "--target", checkpoints[0], "--target", checkpoints[1]]
    command = ["transfer", *map(str, names), *COMMAND, "--attack", "fgsm"]
    assert main([*command, "--out", str(tmp_path / "t")]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "t" / "transfer.json").read_text())
    lines = out.splitlines()
    assert lines[0] == "fgsm of linf_transfer@0.1.v1, digits test, 60 8-bit images"
    assert lines[1].split()[:5] == ["Source", "Target", "Clean", "Kept", "of"]
    assert [line.split()[:2] for line in lines[2:4]] == [["net0", "net0"], ["net0", "net1"]]
    own, other = result["pairs"]
    assert own["defense_success_rate"]["value"] < other["defense_success_rate"]["value"]
    assert f"{100 * other['defense_success_rate']['value']:.2f} %" in lines[3]
    assert lines[4] == f"result: {tmp_path / 't' / 'transfer.json'}"
    assert len({line.rindex("%") for line in lines[2:4]}) == 1, "columns are aligned"


def test_the_table_has_a_row_for_all_sources_together(
    three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"--{role}={folder}" for role in ("source", "target") for folder in three]
    command = ["transfer", *names, *COMMAND, "--attack", "fgsm", "--out", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()[2:-1]
    assert len(lines) == 9 + 3
    result = json.loads((tmp_path / "transfer.json").read_text())
    for line, target, union in zip(lines[9:], three, result["unions"], strict=True):
        assert line.startswith(f"any of 2  {target.name} ")
        assert f"{100 * union['accuracy']['value']:.2f} %" in line


def test_autoattack_transfers_by_the_name_of_its_protocol_alone(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"--source={checkpoints[0]}", f"--target={checkpoints[1]}"]
    terms = ["--protocol", "aa_standard", "--eps", "0.3", "--n", "20", "--threads", "1"]
    assert main(["transfer", *names, *terms, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("aa_standard of aa_standard@0.3.v1, digits test, 20 ")
    (pair,) = json.loads((tmp_path / "transfer.json").read_text())["pairs"]
    assert pair["counted"] > 10


def test_a_rate_over_no_images_is_printed_as_not_available(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["--source", str(checkpoints[0]), "--target", str(checkpoints[1])]
    harmless = [*COMMAND[:2], "--eps", "0", *COMMAND[4:], "--attack", "fgsm"]
    assert main(["transfer", *names, *harmless, "--out", str(tmp_path / "t")]) == 0
    row = capsys.readouterr().out.splitlines()[2].split()
    assert row.count("n/a") == 2


def test_without_out_each_set_of_terms_has_a_folder_of_its_own(
    checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["--source", str(checkpoints[0]), "--target", str(checkpoints[1])]
    for more in ([], [], ["--pixels", "float"], ["--seed", "1"]):
        assert main(["transfer", *names, *COMMAND, "--attack", "fgsm", *more]) == 0
    assert len(list(Path("results/transfer").glob("digits-*/transfer.json"))) == 3


def test_networks_of_one_name_are_told_apart_and_run_folders_refused(
    checkpoints: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for place, folder in enumerate(checkpoints):
        shutil.copytree(folder, f"run{place}/best")
        card = json.loads(Path(f"run{place}/best/card.json").read_text())
        Path(f"run{place}/best/card.json").write_text(with_checksum(card | {"name": "twin"}))
    twins = ["--source", "run0/best", "--target", "run0/best", "--target", "run1/best"]
    assert main(["transfer", *twins, *COMMAND, "--attack", "fgsm"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:4]
    hashes = [loaded(Path(f"run{place}/best")).hash[7:15] for place in (0, 1)]
    for line, digest in zip(lines, hashes, strict=True):
        assert line.startswith(f"twin ({hashes[0]})  twin ({digest})  ")
    assert main(["transfer", *twins[:3], "run1", *COMMAND, "--attack", "fgsm"]) == 2
    assert "run1 is a run folder: give run1/best" in capsys.readouterr().err
    card["dataset"] = "mnist"
    Path("run1/best/card.json").write_text(with_checksum(card))
    assert main(["transfer", *twins, *COMMAND, "--attack", "fgsm"]) == 2
    assert "were trained on digits and mnist: add --dataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["give --attack", "fgsm", PGD]),
        (["--attack", "pgd20_ce"], [f"did you mean {PGD}"]),
        (["--attack", "fgsm", "--n", "0"], ["--n 0 must be at least 1"]),
        (["--attack", "fgsm", "--batch-size", "0"], ["batch_size=0"]),
        (["--attack", "fgsm", "--pixels", "16bit"], ["invalid choice: '16bit'"]),
        (["--attack", "fgsm", "--dataset", "mnist", "--data-dir", "nowhere"], ["nowhere"]),
        (["--attack", "fgsm", "--source", "nowhere"], ["no checkpoint folder nowhere"]),
        (["--attack", "fgsm", "--source", "net.py:make"], ["no file net.py"]),
    ],
)
def test_wrong_arguments_are_one_line(
    checkpoints: list[Path],
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["--source", str(checkpoints[0]), "--target", str(checkpoints[1])]
    assert main(["transfer", *names, *COMMAND, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rbl: error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_a_network_that_does_not_fit_the_images_is_named(
    checkpoints: list[Path], tmp_path: Path, digits: Split
) -> None:
    other = Split("digits", "test", digits.images, digits.labels % 3, num_classes=3)
    with pytest.raises(InputError, match="net0: model gives 10 classes, data set digits has 3"):
        measure(checkpoints[:1], checkpoints[1:], other, tmp_path)
