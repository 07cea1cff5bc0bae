"""Entries and their verification: a true one holds, each forged one is caught."""

import json
import re
import shutil
from pathlib import Path

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

from robustbench_lite.cli import build_parser, main
from robustbench_lite.core.errors import InputError, ResultError
from robustbench_lite.core.integrity import with_checksum
from robustbench_lite.datasets import load_split
from robustbench_lite.leaderboard import load_result
from robustbench_lite.leaderboard.page.evaluate_command import reproduce_command
from robustbench_lite.leaderboard.statistics.accuracy import accuracy, pack_labels, pack_outcomes
from robustbench_lite.submission.entry import run
from robustbench_lite.submission.findings import render, verdict
from robustbench_lite.submission.manifest import read_manifest
from robustbench_lite.submission.network import load_network
from robustbench_lite.submission.recheck import Recheck, Sample, detection_probability
from robustbench_lite.submission.review import RunOptions
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
    """The lines of a refused entry; its row must stay flagged."""
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
    assert (before.status, [flag.name for flag in before.flags]) == ("flagged", ["submitted"])
    found = checked(mine)
    assert verdict(found) == "accepted", render(found)
    told = render(found)
    for part in ("40 clean verdicts hold", "adversarial images of pgd20_ce hold", "all hold"):
        assert part in told
    after = load_result(mine / "entry")
    assert (after.status, after.flags) == ("verified", ())
    note = json.loads((mine / "entry" / "verification.json").read_text())
    assert (note["k"], note["seed"]) == (EXAMPLES, 1)


def test_the_command_of_a_submitted_row_parses(mine):
    words = reproduce_command(load_result(mine / "entry"))
    assert words[:4] == ["rbl", "submit", "run", "SUBMISSION"]
    build_parser().parse_args(words[1:])


def test_a_row_that_changes_after_its_verification_loses_it(mine):
    checked(mine)
    path = mine / "entry" / "result.json"
    assert load_result(path).status == "verified"
    sealed = json.loads(path.read_text())
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ResultError, match="edited or reformatted"):
        load_result(path)
    path.write_text(with_checksum(sealed | {"seed": 5}))
    assert load_result(path).status == "flagged"


def test_a_damaged_note_verifies_nothing(mine):
    (mine / "entry" / "verification.json").write_text("{}")
    assert load_result(mine / "entry").status == "flagged"


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
    path.write_text(with_checksum(result))
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


def set_result(folder, **values):
    """Overwrite fields of the result, by dotted name, and make the hashes fit."""
    path = folder / "entry" / "result.json"
    result = json.loads(path.read_text())
    for name, value in values.items():
        *parents, last = name.split("__")
        inner = result
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    path.write_text(with_checksum(result))
    reseal(folder / "entry", folder)


LABELS = {
    "defense": {"defense": "the best one"},
    "architecture": {"architecture": "wrn28_10"},
    "name of the data set": {"dataset__name": "cifar10"},
    "split": {"dataset__split": "train"},
    "standing of the data set": {"dataset__canonical": None},
    "extra data": {"extra_data": True},
    "parameters": {"parameters": 1},
    "seed": {"seed": 3},
    "kind of network": {"model__kind": "checkpoint"},
    "labels": {"outcomes__labels": pack_labels([1] * EXAMPLES)},
}


@pytest.mark.parametrize("what", LABELS)
def test_every_word_of_a_row_is_compared(what, mine):
    set_result(mine, **LABELS[what])
    assert f"of another {what}" in refusal(mine)


def test_titles_of_attacks_are_compared_though_no_hash_covers_them(mine):
    path = mine / "entry" / "result.json"
    result = json.loads(path.read_text())
    result["protocol"]["attacks"][0]["title"] = "Forged"
    path.write_text(with_checksum(result))
    reseal(mine / "entry", mine)
    assert "of another wording of the protocol" in refusal(mine)


@pytest.mark.parametrize("size", ["abc", 0, -5, None, 1.5])
def test_a_batch_size_of_nonsense_changes_nothing(size, mine):
    set_result(mine, settings__batch_size=size)
    found = verify_entry(
        mine / "entry",
        mine,
        RunOptions(None, "cpu", None, 1),
        Sample(1, 0),
        allow_code=False,
        limits=LIMITS,
    )
    assert verdict(found) == "accepted", render(found)


def test_a_result_without_its_checks_is_refused(mine):
    set_result(mine, checks={})
    assert "does not store what its flags measured" in refusal(mine)


def test_a_flag_that_was_taken_off_is_put_back(mine):
    path = mine / "entry" / "result.json"
    checks = json.loads(path.read_text())["checks"]
    checks["outside_ball"] = {"value": 1.0, "points": EXAMPLES}
    set_result(mine, checks=checks)
    assert "'flags' leaves out outside_ball" in refusal(mine)


def test_what_does_not_belong_in_an_entry_is_refused(mine):
    stray = mine / "entry" / "evidence" / "old" / "result.json"
    stray.parent.mkdir()
    shutil.copy(mine / "entry" / "result.json", stray)
    assert "evidence/old does not belong" in refusal(mine)


def test_a_submitted_result_alone_has_no_rank(mine, tmp_path):
    checked(mine)
    (tmp_path / "alone").mkdir()
    shutil.copy(mine / "entry" / "result.json", tmp_path / "alone")
    assert load_result(tmp_path / "alone").status == "flagged"


