"""Files of the user with any value in any place: read, or refused in one line, never a crash."""

import copy
import io
import math
import tomllib
from datetime import date
from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from submission_cases import from_checkpoint

from robustbench_lite.attacks.protocol import load_protocol, protocol_files
from robustbench_lite.cli import main
from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import LONGEST
from robustbench_lite.datasets import load_split
from robustbench_lite.datasets.outliers.files import outliers_of_folder
from robustbench_lite.submission.manifest import read_manifest
from robustbench_lite.training.recipe import load_recipe

VALUES = [
    *(0, 1, -1, 2**63, 2**64, -(10**400), 10**400, 1.5, -0.0, math.inf, -math.inf, math.nan),
    *("", "x", "8/255", "1e999999999", "1/0", "../x", "a\nb", "x" * 5000, "\x1b[2J"),
    *(True, False, [], [1], ["x"], [[]], [{}], {}, {"x": 1}, {"name": "x"}, date(2020, 1, 1)),
]


def toml(value):
    """TOML text of plain data, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value)
    if isinstance(value, int):
        return format(value, "d")
    if isinstance(value, str):
        inside = "".join(
            c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value
        )
        return f'"{inside}"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(key)} = {toml(each)}' for key, each in value.items())}}}"
    return str(value)


def document(data):
    return "".join(f"{toml(key)} = {toml(value)}\n" for key, value in data.items())


def places(data, path=()):
    """Paths of every value, tables and lists too."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def changed(data):
    """The data with each value replaced by each of `VALUES`, and without it."""
    for path in places(data):
        for value in VALUES:
            other = copy.deepcopy(data)
            inside = other
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
            yield path, value, other
        if isinstance(path[-1], str):
            del inside[path[-1]]
            yield path, None, other


def refused(error, path, value):
    text = str(error)
    assert type(error).__name__ in ("InputError", "ResultError"), (path, value)
    assert text, (path, value)


def test_protocols(tmp_path):
    path = tmp_path / "p.toml"
    read = 0
    for name in ("linf_standard", "l2_quick"):
        data = tomllib.loads(protocol_files()[name].read_text()) | {"eps": "0.1"}
        for place, value, other in changed(data):
            path.write_text(document(other))
            for eps in (None, "0.1"):
                try:
                    protocol = load_protocol(str(path), eps=eps)
                    assert protocol.id, protocol.hash
                    for spec in protocol.attacks:
                        spec.check(protocol.threat, num_classes=10)
                    read += 1
                except InputError as error:
                    refused(error, place, value)
                except Exception as error:
                    raise AssertionError((place, str(value)[:60])) from error
    assert read > 10


@pytest.mark.parametrize("eps", [*VALUES, Fraction(1, 3)])
def test_radii(eps):
    try:
        assert load_protocol("linf_quick", eps=eps).id
    except InputError as error:
        refused(error, "eps", eps)


RECIPES = ("digits_trades", "mnist_srat", "mnist_lbgat_alp", "mnist_aloe", "mnist_mail_mart")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes(tmp_path, name):
    path = tmp_path / "r.toml"
    data = load_recipe(name).as_dict()
    data.pop("name")
    cases = list(changed(data))
    # Reading a recipe takes a while: some of the cases, and the largest number in some places.
    largest = [case for case in cases if case[1] == 10**400]
    for place, value, other in [*cases[len(name) :: 131], *largest[len(name) % 4 :: 4]]:
        path.write_text(document(other))
        try:
            load_recipe(str(path)).as_dict()
        except InputError as error:
            refused(error, place, value)
        except Exception as error:
            raise AssertionError((place, str(value)[:60])) from error


def test_manifests(tmp_path, checkpoint):
    folder = from_checkpoint(tmp_path / "mine", checkpoint, clean=90, robust=10)
    path = folder / "submission.toml"
    data = tomllib.loads(path.read_text())
    for place, value, other in changed(data):
        path.write_text(document(other))
        try:
            manifest, findings = read_manifest(folder)
        except Exception as error:
            raise AssertionError((place, str(value)[:60])) from error
        assert manifest is not None or any(finding.level == "error" for finding in findings)
        assert all(len(finding.line()) <= LONGEST for finding in findings)


# Parquet


def encoded(mode="L", size=(28, 28)):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


GOOD = encoded()
ROWS = [{"bytes": GOOD, "path": None}] * 2
IMAGES = {
    "text": pa.array([{"bytes": "text"}] * 2),
    "numbers": pa.array([{"bytes": 3}] * 2),
    "lists": pa.array([{"bytes": [1, 2]}] * 2),
    "lists of bytes": pa.array([{"bytes": [GOOD]}] * 2),
    "nested": pa.array([{"bytes": {"bytes": GOOD}}] * 2),
    "booleans": pa.array([{"bytes": True}] * 2),
    "dates": pa.array([{"bytes": date(2020, 1, 1)}] * 2),
    "nulls only": pa.array([{"bytes": None}] * 2),
    "null row": pa.array([{"bytes": GOOD}, None]),
    "null bytes": pa.array([{"bytes": GOOD}, {"bytes": None}]),
    "no bytes": pa.array([{"bytes": GOOD}, {"bytes": b""}]),
    "no image": pa.array([{"bytes": GOOD}, {"bytes": b"\x89PNG\r\n\x1a\n" + 50 * b"x"}]),
    "cut image": pa.array([{"bytes": GOOD}, {"bytes": GOOD[:-20]}]),
    "other size": pa.array([{"bytes": GOOD}, {"bytes": encoded(size=(27, 28))}]),
    "other mode": pa.array([{"bytes": GOOD}, {"bytes": encoded("RGB")}]),
    "palette": pa.array([{"bytes": GOOD}, {"bytes": encoded("P")}]),
    "no struct": pa.array([GOOD] * 2),
    "integers": pa.array([1, 2]),
    "another field": pa.array([{"data": GOOD}] * 2),
    "dictionary": pa.array([GOOD] * 2).dictionary_encode(),
    "null column": pa.nulls(2),
}
LABELS = {
    "text": pa.array(["1", "2"]),
    "floats": pa.array([1.0, 2.0]),
    "nulls": pa.array([1, None]),
    "null column": pa.nulls(2),
    "lists": pa.array([[1], [2]]),
    "structs": pa.array([{"x": 1}] * 2),
    "booleans": pa.array([True, False]),
    "dictionary": pa.array(["1", "2"]).dictionary_encode(),
    "dates": pa.array([date(2020, 1, 1)] * 2),
    "too large": pa.array([1, 10]),
    "negative": pa.array([1, -1]),
    "uint64": pa.array([1, 2**64 - 1], type=pa.uint64()),
    "bytes": pa.array([b"1", b"2"]),
}


