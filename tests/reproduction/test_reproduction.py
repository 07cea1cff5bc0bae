"""`rbl reproduce`: every verdict rule at its boundary, and the way from a table to a verdict."""

import dataclasses
import json
import shutil
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
import torch

import robustbench_lite.reproduction.measure as bench_module
import robustbench_lite.reproduction.small_scale as small_scale_module
from robustbench_lite.attacks.protocol import load_protocol
from robustbench_lite.checkpoints.checkpoint import load_checkpoint, read_card, save_checkpoint
from robustbench_lite.checkpoints.model_source import resolve_model
from robustbench_lite.cli import main
from robustbench_lite.cli.evaluate import default_folder
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import load_split
from robustbench_lite.datasets.selection import random_images
from robustbench_lite.leaderboard import judge, load_published, load_result, wilson_interval
from robustbench_lite.leaderboard.published.comparability import (
    Measured,
    ModelProvenance,
    unmeasurable,
)
from robustbench_lite.leaderboard.published.load import published_names
from robustbench_lite.leaderboard.published.reproduction_formats import render_reproductions
from robustbench_lite.leaderboard.published.reproductions import Reproduction
from robustbench_lite.leaderboard.results.examples import Examples
from robustbench_lite.reproduction.compare import assign
from robustbench_lite.reproduction.measure import compared_settings, published_protocol, settings_of
from robustbench_lite.reproduction.small_scale import small_scale_recipe
from robustbench_lite.training.recipe import load_recipe, recipe_files

PGD = {"attack": "pgd", "loss": "ce", "steps": "20", "alpha": "0.0375"}
AA = {"attack": "autoattack", "version": "standard", "few_classes": "margin"}
TABLE = """
title = "T"
paper = "P"
where = "W"
provenance = "verified"
dataset = "digits"
norm = "Linf"
eps_printed = "0.15"
model = "small_cnn"
columns = [
  { metric = "clean", title = "Clean" },
  { metric = "pgd20", title = "PGD-20", protocol = "linf_quick", attack = "pgd20_ce" },
  { metric = "worst", title = "Worst", protocol = "linf_quick", union = true },
  { metric = "pgd1000", title = "PGD-1000" },
]

[[rows]]
id = "tiny"
method = "M"
values = ["90.00", "53.00", "50.00", "49.00"]
"""


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table_file(text=TABLE, name="table.toml", **row):
    """A table of one row, with further keys of that row."""
    lines = [f'{key} = "{value}"' for key, value in row.items()]
    Path(name).write_text(text.replace('method = "M"\n', "\n".join(['method = "M"', *lines, ""])))
    return name


def published(text="53.00", *, row=None, **cell):
    """A row and its PGD-20 number, with some terms changed."""
    table = load_published(table_file(TABLE.replace("53.00", text), **(row or {})))
    found = next(one for one in table.cells if one.key == "pgd20")
    return table.rows[0], dataclasses.replace(found, **cell)


def measured(correct, n=1000, **changes):
    one = Measured(
        correct=correct,
        n=n,
        examples=Examples(0, n, 1000),
        dataset="digits",
        split="test",
        dataset_hash="sha256:" + "a" * 64,
        canonical=True,
        norm="Linf",
        eps="0.15",
        protocol_id="linf_quick@0.15.v1",
        attacks=(PGD,),
        engine="",
        model_hash="sha256:" + "b" * 64,
        architecture="small_cnn",
        flags=(),
        origin=ModelProvenance("published weights"),
    )
    return dataclasses.replace(one, **changes)


def sampled(correct, n, whole=1000, **changes):
    """A measurement on a random sample; which images were drawn plays no part in a verdict."""
    drawn = Examples(0, n, whole, tuple(range(n)), seed=0)
    return measured(correct, n, examples=drawn, **changes)


def retrained(correct, seed, n=1000, **origin):
    terms = {"selection": "best validation robust accuracy", "canonical": True, **origin}
    return measured(correct, n, origin=ModelProvenance("retrained", seed=seed, **terms))


def verdict(text, *ours, whole=1000, stated=(PGD,), row=None, **cell):
    return judge(*published(text, row=row, **cell), ours, stated=stated, whole=whole)


