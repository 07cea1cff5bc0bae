"""Outliers: recipes recomputed in numpy, the form of the inliers, and what is refused."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import Split, dataset_info, load_split
from robustbench_lite.datasets.outliers import synthetic as recipes
from robustbench_lite.datasets.outliers.files import fitted
from robustbench_lite.datasets.outliers.sources import OUTLIERS, load_outliers
from robustbench_lite.datasets.outliers.synthetic import Ingredients

SYNTHETIC = [name for name in OUTLIERS if ":" not in name]
OF_INLIERS = [
    "arithmetic_mean",
    "geometric_mean",
    "jigsaw",
    "speckle",
    "pixelate",
    "rgb_shift",
    "invert",
]


def inliers(n=40, name="cifar10", split="train", seed=0):
    """A split of random images in the form of a registered data set."""
    info = dataset_info(name)
    generator = torch.Generator().manual_seed(seed)
    shape = (n, info.channels, *info.image_size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return Split(name, split, images, torch.zeros(n, dtype=torch.int64), info.num_classes)


def load(source, like, count=0, seed=0, **changes):
    return load_outliers(source, like, count=count, seed=seed, **changes)


def given(m=5, name="cifar10", seed=0):
    """Ingredients of two sets of random images."""
    a, b = (inliers(m, name, seed=s).pixels(slice(None)) for s in (1, 2))
    return Ingredients(a, b, name, torch.Generator().manual_seed(seed))


def un_normalised(v, name="cifar10"):
    info = dataset_info(name)
    mean, std = (np.array(w).reshape(1, -1, 1, 1) for w in (info.mean, info.std))
    return v * std + mean


@pytest.mark.parametrize("name", ["cifar10", "digits", "mnist"])
@pytest.mark.parametrize("source", SYNTHETIC)
def test_every_synthetic_source_has_the_form_of_the_inliers(source, name):
    like = inliers(20, name)
    if source == "rgb_shift" and like.images.shape[1] == 1:
        with pytest.raises(InputError, match="'rgb_shift' needs RGB images"):
            load(source, like)
        return
    made = load(source, like)
    assert made.dtype == torch.uint8
    assert made.shape == like.images.shape
    assert load(source, like, count=47).shape[0] == 47  # more than there are inliers
    assert made.float().std() > 1


@pytest.mark.parametrize("source", SYNTHETIC)
def test_images_follow_seed_and_split_and_nothing_else(source):
    like = inliers(10)
    torch.manual_seed(1)
    first = load(source, like)
    torch.manual_seed(2)
    assert torch.equal(load(source, like), first)
    assert not torch.equal(load(source, like, seed=1), first)
    # the same seed never gives a test set that was trained on
    assert not torch.equal(load(source, inliers(10, split="test")), first)


def test_the_bytes_of_a_seed_are_pinned():
    made = load("uniform", inliers(12), seed=3)
    digest = hashlib.sha256(made.numpy().tobytes()).hexdigest()
    assert digest[:16] == "a7201887d4455c6a"


def test_gaussian_is_n_05_1_and_uniform_covers_the_pixels():
    like = inliers(200, "cifar10")
    noise = load("gaussian", like).double() / 255
    # the shares that clipping collects, Phi(-0.5) on either side
    for end in (0.0, 1.0):
        assert (noise == end).double().mean().item() == pytest.approx(0.3085, abs=3e-3)
    inside = noise[(noise > 0) & (noise < 1)]
    assert inside.mean().item() == pytest.approx(0.5, abs=2e-3)
    flat = load("uniform", like).double() / 255
    assert flat.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert flat.std().item() == pytest.approx(12**-0.5, abs=2e-3)


def test_the_ranges_of_outlier_exposures_noise_are_those_of_normalised_values():
    """[-1, 1] there is about [0.244, 0.738] (R), [0.239, 0.726] (G), [0.185, 0.708] (B)."""
    for source in ("rademacher", "gaussian_oe"):
        made = load(source, inliers(50)).double() / 255
        low, high = made.amin(dim=(0, 2, 3)), made.amax(dim=(0, 2, 3))
        expected = torch.tensor([[0.244, 0.239, 0.185], [0.738, 0.726, 0.708]]).double()
        torch.testing.assert_close(torch.stack([low, high]), expected, rtol=0, atol=5e-3)
    signs = load("rademacher", inliers(50))
    assert all(len(channel.unique()) == 2 for channel in signs.unbind(1))
    assert (signs[:, 0] > 128).double().mean().item() == pytest.approx(0.5, abs=5e-3)
    ends = load("gaussian_oe", inliers(50))[:, 0]
    share = (ends == ends.max()).double().mean().item()
    assert share == pytest.approx(0.0228, abs=2e-3)  # Phi(-2): half a standard deviation is 0.5


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_blobs_are_those_of_a_gaussian_filter_over_height_width_and_channels(name):
    made = recipes.blobs(given(name=name, seed=5)).numpy()
    shape = (5, *made.shape[1:])
    draw = torch.rand(shape, generator=torch.Generator().manual_seed(5)).numpy()
    v = (draw < 0.7).astype(np.float64)
    v = np.stack([gaussian_filter(image, sigma=1.5, mode="nearest") for image in v])
    v[v < 0.75] = 0.0
    np.testing.assert_allclose(made, un_normalised(2 * v - 1, name), atol=1e-5)


def test_means_are_of_two_different_inliers():
    values = given()
    a, b = values.images.numpy(), values.others.numpy()
    np.testing.assert_allclose(recipes.arithmetic_mean(values), (a + b) / 2, atol=1e-6)
    np.testing.assert_allclose(recipes.geometric_mean(values), np.sqrt(a * b), atol=1e-6)
    # of two inliers, black and white, no mean is either
    like = inliers(2)
    black_and_white = torch.stack([torch.zeros(3, 32, 32), torch.full((3, 32, 32), 255.0)])
    like = Split("cifar10", "train", black_and_white.byte(), like.labels, 10)
    assert load("arithmetic_mean", like, count=30).unique().tolist() == [128]
    assert load("geometric_mean", like, count=30).unique().tolist() == [0]


def test_jigsaw_exchanges_the_patches_of_outlier_exposure():
    x = given().images
    expected = torch.stack(
        [
            torch.cat(
                [
                    torch.cat([torch.cat([i[:, 8:16, :16], i[:, :8, :16]], 1), i[:, 16:, :16]], 2),
                    torch.cat(
                        [i[:, 16:, 16:], torch.cat([i[:, :16, 24:], i[:, :16, 16:24]], 2)], 2
                    ),
                ],
                1,
            )
            for i in x
        ]
    )
    assert torch.equal(recipes.jigsaw(given()), expected)


def test_jigsaw_refuses_odd_sides():
    images = torch.zeros(4, 1, 7, 8, dtype=torch.uint8)
    like = Split("digits", "train", images, torch.zeros(4, dtype=torch.int64), 10)
    with pytest.raises(InputError, match="'jigsaw' needs even sides; got 7x8 images"):
        load("jigsaw", like)


def test_speckle_is_multiplicative_noise_of_standard_deviation_1():
    values = given(m=60)
    ratio = (recipes.speckle(values) - values.images)[values.images > 0.1] / values.images[
        values.images > 0.1
    ]
    assert ratio.mean().item() == pytest.approx(0.0, abs=0.01)
    assert ratio.std().item() == pytest.approx(1.0, abs=0.01)


def test_pixelate_leaves_6_by_6_values_with_the_image_s_means():
    made = recipes.pixelate(given())
    for channel in made.flatten(0, 1):
        assert len(channel.unique(dim=0)) == 6
        assert len(channel.unique(dim=1).T) == 6
    flat = torch.full((1, 3, 32, 32), 0.3)
    same = recipes.pixelate(Ingredients(flat, flat, "cifar10", torch.Generator()))
    torch.testing.assert_close(same, flat)


def test_rgb_shift_and_invert_are_those_of_outlier_exposure():
    x = given().images
    shifted = recipes.rgb_shift(given())
    assert torch.equal(shifted[:, 0], x[:, 1].flip(2))
    assert torch.equal(shifted[:, 1:], x[:, [2, 0]])
    inverted = recipes.invert(given())
    assert torch.equal(inverted[:, 0], x[:, 0])
    assert torch.equal(inverted[:, 1:], 1 - x[:, 1:])
    grey = given(name="digits")
    assert torch.equal(recipes.invert(grey), 1 - grey.images)


def test_a_mixture_has_equal_parts_of_noise_blobs_and_jigsaw():
    like = inliers(60)
    grey = torch.full_like(like.images, 100) + torch.arange(60).byte().view(-1, 1, 1, 1)
    like = Split("cifar10", "train", grey, like.labels, 10)
    made = load("mixture", like)
    flat = made.flatten(1).float()
    puzzles = flat.std(dim=1) == 0  # of an even image, a jigsaw is the image
    noise = (flat == 255).float().mean(dim=1) > 0.2
    for stretch in (slice(0, 30), slice(30, 60)):
        assert (int(puzzles[stretch].sum()), int(noise[stretch].sum())) == (10, 10)


@pytest.mark.parametrize("source", ["jigsaw", "invert", "pixelate"])
def test_every_inlier_is_used_once_before_any_is_used_again(source):
    like = inliers(12)
    made = load(source, like, count=24)
    assert len(made[:12].unique(dim=0)) == 12
    assert sorted(made[12:].flatten(1).tolist()) == sorted(made[:12].flatten(1).tolist())


def digits_as(name):
    """`dataset:digits` in the form of another data set."""
    return load("dataset:digits", inliers(4, name), count=0), load_split("digits", "train")


def test_another_data_set_is_resized_and_its_grey_repeated():
    made, digits = digits_as("cifar10")
    assert made.shape == (len(digits), 3, 32, 32)
    assert torch.equal(made[:, 0], made[:, 1])
    assert torch.equal(made[:, 0], made[:, 2])
    # each is one of the digits, in another order: 4x4 blocks have nearly the pixels' means
    blocks = torch.nn.functional.avg_pool2d(made[:50, :1].float(), 4).flatten(1)
    distance = torch.cdist(blocks, digits.images.float().flatten(1))
    assert distance.amin(dim=1).max() < 260
    assert (distance.argmin(dim=1) != torch.arange(50)).sum() > 40
    assert len(distance.argmin(dim=1).unique()) == 50


def test_another_data_set_is_taken_of_the_same_split():
    tests = load("dataset:digits", inliers(4, split="test"))
    assert len(tests) == len(load_split("digits", "test"))


def test_a_part_of_another_data_set_is_drawn_without_replacement_by_the_seed():
    like = inliers(4, "mnist")
    part, again, other = (load("dataset:digits", like, 100, seed) for seed in (0, 0, 1))
    assert torch.equal(part, again)
    assert not torch.equal(part, other)
    assert len(part.unique(dim=0)) == 100


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def flat(value, shape=(32, 32, 3)):
    return np.full(shape, value, dtype=np.uint8)


def test_a_folder_of_images_is_read_whatever_their_size_and_mode(tmp_path):
    save(tmp_path / "a.png", flat(10))
    save(tmp_path / "deep" / "b.JPG", flat(80, (50, 70, 3)))
    save(tmp_path / "c.png", flat(200, (9, 9)))
    (tmp_path / "readme.txt").write_text("no image")
    made = load(f"folder:{tmp_path}", inliers(4))
    assert made.shape == (3, 3, 32, 32)
    values = sorted(int(image.float().mean().round()) for image in made)
    assert values == pytest.approx([10, 80, 200], abs=1)
    one = load(f"folder:{tmp_path}", inliers(4), count=1, seed=2)
    assert any(torch.equal(one[0], image) for image in made)


def test_images_are_cut_from_the_middle_and_turned_grey_by_luma(tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = (255, 0, 100)
    save(tmp_path / "wide.png", wide)
    made = load(f"folder:{tmp_path}", inliers(4, "digits"))
    assert made.unique().tolist() == [round(0.299 * 255 + 0.114 * 100)]


def test_shrinking_filters_and_does_not_skip_pixels(tmp_path):
    lines = np.zeros((64, 64), dtype=np.uint8)
    lines[:, ::8] = 255  # where sampling every eighth pixel's middle would see nothing
    save(tmp_path / "lines.png", lines)
    made = load(f"folder:{tmp_path}", inliers(4, "digits")).float()
    assert (made - 255 / 8).abs().max() < 12


def test_colour_images_of_a_data_set_are_turned_grey_by_luma():
    red_green_blue = torch.diag(torch.tensor([255, 255, 255])).view(3, 3, 1, 1).byte()
    made = fitted(red_green_blue.expand(-1, -1, 8, 8), inliers(4, "digits"))
    assert made[:, 0, 0, 0].tolist() == [round(255 * w) for w in (0.299, 0.587, 0.114)]


def write_shard(path, values, column="image"):
    table = pa.table({column: [{"bytes": png(flat(v)), "path": ""} for v in values]})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.mark.parametrize(("split", "values"), [("train", [1, 2, 3, 4, 5]), ("test", [9])])
def test_a_parquet_folder_gives_the_shards_of_the_split(tmp_path, split, values):
    write_shard(tmp_path / "data" / "train-00000-of-00002.parquet", [1, 2, 3])
    write_shard(tmp_path / "data" / "train-00001-of-00002.parquet", [4, 5], column="img")
    write_shard(tmp_path / "data" / "test-00000-of-00001.parquet", [9])
    made = load(f"folder:{tmp_path}", inliers(4, split=split))
    assert sorted(made[:, 0, 0, 0].tolist()) == values
    if split == "train":
        part = load(f"folder:{tmp_path}", inliers(4), count=2, seed=1)
        assert len(set(part[:, 0, 0, 0].tolist())) == 2


def test_images_lie_on_the_device_of_the_inliers():
    like = inliers(6)
    assert load("gaussian", like).device == like.images.device


@pytest.mark.parametrize(
    ("source", "count", "message"),
    [
        ("gausian", 0, "unknown outlier source 'gausian'; did you mean gaussian"),
        ("gaussian:3", 0, "unknown outlier source 'gaussian:3'"),
        ("", 0, "unknown outlier source ''"),
        ("dataset:", 0, "'dataset:' names nothing after the colon"),
        ("dataset:cifar", 0, "did you mean cifar10"),
        ("dataset:cifar10", 0, "the inliers' own"),
        ("dataset:digits", 1434, r"count=1434, but dataset:digits \(train\) has 1433 images"),
        ("folder:nowhere", 0, "'folder:nowhere' is not a folder"),
        ("gaussian", -1, "outliers.count=-1 must be at least 0"),
    ],
)
def test_a_wrong_source_is_one_line(source, count, message):
    with pytest.raises(InputError, match=message):
        load(source, inliers(4), count)


def test_a_single_inlier_is_no_model_for_outliers():
    with pytest.raises(InputError, match="two are needed"):
        load("arithmetic_mean", inliers(1))


def test_a_damaged_or_empty_folder_is_one_line(tmp_path):
    source = f"folder:{tmp_path}"
    with pytest.raises(InputError, match="holds no Parquet, PNG or JPEG files"):
        load(source, inliers(4))
    (tmp_path / "a.png").write_bytes(png(flat(1))[:40])
    with pytest.raises(InputError, match=r"a.png cannot be decoded as PNG or JPEG"):
        load(source, inliers(4))
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="train-0.parquet is not a readable Parquet file"):
        load(source, inliers(4))
    with pytest.raises(InputError, match="holds no Parquet shards for test"):
        load(source, inliers(4, split="test"))
    pq.write_table(pa.table({"label": [1]}), tmp_path / "train-0.parquet")
    with pytest.raises(InputError, match="has columns label; outliers need one called img or"):
        load(source, inliers(4))
    rows = pa.array([None], type=pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": rows}), tmp_path / "train-0.parquet")
    with pytest.raises(InputError, match="row 0 of .*train-0.parquet has no image bytes"):
        load(source, inliers(4))


@pytest.mark.parametrize("name", sorted(OUTLIERS))
def test_every_registered_source_can_be_imported(name):
    assert callable(OUTLIERS.load(name))
