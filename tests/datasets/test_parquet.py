"""Local folders in the Hugging Face Parquet layout, and the decoded cache."""

import io
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import dataset_info, load_split
from robustbench_lite.datasets.readers import parquet as parquet_module

TINY = dataset_info("tiny_imagenet")


def random_images(n, name, seed=0):
    info = dataset_info(name)
    shape = (n, info.channels, *info.image_size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image, form="PNG"):
    """One uint8 (C, H, W) array as the bytes of an image file."""
    buffer = io.BytesIO()
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write_shard(
    path, encoded, labels, image_column="image", label_column="label", names=None, drop=()
):
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.array([{"bytes": data, "path": None} for data in encoded])
    columns = {image_column: struct, label_column: pa.array(labels)}
    table = pa.table({name: column for name, column in columns.items() if name not in drop})
    if names is not None:
        features = {label_column: {"names": list(names), "_type": "ClassLabel"}}
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, path)


@pytest.fixture
def load(tmp_path):
    """`load(name, split)` from tmp_path/data with a cache of its own."""

    def from_folder(name, split, folder="data", cache="cache"):
        return load_split(name, split, data_dir=tmp_path / folder, cache_dir=tmp_path / cache)

    return from_folder


@pytest.fixture
def mnist(tmp_path):
    """A tiny MNIST test split on disk: (shard, images, labels)."""
    images = random_images(5, "mnist")
    shard = tmp_path / "data" / "mnist" / "test-00000-of-00001.parquet"
    write_shard(shard, [encode(image) for image in images], [3, 1, 4, 1, 5])
    return shard, images, [3, 1, 4, 1, 5]