# -- published weights on the same images: rounding + 0.2 points ---------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("53.00", "match"),
        ("53.20", "match"),
        ("53.21", "differs"),
        ("53.2", "match"),
        ("53.3", "differs"),
        ("52.80", "match"),
        ("52.79", "differs"),
        ("53", "match"),
        ("54", "differs"),  # 53.5 at the least, 53.7 at the most
    ],
)
def test_the_same_weights_and_images_are_judged_by_rounding_and_attack_randomness(text, word):
    found = verdict(text, measured(530))
    assert found.outcome == word
    assert found.tolerance == "rounding + 0.2 points"
    low, high = found.accepted
    rounding = 0.5 / 100 / 10 ** len(text.partition(".")[2])
    assert (low, high) == pytest.approx((0.528 - rounding, 0.532 + rounding))


@pytest.mark.parametrize(
    ("correct", "word"),
    [(53_005, "match"), (53_004, "differs"), (53_415, "match"), (53_416, "differs")],
)
def test_the_bound_itself_is_inside_exactly(correct, word):
    # 53.21 is 0.205 points above 53.005: rounding 0.005 and randomness 0.2
    assert verdict("53.21", measured(correct, 100_000), whole=100_000).outcome == word


def test_no_sampling_interval_enters_for_the_same_images():
    found = verdict("52.00", measured(530))
    low, high = found.interval
    assert low < 0.52 < high  # the interval alone would call it consistent
    assert found.outcome == "differs"


# -- retrained -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text", "word"),
    [
        ((520, 530, 540), "53.00", "match"),
        ((520, 530, 540), "55.00", "match"),  # mean 53, spread 2
        ((520, 530, 540), "55.01", "differs"),
        ((520, 530, 540), "55", "match"),
        ((520, 530, 540), "51.00", "match"),
        ((520, 530, 540), "50.99", "differs"),
        ((530, 530, 530), "53.00", "match"),
        ((530, 530, 530), "53.01", "differs"),
        ((520, 530, 540, 550), "56.50", "match"),  # mean 53.5, spread 3
        ((520, 530, 540, 550), "56.51", "differs"),
    ],
)
def test_three_seeds_are_judged_by_rounding_and_their_spread(values, text, word):
    found = verdict(text, *(retrained(value, seed) for seed, value in enumerate(values)))
    assert found.outcome == word
    assert found.tolerance == f"rounding + spread of {len(values)} seeds"
    assert found.ours == pytest.approx(sum(values) / len(values) / 1000)


@pytest.mark.parametrize(("shift", "word"), [(0, "match"), (-3, "differs")])
def test_the_bound_of_the_spread_is_inside_exactly(shift, word):
    # mean 53.005, spread 2, rounding 0.005: 55.01
    values = (52_005, 53_005, 54_005 + shift)
    ours = [retrained(value, seed, n=100_000) for seed, value in enumerate(values)]
    assert verdict("55.01", *ours, whole=100_000).outcome == word


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_consistent_at_most(seeds):
    ours = [retrained(530, seed) for seed in range(seeds)]
    found = verdict("53.00", *ours)
    assert found.outcome == "consistent"
    assert any("consistent at most" in reason for reason in found.reasons)
    assert verdict("60.00", *ours).outcome == "differs"


def test_one_seed_is_judged_by_its_interval_and_rounding():
    low, high = wilson_interval(530, 1000)
    edge = f"{100 * high:.4f}"
    assert verdict(edge, retrained(530, 0)).outcome == "consistent"
    assert verdict(f"{100 * high + 0.01:.2f}", retrained(530, 0)).outcome == "differs"
    assert verdict("53.00", retrained(530, 0)).accepted == pytest.approx(
        (low - 0.00005, high + 0.00005)
    )


def test_one_seed_given_three_times_is_one_seed():
    assert verdict("53.00", *(retrained(530, 7) for _ in range(3))).outcome == "consistent"


def test_a_recipe_that_was_changed_is_not_comparable():
    found = verdict("53.00", retrained(530, 0, difference="training.epochs: 40 there, 1 now"))
    assert found.outcome == "not comparable"
    assert "not trained to the recipe" in found.reasons[0]
    assert "40 there, 1 now" in found.reasons[0]
    assert found.ours == 0.53  # shown, and not judged
    assert found.accepted is None


@pytest.mark.parametrize("canonical", [False, None])
def test_training_on_other_pixels_is_not_comparable(canonical):
    found = verdict("53.00", retrained(530, 0, canonical=canonical))
    assert found.outcome == "not comparable"
    assert "original pixels" in found.reasons[0]


