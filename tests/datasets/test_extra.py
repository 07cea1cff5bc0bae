"""Extra training images: mapped from the disk, checked, never in memory as a whole."""

import logging
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split, load_split
from robustbench_lite.datasets.arrays import content_hash
from robustbench_lite.datasets.extra import load_extra

LABELS = np.arange(30) % 10


def cifar_like(dtype=torch.uint8):
    images = torch.zeros(20, 3, 32, 32, dtype=dtype)
    return Split("cifar10", "train", images, torch.arange(20) % 10, 10)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)


def opened(folder, like=None, **options):
    return load_extra(
        str(folder / "e.npz"), like or cifar_like(), cache_dir=folder / "c", **options
    )


def refused(folder, like=None):
    with pytest.raises(InputError) as caught:
        opened(folder, like)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300 + len(str(folder))
    return str(caught.value)


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("image", "label"), ("images", "labels"), ("x", "y")])
def test_rows_are_those_of_the_file(tmp_path, images, save, names):
    save(tmp_path / "e.npz", **{names[0]: images, names[1]: LABELS.astype(np.int32)})
    extra = opened(tmp_path)
    expected = images.transpose(0, 3, 1, 2)
    assert [is_mapped(part) for part in extra.parts] == [True]
    assert len(extra) == 30
    x, y = extra.rows(torch.tensor([29, 0, 0, 7]))
    assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(x.numpy(), expected[[29, 0, 0, 7]])
    assert y.tolist() == [9, 0, 0, 7]
    assert extra.content_hash == content_hash(np.ascontiguousarray(expected), LABELS)


def test_several_parts_are_as_one_file(tmp_path, images):
    np.savez(tmp_path / "e.npz", image=images, label=LABELS)
    for number, rows in (("1", slice(0, 4)), ("2", slice(4, 25)), ("10", slice(25, 30))):
        save = np.savez_compressed if number == "2" else np.savez
        save(tmp_path / f"part{number}.npz", image=images[rows], label=LABELS[rows])
    whole, parts = (
        load_extra(str(tmp_path / name), cifar_like(), cache_dir=tmp_path / "c")
        for name in ("e.npz", "part*.npz")
    )
    assert [len(part) for part in parts.parts] == [4, 21, 5]
    assert parts.content_hash == whole.content_hash
    rows = torch.tensor([29, 3, 4, 24, 25, 0, 3])
    for mine, theirs in zip(parts.rows(rows), whole.rows(rows), strict=True):
        assert torch.equal(mine, theirs)


def test_channels_may_come_first_and_memory_may_be_in_fortrans_order(tmp_path, images):
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    hashes = set()
    for stored in (images, first, np.asfortranarray(images)):
        np.savez(tmp_path / "e.npz", image=stored, label=LABELS)
        hashes.add(opened(tmp_path).content_hash)
    assert len(hashes) == 1
    digits = load_split("digits", "train")
    np.savez(tmp_path / "e.npz", image=digits.images[:, 0].numpy(), label=digits.labels.numpy())
    assert opened(tmp_path, digits).content_hash == digits.content_hash


def test_a_compressed_array_is_unpacked_once_and_again_where_it_is_damaged(
    tmp_path, images, caplog
):
    np.savez_compressed(tmp_path / "e.npz", image=images, label=LABELS)
    caplog.set_level(logging.WARNING)
    first = opened(tmp_path)
    (unpacked,) = (tmp_path / "c" / "unpacked").iterdir()
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/e.npz is compressed: unpacking image once to {unpacked} (0 MB)"
    ]
    assert opened(tmp_path).content_hash == first.content_hash
    assert len(caplog.records) == 1
    data = bytearray(unpacked.read_bytes())
    data[-1] ^= 1
    unpacked.write_bytes(bytes(data))
    assert opened(tmp_path).content_hash == first.content_hash
    assert len(caplog.records) == 2
    np.savez_compressed(tmp_path / "e.npz", image=images[:20], label=LABELS[:20])
    assert len(opened(tmp_path)) == 20, "another file of that name is unpacked by itself"


def test_a_stored_array_is_mapped_where_it_lies(tmp_path, images):
    np.savez(tmp_path / "e.npz", label=LABELS, image=images)
    opened(tmp_path)
    assert not (tmp_path / "c").exists()


def test_the_images_are_never_in_memory_as_a_whole(tmp_path):
    pixels = np.zeros((300_000, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "e.npz", image=pixels, label=np.zeros(len(pixels), dtype=np.uint8))
    size, digits = pixels.nbytes, load_split("digits", "train")
    assert digits.facts
    del pixels
    for save in ("stored", "compressed"):
        if save == "compressed":
            with np.load(tmp_path / "e.npz") as stored:
                np.savez_compressed(tmp_path / "e.npz", **dict(stored))
        tracemalloc.start()
        extra = opened(tmp_path, digits)
        extra.rows(torch.arange(0, 300_000, 1000))
        # Labels need 8 bytes an image, and reading goes on in blocks.
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size == 19_200_000
        assert peak < size / 2, save


def test_wrong_files_are_one_line(tmp_path, images):
    assert "no such file" in refused(tmp_path)
    for name in (".", "..", "/", "*", "no*.npz", str(tmp_path)):
        with pytest.raises(InputError, match="no such file"):
            load_extra(str(tmp_path / "empty" / name), cifar_like(), cache_dir=tmp_path)
    for arrays, message in (
        ({"image": images}, "holds image; it needs arrays image and label"),
        ({"image": images / 255.0, "label": LABELS}, "image is float64; need uint8"),
        ({"image": images, "label": LABELS[:-1]}, "30 images but 29 labels"),
        ({"image": images, "label": LABELS + 1}, "row 9 has label 10"),
        ({"image": images, "label": LABELS - 1}, "row 0 has label -1"),
        ({"image": images, "label": np.eye(10)[LABELS]}, "argmax"),
        ({"image": images[:, :28], "label": LABELS}, "but cifar10 has (3, 32, 32)"),
        ({"image": images[..., 0], "label": LABELS}, "but cifar10 has (3, 32, 32)"),
        ({"image": images[:0], "label": LABELS[:0]}, "e.npz"),
        ({"image": np.array([None, {}]), "label": LABELS[:2]}, "pickled"),
    ):
        np.savez(tmp_path / "e.npz", **arrays)
        assert message in refused(tmp_path), message
    np.savez(tmp_path / "e.npz", image=images, label=LABELS)
    assert "are float32" in refused(tmp_path, cifar_like(torch.float32))
    (tmp_path / "e.npz").write_bytes(b"no zip")
    assert "is no .npz" in refused(tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_file_is_one_line(tmp_path, images, save):
    save(tmp_path / "e.npz", image=images, label=LABELS)
    whole = (tmp_path / "e.npz").read_bytes()
    (tmp_path / "e.npz").write_bytes(whole[:-200])
    assert "is no .npz" in refused(tmp_path)
    data = bytearray(whole)
    data[5000] ^= 1
    (tmp_path / "e.npz").write_bytes(bytes(data))
    assert "is the file whole?" in refused(tmp_path)
    assert not list((tmp_path / "c").rglob("*.npy")), "nothing damaged is kept"


def test_a_header_that_promises_more_than_there_is_is_one_line(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((10, 32, 32, 3), dtype=np.uint8))
    header = (tmp_path / "a.npy").read_bytes().replace(b"(10, ", b"(99, ")
    np.save(tmp_path / "b.npy", LABELS)
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("image.npy", header)
        archive.write(tmp_path / "b.npy", "label.npy")
    assert "has another size than" in refused(tmp_path)
