"""Entries and their verification: a true one holds, each forged one is caught."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from submission_cases import (
    EXAMPLES,
    HERE,
    LIMITS,
    edit,
    from_checkpoint,
    relabel,
    reseal,
    seal,
    with_code,
)

from robustbench_lite.cli import main
from robustbench_lite.errors import InputError
from robustbench_lite.leaderboard import load_result
from robustbench_lite.leaderboard.errors import ResultError
from robustbench_lite.submission.bench import Sample, detection_probability
from robustbench_lite.submission.entry import run
from robustbench_lite.submission.findings import render, verdict
from robustbench_lite.submission.verification import verify_entry

EVERYTHING = Sample(k=EXAMPLES, seed=1)


@pytest.fixture(scope="module")
def original(tmp_path_factory, checkpoint):
    """A submission with a true entry; tests take copies."""
    folder = tmp_path_factory.mktemp("submitted") / "mine"
    from_checkpoint(folder, checkpoint, clean=100.0, robust=0.0)
    entry = run(folder, HERE, allow_code=False, limits=LIMITS, seed=0)
    result = load_result(entry)
    edit(folder, "clean_accuracy", 100 * result.clean_accuracy.value)
    edit(folder, "robust_accuracy", 100 * result.robust_accuracy.value)
    again = run(folder, HERE, allow_code=False, limits=LIMITS, seed=0)
    assert load_result(again).file_hash == result.file_hash  # nothing was computed again
    return folder


@pytest.fixture
def mine(original, tmp_path):
    shutil.copytree(original, tmp_path / "mine")
    return tmp_path / "mine"


def checked(folder, sample=EVERYTHING, **options):
    options = {"allow_code": False, "limits": LIMITS} | options
    return verify_entry(folder / "entry", folder, HERE, sample, **options)


def refusal(folder, sample=EVERYTHING):
    """The lines of a refused entry; its row must stay unverified."""
    found = checked(folder, sample)
    assert verdict(found) == "refused", render(found)
    assert not (folder / "entry" / "verification.json").exists()
    return " | ".join(finding.line() for finding in found if finding.level == "error")


def outcomes(folder):
    result = load_result(folder / "entry")
    bits = np.unpackbits(np.frombuffer(result.outcomes.clean, dtype=np.uint8))[:EXAMPLES]
    robust = np.unpackbits(np.frombuffer(result.outcomes.robust, dtype=np.uint8))[:EXAMPLES]
    broken, held = np.flatnonzero(bits & ~robust & 1), np.flatnonzero(robust)
    assert len(broken) >= 3
    assert len(held) >= 3
    return broken.tolist(), held.tolist()


def evidence_without(folder, examples):
    """Remove the examples from all evidence."""
    for path in (folder / "entry" / "evidence").iterdir():
        tensors = load_file(path)
        for kind in ("int8", "float16", "float32"):
            rows = tensors[f"{kind}_rows"]
            keep = ~torch.isin(rows, torch.tensor(examples))
            tensors[f"{kind}_rows"], tensors[kind] = rows[keep], tensors[kind][keep]
            if kind == "int8":
                tensors["int8_scale"] = tensors["int8_scale"][keep]
        save_file(tensors, path)


def test_a_true_entry_is_verified_and_its_row_with_it(mine):
    before = load_result(mine / "entry")
    assert (before.status, [flag.name for flag in before.flags]) == ("unverified", ["submitted"])
    found = checked(mine)
    assert verdict(found) == "accepted", render(found)
    told = render(found)
    for part in ("40 clean verdicts hold", "adversarial images of pgd20_ce hold", "all hold"):
        assert part in told
    after = load_result(mine / "entry")
    assert (after.status, after.flags) == ("verified", ())
    note = json.loads((mine / "entry" / "verification.json").read_text())
    assert (note["k"], note["seed"]) == (EXAMPLES, 1)


def test_a_row_that_changes_after_its_verification_loses_it(mine):
    checked(mine)
    path = mine / "entry" / "result.json"
    path.write_text(path.read_text() + "\n")
    assert load_result(path).status == "unverified"


def test_a_damaged_note_verifies_nothing(mine):
    (mine / "entry" / "verification.json").write_text("{}")
    assert load_result(mine / "entry").status == "unverified"


def test_the_verifier_runs_again_where_an_earlier_note_lies(mine):
    checked(mine)
    broken, _ = outcomes(mine)
    relabel(mine / "entry", mine, broken[:1], robust=True)
    refusal(mine)


# Forgeries ----------------------------------------------------------------------------------


def test_an_edited_number_is_caught(mine):
    path = mine / "entry" / "result.json"
    result = json.loads(path.read_text())
    result["robust_accuracy"]["correct"] += 1
    path.write_text(json.dumps(result))
    reseal(mine / "entry", mine)
    with pytest.raises(ResultError):
        load_result(path)
    assert "robust_accuracy" in refusal(mine)


def test_a_file_that_was_exchanged_is_caught(mine):
    path = mine / "entry" / "evidence" / "pgd20_ce.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    assert "evidence of pgd20_ce is not the file" in refusal(mine)


def test_swapped_weights_are_caught(mine):
    weights = mine / "model.safetensors"
    tensors = load_file(weights)
    tensors["head.bias"] += 1e-3
    save_file(tensors, weights)
    assert "another sha256" in _refused_files(mine)
    seal(mine)
    assert "model.safetensors is not the file" in refusal(mine)
    (mine / "entry" / "submission.toml").write_bytes((mine / "submission.toml").read_bytes())
    reseal(mine / "entry", mine)
    assert "of another network" in refusal(mine)


def _refused_files(folder):
    with pytest.raises(InputError) as caught:
        checked(folder)
    return str(caught.value)


def test_a_broken_example_relabelled_robust_contradicts_its_evidence(mine):
    broken, _ = outcomes(mine)
    relabel(mine / "entry", mine, broken[:1], robust=True)
    assert f"breaks example {broken[0]}, which the result calls robust" in refusal(mine)


def test_relabelled_examples_without_evidence_are_found_by_attacking_again(mine):
    broken, _ = outcomes(mine)
    relabel(mine / "entry", mine, broken[:2], robust=True)
    evidence_without(mine, broken[:2])
    reseal(mine / "entry", mine)
    told = refusal(mine)
    assert "attacked again broke" in told
    assert str(broken[0]) in told


def test_a_sample_finds_forgeries_as_often_as_stated():
    """The seed alone draws, so the rate over seeds is the probability."""
    robust = np.ones(60, dtype=bool)
    forged, k, trials = {3, 17, 44}, 20, 2000
    found = sum(bool(forged & set(Sample(k, seed).draw(robust).tolist())) for seed in range(trials))
    # Without replacement: 1 - C(57, k) / C(60, k), which is at least 1 - (1 - f)^k.
    missed = np.prod([(57 - i) / (60 - i) for i in range(k)])
    assert abs(found / trials - (1 - missed)) < 4 * np.sqrt(missed * (1 - missed) / trials)
    assert 1 - missed >= detection_probability(3 / 60, k)


def test_a_robust_example_called_broken_has_no_evidence(mine):
    _, held = outcomes(mine)
    relabel(mine / "entry", mine, held[:1], robust=False)
    assert f"no evidence that pgd20_ce breaks example {held[0]}" in refusal(mine)


def test_forged_evidence_is_judged_again(mine):
    path = mine / "entry" / "evidence" / "pgd20_ce.safetensors"
    tensors = load_file(path)
    tensors["int8"][0] = 0  # the clean image
    save_file(tensors, path)
    reseal(mine / "entry", mine)
    row = int(tensors["int8_rows"][0])
    assert f"example {row} of" in refusal(mine)
    assert "adversarial images of pgd20_ce do not hold" in refusal(mine)


def test_evidence_outside_the_ball_is_refused(mine):
    path = mine / "entry" / "evidence" / "pgd20_ce.safetensors"
    tensors = load_file(path)
    tensors["int8_scale"] *= 1.5
    save_file(tensors, path)
    reseal(mine / "entry", mine)
    assert "do not hold" in refusal(mine)


def test_evidence_of_another_shape_is_refused(mine):
    path = mine / "entry" / "evidence" / "pgd20_ce.safetensors"
    tensors = load_file(path)
    tensors["int8"] = tensors["int8"][:, :, 1:].contiguous()
    save_file(tensors, path)
    reseal(mine / "entry", mine)
    assert "no evidence of these examples" in refusal(mine)


def test_another_protocol_or_number_of_examples_is_caught(mine):
    edit(mine, "eps", '"0.1"')
    (mine / "entry" / "submission.toml").write_bytes((mine / "submission.toml").read_bytes())
    reseal(mine / "entry", mine)
    assert "of another protocol" in refusal(mine)
    edit(mine, "eps", '"0.15"')
    edit(mine, "examples", EXAMPLES - 1)
    (mine / "entry" / "submission.toml").write_bytes((mine / "submission.toml").read_bytes())
    reseal(mine / "entry", mine)
    assert "of another number of examples" in refusal(mine)


def test_a_claim_above_the_result_is_refused(mine):
    result = load_result(mine / "entry")
    edit(mine, "robust_accuracy", min(100 * result.robust_accuracy.value + 1.0, 95.0))
    (mine / "entry" / "submission.toml").write_bytes((mine / "submission.toml").read_bytes())
    reseal(mine / "entry", mine)
    assert "claim what was measured" in refusal(mine)


def test_another_seed_is_remarked_upon_and_another_label_refused(mine):
    path = mine / "entry" / "result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"defense": "the best one"}))
    reseal(mine / "entry", mine)
    assert "of another defense" in refusal(mine)
    shutil.rmtree(mine / "evaluation")
    run(mine, HERE, allow_code=False, limits=LIMITS, seed=3)
    edit(mine, "clean_accuracy", 100 * load_result(mine / "entry").clean_accuracy.value)
    edit(mine, "robust_accuracy", 100 * load_result(mine / "entry").robust_accuracy.value)
    run(mine, HERE, allow_code=False, limits=LIMITS, seed=3)
    assert "warning  the result is of seed 3" in render(checked(mine))


def test_an_entry_of_nothing_is_told_in_one_line(mine):
    (mine / "entry" / "entry.json").write_text("[]")
    assert "no readable entry" in _refused_files(mine)


# Submitted code -----------------------------------------------------------------------------


def test_a_factory_goes_all_the_way_and_edited_code_is_caught(tmp_path):
    folder = with_code(tmp_path / "mine", robust=0.0)
    with pytest.raises(InputError, match="--allow-code"):
        run(folder, HERE, allow_code=False, limits=LIMITS, seed=0)
    entry = run(folder, HERE, allow_code=True, limits=LIMITS, seed=0)
    edit(folder, "robust_accuracy", 100 * load_result(entry).robust_accuracy.value)
    entry = run(folder, HERE, allow_code=True, limits=LIMITS, seed=0)
    with pytest.raises(InputError, match="--allow-code"):
        checked(folder)
    found = checked(folder, allow_code=True)
    assert verdict(found) == "accepted", render(found)
    assert load_result(entry).status == "verified"
    (folder / "model.py").write_text((folder / "model.py").read_text() + "\n# edited\n")
    assert "model.py is not the file" in refusal(folder)


# Parts --------------------------------------------------------------------------------------


def test_the_draw_depends_on_the_seed_alone_and_takes_only_robust_examples():
    robust = np.random.default_rng(0).random(200) < 0.5
    first = Sample(10, 7).draw(robust)
    assert torch.equal(first, Sample(10, 7).draw(robust))
    assert not torch.equal(first, Sample(10, 8).draw(robust))
    assert robust[first.numpy()].all()
    assert len(Sample(500, 7).draw(robust)) == robust.sum()


@pytest.mark.parametrize(("forged", "k", "expected"), [(0.05, 50, 0.923), (0.01, 50, 0.395)])
def test_the_detection_probability_is_that_of_the_documents(forged, k, expected):
    assert detection_probability(forged, k) == pytest.approx(expected, abs=5e-4)


def test_the_commands_go_from_new_to_a_verified_row(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "new", "mine", "--checkpoint", str(checkpoint)]) == 0
    from submission_cases import fill_in

    folder = tmp_path / "mine"
    fill_in(folder, clean=100.0, robust=0.0)
    assert main(["submit", "run", "mine", "--threads", "1"]) == 0
    assert "rbl verify mine/entry" in capsys.readouterr().out
    result = load_result("mine/entry")
    edit(folder, "clean_accuracy", 100 * result.clean_accuracy.value)
    assert main(["submit", "run", "mine", "--threads", "1"]) == 0
    assert main(["verify", "mine/entry", "--k", "3", "--seed", "5", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "seed 5" in out
    assert "verdict: verified" in out
    assert main(["leaderboard", "mine/entry", "--format", "json"]) == 0
    assert '"verified"' in capsys.readouterr().out
    assert main(["verify", "nowhere"]) == 2
    assert main(["verify", "mine/entry", "--batch-size", "0"]) == 2