@pytest.mark.parametrize(
    ("row", "ours", "comparable"),
    [
        ("best", "best validation robust accuracy", True),
        ("last", "last epoch", True),
        ("", "last epoch", True),
        ("best", "last epoch", False),
        ("last", "best validation robust accuracy", False),
        ("mean of the last 5 epochs", "last epoch", False),
    ],
)
def test_another_checkpoint_of_the_run_is_not_comparable(row, ours, comparable):
    found = verdict("53.00", retrained(530, 0, selection=ours), row={"selection": row})
    assert (found.outcome == "consistent") == comparable
    assert comparable or "other checkpoint" in found.reasons[0]


# -- a part of the images ------------------------------------------------------------------------


def test_a_random_sample_is_judged_by_its_interval_and_is_consistent_at_most():
    low, high = wilson_interval(53, 100)
    found = verdict("53.00", sampled(53, 100))
    assert (found.outcome, found.tolerance) == ("consistent", "interval + rounding")
    assert found.accepted == pytest.approx((low - 0.00005, high + 0.00005))
    assert any("a random sample: 100 of 1000" in reason for reason in found.reasons)
    assert verdict(f"{100 * high:.4f}", sampled(53, 100)).outcome == "consistent"
    assert verdict("70.00", sampled(53, 100)).outcome == "differs"
    seeds = [sampled(53, 100, origin=retrained(53, seed).origin) for seed in range(3)]
    assert verdict("53.00", *seeds).outcome == "consistent"


@pytest.mark.parametrize("text", ["53.00", "70.00", "0.00"])
@pytest.mark.parametrize("seeds", [0, 1, 3])
def test_the_first_images_are_no_sample_whatever_the_numbers_are(text, seeds):
    ours = [retrained(53, seed, n=100) for seed in range(seeds)] or [measured(53, 100)]
    found = verdict(text, *ours)
    assert found.outcome == "not comparable"
    assert found.reasons == (
        "not a sample: the first 100 of 1000 images; the interval holds for those images alone "
        "(--sample 100 draws a random subset)",
    )
    assert (found.ours, found.interval) == (0.53, wilson_interval(53, 100)), "still shown"
    assert found.accepted is None


def test_a_sample_of_another_set_and_a_chosen_subset_are_other_images():
    found = verdict("53.00", sampled(53, 100, whole=2000))
    assert found.reasons == (
        "other images: random 100 of 2000 (seed 0) here, the first 1000 published",
    )
    chosen = measured(
        53, 100, examples=Examples(3, 100, 1000, tuple(range(3, 203, 2)), file="hard")
    )
    found = verdict("53.00", chosen)
    assert found.reasons == ("other images: subset hard here, the first 1000 published",)


# -- not comparable ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"canonical": False}, "other pixels: digits test has another hash"),
        ({"canonical": None}, "other pixels: digits test has no hash known"),
        ({"dataset": "mnist"}, "other data: mnist test here, digits test published"),
        ({"split": "train"}, "other data: digits train here"),
        ({"eps": "8/255"}, "other radius: eps 8/255 here, 0.15 published"),
        ({"norm": "L2"}, "other norm: L2 here, Linf published"),
        ({"attacks": ({**PGD, "steps": "10"},)}, "other protocol: linf_quick@0.15.v1 here"),
        ({"attacks": (PGD, PGD)}, "other protocol"),
        ({"attacks": ()}, "other protocol"),
        (
            {"examples": Examples(100, 1000)},
            "other images: 1000 from 100 on here, the first 1000 published",
        ),
        ({"n": 2000, "examples": Examples(0, 2000, 3000)}, "other images: first 2000 of 3000 here"),
        ({"origin": ModelProvenance("unknown")}, "unknown weights"),
        ({"origin": ModelProvenance("small-scale")}, "small-scale: a quick stand-in"),
    ],
)
def test_other_terms_are_not_comparable_and_say_which(change, words):
    found = verdict("53.00", measured(530, **change))
    assert found.outcome == "not comparable"
    assert len(found.reasons) == 1
    assert words in found.reasons[0]
    assert found.accepted is None


def test_equal_radii_in_other_words_are_equal():
    assert verdict("53.00", measured(530, eps="3/20")).outcome == "match"


def test_every_obstacle_is_named():
    found = verdict("53.00", measured(530, canonical=False, eps="0.1", norm="L2"))
    assert [reason.partition(":")[0] for reason in found.reasons] == [
        "other pixels",
        "other norm",
        "other radius",
    ]


