"""Official archives: IDX, CIFAR binary, SVHN .mat, Tiny ImageNet zip, from a local folder."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import dataset_info, load_split
from robustbench_lite.datasets import loading as loading_module
from robustbench_lite.datasets.readers.archives import Archive
from robustbench_lite.datasets.sets.cifar import read_cifar

RNG = np.random.default_rng(0)


def idx(array):
    header = struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def tar_gz(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def cifar_records(images, *label_bytes):
    rows = [np.array(column, np.uint8)[:, None] for column in label_bytes]
    return np.concatenate([*rows, images.reshape(len(images), -1)], axis=1).tobytes()


def cifar10_members(images, labels):
    """Five training batches of two images and a test batch of two, of 12 images."""
    members = {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}
    for i in range(5):
        rows = slice(2 * i, 2 * i + 2)
        name = f"cifar-10-batches-bin/data_batch_{i + 1}.bin"
        members[name] = cifar_records(images[rows], labels[rows])
    members["cifar-10-batches-bin/test_batch.bin"] = cifar_records(images[10:], labels[10:])
    return members


def images_of(n, name):
    info = dataset_info(name)
    return RNG.integers(0, 256, (n, info.channels, *info.image_size), dtype=np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Write official files into tmp_path/data and pin the hashes of what was written."""

    def write(name, split, contents):
        folder = tmp_path / "data" / "sub"
        folder.mkdir(parents=True, exist_ok=True)
        pinned = []
        for archive, data in zip(dataset_info(name).archives[split], contents, strict=True):
            (folder / archive.file_name).write_bytes(data)
            sha256 = f"sha256:{hashlib.sha256(data).hexdigest()}"
            pinned.append(Archive(archive.file_name, archive.urls, sha256, len(data)))
        info = replace(dataset_info(name), archives={split: tuple(pinned)})
        monkeypatch.setattr(loading_module, "dataset_info", lambda _: info)
        return folder

    return write


