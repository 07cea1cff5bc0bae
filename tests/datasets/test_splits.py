"""Split: hash, verdict, pixels, subsets; hold_out; the embedded digits."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split, dataset_info, hold_out, load_split
from robustbench_lite.datasets.catalogue import known_variants
from robustbench_lite.datasets.splits import hold_out_beside


def make_split(n=20, name="toy", split="train", **extra):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 4, 5), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n,), generator=generator)
    return Split(name, split, images, labels, 10, **extra)


def changed(split, **tensors):
    fields = {"images": split.images.clone(), "labels": split.labels.clone()} | tensors
    return Split(split.name, split.split, num_classes=10, **fields)


def test_content_hash_is_sha256_of_the_documented_layout():
    split = make_split(n=3)
    layout = b"robustbench_lite split v1 3 3 4 5\n" + bytes(split.images.flatten().tolist())
    layout += b"".join(int(label).to_bytes(8, "little", signed=True) for label in split.labels)
    assert split.content_hash == "sha256:" + hashlib.sha256(layout).hexdigest()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 19), st.integers(0, 59))
def test_content_hash_changes_when_one_pixel_changes(row, pixel):
    split = make_split()
    images = split.images.clone()
    images.view(20, -1)[row, pixel] ^= 1
    assert changed(split, images=images).content_hash != split.content_hash


def test_content_hash_sees_labels_order_and_shape_but_not_memory_layout():
    split = make_split()
    labels = split.labels.clone()
    labels[7] = (labels[7] + 1) % 10
    same = split.images.to(memory_format=torch.channels_last)
    assert changed(split, labels=labels).content_hash != split.content_hash
    assert changed(split, images=split.images.flip(0)).content_hash != split.content_hash
    assert changed(split, images=split.images.view(20, 3, 5, 4)).content_hash != split.content_hash
    assert changed(split, images=same).content_hash == split.content_hash


def test_content_hash_is_computed_once_and_kept_by_to():
    split = make_split()
    first = split.content_hash
    split.images[0] += 1
    assert split.content_hash == first
    assert split.to("cpu").content_hash == first


def test_pixels_are_exactly_the_float32_nearest_to_v_over_255():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    split = Split("toy", "test", images, torch.zeros(4, dtype=torch.int64), 10)
    expected = (np.arange(256, dtype=np.float64) / 255).astype(np.float32).reshape(4, 1, 8, 8)
    x = split.pixels(slice(None))
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), expected)
    assert float(x.min()) == 0.0
    assert float(x.max()) == 1.0


def test_pixels_take_a_slice_ids_or_a_list_alike():
    split = make_split()
    expected = split.images[2:5].float() / 255
    for index in (slice(2, 5), torch.tensor([2, 3, 4]), [2, 3, 4], range(2, 5)):
        assert torch.equal(split.pixels(index), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pixels_have_the_same_bits_on_the_gpu():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    split = Split("toy", "test", images, torch.zeros(4, dtype=torch.int64), 10)
    assert torch.equal(split.to("cuda").pixels(slice(None)).cpu(), split.pixels(slice(None)))


def test_subset_takes_rows_in_the_order_asked():
    split = make_split()
    part = split.subset(torch.tensor([5, 1, 1]))
    assert len(part) == 3
    assert torch.equal(part.images, split.images[[5, 1, 1]])
    assert torch.equal(part.labels, split.labels[[5, 1, 1]])
    assert part.content_hash != split.content_hash
    assert part.content_hash == changed(split, images=part.images, labels=part.labels).content_hash
    assert len(split.subset([])) == 0


@pytest.mark.parametrize("ids", [[20], [-1], [0, 3, 99]])
def test_subset_refuses_rows_that_do_not_exist(ids):
    with pytest.raises(InputError, match=r"is not a row of toy train; ids are 0 to 19"):
        make_split().subset(ids)


def test_subset_refuses_a_mask():
    with pytest.raises(InputError, match="takes int64"):
        make_split().subset(torch.ones(20, dtype=torch.bool))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4).double(), torch.zeros(2, dtype=torch.int64), "holds uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "holds uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "holds int64"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            r"2 images holds int64 \(2,\)",
        ),
        (torch.zeros(2, 1, 4, 4), torch.eye(2, 10), r"one-hot rows give labels.argmax\(dim=1\)"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int32), r"give labels.long\(\)"),
        (torch.full((2, 1, 4, 4), -0.5), torch.zeros(2, dtype=torch.int64), "were they normalised"),
        (torch.full((2, 1, 4, 4), 255.0), torch.zeros(2, dtype=torch.int64), "divide by 255"),
        (torch.full((2, 1, 4, 4), torch.nan), torch.zeros(2, dtype=torch.int64), "hold NaN"),
    ],
)
def test_split_refuses_wrong_tensors(images, labels, message):
    with pytest.raises(InputError, match=message):
        Split("toy", "train", images, labels, 10)


@pytest.mark.parametrize("label", [-1, 5, 6])
def test_split_refuses_labels_that_are_no_class_and_names_the_row(label):
    images, labels = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, label, 4])
    with pytest.raises(InputError, match=f"row 2 has label {label}, but there are 5 classes, 0 to"):
        Split("toy", "train", images, labels, 5)


def test_float_images_keep_their_values_and_have_a_hash_of_their_own():
    images = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    split = Split("toy", "test", images, torch.tensor([0, 1, 2]), 3)
    assert torch.equal(split.pixels([2, 0]), images[[2, 0]])
    layout = b"robustbench_lite split v1 3 1 4 5 float32\n" + images.numpy().astype("<f4").tobytes()
    layout += np.arange(3, dtype="<i8").tobytes()
    assert split.content_hash == "sha256:" + hashlib.sha256(layout).hexdigest()
    part = split.subset([1]).to("cpu")
    assert torch.equal(part.pixels(slice(None)), images[1:2])
    assert part.content_hash != split.content_hash


def test_canonical_is_unknown_without_a_listed_hash():
    assert make_split().canonical is None
    assert make_split(name="cifar10").canonical is None


def test_canonical_is_true_for_the_pinned_archive():
    assert make_split(name="cifar10", source="official archive").canonical is True


def test_canonical_compares_with_the_listed_hash():
    test = load_split("digits", "test")
    assert test.canonical is True
    images = test.images.clone()
    images[0, 0, 0, 0] += 1
    assert Split("digits", "test", images, test.labels, 10).canonical is False
    train_as_test = load_split("digits", "train")
    assert (
        Split("digits", "test", train_as_test.images, train_as_test.labels, 10).canonical is False
    )


def test_canonical_is_false_for_a_known_altered_copy(monkeypatch):
    split = make_split(name="cifar10", source="local parquet")
    variants = {split.content_hash: "re-encoded"}
    monkeypatch.setattr("robustbench_lite.datasets.splits.known_variants", lambda name: variants)
    assert split.canonical is False
    assert split.subset([0, 1]).canonical is False
    assert split.provenance == "local parquet: re-encoded"
    assert all("JPEG" in note for note in known_variants("cifar10").values())


def test_subset_has_the_verdict_of_the_whole():
    test = load_split("digits", "test")
    part = test.subset(range(10))
    assert part.canonical is True
    assert part.subset([3]).to("cpu").canonical is True
    assert make_split().subset([0]).canonical is None


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (1, 0), (7, 3), (19, 11)])
def test_hold_out_cuts_disjoint_sets_that_cover_train(n, seed):
    train_ids, validation_ids = hold_out(make_split(), n, seed)
    assert train_ids.dtype == validation_ids.dtype == torch.int64
    assert len(validation_ids) == n
    assert sorted([*train_ids.tolist(), *validation_ids.tolist()]) == list(range(20))
    assert train_ids.tolist() == sorted(train_ids.tolist())


def test_hold_out_depends_on_its_seed_alone():
    split = make_split(n=200)
    before = torch.random.get_rng_state()
    first = hold_out(split, 50, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(hold_out(split, 50, seed=4)[1], first[1])
    assert not torch.equal(hold_out(split, 50, seed=5)[1], first[1])
    assert first[1].tolist() != list(range(50))


@pytest.mark.parametrize("n", [20, 21, -1])
def test_hold_out_refuses_more_than_there_is(n):
    with pytest.raises(InputError, match=rf"n={n} .* allowed: 0 to 19"):
        hold_out(make_split(), n, seed=0)


def test_hold_out_refuses_the_test_split():
    with pytest.raises(InputError, match="always cut from train"):
        hold_out(make_split(split="test"), 5, seed=0)


def labelled(counts):
    """A split with these labels in a random order, and the rows of each class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    images = torch.zeros((len(labels), 1, 1, 1), dtype=torch.uint8)
    split = Split("toy", "train", images, labels, len(counts))
    return split, [(labels == label).nonzero().flatten() for label in range(len(counts))]


