"""A user's own images by the commands alone: evaluated, transferred, trained on, detected."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from robustbench_lite.cli import main

NETWORK = """
import numpy as np
import torch
from torch import nn

def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))

def data(split):
    return np.random.default_rng(1).random((12, 3, 16, 16)), np.arange(12) % 4

def number(split):
    return 3

class Broken:
    def __len__(self):
        return 4
    def __getitem__(self, row):
        raise OSError(f"row {row} is gone")

def broken(split):
    return Broken()

def fails(split):
    raise RuntimeError("no disk")
"""
CLASSES = ["daisy", "poppy", "rose", "tulip"]
QUICK = ["--protocol", "linf_quick", "--eps", "8/255", "--threads", "1", "--device", "cpu"]
NET = ["--model", "net.py:load", "--allow-code"]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTBENCH_LITE_CACHE", str(tmp_path / "cache"))
    Path("net.py").write_text(NETWORK)


def flowers(folder, n=10, size=(20, 28)):
    """JPEGs of different sizes, n a class, each class of one colour."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (Path(folder) / name).mkdir(parents=True)
        for i in range(n):
            height, width = generator.integers(*size, 2)
            image = generator.integers(0, 120, (height, width, 3)).astype(np.uint8)
            image[..., number % 3] += np.uint8(50 + 20 * number)
            Image.fromarray(image).save(Path(folder) / name / f"{i}.jpg")


def stored():
    (path,) = Path("results").rglob("result.json")
    return path, json.loads(path.read_text())


