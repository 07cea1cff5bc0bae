"""Pages of Python: the blocks of each run, in order, in one session."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "python.md", DOCS / "training_loop.md"]


def blocks(page):
    """The Python blocks of a page, each with the line that it begins at."""
    text = page.read_text()
    for found in re.finditer(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
        yield text[: found.start()].count("\n") + 2, found.group(1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = {"__name__": "__main__"}
    found = list(blocks(page))
    assert len(found) >= 5
    for line, code in found:
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), session)