def test_beside_an_imbalanced_set_no_class_loses_more_than_a_fifth_to_validation():
    split, rows = labelled([5842, 6742, 6131, 5421])
    trained = torch.cat([rows[0][:5000], rows[1][:5000], rows[2][:50], rows[3][:50]])
    held_out = hold_out_beside(split, trained, 1000, seed=0)
    assert held_out.dtype == torch.int64
    assert held_out.tolist() == sorted(set(held_out.tolist()))
    assert not set(held_out.tolist()) & set(trained.tolist())
    assert torch.bincount(split.labels[held_out]).tolist() == [488, 488, 12, 12]


@pytest.mark.parametrize(
    ("n", "numbers"), [(0, [0] * 3), (1, [1, 0, 0]), (7, [3, 3, 1]), (8, [4, 3, 1]), (9, [5, 3, 1])]
)
def test_beside_an_imbalanced_set_classes_give_as_evenly_as_they_can(n, numbers):
    split, rows = labelled([30, 15, 9])
    trained = torch.cat([rows[0][:20], rows[1][:12], rows[2][:7]])  # which leaves room 5, 3, 1
    held_out = hold_out_beside(split, trained, n, seed=0)
    assert torch.bincount(split.labels[held_out], minlength=3).tolist() == numbers


def test_beside_an_imbalanced_set_images_run_out_and_that_is_refused():
    split, rows = labelled([30, 15, 9])
    trained = torch.cat([rows[0][:20], rows[1][:12], rows[2][:7]])
    with pytest.raises(InputError, match=r"data.validation=10 .* classes can give 9 .*: lower"):
        hold_out_beside(split, trained, 10, seed=0)