def test_clean_accuracy_asks_for_no_attack():
    row, _ = published()
    cell = next(one for one in load_published("table.toml").cells if one.key == "clean")
    ours = measured(900, norm="", eps="", attacks=())
    assert judge(row, cell, [ours], stated=(), whole=1000).outcome == "match"


@pytest.mark.parametrize("correct", [530, 531, 100])
def test_a_number_from_memory_is_never_a_target(correct):
    for ours in (measured(correct), retrained(correct, 0), sampled(53, 100)):
        found = verdict("53.00", ours, provenance="memory")
        assert found.outcome == "not comparable"
        assert "from memory: no target" in found.reasons[0]


def test_a_secondary_number_is_a_target_and_said_to_be_secondary():
    found = verdict("53.00", measured(530), provenance="secondary")
    assert found.outcome == "match"
    assert "the published number is secondary" in found.reasons


@pytest.mark.parametrize(
    ("theirs", "ours", "word"),
    [
        ("WRN-34-10", "wrn34_10", "match"),
        ("WideResNet-34-20", "wrn34_20", "match"),
        ("PreActResNet-18", "preact_resnet18", "match"),
        ("SmallCNN", "trades_small_cnn", "match"),
        ("WRN-34-10", "", "match"),
        ("WRN-34-10", "wrn34_20", "not comparable"),
        ("ResNet-18", "preact_resnet18", "not comparable"),
    ],
)
def test_released_weights_of_another_architecture_are_not_the_published_ones(theirs, ours, word):
    found = verdict("53.00", measured(530, architecture=ours), row={"model": theirs})
    assert found.outcome == word


def test_whose_code_runs_autoattack_is_said_and_does_not_matter():
    specs = [
        published_protocol("aa_standard", eps="0.15", engine=engine).attacks[0]
        for engine in ("reference", "ours")
    ]
    assert settings_of(specs[0]) != settings_of(specs[1]) == AA
    theirs, ours = map(compared_settings, specs)
    found = verdict("53.00", measured(530, attacks=(theirs,), engine="reference 1"), stated=(ours,))
    assert found.outcome == "match"
    assert "AutoAttack by reference 1" in found.reasons
    plus = {**ours, "version": "plus"}
    assert (
        verdict("53.00", measured(530, attacks=(plus,)), stated=(ours,)).outcome == "not comparable"
    )


def test_a_flagged_result_is_said_to_be_flagged():
    found = verdict("53.00", measured(530, flags=("randomised",)))
    assert "our result is flagged: randomised" in found.reasons


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"quantity": "auroc"}, "of another kind (auroc)"),
        ({"part": "class dog"}, "the number is over class dog"),
        ({"protocol": ""}, "does not state the attack's settings"),
        ({"eps": ""}, "does not state the radius"),
    ],
)
def test_what_no_run_can_be_set_beside_is_known_before_running(change, words):
    _, cell = published(**change)
    reason = unmeasurable(cell)
    assert words in reason
    assert bool(reason) == bool(words)


def test_an_error_is_shown_as_an_error():
    row, cell = published("47.00", quantity="error")
    found = judge(row, cell, [measured(530)], stated=(PGD,), whole=1000)
    assert found.outcome == "match"
    table = load_published("table.toml")
    one = Reproduction(row, cell, (measured(530),), found)
    text = render_reproductions(table, [one], format="terminal")
    assert "47.00      47.00" in text.replace("Published", "").replace("Ours", "")
    ours = json.loads(render_reproductions(table, [one], format="json"))["cells"][0]["ours"]
    low, high = wilson_interval(530, 1000)
    assert ours["value"] == pytest.approx(0.47)
    assert ours["interval"] == pytest.approx([1 - high, 1 - low])


# -- protocols of the tables ---------------------------------------------------------------------


def test_a_published_protocol_is_shipped_or_the_tables_own():
    assert published_protocol("linf_quick", eps="0.1") == load_protocol("linf_quick", eps="0.1")
    own = published_protocol("pgd20_ce_a003", eps="0.031")
    assert own.id == "pgd20_ce_a003@0.031.v1"
    (spec,) = own.attacks
    assert settings_of(spec) == {
        "attack": "pgd",
        "loss": "ce",
        "steps": "20",
        "alpha": "0.003",
        "restarts": "1",
        "start": "uniform",
        "keep": "last",
    }
    with pytest.raises(InputError, match="unknown protocol"):
        published_protocol("pgd20_c", eps="0.031")


