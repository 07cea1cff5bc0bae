"""The harness: counts, union, resume, shards of work, refusals."""

import dataclasses
import json
import random

import numpy as np
import pandas
import pyautoattack
import pytest
import torch
from torch import nn

from robustbench_lite.attacks.acceleration.search_network import search_network
from robustbench_lite.attacks.autoattack import ensemble as autoattack
from robustbench_lite.attacks.protocol import AttackSpec, Protocol, load_protocol
from robustbench_lite.attacks.threat_model import ThreatModel, parse_eps
from robustbench_lite.checkpoints.model_source import LoadedModel, resolve_model
from robustbench_lite.core.errors import InputError, LedgerMismatchError
from robustbench_lite.datasets import load_split
from robustbench_lite.evaluation.evaluate import Settings, evaluate
from robustbench_lite.evaluation.ledger import Ledger
from robustbench_lite.leaderboard import load_result
from robustbench_lite.leaderboard.statistics.accuracy import unpack_labels, unpack_outcomes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return load_split("digits", "test")


@pytest.fixture
def source(checkpoint):
    return resolve_model(str(checkpoint), allow_code=False, device="cpu")


def run(source, data, out, *, protocol="linf_quick", eps="0.1", n=50, seed=0, **options):
    settings = {"batch_size": 20, "chunk_size": 20, "threads": 1} | options
    if isinstance(protocol, str):
        protocol = load_protocol(protocol, eps=eps)
    return evaluate(
        source,
        data,
        protocol,
        out=out,
        n=n,
        seed=seed,
        settings=Settings(**settings),
        device=CPU,
    )


def factory(model, name="mine"):
    return LoadedModel(model, name, "factory", "sha256:" + name, None, None, 0)


def test_the_result_is_what_its_parts_say(source, digits, tmp_path):
    result = run(source, digits, tmp_path / "r")
    rows = pandas.read_parquet(tmp_path / "r" / "examples.parquet")
    clean = rows[rows.attack == "clean"].set_index("example_id")
    assert clean.index.tolist() == list(range(50))
    correct = ~clean.broken
    assert correct.sum() == result["clean_accuracy"]["correct"]
    assert 30 < correct.sum() < 50  # otherwise the test says little
    union = correct.copy()
    for name in ("pgd20_ce", "cwinf20_k50"):
        attack = rows[rows.attack == name].set_index("example_id")
        assert attack.index.tolist() == clean.index[correct].tolist()
        assert (~attack.broken).sum() == result["attacks"][name]["correct"]
        union[attack.index[attack.broken]] = False
        assert (attack.linf <= 0.1 + 1e-6).all()
        # 20 steps, and one forward for the last iterate
        assert result["attacks"][name]["forwards"] == 21.0
        assert result["attacks"][name]["backwards"] == 20.0
    assert union.sum() == result["robust_accuracy"]["correct"]
    assert union.sum() < correct.sum()
    bits = unpack_outcomes(result["outcomes"]["clean"], 50)
    assert np.array_equal(bits, correct.to_numpy())
    labels = unpack_labels(result["outcomes"]["labels"], 50)
    assert labels.tolist() == clean.label.tolist() == digits.labels[:50].tolist()
    assert load_result(tmp_path / "r").name == "digits_pgd_at"
    assert result["extra_data"] is False, "trained by a recipe, on its data set alone"


