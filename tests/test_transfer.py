"""Transfer: the rate on a worked example, 8-bit images inside the ball, and whole measurements."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite import transfer
from robustbench_lite.attacks.pgd import pgd
from robustbench_lite.attacks.protocol import Protocol, load_protocol
from robustbench_lite.attacks.threat_model import ThreatModel
from robustbench_lite.checkpoint import Card, parameter_count, save_checkpoint
from robustbench_lite.cli import main
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.errors import InputError, LedgerMismatchError
from robustbench_lite.leaderboard.statistics import wilson_interval
from robustbench_lite.model_source import LoadedModel, resolve_model
from robustbench_lite.models import build_model
from robustbench_lite.transfer import evaluate_transfer, round_to_8bit
from robustbench_lite.transfer_rate import TransferCounts, count_transfer
from robustbench_lite.verifier import verify

DIGITS = {"num_classes": 10, "in_channels": 1, "image_size": (8, 8), "mean": None, "std": None}
N = 60
PGD = "pgd20_ce_clean_start"


def counts(target_adv: list[int]) -> TransferCounts:
    """The sheet's example: six images of labels 0 to 5."""
    return count_transfer(
        torch.arange(6),
        source_clean=torch.tensor([0, 1, 2, 3, 4, 0]),
        source_adv=torch.tensor([1, 1, 0, 3, 0, 0]),
        target_clean=torch.tensor([0, 1, 2, 3, 0, 5]),
        target_adv=torch.tensor(target_adv),
    )


def test_the_rate_counts_only_images_that_both_had_right_and_the_source_lost() -> None:
    first = counts([0, 0, 2, 3, 0, 1])
    assert first == TransferCounts(counted=2, kept=2, repeated=0, correct=3, n=6)
    record = first.as_dict()
    assert record["defense_success_rate"]["value"] == 1.0
    assert record["repeat_label_share"] == 0.0
    assert record["accuracy"]["value"] == 0.5
    second = counts([0, 0, 0, 3, 0, 1]).as_dict()
    assert second["defense_success_rate"]["value"] == 0.5
    assert second["repeat_label_share"] == 0.5
    assert second["accuracy"]["value"] == pytest.approx(1 / 3, abs=1e-15)
    assert second["accuracy"]["interval"] == list(wilson_interval(2, 6))


def test_a_rate_over_no_images_is_none_and_not_a_number() -> None:
    labels = torch.arange(3)
    same = dict.fromkeys(("source_clean", "source_adv", "target_clean", "target_adv"), labels)
    record = count_transfer(labels, **same).as_dict()
    assert record["counted"] == 0
    assert record["defense_success_rate"] is None
    assert record["repeat_label_share"] is None
    assert record["accuracy"]["value"] == 1.0


def eight_bit(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator).float() / 255.0


@pytest.mark.parametrize("eps", ["8/255", "0.1", "1/7", "0.3", "1/510"])
def test_rounded_images_are_8_bit_and_inside_the_linf_ball(eps: str) -> None:
    threat, x = ThreatModel("Linf", Fraction(eps)), eight_bit()
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1
    x_adv = (x + noise.sign() * noise.abs().sqrt() * float(threat.eps)).clamp(0, 1)
    x_adv[:, :, 0] = (x + float(threat.eps)).clamp(0, 1)[:, :, 0]
    rounded = round_to_8bit(x_adv, x, threat)
    levels = rounded.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    assert torch.equal(rounded, levels.round().float() / 255)
    moved = (levels.round() - (x.double() * 255).round()).abs()
    assert moved.max() == int(threat.eps * 255), "the wall is reached and not passed"
    nearest = (x_adv.double() * 255).round()
    allowed = (nearest - (x.double() * 255).round()).abs() <= float(threat.eps) * 255
    assert torch.equal(levels.round()[allowed], nearest[allowed])


def test_rounding_restores_levels_that_float_arithmetic_missed_by_a_hair() -> None:
    x = torch.full((1, 1, 1, 2), 100.0) / 255
    x_adv = x + torch.tensor([[[[15.9999, -7.0001]]]]) / 255
    rounded = round_to_8bit(x_adv, x, ThreatModel("Linf", Fraction(16, 255)))
    assert torch.equal(rounded, torch.tensor([[[[116.0, 93.0]]]]) / 255)


def test_rounding_brings_candidates_back_into_the_box() -> None:
    x = torch.tensor([[[[0.0, 255.0]]]]) / 255
    rounded = round_to_8bit(x + torch.tensor([-0.03, 0.03]), x, ThreatModel("Linf", Fraction(1, 9)))
    assert rounded.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("eps", [0.05, 0.5, 2.0])
def test_rounded_images_are_inside_the_l2_ball(eps: float) -> None:
    threat, x = ThreatModel("L2", Fraction(eps).limit_denominator(1000)), eight_bit()
    delta = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * eps * (1 - 1e-6)
    x_adv = (x + delta).clamp(0, 1)
    rounded = round_to_8bit(x_adv, x, threat)
    levels = rounded.double() * 255
    assert (levels - levels.round()).abs().max() < 1e-4
    size = (rounded.double() - x.double()).flatten(1).norm(dim=1)
    assert size.max() <= eps + 1e-6
    assert (rounded - x_adv).abs().max() <= 1.0 / 255


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
    data = load_split("digits", "train")
    x, y = data.pixels(slice(0, 400)), data.labels[:400]
    folders = []
    for seed, options in ((0, {}), (1, {"shallow_drop": 0.5})):
        torch.manual_seed(seed)
        model = build_model("small_cnn", **DIGITS, **options).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        folder = tmp_path_factory.mktemp("networks") / f"net{seed}"
        save_checkpoint(folder, model, card_for(options, name=f"net{seed}", model=model))
        folders.append(folder)
    return folders


def card_for(options: dict[str, object], *, name: str, model: torch.nn.Module) -> Card:
    return Card(
        name=name,
        defense="standard",
        architecture="small_cnn",
        architecture_kwargs=options,
        **DIGITS,
        dataset="digits",
        dataset_hash="",
        recipe={},
        seed=None,
        versions={},
        git_commit="",
        epoch=None,
        selection="last epoch",
        metrics={},
        notes="",
        parameters=parameter_count(model),
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
    assert result == json.loads((tmp_path / "transfer.json").read_text())
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

    monkeypatch.setattr(transfer, "verify", counting)
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

    monkeypatch.setattr(transfer, "run_attack", never)
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
        Path(f"run{place}/best/card.json").write_text(json.dumps(card | {"name": "twin"}))
    twins = ["--source", "run0/best", "--target", "run0/best", "--target", "run1/best"]
    assert main(["transfer", *twins, *COMMAND, "--attack", "fgsm"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:4]
    hashes = [loaded(Path(f"run{place}/best")).hash[7:15] for place in (0, 1)]
    for line, digest in zip(lines, hashes, strict=True):
        assert line.startswith(f"twin ({hashes[0]})  twin ({digest})  ")
    assert main(["transfer", *twins[:3], "run1", *COMMAND, "--attack", "fgsm"]) == 2
    assert "run1 is a run folder: give run1/best" in capsys.readouterr().err
    card["dataset"] = "mnist"
    Path("run1/best/card.json").write_text(json.dumps(card))
    assert main(["transfer", *twins, *COMMAND, "--attack", "fgsm"]) == 2
    assert "were trained on digits and mnist: add --dataset" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["give --attack", "fgsm", PGD]),
        (["--attack", "pgd20_ce"], [f"did you mean {PGD}"]),
        (["--attack", "fgsm", "--n", "0"], ["n=0"]),
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
