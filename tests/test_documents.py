"""The documents: every command in them parses, every link leads somewhere, the example holds."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from submission_cases import HERE, LIMITS

from robustbench_lite.cli import build_parser
from robustbench_lite.leaderboard import load_result
from robustbench_lite.submission.findings import render, verdict
from robustbench_lite.submission.recheck import Sample
from robustbench_lite.submission.review import check
from robustbench_lite.submission.verification import verify_entry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = ROOT / "docs" / "example_submission"


def commands(page):
    """Lines of shell blocks that call `rbl`, continuations joined, comments gone."""
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.M | re.S):
        if kind not in ("", "sh"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "rbl":
                yield words[1:]


EVERY_COMMAND = [(page.name, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), EVERY_COMMAND, ids=[" ".join([p, *w])[:70] for p, w in EVERY_COMMAND]
)
def test_commands_in_the_documents_parse(page, words):
    arguments, rest = build_parser().parse_known_args(words)
    assert not rest or arguments.takes_overrides, (page, rest)


def test_there_are_commands_to_parse():
    assert {page for page, _ in EVERY_COMMAND} >= {"README.md", "submitting.md", "leaderboard.md"}
    assert len(EVERY_COMMAND) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_documents_lead_to_files_of_the_project(page):
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_files_that_the_documents_name_exist(page):
    for name in re.findall(r"`(\w+/[\w/]*\.py)`", page.read_text()):
        assert (ROOT / name).is_file() or (ROOT / "robustbench_lite" / name).is_file(), name


def test_the_example_submission_is_accepted_and_its_entry_verified(tmp_path):
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    found = check(folder, HERE, allow_code=False, limits=LIMITS, examples=16)
    assert verdict(found) == "accepted", render(found)
    assert load_result(folder / "entry").status == "verified"  # as the maintainers left it
    found = verify_entry(
        folder / "entry", folder, HERE, Sample(k=4, seed=0), allow_code=False, limits=LIMITS
    )
    assert verdict(found) == "accepted", render(found)
    assert load_result(folder / "entry").status == "flagged"  # 4 are too few for a rank


def test_the_example_in_the_documents_is_the_one_there():
    result = load_result(EXAMPLE / "entry")
    text = (ROOT / "docs" / "submitting.md").read_text()
    assert f"{100 * result.robust_accuracy.value:.2f}" in text
    assert str(result.n_examples) in text