def table(image=None, label=None):
    images = pa.array(ROWS) if image is None else image
    return pa.table({"image": images, "label": pa.array([1, 2]) if label is None else label})


TABLES = {
    **{f"image: {name}": table(image=values) for name, values in IMAGES.items()},
    **{f"label: {name}": table(label=values) for name, values in LABELS.items()},
    "no rows": table().slice(0, 0),
    "no columns": pa.table({}),
    "no image": pa.table({"label": [1, 2]}),
    "no label": pa.table({"image": ROWS}),
    "image twice": pa.Table.from_arrays(
        [pa.array(ROWS), pa.array(ROWS), pa.array([1, 2])], ["image", "image", "label"]
    ),
    "label twice": pa.Table.from_arrays(
        [pa.array(ROWS), pa.array([1, 2]), pa.array([1, 2])], ["image", "label", "label"]
    ),
    "odd metadata": table(label=pa.array([1, 99])).replace_schema_metadata({"huggingface": "[1]"}),
}


@pytest.mark.parametrize("kind", TABLES)
def test_parquet_of_another_form_is_one_line(kind, tmp_path, checkpoint, capsys):
    path = tmp_path / "data" / "test-00000-of-00001.parquet"
    path.parent.mkdir()
    pq.write_table(TABLES[kind], path)
    with pytest.raises(InputError) as caught:
        load_split("mnist", "test", data_dir=path.parent, cache_dir=tmp_path / "cache")
    assert "test-00000-of-00001.parquet" in str(caught.value)
    command = ["evaluate", str(checkpoint), "--dataset", "mnist", "--protocol", "linf_quick"]
    assert main([*command, "--eps", "0.1", "--data-dir", str(path.parent)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "test-00000-of-00001.parquet" in err
    assert len(err) <= LONGEST + 1


@pytest.mark.parametrize("kind", [kind for kind in TABLES if "label" not in kind])
def test_outliers_of_another_form_are_one_line(kind, tmp_path):
    like = load_split("digits", "test")
    pq.write_table(TABLES[kind], tmp_path / "test-00000-of-00001.parquet")
    taken = kind in ("image: other size", "image: other mode", "image: palette", "odd metadata")
    if taken:  # outliers of any size and mode are fitted
        assert len(outliers_of_folder(tmp_path, like, count=0, seed=0)) == 2
        return
    with pytest.raises(InputError) as caught:
        outliers_of_folder(tmp_path, like, count=0, seed=0)
    assert tmp_path.name in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16", "CMYK"])
def test_outlier_images_of_any_mode_are_read_or_refused(mode, tmp_path):
    like = load_split("digits", "test")
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (1, 5000)).save(tmp_path / f"x.{suffix}")
    (tmp_path / "y.png").mkdir()  # a folder with such a name
    try:
        assert len(outliers_of_folder(tmp_path, like, count=0, seed=0))
    except InputError as error:
        refused(error, mode, "")


# Weights


CONTENTS = {
    "a number": 3,
    "a tensor": torch.zeros(3),
    "nothing": None,
    "empty": {},
    "an empty list": [],
    "numbers": {"a.weight": 3, "b.bias": "x"},
    "an optimizer": {"state": {0: {"x": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]},
    "keys of numbers": {0: torch.zeros(1)},
    "wrong shapes": {"conv1.weight": torch.zeros(1), "linear.weight": torch.zeros(3)},
    "of size 0": {"conv1.weight": torch.zeros(0), "linear.weight": torch.zeros(0, 0)},
    "complex": {"linear.weight": torch.zeros(10, 512, dtype=torch.complex64)},
    "integers": {"linear.weight": torch.zeros(10, 512, dtype=torch.int64)},
    "sparse": {"linear.weight": torch.zeros(10, 512).to_sparse()},
    "on no device": {"linear.weight": torch.zeros(10, 512, device="meta")},
    "itself": "loop",
    "long names": {"x" * 5000 + ".weight": torch.zeros(1)},
    "names of control": {"\x1b[2J\n.weight": torch.zeros(1)},
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_weights_of_any_content_are_one_line(kind, suffix, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = CONTENTS[kind]
    if content == "loop":
        content = {}
        content["weights"] = content
    if suffix == "pt":
        torch.save(content, "w.pt")
    else:
        try:
            save_file(content, "w.safetensors")
        except Exception:  # most of these cannot be written
            Path("w.safetensors").write_bytes(bytes(range(200)))
    command = ["import", f"w.{suffix}", "--arch", "preact_resnet18", "--dataset", "cifar10"]
    assert main([*command, "--normalization", "none", "--out", "c"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert f"w.{suffix}" in err
    assert len(err) <= LONGEST + 1
    assert not Path("c").exists()