def test_an_interrupted_run_ends_with_the_same_bytes(source, digits, tmp_path):
    run(source, digits, tmp_path / "whole")
    run(source, digits, tmp_path / "broken")
    for lost in ("pgd20_ce/00001.parquet", "cwinf20_k50/00002.parquet", "clean/00002.parquet"):
        (tmp_path / "broken" / "parts" / lost).unlink()
    for name in ("result.json", "examples.parquet"):
        (tmp_path / "broken" / name).unlink()
    run(source, digits, tmp_path / "broken", batch_size=None, chunk_size=None, threads=None)
    for name in ("result.json", "examples.parquet", "parts/pgd20_ce/00001.parquet"):
        whole, broken = (tmp_path / folder / name for folder in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes(), name


class Noisy(nn.Module):
    """Draws from torch's own generator at each pass, as a randomised defense does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return logits + torch.randn_like(logits)


def test_an_interrupted_run_of_a_randomised_model_ends_with_the_same_bytes(
    source, digits, tmp_path
):
    noisy = factory(Noisy(source.model))
    run(noisy, digits, tmp_path / "whole")
    run(noisy, digits, tmp_path / "broken")
    for lost in ("pgd20_ce/00001.parquet", "clean/00002.parquet"):
        (tmp_path / "broken" / "parts" / lost).unlink()
    run(noisy, digits, tmp_path / "broken")
    for name in ("parts/pgd20_ce/00001.parquet", "parts/clean/00002.parquet"):
        whole, broken = (tmp_path / folder / name for folder in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes(), name


@pytest.mark.parametrize("order", [("pgd", "fgsm"), ("fgsm", "pgd")])
def test_robust_means_broken_by_no_attack_in_any_order(source, digits, tmp_path, order):
    params = {"loss": "ce", "steps": 10, "alpha": 0.02, "restarts": 1}
    params |= {"start": "none", "keep": "best_loss"}
    specs = tuple(AttackSpec(a, a, a, params if a == "pgd" else {}) for a in order)
    threat = ThreatModel("Linf", parse_eps("0.1"))
    protocol = Protocol("p", 1, threat, "ours", "1", 1, specs, "")
    result = run(source, digits, tmp_path / "r", protocol=protocol)
    alone = {name: result["attacks"][name]["correct"] for name in order}
    assert alone["pgd"] < alone["fgsm"]
    assert result["robust_accuracy"]["correct"] <= alone["pgd"]


def test_a_second_identical_call_computes_nothing(source, digits, tmp_path, monkeypatch):
    first = run(source, digits, tmp_path / "r")
    monkeypatch.setattr(
        "robustbench_lite.evaluation.evaluate.run_attack",
        lambda *a, **k: pytest.fail("attacked again"),
    )
    assert run(source, digits, tmp_path / "r") == first


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"parts": [NaN]}', b'{"parts": 5}', b"[]"])
def test_damaged_seconds_never_end_a_run(source, digits, tmp_path, content):
    whole = run(source, digits, tmp_path / "r", n=20)
    (tmp_path / "r" / "timing.json").write_bytes(content)
    (tmp_path / "r" / "parts/pgd20_ce/00000.parquet").unlink()
    assert run(source, digits, tmp_path / "r", n=20) == whole
    assert len(json.loads((tmp_path / "r" / "timing.json").read_text())["parts"]) == 1


def test_damaged_parts_and_checks_are_made_anew_with_the_same_bytes(
    source, digits, tmp_path, caplog
):
    folder = tmp_path / "r"
    run(source, digits, folder, n=12, evidence="int8")
    files = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }
    for path, content in files.items():
        if path.name == "header.json":
            continue
        caplog.clear()
        path.write_bytes(content[: len(content) // 2])
        run(source, digits, folder, n=12, evidence="int8")
        assert {path: path.read_bytes() for path in files} == files
        if path.name not in ("result.json", "examples.parquet"):
            assert caplog.text.count("computed again") == 1


def test_verdicts_do_not_depend_on_batch_or_chunk_size(source, digits, tmp_path):
    results = [
        run(source, digits, tmp_path / str(size), batch_size=size, chunk_size=3 * size)
        for size in (7, 32)
    ]
    assert results[0]["outcomes"] == results[1]["outcomes"]


def test_other_terms_are_refused_and_nothing_is_lost(source, digits, tmp_path):
    run(source, digits, tmp_path / "r")
    before = (tmp_path / "r" / "result.json").read_bytes()
    with pytest.raises(LedgerMismatchError, match=r"protocol.eps: 0.1 there, 0.05 now"):
        run(source, digits, tmp_path / "r", eps="0.05")
    with pytest.raises(LedgerMismatchError, match="batch_size: 20 there, 10 now"):
        run(source, digits, tmp_path / "r", batch_size=10)
    changed = dataclasses.replace(source, hash="sha256:other")
    with pytest.raises(LedgerMismatchError, match=r"model.hash"):
        run(changed, digits, tmp_path / "r")
    assert (tmp_path / "r" / "result.json").read_bytes() == before


@pytest.fixture
def quick_autoattack(monkeypatch):
    """Ten queries and steps instead of thousands: the same calls, not the same strength."""
    original = pyautoattack.AutoAttack.__init__

    def quick(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.square.n_queries = 10
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 10

    monkeypatch.setattr(pyautoattack.AutoAttack, "__init__", quick)
    for parameters, name in (("_APGD", "steps"), ("_FAB", "steps"), ("_SQUARE", "queries")):
        monkeypatch.setitem(getattr(autoattack, parameters), name, 10)


@pytest.mark.usefixtures("quick_autoattack")
@pytest.mark.parametrize("engine", ["ours", "reference"])
def test_an_interrupted_autoattack_ends_with_the_same_bytes(source, digits, tmp_path, engine):
    protocol = load_protocol("linf_standard", eps="0.1", engine=engine)
    run(source, digits, tmp_path / "whole", protocol=protocol)
    run(source, digits, tmp_path / "broken", protocol=protocol)
    (tmp_path / "broken/parts/aa_standard/00001.parquet").unlink()
    run(source, digits, tmp_path / "broken", protocol=protocol)
    for name in ("result.json", "examples.parquet", "parts/aa_standard/00001.parquet"):
        whole, broken = (tmp_path / folder / name for folder in ("whole", "broken"))
        assert whole.read_bytes() == broken.read_bytes(), name


@pytest.mark.usefixtures("quick_autoattack")
def test_the_ledger_has_the_verdicts_of_pyautoattack(source, digits, tmp_path):
    run(
        source,
        digits,
        tmp_path / "r",
        protocol=load_protocol("linf_standard", eps="0.1", engine="reference"),
        n=40,
        seed=5,
        chunk_size=40,
        batch_size=40,
    )
    rows = pandas.read_parquet(tmp_path / "r" / "parts" / "aa_standard" / "00000.parquet")
    x, y = digits.pixels(slice(0, 40)), digits.labels[:40]
    direct = pyautoattack.AutoAttack(source.model, norm="Linf", eps=0.1, seed=5, device="cpu")
    x_adv, _ = direct.run_standard_evaluation(x, y, batch_size=40)
    with torch.no_grad():
        robust = source.model(x_adv).argmax(1) == y
    expected = robust[torch.tensor(rows.example_id.to_numpy())]
    assert (~rows.broken).tolist() == expected.tolist()
    assert 0 < rows.broken.sum() < len(rows)


@pytest.mark.usefixtures("quick_autoattack")
def test_the_result_says_what_each_stage_of_autoattack_left(source, digits, tmp_path):
    result = run(source, digits, tmp_path / "r", protocol="aa_standard", eps="0.15")
    rows = pandas.read_parquet(tmp_path / "r" / "examples.parquet")
    rows = rows[rows.attack == "aa_standard"]
    stages = result["attacks"]["aa_standard"]["stages"]
    assert list(stages) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    standing = len(rows)
    for name, left in stages.items():
        standing -= int((rows.stage == name).sum())
        assert left["value"] == standing / 50
    assert stages["square"]["value"] == result["attacks"]["aa_standard"]["value"]
    assert set(rows.stage[rows.broken]) <= set(stages)
    assert set(rows.stage[~rows.broken]) == {""}
    assert result["protocol"]["engine_version"] == "1"


def test_a_constant_classifier_cannot_be_broken(digits, tmp_path):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(10)[[3] * len(x)] + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)

    result = run(factory(Constant()), digits, tmp_path / "r")
    assert result["extra_data"] is None, "of a network from a factory nobody has said"
    threes = int((digits.labels[:50] == 3).sum())
    assert threes > 0
    assert result["clean_accuracy"]["correct"] == threes
    assert result["robust_accuracy"]["correct"] == threes


def test_a_model_that_is_always_wrong_has_empty_attack_parts(digits, tmp_path):
    class Wrong(nn.Module):
        def forward(self, x):
            return torch.tensor([-1.0] * 9 + [1.0]) + 0.0 * x.flatten(1).sum(dim=1, keepdim=True)

    data = dataclasses.replace(digits, labels=torch.zeros_like(digits.labels))
    result = run(factory(Wrong()), data, tmp_path / "r")
    assert result["clean_accuracy"]["correct"] == result["robust_accuracy"]["correct"] == 0
    assert load_result(tmp_path / "r") is not None


def test_an_undefended_linear_model_falls_to_its_closed_form(tmp_path, digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = digits.pixels(slice(None)), digits.labels
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    eps = 0.05
    with torch.no_grad():
        logits, weight = model(x[:100]), model[1].weight
        own = weight[y[:100]]
        gap = logits.gather(1, y[:100, None]) - logits  # (100, 10)
        reach = eps * (own[:, None, :] - weight[None]).abs().sum(dim=2)  # box ignored: a bound
        inside = ((x[:100] > eps) & (x[:100] < 1 - eps)).flatten(1)
        boxed = eps * ((own[:, None, :] - weight[None]).abs() * inside[:, None]).sum(dim=2)
        others = torch.arange(10)[None] != y[:100, None]
        surely_robust = ((gap > reach) | ~others).all(dim=1).sum().item()
        surely_broken = ((gap < boxed) & others).any(dim=1).sum().item()
    result = run(factory(model), digits, tmp_path / "r", eps=str(eps), n=100)
    assert surely_robust <= result["robust_accuracy"]["correct"] <= 100 - surely_broken
    assert surely_broken > 0


def test_evidence_is_kept_and_matches_the_hashes(source, digits, tmp_path):
    import hashlib

    from safetensors.torch import load_file

    run(source, digits, tmp_path / "r", evidence="float32")
    images = load_file(tmp_path / "r/evidence/pgd20_ce/00000.safetensors")["x_adv"].numpy()
    rows = pandas.read_parquet(tmp_path / "r/parts/pgd20_ce/00000.parquet")
    assert [hashlib.sha256(image.tobytes()).hexdigest() for image in images] == list(rows.sha256)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), "7 classes, data set digits has 10"),
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 10)), "model fails on images of shape"),
        (nn.Flatten(start_dim=2), r"must give floating-point logits"),
    ],
)
def test_models_that_do_not_fit_are_one_line(model, message, digits, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        run(factory(model), digits, tmp_path / "r")
    assert "\n" not in str(caught.value)


def test_nan_weights_are_an_error_not_robustness(source, digits, tmp_path):
    next(source.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(InputError, match="holds NaN or infinite weights"):
        run(source, digits, tmp_path / "r")


def test_a_model_that_normalises_in_place_is_caught(digits, tmp_path):
    class InPlace(nn.Module):
        def forward(self, x):
            return x.sub_(0.5).div_(0.1).flatten(1)[:, :10]

    with pytest.raises(InputError, match=r"changes its input images in place .*now in \[-5, 5\]"):
        run(factory(InPlace()), digits, tmp_path / "r")


class NoGrad(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return x.flatten(1)[:, :10]


class Squeezed(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10].squeeze()


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x.detach().flatten(1)[:, :10] * self.scale


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (NoGrad(), "no gradient"),
        (Detached(), "logits carry no gradient"),
        (Squeezed(), r"must give floating-point logits \(1, 10\)"),
    ],
)
def test_models_that_attacks_cannot_run_on_are_one_line(model, message, digits, tmp_path):
    with pytest.raises(InputError, match=message):
        run(factory(model), digits, tmp_path / "r")


def test_work_left_is_not_finished_in_another_environment(source, digits, tmp_path, monkeypatch):
    run(source, digits, tmp_path / "r")
    monkeypatch.setattr("robustbench_lite.evaluation.settings.git_commit", lambda: "another")
    run(source, digits, tmp_path / "r")  # nothing is left: the stored result stands
    (tmp_path / "r/parts/pgd20_ce/00001.parquet").unlink()
    with pytest.raises(LedgerMismatchError, match="git_commit: .* there, another now"):
        run(source, digits, tmp_path / "r")


def test_an_error_inside_an_attack_names_attack_and_chunk(source, digits, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise InputError("loss is not finite")

    monkeypatch.setattr("robustbench_lite.evaluation.evaluate.run_attack", fail)
    with pytest.raises(InputError, match="pgd20_ce, chunk 0: loss is not finite"):
        run(source, digits, tmp_path / "r")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 1 TB")],
    ids=["cuda", "cpu"],
)
def test_out_of_memory_is_one_line_and_a_smaller_batch_may_follow(
    source, digits, tmp_path, monkeypatch, error
):
    def full(*arguments, **options):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("robustbench_lite.evaluation.evaluate.run_attack", full)
        with pytest.raises(InputError, match="out of device memory with batches of 20"):
            run(source, digits, tmp_path / "r")


def test_another_name_for_the_same_folder_is_refused(source, digits, tmp_path):
    run(source, digits, tmp_path / "r")
    with pytest.raises(LedgerMismatchError, match="model.name: digits_pgd_at there, second now"):
        run(dataclasses.replace(source, name="second"), digits, tmp_path / "r")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(source, digits, tmp_path, seed):
    with pytest.raises(InputError, match=f"seed={seed}"):
        run(source, digits, tmp_path / "r", seed=seed)


@pytest.mark.parametrize("n", [0, 365, -1])
def test_n_must_fit_the_split(source, digits, tmp_path, n):
    with pytest.raises(InputError, match="1 to 364 examples"):
        run(source, digits, tmp_path / "r", n=n)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"chunk_size": -1}, {"evidence": "all"}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Settings(**wrong)


def test_unknown_attacks_are_refused_before_any_work(source, digits, tmp_path):
    threat = ThreatModel("Linf", parse_eps("0.1"))
    broken = Protocol("p", 1, threat, "ours", "1", 1, (AttackSpec("a", "A", "pdg", {}),), "")
    with pytest.raises(InputError, match="unknown attack 'pdg'; did you mean pgd"):
        run(source, digits, tmp_path / "r", protocol=broken)
    assert not (tmp_path / "r").exists()


def test_seconds_and_hosts_are_outside_the_result(source, digits, tmp_path):
    run(source, digits, tmp_path / "r")
    timing = json.loads((tmp_path / "r" / "timing.json").read_text())["parts"]
    assert {part["attack"] for part in timing} == {"clean", "pgd20_ce", "cwinf20_k50"}
    assert "seconds" not in (tmp_path / "r" / "result.json").read_text()


class DrawsEverywhere(nn.Module):
    """A linear network that draws from torch, numpy and Python in each pass."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        drawn = torch.randn(x.shape) + random.gauss(0.0, 1.0) + float(np.random.standard_normal())
        return self.linear((x + 0.1 * drawn).flatten(1))


@pytest.fixture
def noisy():
    torch.manual_seed(0)
    return factory(DrawsEverywhere())


def test_every_generator_begins_anew_with_each_part(noisy, digits, tmp_path):
    run(noisy, digits, tmp_path / "one", n=60)
    random.random(), np.random.random(), torch.rand(3)
    run(noisy, digits, tmp_path / "two", n=60)
    for name in ("result.json", "checks.json", "parts/cwinf20_k50/00001.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_network_that_draws_is_searched_on_a_copy_each_time(noisy, digits, tmp_path):
    for name in ("one", "two"):
        result = run(noisy, digits, tmp_path / name, n=20)
        assert result["environment"]["search_network"].startswith("float32 with")


def test_an_attack_before_its_clean_part_draws_the_same(noisy, digits, tmp_path, monkeypatch):
    """As a second worker finds it, when the first is still at the clean part."""
    run(noisy, digits, tmp_path / "whole", n=40)

    def attacks_first(ledger, attacks, chunks):
        parts = [(chunk, name) for name in (*attacks, "clean") for chunk in range(chunks)]
        return [part for part in parts if not ledger.has_part(part[1], part[0])]

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "missing", attacks_first)
        run(noisy, digits, tmp_path / "mixed", n=40)
    for path in (tmp_path / "whole" / "parts").rglob("*.parquet"):
        other = tmp_path / "mixed" / path.relative_to(tmp_path / "whole")
        assert other.read_bytes() == path.read_bytes(), path


def test_the_search_network_is_recorded_and_work_left_is_done_on_the_same(
    source, digits, tmp_path, monkeypatch
):
    result = run(source, digits, tmp_path / "r", n=40)
    stored = json.loads((tmp_path / "r" / "header.json").read_text())
    assert stored["environment"]["search_network"].startswith("float32 with batch norms folded")
    assert result["environment"]["search_network"] == stored["environment"]["search_network"]
    (tmp_path / "r" / "parts" / "pgd20_ce" / "00001.parquet").unlink()

    def fails(*_):
        raise RuntimeError("not this time")

    monkeypatch.setattr(
        "robustbench_lite.attacks.acceleration.search_network.fold_batch_norms", fails
    )
    with pytest.raises(LedgerMismatchError, match="search_network"):
        run(source, digits, tmp_path / "r", n=40)


def test_memory_that_runs_out_changes_no_search(source, digits, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(
        "robustbench_lite.attacks.acceleration.search_network.fold_batch_norms", full
    )
    with pytest.raises(InputError, match="search network: out of device memory"):
        run(source, digits, tmp_path / "r", n=40)


def test_the_search_network_is_compared_in_the_numerics_it_runs_in(
    source, digits, tmp_path, monkeypatch
):
    seen = []

    def spy(*arguments, **options):
        seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
        assert not torch.backends.cudnn.allow_tf32
        return search_network(*arguments, **options)

    monkeypatch.setattr("robustbench_lite.evaluation.evaluate.search_network", spy)
    run(source, digits, tmp_path / "r", n=20)
    assert seen == [(1, True)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_logits_of_any_type_are_attacked(digits, tmp_path, dtype, quick_autoattack):
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(x.flatten(1)).to(dtype)

    torch.manual_seed(0)
    run(factory(Cast()), digits, tmp_path / "r", n=40, protocol="aa_plus", eps="0.02")
