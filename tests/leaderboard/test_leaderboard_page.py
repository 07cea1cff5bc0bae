from __future__ import annotations

import base64
import gc
import hashlib
import re
import shlex
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard_builder import (
    HOSTILE,
    accuracy_of,
    demo,
    first,
    flagged,
    hashed,
    simple,
    store,
)

from robustbench_lite.core.errors import StorageError
from robustbench_lite.leaderboard import (
    build_table,
    load_result,
    render,
    render_page,
    write_page,
)
from robustbench_lite.leaderboard.page.evaluate_command import reproduce_command
from robustbench_lite.leaderboard.page.interval_bars import Axis
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.statistics.accuracy import pack_labels

DATA = {"name": "digits", "split": "test", "hash": "sha256:data", "canonical": None}
VOID = {"meta", "line", "circle", "input"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def load_all(folder: Path, contents: list[dict[str, Any]]) -> list[Result]:
    return [load_result(store(folder / str(i), data)) for i, data in enumerate(contents)]


def hostile() -> list[dict[str, Any]]:
    rows = []
    for i, text in enumerate(HOSTILE):
        plan = simple("", 3)["protocol"]
        plan["attacks"][0].update(title=text, attack=text, **{text: text})
        flags = flagged(text)
        flags["flags"][0].update(meaning=text, follow_up=text)
        rows.append(
            simple(
                text, 30 - i, defense=text, architecture=text, protocol=hashed(plan),
                git_commit=text,
                dataset={"name": text, "split": text, "hash": text, "canonical": None},
                model={"kind": "factory", "hash": text, "selection": text},
                environment={text: text}, **(flags if i % 2 else {}),
            )
        )  # fmt: skip
    return rows


def words(page: Page) -> str:
    """All text of a page with single spaces."""
    return " ".join(" ".join(page.texts).split())


def test_page_shows_every_row_and_number(tmp_path: Path) -> None:
    page = Page(render_page(load_all(tmp_path, demo()), title="Demo"))
    for text in ("digits_pgd_at", "89.00", "[85.0, 92.1]", "linf_standard@0.1.v1", "measured"):
        assert text in page.texts
    bars = [attrs for tag, attrs in page.tags if tag == "svg" and attrs["class"] == "bar"]
    assert len(bars) == 3
    assert {"Protocol", "PGD-20", "AutoAttack", "test, n=300", "canonical"} <= set(page.texts)


def test_each_row_has_a_panel_with_all_that_is_known(tmp_path: Path) -> None:
    data = simple(
        "x", 30,
        settings={"batch_size": 7, "chunk_size": 500, "threads": 2, "evidence": "int8"},
        checks={"batch_dependent": 1.25e-7, "zero_gradients": {"value": 0.001, "points": 64}},
        environment={"versions": {"torch": "9.9.9"}, "device_name": "some device"},
    )  # fmt: skip
    data["attacks"]["pgd20_ce"]["stages"] = {
        "apgd_ce": accuracy_of(first(35, 40)),
        "square": accuracy_of(first(30, 40)),
    }
    (result,) = load_all(tmp_path, [data])
    text = words(Page(render_page([result], title="Demo")))
    for part in (
        "PGD-20 pgd20_ce attack pgd · steps 20 75.00 [59.8, 85.8] 30 of 40 20 20",
        "after apgd_ce 87.50 [73.9, 94.5] 35 of 40 after square 75.00",
        "Worst case 75.00",
        "Weights sha256:model of x",
        "Epoch chosen by best validation robust accuracy",
        "Engine ours 1",
        f"Content {result.protocol.hash}",
        "Content sha256:data",
        "Seed 0 Batch size 7 Chunk size 500",
        "Versions torch 9.9.9 Device name some device Commit 0123456789abcdef",
        f"Result file {result.file_hash}",
        "Batch dependent 1.25e-07 Zero gradients 0.001, on 64",
    ):
        assert part in text


def test_the_command_of_a_row_names_all_that_fixes_its_numbers(tmp_path: Path) -> None:
    plan = {
        **simple("x", 30)["protocol"],
        "engine": "reference",
        "engine_version": "pyautoattack 1",
    }
    plan = hashed({**plan, "id": plan["id"] + ".reference"})
    settings = {"batch_size": 7, "device": "cpu", "precision": "mixed", "evidence": "none"}
    contents = [
        simple("a", 30),
        simple("b", 29, protocol=plan, settings=settings, seed=5),
        simple("c", 28, model={"kind": "factory", "hash": "sha256:c", "selection": ""}),
        simple("d", 27, examples={"first": 9, "count": 40}),
        simple("e", 26, dataset={**DATA, "name": "a b'; rm -rf ~", "split": "train"}),
    ]  # fmt: skip
    results = load_all(tmp_path, contents)
    start = "rbl evaluate CHECKPOINT --protocol linf_standard --eps 0.1"
    commands = [" ".join(reproduce_command(result)) for result in results]
    assert commands[0] == f"{start} --dataset digits --n 40 --seed 0"
    assert commands[1] == (
        f"{start} --engine reference --dataset digits --n 40 --seed 5 --batch-size 7 "
        "--precision mixed --device cpu"
    )
    assert commands[2].startswith("rbl evaluate --model FACTORY --allow-code --protocol")
    assert commands[3] == ""
    parts = shlex.split(commands[4])
    assert parts[parts.index("--dataset") + 1] == "a b'; rm -rf ~"
    assert parts[parts.index("--split") + 1] == "train"
    page = Page(render_page(results, title="Demo"))
    assert commands[1] in words(page)
    assert "no command evaluates them" in words(page)


def test_a_network_of_a_source_is_named_with_what_pins_it(tmp_path: Path) -> None:
    models = [
        {"kind": "hub", "source": "hub:owner/repo@0123abc"},
        {"kind": "torchscript", "source": "torchscript:a.pt"},
    ]
    contents = [
        simple("ab"[i], 30, model={"hash": f"sha256:{i}", "selection": "", **model})
        for i, model in enumerate(models)
    ]
    results = load_all(tmp_path, contents)
    hub, script = (" ".join(reproduce_command(result)) for result in results)
    assert hub.startswith("rbl evaluate --model hub:owner/repo@0123abc --protocol")
    assert script.startswith("rbl evaluate --model torchscript:a.pt --allow-code --protocol")
    assert "Source hub:owner/repo@0123abc" in words(Page(render_page(results, title="Demo")))


def test_page_has_one_table_and_one_link_per_group(tmp_path: Path) -> None:
    contents = [*demo(), simple("x", 30), simple("y", 30, examples={"first": 9, "count": 40})]
    page = Page(render_page(load_all(tmp_path, contents), title="Demo"))
    tables = [attrs for tag, attrs in page.tags if tag == "table" and attrs["class"] == "ranking"]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"][:3]
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert len(tables) == len(ids) == 3
    assert links == [f"#{name}" for name in ids]


def test_page_has_as_many_cells_in_each_row_as_columns(tmp_path: Path) -> None:
    contents = [*demo(), simple("x", 3, **flagged()), labelled("y", 3)]
    text = render_page(load_all(tmp_path, contents), title="Demo")
    assert text.count('data-sort="worst_class"') == 1
    for table in re.findall(r'<table class="ranking".*?</table>', text, re.S):
        rows = re.findall(r'<tr role="row".*?(?=<tr role="row"|$)', table, re.S)
        widths = [
            sum(
                int(n or 1)
                for n in re.findall(r'<t[hd](?=[^>]* role=)[^>]*?(?:colspan="(\d+)")?>', row)
            )
            for row in rows
        ]
        assert len(widths) > 2
        columns = [table.count(f'data-sort="{key}"') for key in ("attack", "worst_class")]
        assert set(widths) == {7 + sum(columns)}


def labelled(name: str, robust: int, n: int = 40) -> dict[str, Any]:
    """A result that stores labels: the first half of the images is of class 7, the rest of 300."""
    data = simple(name, robust, n)
    data["outcomes"]["labels"] = pack_labels([7 if i < n // 2 else 300 for i in range(n)])
    return data


def test_page_shows_the_worst_class_as_the_tables_do(tmp_path: Path) -> None:
    results = load_all(tmp_path, [labelled("x", 30), simple("y", 20), labelled("z", 10)])
    text = render_page(results, title="Demo")
    cells = re.findall(r'<td [^>]*data-label="Worst class">(.*)</td>', text)
    assert cells == ["50.00 (300)", "", "0.00 (300)"]
    markdown = render(build_table(results), "markdown")
    heading, _, *rows = [
        line.strip("| ").split(" | ") for line in markdown.splitlines() if "|" in line
    ]
    place = heading.index("Worst class")
    assert [row[place].strip() for row in rows] == cells
    assert '<abbr title="the lowest worst case of a class, and its label">Worst class<' in text
    assert '<option value="worst_class">By worst class</option>' in text
    assert "Worst class" not in render_page(results[1:2], title="Demo")


def test_page_shows_flags_with_their_numbers(tmp_path: Path) -> None:
    page = Page(render_page(load_all(tmp_path, [simple("x", 30, **flagged())]), title="Demo"))
    text = words(page)
    assert "flagged" in page.texts
    assert "Flag zero_gradients : gradient attacks stand still there" in text
    assert "Measured 0.1, threshold 0.002." in text
    assert "What to do: attack through it: wrap the step without gradient in Bpda" in text


def test_page_says_what_a_row_without_rank_lacks_and_counts_each_status(tmp_path: Path) -> None:
    bare = simple("bare", 30)
    del bare["outcomes"]
    contents = [bare, simple("x", 20), simple("y", 10, **flagged())]
    page = Page(render_page(load_all(tmp_path, contents), title="Demo"))
    text = words(page)
    assert "Reported only : no outcomes stored. A rank needs" in text
    assert "Ranked: 1 measured. Unranked: 1 flagged, 1 reported." in text
    cells = [attrs["class"] for tag, attrs in page.tags if tag == "span" and attrs.get("class")]
    assert [name for name in cells if str(name).endswith(" find")] == [
        *("about find", "word find", "about find", "badge find", "about find", "badge find")
    ]
    rows = [attrs["data-status"] for tag, attrs in page.tags if tag == "tbody" and attrs.get("id")]
    assert rows == ["measured", "reported", "flagged"]


def test_page_escapes_everything_from_outside(tmp_path: Path) -> None:
    contents = [simple("x", 30), simple("y", 3, n=48, **flagged())]
    honest = render_page(load_all(tmp_path / "a", contents), title="x")
    allowed = {tag for tag, _ in Page(honest).tags}
    text = render_page(load_all(tmp_path / "b", hostile()), title=HOSTILE[7])
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= allowed
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert text.count("<script") == 1
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[6], HOSTILE[7], HOSTILE[8]):
        assert name in page.texts
    assert not any(ch in text for ch in "\x1b\x07\u202e\u2066\u200f")


def test_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    text = render_page(load_all(tmp_path, [*demo(), *hostile()]), title="Demo")
    for tag, attrs in Page(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert not {"src", "srcset", "data", "action", "background", "style"} & set(attrs)
        assert str(attrs.get("href", "#")).startswith("#")
    style, script = (_between(text, f"<{tag}>", f"</{tag}>") for tag in ("style", "script"))
    assert "url(" not in style
    assert "@import" not in style
    for way in ("fetch", "XMLHttpRequest", "import(", "http", "innerHTML", "eval"):
        assert way not in script


def test_only_the_page_s_own_style_and_script_may_run(tmp_path: Path) -> None:
    text = render_page(load_all(tmp_path, demo()), title="Demo")
    policy = _between(text, 'Policy" content="', '">')
    style, script = (_hash(_between(text, f"<{tag}>", f"</{tag}>")) for tag in ("style", "script"))
    assert policy.replace("&#39;", "'") == (
        f"default-src 'none'; style-src '{style}'; script-src '{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _between(text: str, start: str, end: str) -> str:
    return text.partition(start)[2].partition(end)[0]


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_filters_offer_what_the_rows_have(tmp_path: Path) -> None:
    long = "x" * 500
    contents = [
        simple("x", 30, architecture=long), simple("y", 29, **flagged()),
        simple("z", 28, architecture=""),
    ]  # fmt: skip
    page = Page(render_page(load_all(tmp_path, contents), title="Demo"))
    options = [str(attrs["value"]) for tag, attrs in page.tags if tag == "option"]
    # One data set and one norm: nothing to choose.
    assert options[:7] == ["", "small_cnn", long, "", "flagged", "measured", "rank"]
    assert max(len(text) for text in page.texts if text.startswith("xxxx") and "…" in text) == 48


def test_page_is_a_pure_function_of_the_results(tmp_path: Path) -> None:
    results = load_all(tmp_path / "a", [*demo(), simple("x", 30), simple("y", 30)])
    moved = load_all(tmp_path / "b" / "elsewhere", [*demo(), simple("x", 30), simple("y", 30)])
    text = render_page(results, title="Demo")
    assert text == render_page(moved[::-1], title="Demo")
    assert text == render_page([*results, *moved], title="Demo")


@pytest.mark.parametrize("collecting", [True, False])
def test_page_leaves_the_collector_as_it_was(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    try:
        render_page([], title="t")
        assert gc.isenabled() is collecting
    finally:
        gc.enable()


def test_page_without_results_says_so() -> None:
    assert "No results yet." in Page(render_page([], title="Demo")).texts


def test_write_page_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    results = load_all(tmp_path / "results", demo())
    target = tmp_path / "site" / "deep" / "index.html"
    for title in ("One", "Two"):
        assert write_page(target, results, title=title) == target
        assert target.read_text(encoding="utf-8") == render_page(results, title=title)
    assert [path.name for path in target.parent.iterdir()] == ["index.html"]
    reader = tmp_path / "open elsewhere"
    reader.hardlink_to(target)
    write_page(target, results, title="Three")
    assert reader.read_text(encoding="utf-8") == render_page(results, title="Two")
    assert stat.S_IMODE(target.stat().st_mode) & 0o400


def test_write_page_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "index.html"
    target.write_text("old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="disk full"):
        write_page(target, [], title="Demo")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.mark.parametrize(
    ("intervals", "labels"),
    [
        ([(0.45, 0.52), (0.37, 0.43)], ["35", "40", "45", "50", "55"]),
        ([(0.0, 0.013), (0.85, 1.0)], ["0", "25", "50", "75", "100"]),
        ([(0.9951, 1.0)], ["99", "100"]),
        ([(0.0, 0.004)], ["0", "1"]),
    ],
)
def test_axis_ends_at_round_numbers_around_all_intervals(
    intervals: list[tuple[float, float]], labels: list[str]
) -> None:
    axis = Axis.around(intervals)
    assert [label for _, label in axis.ticks] == labels
    left, right = float(axis.ticks[0][0]), float(axis.ticks[-1][0])
    for low, high in intervals:
        bar = axis.bar((low + high) / 2, (low, high))
        assert left - 0.01 <= float(bar.left) < float(bar.right) <= right + 0.01
        middle = (float(bar.left) + float(bar.right)) / 2
        assert float(bar.point) == pytest.approx(middle, abs=0.02)