def test_a_note_of_a_small_sample_or_another_entry_gives_no_rank(mine):
    assert load_result(mine / "entry").robust_accuracy.correct > 3
    assert verdict(checked(mine, Sample(k=2, seed=0))) == "accepted"
    assert load_result(mine / "entry").status == "flagged"
    checked(mine)
    assert load_result(mine / "entry").status == "verified"
    path = mine / "entry" / "entry.json"
    path.write_text(path.read_text() + " ")
    assert load_result(mine / "entry").status == "flagged"


def test_a_constant_added_to_the_logits_makes_no_ties(mine):
    """Relative to logits of 200,000 everything would lie on a tie."""
    tensors = load_file(mine / "model.safetensors")
    tensors["head.bias"] += 2e5
    save_file(tensors, mine / "model.safetensors")
    seal(mine)
    shutil.rmtree(mine / "evaluation")
    run(mine, HERE, allow_code=False, limits=LIMITS, seed=0)
    path = mine / "entry" / "result.json"
    result = json.loads(path.read_text())
    right = np.ones(EXAMPLES, dtype=bool)
    result["outcomes"]["clean"] = pack_outcomes(right)
    result["clean_accuracy"] = accuracy(EXAMPLES, EXAMPLES)
    path.write_text(with_checksum(result))
    edit(mine, "clean_accuracy", 100.0)
    (mine / "entry" / "submission.toml").write_bytes((mine / "submission.toml").read_bytes())
    reseal(mine / "entry", mine)
    assert "clean verdicts do not hold" in refusal(mine)


class Shifted(torch.nn.Module):
    """A network's logits times a factor, and a constant for all classes."""

    def __init__(self, base, factor, constant):
        super().__init__()
        self.base, self.factor, self.constant = base, factor, constant

    def forward(self, x):
        return self.factor * self.base(x) + self.constant


def bench_with(mine, factor, constant):
    manifest, _ = read_manifest(mine)
    base = load_network(mine, manifest, device="cpu").model
    result, data = load_result(mine / "entry"), load_split("digits", "test")
    bench = Recheck(Shifted(base, factor, constant), manifest.protocol, result, data, HERE)
    bench.right = (bench.model(bench.x).argmax(1) == bench.y).numpy()
    return bench


@pytest.mark.parametrize(("wrong", "level"), [(0, "ok"), (2, "warning"), (3, "error")])
def test_a_few_ties_are_remarked_upon_and_many_refused(wrong, level, mine):
    bench = bench_with(mine, 0.0, 0.0)  # every class alike: all of it ties
    bench.right[:wrong] ^= True
    assert bench.clean().level == level


def test_a_tie_is_measured_without_what_all_classes_share(mine):
    bench = bench_with(mine, 1.0, 2e5)
    bench.right[0] ^= True
    assert bench.clean().level == "error"


BAD_EVIDENCE = {
    "double scale": ("int8_scale", lambda t: t.double()),
    "scale of another shape": ("int8_scale", lambda t: t[:, None]),
    "a scale that is not a number": ("int8_scale", lambda t: t * float("nan")),
    "rows of floats": ("int8_rows", lambda t: t.float()),
    "rows in a table": ("int8_rows", lambda t: t[:, None]),
    "one row for all": ("int8_rows", lambda t: t[0].clone()),
    "images of another shape": ("float32", lambda t: t.new_zeros(0, 5)),
    "no images": ("int8", lambda t: t.new_zeros(())),
}


@pytest.mark.parametrize("kind", BAD_EVIDENCE)
def test_evidence_of_the_wrong_type_is_refused_in_a_line(kind, mine):
    name, spoil = BAD_EVIDENCE[kind]
    path = mine / "entry" / "evidence" / "pgd20_ce.safetensors"
    tensors = load_file(path)
    tensors[name] = spoil(tensors[name]).contiguous()
    save_file(tensors, path)
    reseal(mine / "entry", mine)
    assert "pgd20_ce" in refusal(mine)


def test_new_words_of_a_submission_reach_the_row_without_a_new_run(mine):
    edit(mine, "extra_data", "true")
    edit(mine, "defense", '"another word"')
    run(mine, HERE, allow_code=False, limits=LIMITS, seed=0)
    result = load_result(mine / "entry")
    assert (result.extra_data, result.defense) == (True, "another word")
    assert verdict(checked(mine)) == "accepted"


def test_other_claims_about_more_images_say_what_to_remove(mine):
    edit(mine, "examples", EXAMPLES + 1)
    with pytest.raises(InputError, match="evaluation was begun on other terms .* remove it"):
        run(mine, HERE, allow_code=False, limits=LIMITS, seed=0)


def test_deep_nesting_is_told_in_one_line(mine):
    (mine / "entry" / "entry.json").write_text("[" * 100_000)
    assert "no readable entry" in _refused_files(mine)


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


def test_the_detection_probabilities_of_the_documents_are_right():
    text = (Path(__file__).parents[2] / "docs" / "submitting.md").read_text()
    sizes = re.search(r"^\| forged share f \| k = (\d+) \| k = (\d+) \| k = (\d+) \|$", text, re.M)
    rows = re.findall(r"^\| (\d+) % \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert len(rows) >= 4
    for share, *cells in rows:
        for k, cell in zip(sizes.groups(), cells, strict=True):
            assert f"{detection_probability(int(share) / 100, int(k)):.3f}" == cell


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
    assert main(["verify", "mine/entry", "--seed", "5", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "seed 5" in out
    assert "verdict: verified" in out
    assert main(["leaderboard", "mine/entry", "--format", "json"]) == 0
    assert '"verified"' in capsys.readouterr().out
    assert main(["verify", "nowhere"]) == 2
    assert main(["verify", "mine/entry", "--batch-size", "0"]) == 2
