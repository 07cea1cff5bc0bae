"""A user's own images: folders, Parquet, .npz, and what is refused in one line."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.datasets.arrays import content_hash
from robustbench_lite.datasets.readers.image_bytes import covering
from robustbench_lite.datasets.sources import own_split, parse_size, read_classes

CLASSES = ("daisy", "poppy", "rose", "tulip")
RNG = np.random.default_rng(0)


def pixels(height=8, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return RNG.integers(0, 256, shape).astype(np.uint8)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def make_folder(root, classes=CLASSES, n=3, suffix="png", size=(8, 8), channels=3):
    """n images a class; returns them by class, as decoded."""
    images = {}
    for name in classes:
        paths = [save(root / name / f"{i:02}.{suffix}", pixels(*size, channels)) for i in range(n)]
        images[name] = [np.asarray(Image.open(path)) for path in paths]
    return images


@pytest.fixture
def load(tmp_path):
    def loaded(name, split="test", **options):
        return load_split(name, split, cache_dir=tmp_path / "cache", **options)

    return loaded


@pytest.fixture
def refused(load):
    def message(name, split="test", **options):
        with pytest.raises(InputError) as caught:
            load(name, split, **options)
        text = str(caught.value)
        assert "\n" not in text
        return text

    return message


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG"])
def test_a_folder_of_classes_is_a_test_split(tmp_path, load, suffix):
    images = make_folder(tmp_path / "flowers", suffix=suffix)
    split = load(f"folder:{tmp_path}/flowers")
    assert (split.name, split.split, split.source) == ("folder:flowers", "test", "class folders")
    assert (split.num_classes, split.class_names) == (4, CLASSES)
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    expected = np.stack([image for name in CLASSES for image in images[name]]).transpose(0, 3, 1, 2)
    assert torch.equal(split.images, torch.from_numpy(expected))
    assert split.content_hash == content_hash(expected, split.labels.numpy())
    assert split.canonical is None
    assert split.provenance == "class folders"
    again = load(f"folder:{tmp_path}/flowers")  # from the cache
    assert torch.equal(again.images, split.images)
    assert (again.content_hash, again.class_names) == (split.content_hash, split.class_names)


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_splits_are_sub_folders(tmp_path, load, refused, name):
    make_folder(tmp_path / "train", n=2)
    make_folder(tmp_path / name, n=1)
    assert len(load(f"folder:{tmp_path}", "train")) == 8
    assert len(load(f"folder:{tmp_path}", "test")) == 4


def test_a_folder_without_splits_is_never_trained_on(tmp_path, refused):
    make_folder(tmp_path / "flowers")
    assert "to train, make" in refused(f"folder:{tmp_path}/flowers", "train")
    make_folder(tmp_path / "other" / "train")
    assert "has train but no test split" in refused(f"folder:{tmp_path}/other")


def test_a_relative_path_starts_from_data_dir(tmp_path, load):
    make_folder(tmp_path / "data" / "flowers")
    assert len(load("folder:flowers", data_dir=tmp_path / "data")) == 12


def test_greyscale_and_palette_images(tmp_path, load):
    images = make_folder(tmp_path / "grey", channels=1)
    split = load(f"folder:{tmp_path}/grey")
    assert tuple(split.images.shape) == (12, 1, 8, 8)
    assert np.array_equal(split.images[0, 0].numpy(), images["daisy"][0])
    for i, name in enumerate("ab"):
        picture = Image.fromarray(pixels()).quantize(4)
        (tmp_path / "palette" / name).mkdir(parents=True)
        picture.save(tmp_path / "palette" / name / f"{i}.png")
    assert tuple(load(f"folder:{tmp_path}/palette").images.shape) == (2, 3, 8, 8)


def test_sixteen_bits_become_float32(tmp_path, load):
    values = {}
    for name in ("a", "b"):
        values[name] = RNG.integers(0, 65536, (6, 5)).astype(np.uint16)
        save(tmp_path / "deep" / name / "0.png", values[name])
    split = load(f"folder:{tmp_path}/deep")
    assert split.images.dtype == torch.float32
    expected = torch.from_numpy(values["b"].astype(np.float32) / np.float32(65535))
    assert torch.equal(split.images[1, 0], expected)
    again = load(f"folder:{tmp_path}/deep")
    assert torch.equal(again.images, split.images)
    small = load(f"folder:{tmp_path}/deep", image_size=4)
    assert tuple(small.images.shape) == (2, 1, 4, 4)
    assert 0 <= small.images.min() <= small.images.max() <= 1


def test_image_size_scales_and_cuts_out_the_middle(tmp_path, load, refused):
    for i, (name, size) in enumerate([("a", (8, 8)), ("a", (12, 20)), ("b", (31, 9))]):
        save(tmp_path / "mixed" / name / f"{i}.png", pixels(*size))
    split = load(f"folder:{tmp_path}/mixed", image_size="8")
    assert tuple(split.images.shape) == (3, 3, 8, 8)
    with Image.open(tmp_path / "mixed" / "a" / "1.png") as image:
        expected = image.resize((13, 8), Image.Resampling.BILINEAR).crop((2, 0, 10, 8))
    assert np.array_equal(split.images[1].permute(1, 2, 0).numpy(), np.asarray(expected))
    wide = load(f"folder:{tmp_path}/mixed", image_size="6x10")
    assert tuple(wide.images.shape) == (3, 3, 6, 10)
    assert wide.content_hash != split.content_hash
    # What was decoded with a size is not what is there without one.
    assert "give --image-size N" in refused(f"folder:{tmp_path}/mixed")


def test_covering_is_that_of_torchvision_for_squares():
    assert covering((20, 12), (8, 8)) == (13, 8)  # int(8 * 20 / 12)
    assert covering((9, 31), (8, 8)) == (8, 27)
    assert covering((500, 375), (256, 256)) == (341, 256)
    assert covering((10, 10), (6, 12)) == (12, 12)


def test_classes_fix_the_order_of_the_labels(tmp_path, load, refused):
    make_folder(tmp_path / "flowers", n=1)
    (tmp_path / "classes.txt").write_text("tulip\nviolet\nrose\n\ndaisy\npoppy\n")
    split = load(f"folder:{tmp_path}/flowers", classes=tmp_path / "classes.txt")
    assert (split.num_classes, split.labels.tolist()) == (5, [0, 2, 3, 4])
    (tmp_path / "few.txt").write_text("tulip\nrose\n")
    said = refused(f"folder:{tmp_path}/flowers", classes=tmp_path / "few.txt")
    assert "flowers/daisy is none of the 2 classes" in said


def test_numbered_class_folders_need_an_order(tmp_path, load, refused):
    make_folder(tmp_path / "few", classes=[str(i) for i in range(10)], n=1)
    assert load(f"folder:{tmp_path}/few").labels.tolist() == list(range(10))
    make_folder(tmp_path / "many", classes=[str(i) for i in range(11)], n=1)
    assert "with --classes FILE" in refused(f"folder:{tmp_path}/many")
    assert load(f"folder:{tmp_path}/many", classes=11).labels.tolist() == list(range(11))


def _no_image(folder):
    (folder / "rose" / "9.png").write_bytes(b"no image")


def _cut_short(folder):
    data = save(folder / "rose" / "9.jpg", pixels(64, 64)).read_bytes()
    (folder / "rose" / "9.jpg").write_bytes(data[: len(data) // 2])


def _empty_class(folder):
    (folder / "violet").mkdir()


def _grey(folder):
    save(folder / "rose" / "9.png", pixels(channels=1))


def _transparent(folder):
    save(folder / "daisy" / "0.png", pixels(channels=4))


def _other_size(folder):
    save(folder / "rose" / "9.png", pixels(9, 8))


def _other_format(folder):
    save(folder / "rose" / "9.bmp", pixels())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_image, r"rose/9\.png cannot be decoded as PNG or JPEG \(8 bytes\)"),
        (_cut_short, r"rose/9\.jpg .*(cannot be decoded|is 64x64)"),
        (_empty_class, r"class folder .*violet holds no PNG or JPEG image"),
        (_grey, r"rose/9\.png has mode L, but the first image is colour"),
        (_transparent, r"daisy/0\.png has mode RGBA"),
        (_other_size, r"rose/9\.png is 9x8 .*the first image is 8x8: give --image-size"),
        (_other_format, r"rose/9\.bmp: only PNG and JPEG"),
    ],
)
def test_a_bad_folder_is_one_line(tmp_path, load, spoil, said):
    make_folder(tmp_path / "flowers")
    spoil(tmp_path / "flowers")
    with pytest.raises(InputError, match=said):
        load(f"folder:{tmp_path}/flowers")


def test_a_truncated_image_that_is_resized_is_refused(tmp_path, load):
    make_folder(tmp_path / "flowers")
    _cut_short(tmp_path / "flowers")
    with pytest.raises(InputError, match=r"rose/9\.jpg cannot be decoded .*is the file damaged"):
        load(f"folder:{tmp_path}/flowers", image_size=8)


def test_a_folder_that_is_none(tmp_path, refused):
    assert "is no folder" in refused(f"folder:{tmp_path}/nothing")
    assert "is no folder" in refused("folder:")
    (tmp_path / "images.zip").write_bytes(b"")
    assert "unpack it first" in refused(f"folder:{tmp_path}/images.zip")
    save(tmp_path / "flat" / "0.png", pixels())
    assert "0.png lies in it directly" in refused(f"folder:{tmp_path}/flat")
    make_folder(tmp_path / "one", classes=["only"])
    assert "has one class, only" in refused(f"folder:{tmp_path}/one")


def test_large_images_and_deep_colours_are_refused(tmp_path, refused):
    for name in ("a", "b"):
        (tmp_path / "bomb" / name).mkdir(parents=True)
        Image.new("L", (9000, 9000)).save(tmp_path / "bomb" / name / "0.png")  # 0.1 MB of file
    assert "at most 50,000,000 pixels" in refused(f"folder:{tmp_path}/bomb", image_size=8)
    make_folder(tmp_path / "deep", classes=("a", "b"))
    data = bytearray((tmp_path / "deep" / "a" / "00.png").read_bytes())
    data[24] = 16  # bits a channel, in the header
    (tmp_path / "deep" / "a" / "00.png").write_bytes(bytes(data))
    assert "deep/a/00.png" in refused(f"folder:{tmp_path}/deep")


def encoded(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def make_parquet(path, images, labels, column="label", names=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [encoded(image) for image in images], column: labels})
    if names:
        features = {column: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, path)


def test_a_parquet_folder(tmp_path, load, refused):
    images = [pixels() for _ in range(6)]
    make_parquet(tmp_path / "a" / "data" / "test-00000-of-00002.parquet", images[:4], [0, 1, 2, 1])
    make_parquet(tmp_path / "a" / "data" / "test-00001-of-00002.parquet", images[4:], [3, 0])
    split = load(f"parquet:{tmp_path}/a")
    assert (split.name, split.num_classes) == ("parquet:a", 4)
    assert (split.labels.tolist(), split.source) == ([0, 1, 2, 1, 3, 0], "local parquet")
    expected = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    assert torch.equal(split.images, expected)
    assert load(f"parquet:{tmp_path}/a", classes=7).num_classes == 7
    assert "its train split needs train-*.parquet" in refused(f"parquet:{tmp_path}/a", "train")
    assert tuple(load(f"parquet:{tmp_path}/a", image_size=5).images.shape) == (6, 3, 5, 5)


def test_parquet_names_and_splits(tmp_path, load, refused):
    images = [pixels(channels=1) for _ in range(2)]
    make_parquet(tmp_path / "b" / "images.parquet", images, [0, 1], "labels", CLASSES)
    split = load(f"parquet:{tmp_path}/b")
    assert (split.class_names, split.num_classes) == (CLASSES, 4)
    (tmp_path / "order.txt").write_text("\n".join(reversed(CLASSES)))
    turned = load(f"parquet:{tmp_path}/b", classes=str(tmp_path / "order.txt"))
    assert (split.labels.tolist(), turned.labels.tolist()) == ([0, 1], [3, 2])
    make_parquet(tmp_path / "c" / "validation-0.parquet", images, [0, 4], "label", CLASSES)
    assert "row 1 has label 4" in refused(f"parquet:{tmp_path}/c")
    make_parquet(tmp_path / "d" / "test-0.parquet", images, [0, 1], "kind")
    assert "it needs an image column" in refused(f"parquet:{tmp_path}/d")
    make_parquet(tmp_path / "e" / "test-0.parquet", [images[0], pixels(9)], [0, 1])
    assert "row 1 of" in refused(f"parquet:{tmp_path}/e")
    (tmp_path / "f").mkdir()
    assert "holds no .parquet file" in refused(f"parquet:{tmp_path}/f")
    (tmp_path / "f" / "test-0.parquet").write_bytes(b"PAR1")
    assert "not a readable Parquet file" in refused(f"parquet:{tmp_path}/f")


X = RNG.integers(0, 256, (5, 3, 8, 6)).astype(np.uint8)
Y = np.array([0, 1, 2, 3, 1])


@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels"), ("x_test", "y_test")])
@pytest.mark.parametrize("last", [False, True])
def test_an_npz(tmp_path, load, keys, last):
    x = X.transpose(0, 2, 3, 1) if last else X
    np.savez_compressed(tmp_path / "own.npz", **{keys[0]: x, keys[1]: Y[:, None].astype(np.uint8)})
    split = load(f"npz:{tmp_path}/own.npz")
    assert (split.name, split.source, split.num_classes) == ("npz:own.npz", "npz file", 4)
    assert torch.equal(split.images, torch.from_numpy(X))
    assert split.labels.tolist() == Y.tolist()
    assert split.content_hash == content_hash(X, Y)
    assert load(f"npz:{tmp_path}/own.npz", classes="10").num_classes == 10


def test_floats_of_an_npz_stay_floats(tmp_path, load, refused):
    x = RNG.random((4, 9, 7))
    np.savez(tmp_path / "f.npz", x=x, y=Y[:4])
    split = load(f"npz:{tmp_path}/f.npz")
    assert (split.images.dtype, tuple(split.images.shape)) == (torch.float32, (4, 1, 9, 7))
    assert torch.equal(split.pixels([0, 1]), torch.from_numpy(x[:2, None].astype(np.float32)))
    np.savez(tmp_path / "g.npz", x=x * 255, y=Y[:4])
    assert "divide by 255" in refused(f"npz:{tmp_path}/g.npz")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": X}, "holds x; its test split needs arrays x_test and y_test or x and y"),
        ({"x": X, "y": Y[:4]}, "5 images but 4 labels"),
        ({"x": X.astype(np.int64), "y": Y}, "x is int64"),
        ({"x": X[0, 0], "y": Y}, r"x has shape \(8, 6\)"),
        ({"x": X[:, :, :, :3], "y": Y}, "channels first or last"),
        ({"x": X[:, :, :, :1], "y": Y}, "channels first or last"),
        ({"x": X, "y": Y - 1}, "label -1; labels count from 0"),
        ({"x": X, "y": np.eye(4)[Y]}, r"y is float64 \(5, 4\): of one-hot rows"),
        ({"x": X, "y": Y.astype(float)}, "need integers"),
        ({"x": X, "y": Y * 0}, "label 0 only"),
        ({"x": X, "y": Y.astype(object)}, "pickled objects"),
        ({"x": X.astype(object), "y": Y}, "pickled objects"),
        ({"x": X[:0], "y": Y[:0]}, "shape"),
    ],
)
def test_a_bad_npz_is_one_line(tmp_path, load, arrays, said):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=said):
        load(f"npz:{tmp_path}/bad.npz")


def test_labels_beyond_the_classes_are_refused(tmp_path, refused):
    np.savez(tmp_path / "own.npz", x=X, y=Y)
    said = refused(f"npz:{tmp_path}/own.npz", classes=3)
    assert "row 3 has label 3" in said
    assert "--image-size does not change" in refused(f"npz:{tmp_path}/own.npz", image_size=4)
    assert "its train split needs" in refused(f"npz:{tmp_path}/own.npz", "train")


def test_files_that_are_no_npz(tmp_path, refused, monkeypatch):
    np.save(tmp_path / "one.npy", X)
    assert "is no .npz" in refused(f"npz:{tmp_path}/one.npy")
    np.savez(tmp_path / "own.npz", x=X, y=Y)
    data = bytearray((tmp_path / "own.npz").read_bytes())
    data[400] ^= 255
    (tmp_path / "own.npz").write_bytes(bytes(data))
    assert "is the file whole?" in refused(f"npz:{tmp_path}/own.npz")
    monkeypatch.setattr("robustbench_lite.datasets.readers.npz._LARGE", 1 << 16)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../x.npy", b"\0" * (1 << 20))
    assert "../x.npy unpacks from" in refused(f"npz:{tmp_path}/bomb.npz")
    assert not (tmp_path.parent / "x.npy").exists()


@pytest.mark.parametrize("text", ["", "0", "-3", "8x", "8x8x8", "1e3", "5000", "a"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match="--image-size"):
        parse_size(text)


def test_class_files_that_are_none(tmp_path):
    assert read_classes("3") == ("0", "1", "2")
    (tmp_path / "c.txt").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="names 'a' twice"):
        read_classes(str(tmp_path / "c.txt"))
    with pytest.raises(InputError, match="cannot be read"):
        read_classes(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="at least 2"):
        read_classes("1")


def test_registered_sets_have_their_own_size(refused):
    assert "digits has a size and classes already" in refused("digits", image_size=8)


def test_what_a_factory_may_give():
    split = own_split((torch.from_numpy(X), torch.from_numpy(Y)), "own.py:make", "test", None)
    assert isinstance(split, Split)
    assert (split.name, split.num_classes) == ("own.py:make", 4)
    assert own_split(split, "own.py:make", "test", None).content_hash == split.content_hash
    claim = Split("svhn", "test", split.images, split.labels, 10, source="official archive")
    assert claim.canonical is True
    assert own_split(claim, "own.py:make", "test", None).canonical is None
    with pytest.raises(InputError, match="gives a int; it must give a pair"):
        own_split(3, "own.py:make", "test", None)
    rows = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    for made in (rows, DataLoader(rows, batch_size=3), [*DataLoader(rows, batch_size=3)]):
        found = own_split(made, "own.py:make", "test", None)
        assert (found.content_hash, found.source) == (split.content_hash, "in memory")
    with pytest.raises(InputError, match="own.py:make: a dict is no pair"):
        own_split({"images": X}, "own.py:make", "test", None)


def test_batches_of_a_loader_have_their_channels_first():
    rows = TensorDataset(torch.rand(4, 5, 7, 3), torch.arange(4))  # an array would be 7 x 5 x 3
    assert own_split(rows, "own.py:make", "test", None).images.shape == (4, 5, 7, 3)


def test_every_path_is_shown_by_its_name_alone(tmp_path, load):
    np.savez(tmp_path / "own.npz", x=X, y=Y)
    assert load(f"npz:{Path(tmp_path)}/./own.npz").name == "npz:own.npz"


def test_a_split_of_a_factory_is_hashed_and_checked_whatever_it_says():
    images, labels = torch.from_numpy(X), torch.from_numpy(Y)
    claimed = Split("cifar10", "test", images, labels, 10, whole_hash="sha256:of-others")
    assert own_split(claimed, "mine", "test", None).content_hash == content_hash(X, Y)
    wrong = Split("mine", "test", images, labels + 9, 10, is_subset=True)
    with pytest.raises(InputError, match="has label 10, but there are 10 classes"):
        own_split(wrong, "mine", "test", None)