@pytest.fixture
def load(tmp_path):
    def from_folder(name, split):
        return load_split(name, split, data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")

    return from_folder


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_pair_is_read(place, load, name, split):
    images = images_of(4, name)
    place(name, split, [idx(images[:, 0]), idx(np.array([9, 0, 3, 3]))])
    loaded = load(name, split)
    assert np.array_equal(loaded.images.numpy(), images)
    assert loaded.labels.tolist() == [9, 0, 3, 3]
    assert loaded.source == "official archive"
    assert loaded.canonical is True


def test_cifar10_binary_is_read_in_batch_order(place, load):
    images, labels = images_of(12, "cifar10"), np.arange(12) % 10
    members = cifar10_members(images, labels)
    shuffled = dict(
        reversed(list(members.items()))
    )  # order inside the tar is not the order of rows
    for split, rows in (("train", slice(0, 10)), ("test", slice(10, 12))):
        place("cifar10", split, [tar_gz(shuffled)])
        loaded = load("cifar10", split)
        assert np.array_equal(loaded.images.numpy(), images[rows])
        assert loaded.labels.tolist() == labels[rows].tolist()


def test_cifar100_labels_are_the_fine_ones(place, load):
    images = images_of(3, "cifar100")
    data = tar_gz({"cifar-100-binary/test.bin": cifar_records(images, [1, 2, 3], [99, 50, 0])})
    place("cifar100", "test", [data])
    loaded = load("cifar100", "test")
    assert np.array_equal(loaded.images.numpy(), images)
    assert loaded.labels.tolist() == [99, 50, 0]


def test_svhn_label_ten_is_the_digit_zero(place, load):
    images = images_of(3, "svhn")
    buffer = io.BytesIO()
    columns = {"X": images.transpose(2, 3, 1, 0), "y": np.array([[10], [1], [9]], np.uint8)}
    savemat(buffer, columns, do_compression=True)
    place("svhn", "test", [buffer.getvalue()])
    loaded = load("svhn", "test")
    assert np.array_equal(loaded.images.numpy(), images)
    assert loaded.labels.tolist() == [0, 1, 9]


def tiny_image(value, mode="RGB"):
    """A 64x64 JPEG of one grey level, which JPEG keeps exactly."""
    buffer = io.BytesIO()
    colour = value if mode == "L" else (value,) * 3
    Image.new(mode, (64, 64), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def tiny_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tiny_members():
    names = dataset_info("tiny_imagenet").class_names
    first, last = names[0], names[-1]
    root = "tiny-imagenet-200"
    return {
        f"{root}/wnids.txt": b"",
        f"{root}/train/{last}/images/{last}_3.JPEG": tiny_image(40),
        f"{root}/train/{first}/images/{first}_10.JPEG": tiny_image(30),
        f"{root}/train/{first}/images/{first}_2.JPEG": tiny_image(20, "L"),
        f"{root}/train/{first}/{first}_boxes.txt": b"",
        f"{root}/val/images/val_10.JPEG": tiny_image(60),
        f"{root}/val/images/val_9.JPEG": tiny_image(50),
        f"{root}/val/val_annotations.txt": (
            f"val_9.JPEG\t{last}\t0\t0\t1\t1\nval_10.JPEG\t{first}\t0\t0\t1\t1\n".encode()
        ),
        f"{root}/test/images/test_0.JPEG": tiny_image(99),
    }


def test_tiny_imagenet_train_is_ordered_by_class_and_number(place, load):
    place("tiny_imagenet", "train", [tiny_zip(tiny_members())])
    loaded = load("tiny_imagenet", "train")
    assert loaded.labels.tolist() == [0, 0, 199]
    assert [int(image.unique().item()) for image in loaded.images] == [20, 30, 40]


def test_tiny_imagenet_test_is_its_annotated_validation_set(place, load):
    place("tiny_imagenet", "test", [tiny_zip(tiny_members())])
    loaded = load("tiny_imagenet", "test")
    assert loaded.labels.tolist() == [199, 0]
    assert [int(image.unique().item()) for image in loaded.images] == [50, 60]


# --- what is refused ---


def test_file_with_another_hash_is_left_alone_and_not_read(place, load, tmp_path):
    images = images_of(2, "mnist")
    folder = place("mnist", "test", [idx(images[:, 0]), idx(np.array([0, 1]))])
    file = folder / "t10k-images-idx3-ubyte.gz"
    pinned = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(idx(255 - images[:, 0]))
    got = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(InputError) as caught:
        load("mnist", "test")
    for part in (str(file), pinned, got, "left as it is", "https://"):
        assert part in str(caught.value)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == got


def test_of_equal_names_the_file_with_the_pinned_hash_is_read(place, load, tmp_path):
    images = images_of(2, "fashion_mnist")
    place("fashion_mnist", "test", [idx(images[:, 0]), idx(np.array([0, 1]))])
    for folder in ("aaa", "zzz"):  # MNIST's files beside, found before and after
        (tmp_path / "data" / folder).mkdir()
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / "data" / folder / f"t10k-{kind}-ubyte.gz").write_bytes(b"other")
    assert np.array_equal(load("fashion_mnist", "test").images.numpy(), images)


def test_half_of_a_pair_names_the_missing_file(place, load):
    folder = place("mnist", "test", [idx(images_of(1, "mnist")[:, 0]), idx(np.array([0]))])
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"the official t10k-labels-idx1-ubyte.gz") as caught:
        load("mnist", "test")
    assert "official t10k-images" not in str(caught.value)


