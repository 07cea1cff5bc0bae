from __future__ import annotations

import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard_builder import HOSTILE, demo, flagged, simple, store

from robustbench_lite.leaderboard import load_result, render_page, write_page
from robustbench_lite.leaderboard.interval_bars import Axis
from robustbench_lite.leaderboard.records import Result

VOID = {"meta", "line", "rect"}


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
        plan["hash"] = text
        plan["attacks"][0].update(title=text, attack=text, **{text: text})
        flags = flagged(text)
        flags["flags"][0].update(meaning=text, follow_up=text)
        rows.append(
            simple(
                text, 30 - i, defense=text, architecture=text, protocol=plan, git_commit=text,
                dataset={"name": text, "split": text, "hash": text, "canonical": None},
                model={"kind": "factory", "hash": text, "selection": text},
                environment={text: text}, **(flags if i % 2 else {}),
            )
        )  # fmt: skip
    return rows


def test_page_shows_every_row_and_number(tmp_path: Path) -> None:
    page = Page(render_page(load_all(tmp_path, demo()), title="Demo"))
    for text in ("digits_pgd_at", "89.00", "[85.0, 92.1]", "linf_standard@0.1.v1", "verified"):
        assert text in page.texts
    assert page.count("svg") == 3 + 1
    assert page.count("script") == 0
    assert {"Protocol", "PGD-20", "AutoAttack", "test"} <= set(page.texts)


def test_page_has_one_table_and_one_link_per_group(tmp_path: Path) -> None:
    contents = [*demo(), simple("x", 30), simple("y", 30, examples={"first": 9, "count": 40})]
    page = Page(render_page(load_all(tmp_path, contents), title="Demo"))
    tables = [attrs for tag, attrs in page.tags if tag == "table" and attrs["class"] == "ranking"]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert len(tables) == len(ids) == 3
    assert links == [f"#{name}" for name in ids]


def test_page_has_as_many_cells_in_each_row_as_columns(tmp_path: Path) -> None:
    text = render_page(load_all(tmp_path, [*demo(), simple("x", 3, **flagged())]), title="Demo")
    for table in re.findall(r'<table class="ranking".*?</table>', text, re.S):
        rows = re.findall(r"<tr .*?</tr>", table, re.S)
        widths = [
            sum(int(n or 1) for n in re.findall(r'<t[hd] [^>]*?(?:colspan="(\d+)")?>', row))
            for row in rows
        ]
        assert len(set(widths)) == 1


def test_page_shows_flags_with_their_numbers(tmp_path: Path) -> None:
    page = Page(render_page(load_all(tmp_path, [simple("x", 30, **flagged())]), title="Demo"))
    text = " ".join(" ".join(page.texts).split())
    assert "unverified" in page.texts
    assert "Flag black_box_beats_white_box : Square breaks what PGD does not." in text
    assert "Measured 0.1, threshold 0.05." in text
    assert "rbl evaluate --protocol adaptive" in page.texts


def test_page_escapes_everything_from_outside(tmp_path: Path) -> None:
    contents = [simple("x", 30), simple("y", 3, n=48, **flagged())]
    honest = render_page(load_all(tmp_path / "a", contents), title="x")
    allowed = {tag for tag, _ in Page(honest).tags}
    text = render_page(load_all(tmp_path / "b", hostile()), title=HOSTILE[7])
    page = Page(text)
    assert {tag for tag, _ in page.tags} <= allowed
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<script" not in text
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[6], HOSTILE[7], HOSTILE[8]):
        assert name in page.texts
    assert not any(ch in text for ch in "\x1b\x07\u202e\u2066\u200f")


def test_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    text = render_page(load_all(tmp_path, [*demo(), *hostile()]), title="Demo")
    for tag, attrs in Page(text).tags:
        assert tag not in ("link", "script", "img", "iframe", "object", "embed", "form", "base")
        assert not {"src", "srcset", "data", "action", "background", "style"} & set(attrs)
        assert str(attrs.get("href", "#")).startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_page_is_a_pure_function_of_the_results(tmp_path: Path) -> None:
    results = load_all(tmp_path / "a", [*demo(), simple("x", 30), simple("y", 30)])
    moved = load_all(tmp_path / "b" / "elsewhere", [*demo(), simple("x", 30), simple("y", 30)])
    text = render_page(results, title="Demo")
    assert text == render_page(moved[::-1], title="Demo")
    assert text == render_page([*results, *moved], title="Demo")


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
    with pytest.raises(OSError, match="disk full"):
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
        assert left - 0.01 <= float(bar.left)
        assert float(bar.left) + float(bar.width) <= right + 0.02
        middle = float(bar.left) + float(bar.width) / 2
        assert float(bar.point) + 1 == pytest.approx(middle, abs=0.02)