@pytest.mark.parametrize(
    ("name", "image_column", "label_column"),
    [
        ("mnist", "image", "label"),
        ("cifar10", "img", "label"),
        ("cifar100", "img", "fine_label"),
        ("svhn", "image", "label"),
        ("fashion_mnist", "image", "label"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_pixels_and_labels_come_back_exactly(
    tmp_path, load, name, split, image_column, label_column
):
    images = random_images(6, name)
    labels = [5, 0, 9, 1, 1, 7]
    write_shard(
        tmp_path / "data" / "deep" / f"{split}-00000-of-00001.parquet",
        [encode(image) for image in images],
        labels,
        image_column,
        label_column,
    )
    loaded = load(name, split)
    assert np.array_equal(loaded.images.numpy(), images)
    assert loaded.images.dtype == torch.uint8
    assert loaded.labels.tolist() == labels
    assert (loaded.name, loaded.split, loaded.source) == (name, split, "local parquet")
    assert loaded.canonical is (False if name == "mnist" else None)


def test_cifar100_takes_fine_labels_where_coarse_ones_lie_beside(tmp_path, load):
    images = random_images(2, "cifar100")
    table = pa.table(
        {
            "img": pa.array([{"bytes": encode(image)} for image in images]),
            "coarse_label": [1, 2],
            "fine_label": [98, 99],
        }
    )
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "test-00000-of-00001.parquet")
    assert load("cifar100", "test").labels.tolist() == [98, 99]


def test_shards_are_read_in_natural_order(tmp_path, load):
    images = random_images(12, "mnist")
    for row in range(12):  # without padding, 10 sorts before 2 as text
        write_shard(
            tmp_path / "data" / f"train-{row}-of-12.parquet", [encode(images[row])], [row % 10]
        )
    loaded = load("mnist", "train")
    assert np.array_equal(loaded.images.numpy(), images)
    assert loaded.labels.tolist() == [row % 10 for row in range(12)]


def test_missing_shard_is_refused(tmp_path, load):
    images = random_images(2, "mnist")
    for row, number in enumerate((0, 2)):
        shard = tmp_path / "data" / f"train-0000{number}-of-00003.parquet"
        write_shard(shard, [encode(images[row])], [0])
    with pytest.raises(InputError, match=r"missing numbers: \[1\]"):
        load("mnist", "train")


def test_tiny_imagenet_uses_valid_as_test_and_repeats_grey(tmp_path, load):
    images = random_images(2, "tiny_imagenet")
    grey = images[1, :1]
    shard = tmp_path / "data" / "valid-00000-of-00001-70d52db3c749a935.parquet"
    write_shard(shard, [encode(images[0]), encode(grey)], [199, 0])
    loaded = load("tiny_imagenet", "test")
    assert np.array_equal(loaded.images[0].numpy(), images[0])
    assert np.array_equal(loaded.images[1].numpy(), np.repeat(grey, 3, axis=0))


def test_labels_follow_the_class_names_in_the_file(tmp_path, load):
    ours = dataset_info("cifar10").class_names
    theirs = tuple(reversed(ours))
    images = random_images(3, "cifar10")
    shard = tmp_path / "data" / "test-00000-of-00001.parquet"
    write_shard(shard, [encode(image) for image in images], [0, 3, 9], "img", names=theirs)
    loaded = load("cifar10", "test")
    assert [ours[label] for label in loaded.labels] == [theirs[label] for label in (0, 3, 9)]


def test_hub_numbering_of_tiny_imagenet_becomes_the_official_one(tmp_path, load):
    foreign = {ours: theirs for theirs, ours in TINY.class_aliases.items()}
    hub_names = sorted(foreign.get(name, name) for name in TINY.class_names)
    images = random_images(2, "tiny_imagenet")
    shard = tmp_path / "data" / "valid-00000-of-00001.parquet"
    write_shard(shard, [encode(image) for image in images], [11, 199], names=hub_names)
    labels = load("tiny_imagenet", "test").labels
    assert hub_names[11] == TINY.class_names[labels[0]] == "n01882714"
    assert int(labels[0]) == 12
    assert TINY.class_names[labels[1]] == TINY.class_aliases["n14991210"]


def test_classes_of_another_data_set_are_refused_but_spellings_are_not(tmp_path, load):
    image = encode(random_images(1, "cifar10")[0])
    shard = tmp_path / "data" / "test-00000-of-00001.parquet"
    names = list(dataset_info("cifar10").class_names)
    write_shard(shard, [image], [1], "img", names=["plane", "car", *names[2:]])
    assert load("cifar10", "test").labels.tolist() == [1]
    write_shard(shard, [image], [1], "img", names=["boat", *names[:9]])
    with pytest.raises(InputError, match=r"calls label 1 'airplane', which is label 0 of cifar10"):
        load("cifar10", "test")


def test_folder_that_names_the_data_set_is_chosen(tmp_path, load, mnist):
    _, images, _ = mnist
    cifar = tmp_path / "data" / "cifar10" / "test-00000-of-00001.parquet"
    write_shard(cifar, [encode(random_images(1, "cifar10")[0])], [7], "img")
    assert np.array_equal(load("mnist", "test").images.numpy(), images)
    assert load("cifar10", "test").labels.tolist() == [7]


def test_svhn_takes_cropped_digits_and_not_full_numbers(tmp_path, load):
    root = tmp_path / "data" / "svhn"
    image = encode(random_images(1, "svhn")[0])
    write_shard(root / "cropped_digits" / "test-00000-of-00001.parquet", [image], [4])
    write_shard(root / "full_numbers" / "test-00000-of-00001.parquet", [image], [5])
    assert load("svhn", "test").labels.tolist() == [4]


def test_two_folders_that_cannot_be_told_apart_are_refused(tmp_path, load):
    image = encode(random_images(1, "mnist")[0])
    for version in ("a", "b"):
        write_shard(tmp_path / "data" / version / "test-00000-of-00001.parquet", [image], [4])
    with pytest.raises(InputError, match=r"lies in 2 folders .*/a, .*/b; point --data-dir at"):
        load("mnist", "test")


# --- wrong input: one line that names the file, the value and what is allowed ---


def test_unknown_split_name(load):
    with pytest.raises(InputError, match=r"unknown split 'val'; available: train, test"):
        load_split("mnist", "val")


def test_data_dir_that_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        load_split("mnist", "test", data_dir=tmp_path / "nowhere", cache_dir=tmp_path)


def test_data_dir_for_the_embedded_digits(tmp_path):
    with pytest.raises(InputError, match="digits, which are embedded"):
        load_split("digits", "test", data_dir=tmp_path)


def test_cache_inside_data_dir_is_refused(tmp_path, load, mnist):
    for cache in ("data", "data/cache"):
        with pytest.raises(InputError, match="lies inside data_dir"):
            load("mnist", "test", cache=cache)


def test_empty_folder_and_folder_without_the_split(tmp_path, load):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"no test split of mnist .*it is empty.*t10k-images"):
        load("mnist", "test")
    shard = tmp_path / "data" / "test-00000-of-00001.parquet"
    write_shard(shard, [encode(random_images(1, "mnist")[0])], [0])
    with pytest.raises(InputError, match=r"it holds test-00000-of-00001.parquet.*train-\*.parquet"):
        load("mnist", "train")


def test_truncated_parquet_names_the_file(load, mnist):
    shard, _, _ = mnist
    data = shard.read_bytes()
    for size in (0, 3, len(data) // 2, len(data) - 1):
        shard.write_bytes(data[:size])
        message = rf"test-00000-of-00001.parquet \({size} bytes\) is not a readable Parquet file"
        with pytest.raises(InputError, match=message):
            load("mnist", "test")


def test_bit_rot_inside_a_parquet_file_is_an_input_error(load, mnist):
    shard, images, _ = mnist
    data = bytearray(shard.read_bytes())
    for position in range(8, len(data), 97):
        rotten = bytearray(data)
        rotten[position] ^= 0xFF
        shard.write_bytes(rotten)
        os.utime(shard, ns=(position, position))
        try:
            loaded = load("mnist", "test")
        except InputError:
            continue
        assert loaded.images.shape == images.shape  # a flipped label or unused byte: no crash


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"image_column": "picture"}, r"has columns picture, label; .*\(img or image\)"),
        ({"label_column": "fine_label"}, r"has columns image, fine_label; .*\(label\)"),
        ({"drop": ("label",)}, r"has columns image;"),
    ],
)
def test_wrong_columns_are_listed(load, mnist, extra, message):
    shard, images, labels = mnist
    write_shard(shard, [encode(image) for image in images], labels, **extra)
    with pytest.raises(InputError, match=message):
        load("mnist", "test")