def good_contents(name):
    if name == "mnist":
        return [idx(images_of(2, "mnist")[:, 0]), idx(np.array([1, 2]))]
    if name == "cifar10":
        return [tar_gz(cifar10_members(images_of(12, "cifar10"), np.arange(12) % 10))]
    if name == "svhn":
        buffer = io.BytesIO()
        savemat(buffer, {"X": images_of(2, "svhn").transpose(2, 3, 1, 0), "y": [[1], [2]]})
        return [buffer.getvalue()]
    return [tiny_zip(tiny_members())]


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn", "tiny_imagenet"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_archive_is_an_input_error_that_names_it(place, load, name, share):
    contents = good_contents(name)
    contents[0] = contents[0][: int(len(contents[0]) * share)]
    place(name, "train", contents)
    file_name = dataset_info(name).archives["train"][0].file_name
    with pytest.raises(InputError, match=rf"{file_name} cannot be read"):
        load(name, "train")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            [gzip.compress(b"\x00\x00\x0d\x03" + bytes(12)), idx(np.zeros(1))],
            "expected an IDX file",
        ),
        ([gzip.compress(b"\x00\x00\x08\x03\x00"), idx(np.zeros(1))], "header ends after 5 of 16"),
        (
            [gzip.compress(b"\x00\x00\x08\x03" + b"\x00\x00\x00\x01" * 3), idx(np.zeros(1))],
            "0 bytes",
        ),
        ([idx(np.zeros((2, 28, 28))), idx(np.zeros(3))], "2 images but 3 labels"),
        (
            [idx(np.zeros((2, 28, 27))), idx(np.zeros(2))],
            r"\(1, 28, 27\), but mnist has \(1, 28, 28\)",
        ),
        ([idx(np.zeros((2, 28, 28))), idx(np.array([0, 11]))], "row 1 has label 11"),
    ],
)
def test_malformed_idx_is_refused(place, load, contents, message):
    place("mnist", "train", contents)
    with pytest.raises(InputError, match=message):
        load("mnist", "train")


def test_cifar_members_must_be_whole_and_there(place, load):
    members = cifar10_members(images_of(12, "cifar10"), np.arange(12) % 10)
    cut = members | {"cifar-10-batches-bin/data_batch_2.bin": b"x" * 3072}
    place("cifar10", "train", [tar_gz(cut)])
    with pytest.raises(
        InputError, match=r"data_batch_2.bin has 3072 bytes, not a multiple of 3073"
    ):
        load("cifar10", "train")
    del members["cifar-10-batches-bin/data_batch_4.bin"]
    place("cifar10", "train", [tar_gz(members)])
    with pytest.raises(InputError, match=r"no member cifar-10-batches-bin/data_batch_4.bin"):
        load("cifar10", "train")


def test_hostile_member_names_and_links_write_nothing(tmp_path):
    images = images_of(12, "cifar10")
    members = cifar10_members(images, np.arange(12) % 10)
    evil = {"../../evil.bin": b"x", "/tmp/evil.bin": b"x"} | members
    file = tmp_path / "a" / "b" / "cifar-10-binary.tar.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(tar_gz(evil))
    arrays = read_cifar([file], dataset_info("cifar10"), "test")
    assert np.array_equal(arrays.images, images[10:])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]

    with tarfile.open(file, "w:gz") as archive:  # the expected name, but a link to another file
        link = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError, match="no member"):
        read_cifar([file], dataset_info("cifar10"), "test")


def test_svhn_without_its_arrays_is_refused(place, load):
    buffer = io.BytesIO()
    savemat(buffer, {"y": [[1]]})
    place("svhn", "test", [buffer.getvalue()])
    with pytest.raises(InputError, match="no arrays X and y"):
        load("svhn", "test")
    buffer = io.BytesIO()
    savemat(buffer, {"X": np.zeros((32, 32, 3, 1)), "y": [[1]]})
    place("svhn", "test", [buffer.getvalue()])
    with pytest.raises(InputError, match="X is float64"):
        load("svhn", "test")


def test_tiny_imagenet_foreign_content_is_refused(place, load):
    members = tiny_members()
    annotations = "tiny-imagenet-200/val/val_annotations.txt"
    cases = {
        "no label for val_10.JPEG": {annotations: b"val_9.JPEG\tn01443537\t0\n"},
        "'n99999999' is not one of the 200": {
            annotations: b"val_9.JPEG\tn99999999\nval_10.JPEG\tn99999999\n"
        },
        "val_9.JPEG in .* cannot be decoded": {"tiny-imagenet-200/val/images/val_9.JPEG": b"no"},
    }
    for message, change in cases.items():
        place("tiny_imagenet", "test", [tiny_zip(members | change)])
        with pytest.raises(InputError, match=message):
            load("tiny_imagenet", "test")
    del members[annotations]
    place("tiny_imagenet", "test", [tiny_zip(members)])
    with pytest.raises(InputError, match=r"cannot be read as the official.*val_annotations.txt"):
        load("tiny_imagenet", "test")