def test_what_is_held_out_beside_an_imbalanced_set_depends_on_its_seed_alone():
    split, rows = labelled([300, 300])
    trained = torch.cat([rows[0][:200], rows[1][:20]])
    before = torch.random.get_rng_state()
    first = hold_out_beside(split, trained, 40, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(hold_out_beside(split, trained, 40, seed=4), first)
    assert not torch.equal(hold_out_beside(split, trained, 40, seed=5), first)


def test_digits_are_all_there_once_and_balanced():
    from sklearn.datasets import load_digits

    train, test = load_split("digits", "train"), load_split("digits", "test")
    assert (len(train), len(test)) == (1433, 364)
    images = torch.cat([train.images, test.images])[:, 0].reshape(1797, -1)
    original = load_digits()
    rows = np.concatenate([images.numpy(), torch.cat([train.labels, test.labels])[:, None]], axis=1)
    expected = np.rint(original.data * 255 / 16)
    expected = np.concatenate([expected, original.target[:, None]], axis=1)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.astype(int).tolist()))
    assert set(images.unique().tolist()) == {round(v * 255 / 16) for v in range(17)}
    assert test.labels.bincount().min() >= 35
    info = dataset_info("digits")
    pixels = train.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(info.mean[0], abs=1e-4)
    assert float(pixels.std(correction=0)) == pytest.approx(info.std[0], abs=1e-4)
