"""The leaderboard as one HTML file: readable without JavaScript, asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from robustbench_lite.core.storage import write_text
from robustbench_lite.leaderboard.page.views import filter_views, table_view
from robustbench_lite.leaderboard.published.reported import ReportedRow
from robustbench_lite.leaderboard.results.load import gc_paused
from robustbench_lite.leaderboard.results.records import Result
from robustbench_lite.leaderboard.table.row import build_rows, split_groups
from robustbench_lite.leaderboard.table.text import plain


@gc_paused()
def render_page(
    results: Iterable[Result], *, title: str, reported: Iterable[ReportedRow] = ()
) -> str:
    """The whole leaderboard as HTML.

    A pure function of its arguments: the same results in any order give the same text. Everything
    that came from a result file is escaped, and stripped of control and bidi characters; only the
    page's own style and script, named by their hashes, may run.

    Args:
        results: in any order; duplicates collapse as in `build_table`.
        title: heading of the page and title of the window.
        reported: published rows, shown in tables of their own after the measured ones.

    Returns:
        A complete HTML document.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_packaged("page.html.j2"))
    rows = build_rows(results, reported)
    views = [table_view(section, i) for i, section in enumerate(split_groups(rows), start=1)]
    css, script = _packaged("page.css"), _packaged("page.js")
    text = template.render(
        title=plain(title),
        css=Markup(css),  # ours, not from a result
        css_hash=_hash(css),
        script=Markup(script),  # likewise
        script_hash=_hash(script),
        filters=filter_views(views),
        groups=views,
        n_rows=len(rows),
    )
    return text + "\n"


def _packaged(name: str) -> str:
    return files("robustbench_lite.leaderboard.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_page(
    path: str | Path,
    results: Iterable[Result],
    *,
    title: str,
    reported: Iterable[ReportedRow] = (),
) -> Path:
    """Write the page so that a reader sees the old file or the whole new one.

    Args:
        path: the HTML file; its folder is made when missing.
        results: in any order.
        title: heading of the page.
        reported: published rows.

    Returns:
        The path written.

    Raises:
        StorageError: when the folder or file cannot be written.
    """
    write_text(Path(path), render_page(results, title=title, reported=reported))
    return Path(path)