def test_column_types_are_checked(load, mnist):
    shard, images, _ = mnist
    encoded = [encode(image) for image in images]
    pq.write_table(pa.table({"image": encoded, "label": [0] * 5}), shard)
    with pytest.raises(InputError, match="column image is binary, expected a struct"):
        load("mnist", "test")
    write_shard(shard, encoded, ["a"] * 5)
    with pytest.raises(InputError, match="column label is string, expected integers"):
        load("mnist", "test")
    write_shard(shard, encoded, [0, None, 0, 0, None])
    with pytest.raises(InputError, match="2 rows without label"):
        load("mnist", "test")


@pytest.mark.parametrize("bad", [10, -1])
def test_label_out_of_range_names_row_and_range(load, mnist, bad):
    shard, images, _ = mnist
    write_shard(shard, [encode(image) for image in images], [0, 0, bad, 0, bad])
    with pytest.raises(InputError, match=rf"row 2 has label {bad}, but mnist has labels 0 to 9"):
        load("mnist", "test")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not an image", "cannot be decoded as PNG or JPEG"),
        (b"", "cannot be decoded as PNG or JPEG"),
        (None, "row 3 of .* has no image bytes"),
        (encode(np.zeros((1, 28, 28), np.uint8), "GIF"), "cannot be decoded as PNG or JPEG"),
        (encode(random_images(1, "mnist")[0])[:400], "cannot be decoded as PNG or JPEG"),
        (
            encode(np.zeros((1, 32, 28), np.uint8)),
            r"is 32x28 \(height x width\), but mnist is 28x28",
        ),
        (encode(np.zeros((3, 28, 28), np.uint8)), "has mode RGB, but mnist is greyscale"),
    ],
    ids=["text", "empty", "null", "gif", "truncated", "size", "colour"],
)
def test_wrong_image_names_file_and_row(load, mnist, data, message):
    shard, images, labels = mnist
    encoded = [encode(image) for image in images]
    encoded[3] = data
    write_shard(shard, encoded, labels)
    with pytest.raises(InputError, match=message) as caught:
        load("mnist", "test")
    assert f"row 3 of {shard}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_grey_image_in_a_colour_set_is_refused(tmp_path, load):
    shard = tmp_path / "data" / "test-00000-of-00001.parquet"
    write_shard(shard, [encode(np.zeros((1, 32, 32), np.uint8))], [0], "img")
    with pytest.raises(InputError, match=r"has mode L, but cifar10 is colour \(mode RGB\)"):
        load("cifar10", "test")