def test_steps_of_rice_et_al_are_theirs_at_their_radius():
    (cifar,) = published_protocol("pgd10_ce", eps="8/255").attacks
    (svhn,) = published_protocol("pgd10_ce_a8", eps="8/255").attacks
    (l2,) = published_protocol("pgd10_ce_l2_a15", eps="128/255").attacks
    steps = [float(spec.params["alpha"]) * 255 for spec in (cifar, svhn, l2)]
    assert steps == pytest.approx([2, 1, 15])


def test_the_authors_engine_runs_where_there_is_an_autoattack():
    assert published_protocol("aa_standard", eps="0.1", engine="reference").engine == "reference"
    assert published_protocol("pgd20_ce_a003", eps="0.1", engine="reference").engine == "ours"


# -- small-scale -----------------------------------------------------------------------------------


def test_every_small_scale_recipe_named_by_a_table_is_a_recipe_on_digits():
    names = {row.small_scale for name in published_names() for row in load_published(name).rows} - {
        ""
    }
    assert len(names) > 20
    for name in names:
        recipe = small_scale_recipe(name)
        assert recipe.data.name == "digits"
        assert recipe.training.epochs == 40
        assert f'name = "{recipe.defense_name}"' in recipe_files()[name].read_text()
        assert getattr(recipe.defense, "begin_epoch", 1) <= 40


def test_a_small_scale_recipe_stretches_the_epochs_its_recipe_names():
    method, stretched = load_recipe("mnist_irat"), small_scale_recipe("mnist_irat")
    assert (method.training.epochs, stretched.training.epochs) == (4, 40)
    assert (method.defense.begin_epoch, stretched.defense.begin_epoch) == (3, 21)
    assert stretched.as_dict()["schedule"]["begin"] == [1, 21]
    assert stretched.validation.every == 40
    assert stretched.optimizer == method.optimizer
    assert small_scale_recipe("mnist_bgat").as_dict()["defense"]["teachers"] == ["digits_standard"]
    assert all(name in recipe_files() for name in ("digits_standard", "digits_pgd_at"))


# -- the command ---------------------------------------------------------------------------------

FAST = ["--threads", "1", "--sample", "40"]


