"""Readers of the further sets, on small files of the official form."""

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import dataset_info, load_split
from robustbench_lite.datasets import loading as loading_module
from robustbench_lite.datasets.sets import cifar_corrupted
from robustbench_lite.datasets.sets.cifar_corrupted import CORRUPTIONS

RNG = np.random.default_rng(0)


def random_bytes(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def tar(members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def picture(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load a split from official files with these contents, their hashes pinned where they were."""

    def loaded(name, split, *contents):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        info = dataset_info(name)
        pinned = []
        for archive, data in zip(info.archives[split], contents, strict=True):
            (folder / archive.file_name).write_bytes(data)
            known = f"sha256:{hashlib.sha256(data).hexdigest()}" if archive.known_hash else ""
            pinned.append(replace(archive, known_hash=known, size=len(data)))
        changed = replace(info, archives={split: tuple(pinned)})
        with monkeypatch.context() as patch:
            patch.setattr(loading_module, "dataset_info", lambda _: changed)
            return load_split(name, split, data_dir=folder, cache_dir=tmp_path / "cache")

    return loaded


def corrupted(folder, x, y, **more):
    names = {f"{folder}/fog.npy": npy(x), f"{folder}/labels.npy": npy(y), **more}
    return tar({f"{folder}/snow.npy": npy(x[::-1]), **names}, "w:")


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar10c", "CIFAR-10-C"), ("cifar100c", "CIFAR-100-C")]
)
def test_a_corruption_at_a_severity(read, monkeypatch, name, folder):
    monkeypatch.setattr(cifar_corrupted, "_IMAGES", 4)
    x, y = random_bytes(20, 32, 32, 3), np.arange(20, dtype=np.uint8) % 10
    split = read(f"{name}:fog:3", "test", corrupted(folder, x, y))
    assert (split.name, split.source, len(split)) == (f"{name}:fog:3", "official archive", 4)
    assert np.array_equal(split.images.numpy(), x[8:12].transpose(0, 3, 1, 2))
    assert split.labels.tolist() == y[8:12].tolist()
    assert split.canonical is True
    assert split.facts.mean == dataset_info(name.removesuffix("c")).mean


def test_damaged_corruptions(read, monkeypatch):
    monkeypatch.setattr(cifar_corrupted, "_IMAGES", 4)
    x, y = random_bytes(20, 32, 32, 3), np.arange(20, dtype=np.uint8) % 10
    with pytest.raises(InputError, match="cannot be read as the official file"):
        read("cifar10c:frost:1", "test", corrupted("CIFAR-10-C", x, y))
    with pytest.raises(InputError, match=r"fog\.npy holds uint8 \(12, 32, 32, 3\)"):
        read("cifar10c:fog:5", "test", corrupted("CIFAR-10-C", x[:12], y))
    pickled = corrupted("CIFAR-10-C", np.full((20, 1), None), y)
    with pytest.raises(InputError, match="cannot be read as the official file"):
        read("cifar10c:fog:1", "test", pickled)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar10c", "needs a corruption and a severity"),
        ("cifar10c:fig:1", "did you mean fog"),
        ("cifar10c:fog", "severity is 1 to 5"),
        ("cifar10c:fog:0", "severity is 1 to 5"),
        ("cifar10c:fog:12", "severity is 1 to 5"),
        ("medmnist", "one of pathmnist"),
        ("medmnist:pathmist", "did you mean pathmnist"),
        ("mnist:3", "has no variants"),
        ("nothing:3", "unknown data source 'nothing'"),
    ],
)
def test_variants_that_are_none(name, said):
    with pytest.raises(InputError, match=said):
        dataset_info(name)


def test_there_are_fifteen_and_four_corruptions():
    assert len(set(CORRUPTIONS)) == 19
    with pytest.raises(InputError, match="has no train split; it has test"):
        load_split("cifar10c:fog:1", "train")


def test_stl10_is_stored_by_columns_with_labels_from_one(read):
    x, y = random_bytes(3, 3, 96, 96), np.array([1, 10, 4], np.uint8)
    members = {
        "stl10_binary/unlabeled_X.bin": b"0" * 100,
        "stl10_binary/test_X.bin": x.transpose(0, 1, 3, 2).tobytes(),
        "stl10_binary/test_y.bin": y.tobytes(),
    }
    split = read("stl10", "test", tar(members))
    assert np.array_equal(split.images.numpy(), x)
    assert split.labels.tolist() == [0, 9, 3]
    members.pop("stl10_binary/test_y.bin")
    with pytest.raises(InputError, match="it has no stl10_binary/test_y"):
        read("stl10", "test", tar(members))


def test_imagenette_is_cropped_as_imagenet(read):
    folder, pixels = "imagenette2-320", random_bytes(320, 400, 3)
    grey = random_bytes(330, 320)
    members = {
        f"{folder}/val/n03888257/b.JPEG": picture(pixels, "JPEG"),
        f"{folder}/val/n01440764/a.JPEG": picture(grey, "JPEG"),
        f"{folder}/train/n01440764/c.JPEG": picture(pixels, "JPEG"),
        f"{folder}/../../etc/n01440764/d.JPEG": b"passed over",
    }
    split = read("imagenette", "test", tar(members))
    assert tuple(split.images.shape) == (2, 3, 224, 224)
    assert split.labels.tolist() == [0, 9]
    with Image.open(io.BytesIO(members[f"{folder}/val/n03888257/b.JPEG"])) as image:
        small = image.resize((320, 256), Image.Resampling.BILINEAR)
        expected = np.asarray(small.crop((48, 16, 272, 240)))
    assert np.array_equal(split.images[1].permute(1, 2, 0).numpy(), expected)
    del members[f"{folder}/train/n01440764/c.JPEG"]
    with pytest.raises(InputError, match="it has no images in train"):
        read("imagenette", "train", tar(members))


def test_gtsrb_is_resized(read):
    images = [random_bytes(32, 32, 3), random_bytes(40, 50, 3)]
    names = [f"GTSRB/Final_Test/Images/0000{i}.ppm" for i in (0, 1)]
    data = zipped({name: picture(x, "PPM") for name, x in zip(names, images, strict=True)})
    truth = zipped(
        {"GT-final_test.csv": "Filename;Width;ClassId\n00001.ppm;50;7\n00000.ppm;32;42\n"}
    )
    split = read("gtsrb", "test", data, truth)
    assert (split.source, split.canonical) == ("local files", None)
    assert split.labels.tolist() == [42, 7]
    assert np.array_equal(split.images[0].permute(1, 2, 0).numpy(), images[0])
    train = {"GTSRB/Final_Training/Images/00013/00000_00001.ppm": picture(images[1], "PPM")}
    assert read("gtsrb", "train", zipped(train)).labels.tolist() == [13]
    with pytest.raises(InputError, match="cannot be read as the official file"):
        read("gtsrb", "test", zipped({}), truth)


def test_a_medmnist_file(read):
    x, y = random_bytes(4, 28, 28, 3), np.array([[0], [8], [3], [1]], np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, test_images=x, test_labels=y, train_images=x[:1], train_labels=y[:1])
    split = read("medmnist:pathmnist", "test", buffer.getvalue())
    assert (split.name, split.num_classes) == ("medmnist:pathmnist", 9)
    assert np.array_equal(split.images.numpy(), x.transpose(0, 3, 1, 2))
    assert split.labels.tolist() == [0, 8, 3, 1]
    with pytest.raises(InputError, match="medmnist:bloodmnist has labels 0 to 7"):
        read("medmnist:bloodmnist", "test", buffer.getvalue())


@pytest.mark.parametrize("name", ["gtsrb", "imagenet", "medmnist:pathmnist"])
def test_sets_without_a_published_hash_are_never_downloaded(name):
    with pytest.raises(InputError, match=r"is not downloaded.*--data-dir"):
        load_split(name, "test")


def test_imagenet_of_a_folder(tmp_path, monkeypatch):
    info = replace(dataset_info("imagenet"), num_classes=3, class_names=("0", "1", "2"))
    monkeypatch.setattr(loading_module, "dataset_info", lambda _: info)
    for place, name in enumerate(("n01", "n02", "n03")):
        folder = tmp_path / "imagenet" / "val" / name
        folder.mkdir(parents=True)
        image = Image.fromarray(random_bytes(230, 260, 4 if place else 3)[..., :3])
        image.convert("CMYK" if place == 2 else "RGB").save(folder / "a.JPEG")
    where = {"data_dir": tmp_path / "imagenet", "cache_dir": tmp_path / "cache"}
    split = load_split("imagenet", "test", **where)
    assert (split.source, split.labels.tolist()) == ("class folders", [0, 1, 2])
    assert tuple(split.images.shape) == (3, 3, 224, 224)
    (tmp_path / "imagenet" / "val" / "n02" / "a.JPEG").unlink()
    (tmp_path / "imagenet" / "val" / "n02").rmdir()
    with pytest.raises(InputError, match="has 2 class folders, imagenet has 3"):
        load_split("imagenet", "test", **where)


def test_parquet_of_the_clean_images_is_never_taken_for_corrupted_ones(tmp_path):
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"whatever")
    with pytest.raises(InputError, match="no test split of cifar10c:fog:1"):
        load_split("cifar10c:fog:1", "test", data_dir=tmp_path, cache_dir=tmp_path.parent / "c")