def test_parquet_without_rows_is_refused(load, mnist):
    shard, _, _ = mnist
    kind = pa.struct([("bytes", pa.binary())])
    table = pa.table({"image": pa.array([], kind), "label": pa.array([], pa.int64())})
    pq.write_table(table, shard)
    with pytest.raises(InputError, match="holds no images"):
        load("mnist", "test")


# --- the decoded cache ---


def cached_files(tmp_path):
    return sorted((tmp_path / "cache" / "decoded").glob("*"))


@pytest.fixture
def decodings(monkeypatch):
    """Counts how often images are really decoded."""
    calls = []
    original = parquet_module.decode_images

    def counting(encoded, info, where):
        calls.append(len(encoded))
        return original(encoded, info, where)

    monkeypatch.setattr(parquet_module, "decode_images", counting)
    return calls


def test_images_are_decoded_once(tmp_path, load, mnist, decodings):
    first, second = load("mnist", "test"), load("mnist", "test")
    assert decodings == [5]
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.content_hash == second.content_hash == second.subset(range(5)).content_hash
    second.images.zero_()  # the memory is the caller's
    assert torch.equal(load("mnist", "test").images, first.images)
    assert [path.suffix for path in cached_files(tmp_path)] == [".npz"]


def test_changed_source_is_decoded_again(load, mnist, decodings):
    shard, images, labels = mnist
    before = load("mnist", "test")
    write_shard(shard, [encode(255 - image) for image in images], labels)
    after = load("mnist", "test")
    assert decodings == [5, 5]
    assert torch.equal(after.images, 255 - before.images)


def test_other_folder_with_equal_names_sizes_and_times_is_another_source(
    tmp_path, load, mnist, decodings
):
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    load("mnist", "test")
    load("mnist", "test", folder="copy")
    assert decodings == [5, 5]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text", "other"])
def test_damaged_cache_is_found_and_rebuilt(tmp_path, load, mnist, decodings, damage):
    expected = load("mnist", "test")
    (stored,) = cached_files(tmp_path)
    data = bytearray(stored.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2] ^= 1  # one bit of one pixel
    elif damage in ("empty", "text"):
        data = b"" if damage == "empty" else b"no zip"
    stored.write_bytes(data)
    if damage == "other":
        wrong = np.zeros((5, 3, 28, 28), np.uint8)
        np.savez(stored, images=wrong, labels=np.zeros(5, np.int64), content_hash=np.array("x"))
    for _ in range(2):
        loaded = load("mnist", "test")
        assert torch.equal(loaded.images, expected.images)
        assert loaded.content_hash == expected.content_hash
    assert decodings == [5, 5]


def test_pickle_in_the_cache_is_never_loaded(tmp_path, load, mnist, decodings):
    load("mnist", "test")
    (stored,) = cached_files(tmp_path)
    np.savez(stored, images=np.array([{}], dtype=object), labels=np.zeros(1, np.int64))
    assert len(load("mnist", "test")) == 5
    assert decodings == [5, 5]


def test_unwritable_cache_only_costs_time(tmp_path, load, mnist, decodings, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(load("mnist", "test")) == 5
    assert len(load("mnist", "test")) == 5
    assert decodings == [5, 5]
    assert "cannot keep decoded images" in caplog.text


def test_failed_write_leaves_no_temporary_file(tmp_path, load, mnist, monkeypatch):
    def full(*_args, **_arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load("mnist", "test")) == 5
    assert cached_files(tmp_path) == []


def test_data_dir_is_only_read(tmp_path, load, mnist):
    before = sorted(path for path in (tmp_path / "data").rglob("*"))
    load("mnist", "test")
    assert sorted(path for path in (tmp_path / "data").rglob("*")) == before


def test_environment_variable_names_the_cache(tmp_path, monkeypatch, mnist):
    monkeypatch.setenv("ROBUSTBENCH_LITE_CACHE", str(tmp_path / "cache"))
    load_split("mnist", "test", data_dir=tmp_path / "data")
    assert len(cached_files(tmp_path)) == 1
