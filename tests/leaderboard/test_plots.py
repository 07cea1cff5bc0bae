"""`rbl plot`: what is drawn, the same bytes for the same input, and what is refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard_builder import HOSTILE, content, first, hashed, protocol, simple, store
from test_per_class import write

from robustbench_lite.cli import main
from robustbench_lite.core.integrity import line_with_checksum
from robustbench_lite.leaderboard import Result, ResultError, load_result
from robustbench_lite.leaderboard.plots.accuracy_curves import security_curve, steps_curve
from robustbench_lite.leaderboard.plots.class_bars import class_bars
from robustbench_lite.leaderboard.plots.files import plot_bytes
from robustbench_lite.leaderboard.plots.gallery import Exhibit, gallery
from robustbench_lite.leaderboard.plots.training_curves import load_run, training_curves
from robustbench_lite.leaderboard.statistics.per_class import load_per_class

RADII = {"1/255": 35, "2/255": 30, "8/255": 12}


def at(
    folder: Path, network: str, eps: str, robust: int, shown: str = "", **changes: Any
) -> Result:
    numerator, _, denominator = eps.partition("/")
    value = int(numerator) / int(denominator)
    plan = protocol(["pgd20_ce"], eps=eps, eps_value=value, id=f"linf_standard@{eps}.v1")
    model = {"kind": "checkpoint", "hash": f"sha256:{network}", "selection": ""}
    changes = {"protocol": plan, "model": model, **changes}
    data = simple(shown or network, robust, **changes)
    return load_result(store(folder / network / eps.replace("/", "_"), data))


def curve(folder: Path, name: str = "net") -> list[Result]:
    return [at(folder, name, eps, robust) for eps, robust in RADII.items()]


def test_metrics_of_another_run_or_with_a_flipped_digit_are_refused(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a")
    card = {"epoch": 2, "metrics": {"epoch": 2, "robust_accuracy": 0.7}}
    (folder / "best" / "card.json").write_text(json.dumps(card))
    with pytest.raises(ResultError, match="is not of the run whose best checkpoint"):
        load_run(folder)
    (folder / "best" / "card.json").unlink()
    line = line_with_checksum({"epoch": 1, "robust_accuracy": 0.5})
    (folder / "metrics.jsonl").write_text(line.replace("0.5", "0.6") + "\n")
    with pytest.raises(ResultError, match="does not fit its checksum"):
        load_run(folder)


def lines(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        line.get_label(): [(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)]
        for line in axes.get_lines()
    }


def test_the_security_curve_starts_at_clean_and_has_every_radius(tmp_path: Path) -> None:
    results = curve(tmp_path)
    (axes,) = security_curve(results[::-1]).axes
    expected = [(0.0, 100.0), (1 / 255, 87.5), (2 / 255, 75.0), (8 / 255, 30.0)]
    assert np.allclose(lines(axes)["net"], expected)
    assert [tick.get_text() for tick in axes.get_xticklabels()][:2] == ["0", "8/255"]
    (band,) = axes.collections
    heights = np.sort(band.get_paths()[0].vertices[:, 1])
    low, high = results[-1].robust_accuracy.interval
    assert heights[0] == pytest.approx(100 * low)
    assert any(np.isclose(heights, 100 * high))


def test_networks_have_a_line_each_also_under_one_name(tmp_path: Path) -> None:
    results = [*curve(tmp_path, "a"), *curve(tmp_path, "b")]
    assert set(lines(security_curve(results).axes[0])) == {"a", "b"}
    renamed = [at(tmp_path / "c", h, e, r, shown="same") for h in "xy" for e, r in RADII.items()]
    assert set(lines(security_curve(renamed).axes[0])) == {"same x", "same y"}


def test_what_shares_no_curve_is_refused_with_the_difference(tmp_path: Path) -> None:
    results = curve(tmp_path)
    data = {"name": "digits", "split": "test", "hash": "sha256:other", "canonical": True}
    l2 = protocol(["pgd20_ce"], norm="L2")
    for wrong, message in (
        (at(tmp_path / "1", "net", "4/255", 3, dataset=data), "data is digits sha256:data and"),
        (at(tmp_path / "2", "net", "4/255", 3, examples={"first": 9, "count": 40}), "examples is"),
        (at(tmp_path / "3", "net", "4/255", 3, protocol=l2), "norm is Linf and L2"),
        (at(tmp_path / "4", "net", "8/255", 3), "two results at one radius"),
    ):
        with pytest.raises(ResultError, match=message):
            security_curve([*results, wrong])
    with pytest.raises(ResultError, match="two radii or more"):
        security_curve(results[:1])
    with pytest.raises(ResultError, match="no results"):
        security_curve([])


def steps_result(folder: Path, name: str, steps: int, robust: int, **spec: Any) -> Result:
    plan = protocol([f"pgd{steps}"])
    plan["attacks"][0].update(steps=steps, loss="ce", alpha=1 / steps, **spec)
    plan = hashed(plan)
    data = content(
        name, first(40, 40), {f"pgd{steps}": first(robust, 40)}, protocol=plan,
        model={"kind": "checkpoint", "hash": f"sha256:{name}", "selection": ""},
    )  # fmt: skip
    return load_result(store(folder / f"{name}{steps}{spec}", data))


def test_the_steps_curve_joins_attacks_that_differ_in_steps_and_step_size(tmp_path: Path) -> None:
    results = [steps_result(tmp_path, "net", steps, 40 - steps) for steps in (20, 1, 10)]
    alone = steps_result(tmp_path, "net", 5, 3, restarts=7)
    (axes,) = steps_curve([*results, alone]).axes
    assert lines(axes) == {"net: pgd ce": [(1.0, 97.5), (10.0, 75.0), (20.0, 50.0)]}
    twice = steps_result(tmp_path, "net", 9, 2, restarts=7)
    both = lines(steps_curve([*results, alone, twice]).axes[0])
    assert sorted(both) == ["net: pgd ce", "net: pgd ce, restarts 7"]
    with pytest.raises(ResultError, match="no attack occurs with two numbers of steps"):
        steps_curve([results[0], alone])
    other = at(tmp_path, "net", "4/255", 3)
    with pytest.raises(ResultError, match="one norm at one radius"):
        steps_curve([*results, other])


def run_folder(folder: Path, best: int | None = 2) -> Path:
    rows = [
        {"epoch": 1, "adv_accuracy": 0.2},
        {"epoch": 2, "adv_accuracy": 0.5, "clean_accuracy": 0.9, "robust_accuracy": 0.6},
        {"epoch": 3, "adv_accuracy": 0.7},
        {"epoch": 4, "adv_accuracy": 0.9, "clean_accuracy": 0.95, "robust_accuracy": 0.55},
    ]
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if best is not None:
        (folder / "best").mkdir()
        (folder / "best" / "card.json").write_text(json.dumps({"epoch": best}))
    return folder


def test_training_curves_have_what_was_measured_and_mark_best_and_last(tmp_path: Path) -> None:
    run = load_run(run_folder(tmp_path / "run"))
    drawn = lines(training_curves([run]).axes[0])
    assert drawn["robust, validation"] == [(2, 60.0), (4, pytest.approx(55.0))]
    assert [y for _, y in drawn["robust, training"]] == pytest.approx([20, 50, 70, 90])
    assert drawn["best"] == [(2, 60.0)]
    assert drawn["last"] == [(4, pytest.approx(55.0))]
    without = load_run(run_folder(tmp_path / "other", best=None))
    assert "best" not in lines(training_curves([without]).axes[0])
    assert len(training_curves([run, without]).axes) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "metrics.jsonl: not found"),
        ("{", "line 1 is no valid JSON"),
        ("[1]\n", "need a table"),
        ('{"epoch": 1, "loss": 2}\n', "holds none of clean_accuracy"),
        ('{"epoch": 1, "clean_accuracy": NaN}\n', "no valid JSON"),
        ('{"epoch": "x", "clean_accuracy": 0.5}\n', "integer"),
    ],
)  # fmt: skip
def test_damaged_metrics_are_refused_in_one_line(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ResultError, match=message) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_class_bars_are_as_high_as_the_accuracies(tmp_path: Path) -> None:
    labels = np.arange(40) % 4
    robust = (labels != 2) & (np.arange(40) < 30)
    folder = write(tmp_path / "r", labels, first(40, 40), {"pgd20_ce": robust})
    result = load_per_class(folder, num_classes=4, under=range(4))
    names = ["zero", "one", "two", "a class with a long name"]
    (axes,) = class_bars([result], names=names).axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[:4] == [100.0] * 4
    assert heights[4:] == [100 * one.robust.value for one in result.classes]
    assert heights[6] == 0
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert shown == ["zero", "one", "two", "a class with …"]
    assert len(class_bars([result, result], names=names).axes) == 2


def exhibits(channels: int) -> list[Exhibit]:
    rng = np.random.default_rng(0)
    clean = rng.random((2, channels, 5, 4), dtype=np.float32)
    change = np.where(rng.random(clean.shape) < 0.5, -0.1, 0.05).astype(np.float32)
    return [
        Exhibit(i, clean[i], clean[i] + change[i], f"class {i}", "other", "linf 0.1")
        for i in range(2)
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gallery_shows_clean_attacked_and_the_scaled_difference(channels: int) -> None:
    shown = exhibits(channels)
    figure = gallery(shown, title="t")
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert len(pictures) == 6
    for column, one in enumerate(shown):
        clean, attacked, difference = pictures[column::2]
        expected = 0.5 + 5 * (one.attacked - one.clean)
        for picture, image in (
            (clean, one.clean),
            (attacked, one.attacked),
            (difference, expected),
        ):
            want = np.clip(image, 0, 1).transpose(1, 2, 0)
            assert np.allclose(picture, want[:, :, 0] if channels == 1 else want, atol=1e-6)
    assert figure.axes[4].get_ylabel() == "difference\n× 5"
    with pytest.raises(ResultError, match="no adversarial images"):
        gallery([], title="t")


def test_hostile_names_are_drawn_as_text(tmp_path: Path) -> None:
    results = [
        at(tmp_path / str(i), f"h{i}", eps, robust, shown=text)
        for i, text in enumerate([*HOSTILE, "$\\frac{$", "$x$"])
        for eps, robust in RADII.items()
    ]
    text = plot_bytes(lambda: security_curve(results), "svg").decode()
    assert "<script" not in text
    assert not any(ch in text for ch in "\x1b\x07\u202e")


@pytest.mark.parametrize("format", ["svg", "png"])
def test_the_same_input_gives_the_same_bytes_in_another_process_and_style(
    tmp_path: Path, format: str
) -> None:
    for eps, robust in RADII.items():
        at(tmp_path / "results", "net", eps, robust)
    code = (
        "import matplotlib, sys, time\n"
        "matplotlib.rcParams.update({'font.size': 30, 'svg.hashsalt': 'mine', 'savefig.dpi': 10})\n"
        "from robustbench_lite.cli import main\n"
        f"sys.exit(main(['plot', 'eps', {str(tmp_path / 'results')!r}, '--out', sys.argv[1]]))"
    )
    files = [tmp_path / f"{name}.{format}" for name in ("one", "two")]
    assert main(["plot", "eps", str(tmp_path / "results"), "--out", str(files[0])]) == 0
    subprocess.run([sys.executable, "-c", code, str(files[1])], check=True, capture_output=True)
    ours, theirs = (file.read_bytes() for file in files)
    assert ours == theirs
    assert len(ours) > 5000
    if format == "png":
        assert b"Software" not in ours
        width, height = struct.unpack(">II", ours[16:24])
        assert (width, height) == (960, 600)
    else:
        assert b"<dc:date>" not in ours
        assert b"http://www.w3.org/2000/svg" in ours


def test_plots_without_images_load_no_torch(tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    code = (
        "import sys\nfrom robustbench_lite.cli import main\n"
        "main(['plot', 'training', sys.argv[1], '--out', sys.argv[2]])\n"
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "x.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_commands_write_files_and_refuse_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(40) % 10
    folder = write(tmp_path / "r", labels, first(40, 40), {"pgd20_ce": first(30, 40)})
    out = tmp_path / "classes.svg"
    assert main(["plot", "classes", str(folder), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"<?xml")
    for arguments, message in (
        (["eps", str(folder), "--out", "x.pdf"], "must end in .png or .svg"),
        (["eps", str(folder)], "two radii or more"),
        (["eps", str(tmp_path / "nowhere")], "not found"),
        (["classes", str(tmp_path / "run")], "not found"),
        (["training", str(folder)], "metrics.jsonl: not found"),
        (["gallery", str(folder), str(folder)], "one result"),
        (["gallery", str(folder), "--n", "0"], "at least 1"),
        (["gallery", str(folder), "--attack", "pgd"], "the result has pgd20_ce"),
        (["gallery", str(folder)], "other pixels"),
    ):
        assert main(["plot", *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1


@pytest.mark.parametrize("evidence", ["float32", "int8"])
def test_a_gallery_of_an_evaluation_shows_its_evidence(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], evidence: str
) -> None:
    folder, out = tmp_path / "r", tmp_path / "gallery.png"
    evaluate = [
        "evaluate",
        str(checkpoint),
        "--protocol",
        "linf_quick",
        "--eps",
        "0.3",
        "--n",
        "12",
    ]
    assert main([*evaluate, "--evidence", evidence, "--out", str(folder), "--chunk-size", "5"]) == 0
    plot = ["plot", "gallery", str(folder), "--out", str(out)]
    assert main([*plot, "--n", "3"]) == 0
    three = out.read_bytes()
    assert main([*plot, "--n", "3"]) == 0
    assert out.read_bytes() == three
    assert main([*plot, "--n", "6", "--attack", "pgd20_ce"]) == 0
    assert struct.unpack(">I", out.read_bytes()[16:20]) > struct.unpack(">I", three[16:20])
    for file in folder.glob("evidence/cwinf20_k50/*"):
        file.write_bytes(b"damaged")
    capsys.readouterr()
    assert main(plot) == 2
    assert "is damaged (not the images of its part)" in capsys.readouterr().err