def line(capsys, *arguments):
    assert main([*map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rbl: error: ")
    assert err.count("\n") == 1
    assert len(err) <= 330
    return err


def test_forty_jpegs_in_four_classes(capsys):
    flowers("flowers")
    wanted = ["--dataset", "folder:flowers", "--image-size", "16"]
    assert main(["evaluate", *NET, *wanted, *QUICK]) == 0
    path, result = stored()
    assert result["n_examples"] == 40
    assert (result["dataset"]["name"], result["dataset"]["canonical"]) == ("folder:flowers", None)
    short = result["dataset"]["hash"].removeprefix("sha256:")[:8]
    assert path.parent.name.startswith(f"folder_flowers-{short}-linf_quick")
    assert main(["evaluate", *NET, *wanted, *QUICK]) == 0  # finds its own result
    assert stored()[0] == path
    capsys.readouterr()
    assert main(["classes", str(path.parent)]) == 0
    assert "3" in capsys.readouterr().out
    assert main(["plot", "classes", str(path.parent)]) == 0


def test_an_npz_and_a_factory(capsys):
    generator = np.random.default_rng(0)
    np.savez("own.npz", x=generator.random((12, 3, 9, 7)), y=np.arange(12) % 4)
    for dataset in ("npz:own.npz", "net.py:data"):
        assert main(["evaluate", *NET, "--dataset", dataset, *QUICK, "--sample", "8"]) == 0
    found = [json.loads(path.read_text()) for path in Path("results").rglob("result.json")]
    assert {row["dataset"]["name"] for row in found} == {"npz:own.npz", "net.py:data"}
    command = ["evaluate", *NET, *QUICK, "--dataset"]
    assert "must give a pair" in line(capsys, *command, "net.py:number")
    assert "row 0 is gone" in line(capsys, *command, "net.py:broken")
    assert "no disk" in line(capsys, *command, "net.py:fails")
    assert "has no 'nothing'" in line(capsys, *command, "net.py:nothing")
    assert "no file nt.py" in line(capsys, *command, "nt.py:data")
    assert "a factory resizes" in line(capsys, *command, "net.py:data", "--image-size", "8")


def test_a_factory_may_give_a_loader_or_a_dataset_and_import_what_lies_beside_it():
    Path("parts").mkdir()
    Path("parts/images.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "g = torch.Generator().manual_seed(0)\n"
        "data = TensorDataset(torch.rand(12, 3, 16, 16, generator=g), torch.arange(12) % 4)\n"
    )
    Path("flowers.py").write_text(
        "from torch.utils.data import DataLoader\n"
        "from parts.images import data\n"
        "def rows(split):\n"
        "    from parts import images  # when it is called, too\n"
        "    return images.data\n"
        "def batches(split):\n"
        "    return DataLoader(data, batch_size=5)\n"
        "def pair(split):\n"
        "    return data.tensors\n"
    )
    for name in ("rows", "batches", "pair"):
        assert main(["evaluate", *NET, "--dataset", f"flowers.py:{name}", *QUICK]) == 0
    found = [json.loads(path.read_text()) for path in Path("results").rglob("result.json")]
    assert {row["dataset"]["name"] for row in found} == {
        *("flowers.py:rows", "flowers.py:batches", "flowers.py:pair")
    }
    assert len({row["dataset"]["hash"] for row in found}) == 1
    assert [row["n_examples"] for row in found] == [12] * 3
    assert "parts" not in sys.modules


def test_a_folder_of_parquet_files():
    images = []
    for _ in range(8):
        buffer = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(buffer, format="PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    Path("cells/data").mkdir(parents=True)
    table = pa.table({"image": images, "label": [0, 1, 2, 3] * 2})
    pq.write_table(table, "cells/data/test-00000-of-00001.parquet")
    assert main(["evaluate", *NET, "--dataset", "parquet:cells", *QUICK]) == 0
    assert stored()[1]["dataset"]["name"] == "parquet:cells"


def test_a_factory_of_data_runs_only_when_allowed(capsys):
    assert "add --allow-code" in line(capsys, "train", "digits_pgd_at", "--dataset", "net.py:data")


def test_unknown_sources_are_named_before_anything_is_loaded(capsys):
    said = line(capsys, "evaluate", *NET, *QUICK, "--dataset", "foldr:flowers")
    assert "unknown data source 'foldr'; did you mean folder?" in said


def test_transfer_and_detection_of_own_images(capsys):
    flowers("flowers", n=3, size=(16, 17))
    own = ["--dataset", "folder:flowers"]
    both = ["--source", "net.py:load", "--target", "net.py:load", "--allow-code"]
    assert main(["transfer", *both, *own, *QUICK, "--attack", "pgd20_ce"]) == 0
    detect = ["detect", *NET, *own, "--outliers", "gaussian", "--steps", "1", "--threads", "1"]
    assert main([*detect, "--sample", "6", "--out", "d.json"]) == 0
    found = json.loads(Path("d.json").read_text())
    assert (found["examples"]["chosen"], found["examples"]["count"]) == ("random", 6)
    assert found["outliers"]["gaussian"]["n"] == 6
    Path("ids.txt").write_text("3\n0\n7\n")
    assert main([*detect, "--subset", "ids.txt", "--out", "e.json"]) == 0
    assert json.loads(Path("e.json").read_text())["examples"]["ids"] == [0, 3, 7]
    capsys.readouterr()
    assert "--sample-seed belongs to" in line(capsys, *detect, "--sample-seed", "1")


@pytest.mark.slow
def test_a_network_trained_on_own_images_is_evaluated_on_them(capsys):
    for split in ("train", "test"):
        flowers(f"flowers/{split}", n=6)
    command = ["train", "digits_pgd_at", "--dataset", "folder:flowers", "--image-size", "8"]
    small = ["--training.epochs", "1", "--defense.crafting.steps", "1", "--data.validation", "4"]
    assert main([*command, *small, "--training.batch_size", "10", "--threads", "1"]) == 0
    card = json.loads(Path("runs/digits_pgd_at/best/card.json").read_text())
    assert (card["dataset"], card["num_classes"]) == ("folder:flowers", 4)
    assert (card["in_channels"], card["image_size"]) == (3, [8, 8])
    assert all(0 < value < 1 for value in (*card["mean"], *card["std"]))
    best = ["evaluate", "runs/digits_pgd_at/best", *QUICK]
    assert main([*best, "--image-size", "8"]) == 0
    capsys.readouterr()
    assert "give --image-size" in line(capsys, *best)
