"""Which images are evaluated: the draw is written down, and a bad list is refused in one line."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_lite.core.drawn_ids import draw_ids, ids_sha256, sample_of_split
from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets.selection import first_images, listed_images, random_images

WHAT = "digits test"
GOLDEN_10 = [3243, 4769, 5691, 6342, 6962, 7211, 7392, 8193, 9083, 9346]
GOLDEN_5 = [69, 213, 241, 273, 283]
GOLDEN_1000 = "sha256:7a8829ba5568afb265094c75924944f70c32fb3efdd0781ba8da1a5f79b0ff05"


def test_the_draw_is_that_of_its_definition_and_never_changes():
    order = sorted(
        range(10_000), key=lambda i: hashlib.sha256(f"rbl evaluate 0 {i}".encode()).digest()
    )
    assert list(sample_of_split(10, 10_000, 0)) == sorted(order[:10]) == GOLDEN_10
    assert list(sample_of_split(5, 364, 7)) == GOLDEN_5
    assert ids_sha256(sample_of_split(1000, 10_000, 0)) == GOLDEN_1000
    assert ids_sha256([0, 5, 7]) == "sha256:" + hashlib.sha256(b"0,5,7").hexdigest()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_a_draw_holds_each_id_once_and_smaller_ones_are_part_of_larger_ones(n, size, seed):
    drawn = draw_ids(range(size), n, seed=seed, purpose="p")
    assert drawn == sorted(set(drawn))
    assert len(drawn) == min(n, size)
    assert set(drawn) <= set(range(size))
    assert set(drawn[:0]) | set(draw_ids(range(size), n // 2, seed=seed, purpose="p")) <= set(drawn)


def test_every_image_is_drawn_about_equally_often():
    counts = [0] * 20
    for seed in range(2000):
        for one in draw_ids(range(20), 5, seed=seed, purpose="rbl evaluate"):
            counts[one] += 1
    # Binomial(2000, 1/4): 500 with a standard deviation of 19.4; five of them on either side.
    assert all(403 <= count <= 597 for count in counts), counts


@pytest.mark.parametrize("n", [364, 365, 10**9])
def test_a_sample_of_everything_is_everything_in_order(n):
    assert random_images(n, 364, 5) == first_images(None, 364, what=WHAT)
    assert random_images(n, 364, 5).identity == {"first": 0, "count": 364}


def test_identities_differ_with_the_images_and_prefixes_are_as_before():
    assert first_images(40, 364, what=WHAT).identity == {"first": 0, "count": 40}
    one, other = random_images(40, 364, 0), random_images(40, 364, 1)
    assert one.identity["ids"] != other.identity["ids"]
    assert one.identity == {
        "chosen": "random",
        "seed": 0,
        "of": 364,
        "count": 40,
        "sha256": ids_sha256(one.ids),
        "ids": list(one.ids),
    }
    assert len({one.word, other.word, random_images(41, 364, 0).word, "40"}) == 4


@pytest.mark.parametrize("text", ["3\n1\n\n200\n", " [200, 3, 1]\n", "1\r\n3\r\n200"])
def test_lists_are_read_in_both_forms_and_sorted(tmp_path, text):
    path = tmp_path / "hard.txt"
    path.write_text(text)
    found = listed_images(path, 364, what=WHAT)
    assert list(found.ids) == [1, 3, 200]
    assert (found.chosen, found.about) == ("subset", {"of": 364, "file": "hard.txt"})
    assert "file" not in found.identity, "another name of the file is no other evaluation"


def test_a_list_of_the_first_images_is_the_first_images(tmp_path):
    path = tmp_path / "ids.json"
    path.write_text(json.dumps([2, 0, 1]))
    assert listed_images(path, 364, what=WHAT) == first_images(3, 364, what=WHAT)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no image"),
        (b"\n \n", "names no image"),
        (b"[]", "names no image"),
        (b"3\n7\n3\n", "id 3 is there twice"),
        (b"[364]", "id 364 is not in digits test; ids are 0 to 363"),
        (b"[-1]", "id -1 is not in digits test"),
        (b"3\n-7\n", "line 2: '-7' is no id"),
        (b"3\nx7\n", "line 2: 'x7' is no id"),
        (b"1.0\n", "line 1: '1.0' is no id"),
        ("\u0663\n".encode(), "line 1: '\\u0663' is no id"),
        (b"9" * 5000, "is no id"),
        (b"[1, 2.0]", "holds 2.0; need integer ids"),
        (b"[true]", "holds True; need integer ids"),
        (b"[[1]]", "holds [1]; need integer ids"),
        (b"[1, 2", "is no JSON list"),
        (b"[" * 100_000, "is no JSON list"),
        (b"[" + b"9" * 5000 + b"]", "is no JSON list"),
        (b"\xff\xfe", "cannot be read: no UTF-8"),
        (b'{"ids": [1]}', "is no id"),
    ],
)
def test_a_file_that_is_no_list_of_ids_is_refused(tmp_path, content, words):
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        listed_images(path, 364, what=WHAT)
    assert words in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_other_wrong_choices_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        listed_images(tmp_path / "nowhere", 364, what=WHAT)
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        listed_images(tmp_path, 364, what=WHAT)
    for n in (0, 365):
        with pytest.raises(InputError, match=f"n={n}: digits test has 1 to 364 examples"):
            first_images(n, 364, what=WHAT)
    with pytest.raises(InputError, match="--sample 0 must be at least 1"):
        random_images(0, 364, 0)
    for seed in (-1, 2**63):
        with pytest.raises(InputError, match="--sample-seed"):
            random_images(4, 364, seed)