def run(capsys, *arguments):
    """A command that succeeds: what it prints."""
    assert main(["reproduce", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def cells(capsys, *arguments):
    """Cells of the JSON output by column title."""
    data = json.loads(run(capsys, *arguments, "--format", "json"))
    return {one["title"]: one for one in data["cells"]}


def released(checkpoint, name="imported"):
    """The same network as `rbl import` would leave it: no recipe, no seed."""
    model, card = load_checkpoint(checkpoint)
    card = msgspec.structs.replace(card, name=name, recipe={}, seed=None, selection="imported")
    save_checkpoint(Path(name), model, card)
    return name


def complaint(capsys, *arguments):
    assert main(["reproduce", *map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rbl: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_published_weights_match_their_own_numbers_and_nothing_is_done_twice(
    capsys, checkpoint, monkeypatch
):
    imported = released(checkpoint)
    call = [table_file(), "--checkpoint", imported, "--released", "--threads", "1"]
    first = cells(capsys, *call)
    assert {one["verdict"] for one in first.values()} <= {"match", "differs", "not comparable"}
    assert "does not state" in first["PGD-1000"]["reasons"][0]
    values = [
        f"{100 * first[title]['ours']['value']:.2f}" for title in ("Clean", "PGD-20", "Worst")
    ]
    text = TABLE.replace('["90.00", "53.00", "50.00", "49.00"]', json.dumps([*values, "49.00"]))

    def never(*_, **__):
        raise AssertionError("evaluated again")

    monkeypatch.setattr(bench_module, "evaluate", never)
    second = cells(capsys, table_file(text), *call[1:])
    assert [one["verdict"] for one in second.values()] == ["match"] * 3 + ["not comparable"]
    run_of = second["Worst"]["ours"]["runs"][0]
    assert (run_of["n"], run_of["protocol_id"]) == (364, "linf_quick@0.15.v1")
    assert run_of["canonical"] is True
    stored = load_result(next(Path("results").rglob("result.json")))
    assert second["Worst"]["ours"]["value"] == stored.robust_accuracy.value
    assert second["PGD-20"]["ours"]["value"] == stored.attacks["pgd20_ce"].accuracy.value
    assert second["Clean"]["ours"]["value"] == stored.clean_accuracy.value


def test_what_rbl_evaluate_measured_is_taken_from_there(capsys, checkpoint, monkeypatch):
    imported = released(checkpoint)
    command = ["evaluate", imported, "--protocol", "linf_quick", "--eps", "0.15", *FAST]
    assert main(command) == 0
    capsys.readouterr()

    def never(*_, **__):
        raise AssertionError("evaluated again")

    monkeypatch.setattr(bench_module, "evaluate", never)
    call = [table_file(), "--checkpoint", imported, "--released", *FAST]
    found = cells(capsys, *call)
    assert found["PGD-20"]["ours"]["runs"][0]["n"] == 40
    assert found["PGD-20"]["verdict"] in ("consistent", "differs")
    assert "a random sample: 40 of 364" in " ".join(found["PGD-20"]["reasons"])
    with pytest.raises(AssertionError, match="evaluated again"):
        main(["reproduce", *call, "--seed", "1"])
    with pytest.raises(AssertionError, match="evaluated again"):
        main(["reproduce", *call[:-1], "39"])
    with pytest.raises(AssertionError, match="evaluated again"):
        main(["reproduce", *call, "--eps", "0.1"])


def test_an_imported_checkpoint_is_nobodys_until_said_to_be_released(capsys, checkpoint):
    imported = released(checkpoint)
    found = cells(capsys, table_file(), "--checkpoint", imported, *FAST)
    assert found["Clean"]["verdict"] == "not comparable"
    assert "--released" in found["Clean"]["reasons"][0]


def test_weights_are_known_by_their_hash(capsys, checkpoint):
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    text = table_file(weights=source.hash, recipe="digits_trades")
    found = cells(capsys, text, "--checkpoint", checkpoint, *FAST)
    assert "the published weights" in found["Clean"]["reasons"]


def test_another_radius_and_another_protocol_are_measured_and_not_compared(capsys, checkpoint):
    call = [table_file(), "--checkpoint", released(checkpoint), "--released", *FAST]
    found = cells(capsys, *call, "--eps", "0.05")
    assert found["PGD-20"]["reasons"] == ["other radius: eps 0.05 here, 0.15 published"]
    assert found["PGD-20"]["ours"]["value"] > 0
    assert found["Clean"]["verdict"] in ("consistent", "differs")
    found = cells(capsys, *call, "--protocol", "pgd20_ce_a003")
    assert "other protocol: pgd20_ce_a003@0.15.v1 here" in found["PGD-20"]["reasons"][0]
    found = cells(capsys, *call, "--protocol", "fgsm")
    assert found["PGD-20"]["reasons"][0] == "protocol fgsm has no such attack"


def test_a_network_trained_to_another_recipe_is_not_comparable(capsys, checkpoint):
    name = table_file(recipe="digits_pgd_at")
    found = cells(capsys, name, "--checkpoint", checkpoint, *FAST)
    assert found["Clean"]["verdict"] == "not comparable"
    (reason,) = found["Clean"]["reasons"]
    assert "not trained to the recipe digits_pgd_at" in reason
    assert "training.epochs: 40 there, 2 now" in reason
    assert "seed" not in reason


def tiny_recipe(name="tiny.toml", epochs=1):
    text = recipe_files()["digits_pgd_at"].read_text(encoding="utf-8")
    text = text.replace("epochs = 40", f"epochs = {epochs}").replace("steps = 10", "steps = 1")
    Path(name).write_text(text, encoding="utf-8")
    return name


def test_train_ends_with_honest_verdicts(capsys, monkeypatch):
    name = table_file(recipe=tiny_recipe(), selection="best")
    call = [name, "--train", "--threads", "1"]
    one = cells(capsys, *call)
    assert one["Clean"]["verdict"] in ("consistent", "differs")
    assert "retrained by the recipe, 1 seed" in one["Clean"]["reasons"]
    three = cells(capsys, *call, "--seeds", "0,1,2")
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "tiny",
        "tiny-seed1",
        "tiny-seed2",
    ]
    runs = three["Clean"]["ours"]["runs"]
    assert [one["seed"] for one in runs] == [0, 1, 2]
    assert len({one["model_hash"] for one in runs}) == 3
    values = [Fraction(one["correct"], one["n"]) for one in runs]
    mean, spread = sum(values) / 3, max(values) - min(values)
    for distance, word in ((spread * 99 / 100, "match"), (spread + Fraction(1, 100), "differs")):
        text = f"{float(100 * (mean - distance)):.2f}"
        again = cells(
            capsys,
            table_file(TABLE.replace("90.00", text), recipe="tiny.toml"),
            *call[1:],
            "--seeds",
            "0,1,2",
        )
        assert again["Clean"]["verdict"] == word
    # recipe keys can be overridden, which is then said
    other = cells(capsys, *call, "--runs", "runs2", "--optimizer.lr", "0.05")
    assert "optimizer.lr: 0.1 there, 0.05 now" in other["Clean"]["reasons"][0]


def test_a_row_of_the_last_epoch_takes_the_last_checkpoint(capsys):
    name = table_file(recipe=tiny_recipe(epochs=2), selection="last")
    found = cells(capsys, name, "--train", *FAST)
    assert found["Clean"]["verdict"] in ("consistent", "differs")
    best, last = (Path("runs/tiny") / one for one in ("best", "last"))
    assert read_card(last / "card.json").selection == "last epoch"
    found = cells(capsys, name, "--checkpoint", best, *FAST)
    assert "other checkpoint: best validation" in found["Clean"]["reasons"][0]


def test_quick_says_loudly_that_it_is_small_scale(capsys, monkeypatch):
    overrides = ["--training.epochs", "1", "--defense.crafting.steps", "1"]
    monkeypatch.setattr(
        small_scale_module,
        "small_scale_recipe",
        lambda name: dataclasses.replace(load_recipe("digits_pgd_at", overrides), name=name),
    )
    monkeypatch.setitem(
        small_scale_module._ATTACKS, "aa", ("fgsm", "fgsm")
    )  # AutoAttack takes long
    text = TABLE.replace("PGD-1000", "AutoAttack").replace("pgd1000", "aa")
    second = '[[rows]]\nid = "other"\nmethod = "N"\nsmall_scale = "mnist_trades"\n'
    text += second + 'values = ["80.00", "54.00", "", ""]\n'
    text += '[[rows]]\nid = "none"\nmethod = "O"\nvalues = ["70.00", "", "", ""]\n'
    name = table_file(text, small_scale="mnist_pgd_at")
    out = run(capsys, name, "--scale", "quick", *FAST)
    assert out.startswith("SMALL-SCALE: ")
    assert "none may be quoted" in out
    data = json.loads(run(capsys, name, "--scale", "quick", *FAST, "--format", "json"))
    assert data["small_scale"] is True
    assert {one["verdict"] for one in data["cells"]} == {"not comparable"}
    assert all("small-scale" in one["reasons"][0] for one in data["cells"])
    measured = {(one["row"], one["title"]) for one in data["cells"] if one["ours"]}
    assert measured == {
        *(("tiny", title) for title in ("Clean", "PGD-20", "Worst", "AutoAttack")),
        *(("other", title) for title in ("Clean", "PGD-20")),
    }
    orders = {(one["metric"], one["above"], one["below"]): one["seen"] for one in data["orders"]}
    # one network stands for both here, so nothing can separate them
    assert orders == {
        ("clean", "tiny", "other"): "not separated",
        ("pgd20", "other", "tiny"): "not separated",
    }


def test_an_order_is_seen_not_seen_or_not_separated():
    high, low, near = (measured(k, 100) for k in (90, 50, 85))
    assert small_scale_module._seen(high, low) == "seen"
    assert small_scale_module._seen(low, high) == "not seen"
    assert small_scale_module._seen(high, near) == "not separated"


def test_without_a_way_to_measure_the_published_numbers_are_shown(capsys):
    out = run(capsys, "mart_2020")
    assert "nothing was measured" in out
    assert out.count("(memory)") >= 6
    assert "Numbers: 6 memory." in out
    assert "target is unknown" in run(capsys, "srat_2021")


def test_list_and_check_and_out(capsys):
    out = run(capsys, "--list")
    assert all(name in out for name in published_names())
    out = run(capsys, "robustbench", "--check")
    assert "radius_conflict (4)" in out
    assert "unreliable (2)" in out
    assert run(capsys, "robustbench", "--check", "--out", "found.md", "--format", "markdown") == (
        "wrote found.md\n"
    )
    assert "- robustbench, cifar10/Linf/Kang2021Stable" in Path("found.md").read_text()
    everything = json.loads(run(capsys, "--check", "--format", "json"))
    assert len({one["table"] for one in everything["findings"]}) > 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["which table?", "--list"]),
        (["lbgat_2021_readmi"], ["did you mean lbgat_2021_readme"]),
        (["no.toml"], ["'no.toml' does not exist"]),
        (["lbgat_2021_readme", "--rows", "lbgat0"], ["has no row 'lbgat0'", "did you mean"]),
        (["srat_2021", "--rows", "ce"], ["table srat_2021 has no rows"]),
        (["mart_2020", "--train", "--checkpoint", "x"], ["exclude each other"]),
        (["mart_2020", "--scale", "quick", "--train"], ["exclude each other"]),
        (["mart_2020", "--seeds", "1"], ["--seeds belongs to --train"]),
        (["mart_2020", "--released"], ["--released belongs to --checkpoint"]),
        (["mart_2020", "--training.epochs", "1"], ["with --train only"]),
        (["mart_2020", "--epochs"], ["unrecognized arguments: --epochs"]),
        (["mart_2020", "--n", "0"], ["--n 0 must be at least 1"]),
        (["mart_2020", "--format", "jsn"], ["did you mean json?"]),
        (["mart_2020", "--checkpoint", "nowhere"], ["no checkpoint folder nowhere"]),
        (["mart_2020", "--checkpoint", "mrt=nowhere"], ["no row 'mrt'"]),
        (["mart_2020", "--train", "--seeds", "1;2", "--rows", "mart"], ["no list of seeds"]),
        (["rpat_table4", "--train"], ["has a recipe to train"]),
        (["cure_table1", "--scale", "quick", "--rows", "x"], ["has no row 'x'"]),
        (["atom_2020_table2", "--scale", "quick"], ["has a small-scale recipe"]),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, words):
    line = complaint(capsys, *arguments)
    for word in words:
        assert word in line


def test_checkpoints_that_fit_no_row_are_refused_in_one_line(capsys, checkpoint):
    two = TABLE + '[[rows]]\nid = "b"\nmethod = "N"\nvalues = ["1", "", "", ""]\n'
    name = table_file(two)
    assert "is none of the 2 rows" in complaint(capsys, name, "--checkpoint", checkpoint)
    mnist = table_file(TABLE.replace('"digits"', '"mnist"'), "m.toml")
    line = complaint(capsys, mnist, "--checkpoint", checkpoint)
    assert "was trained on digits, row tiny is on mnist" in line
    line = complaint(capsys, table_file(), "--checkpoint", checkpoint, "--released")
    assert "was trained here by recipe digits_pgd_at" in line
    shutil.copytree(checkpoint, "copy")
    both = [table_file(recipe="digits_pgd_at"), "--checkpoint", checkpoint, "copy"]
    assert "2 networks of training seed 0" in complaint(capsys, *both)


def test_a_checkpoint_goes_to_the_row_named_else_by_weights_else_by_recipe(checkpoint):
    source = resolve_model(str(checkpoint), allow_code=False, device="cpu")
    row = load_published(table_file(recipe="digits_pgd_at")).rows[0]
    by_recipe, by_weights, other = (
        dataclasses.replace(row, id="by_recipe"),
        dataclasses.replace(row, id="by_weights", weights=source.hash),
        dataclasses.replace(row, id="part/other", recipe=""),
    )
    assert list(assign([by_recipe, other], [("", source)])) == ["by_recipe"]
    assert list(assign([by_recipe, by_weights, other], [("", source)])) == ["by_weights"]
    assert list(assign([by_recipe, by_weights, other], [("other", source)])) == ["part/other"]
    assert list(assign([other], [("", source)])) == ["part/other"]


def test_results_lie_where_rbl_evaluate_puts_them(capsys, checkpoint):
    imported, threads = released(checkpoint), torch.get_num_threads()
    run(capsys, table_file(), "--checkpoint", imported, "--released", *FAST)
    source = resolve_model(imported, allow_code=False, device="cpu")
    data = load_split("digits", "test")
    images = random_images(40, len(data), 0)
    folder = default_folder("linf_quick@0.15.v1", source.hash, data, images, 0)
    assert (Path("results") / "imported" / folder / "result.json").is_file()
    assert torch.get_num_threads() == threads, "put back"
