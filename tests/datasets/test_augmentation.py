"""pad_crop_flip: only crops of the padded image, only from the generator given."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_lite.core.errors import InputError
from robustbench_lite.datasets import pad_crop_flip, rotate


def distinct_images(batch, channels, height, width):
    """Images without two equal pixels, so that a crop is found at one place only."""
    flat = torch.stack(
        [torch.randperm(255, generator=torch.Generator().manual_seed(i)) + 1 for i in range(batch)]
    )
    return flat[:, : channels * height * width].reshape(batch, channels, height, width).byte()


def places(image, result, padding):
    """Every (dy, dx, mirrored) at which `result` is a crop of the zero-padded `image`."""
    _, height, width = image.shape
    padded = torch.zeros(
        image.shape[0], height + 2 * padding, width + 2 * padding, dtype=torch.uint8
    )
    padded[:, padding : padding + height, padding : padding + width] = image
    found = []
    for dy in range(2 * padding + 1):
        for dx in range(2 * padding + 1):
            crop = padded[:, dy : dy + height, dx : dx + width]
            found += [(dy, dx, False)] if torch.equal(crop, result) else []
            found += [(dy, dx, True)] if torch.equal(crop.flip(-1), result) else []
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 6),
    st.sampled_from([1, 3]),
    st.integers(4, 7),
    st.integers(4, 8),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 2**40),
)
def test_every_output_is_one_crop_of_its_padded_image(b, c, h, w, padding, flip, seed):
    images = distinct_images(b, c, h, w)
    out = pad_crop_flip(images, torch.Generator().manual_seed(seed), padding=padding, flip=flip)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    for image, result in zip(images, out, strict=True):
        found = places(image, result, padding)
        assert found
        assert flip or all(not mirrored for _, _, mirrored in found)


def test_same_seed_same_result_and_another_seed_another():
    images = distinct_images(8, 3, 6, 6)

    def augmented(seed):
        return pad_crop_flip(images, torch.Generator().manual_seed(seed), padding=2, flip=True)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))


def test_generator_advances_and_global_state_is_untouched():
    images = distinct_images(8, 1, 6, 6)
    generator = torch.Generator().manual_seed(0)
    before = torch.random.get_rng_state()
    first = pad_crop_flip(images, generator, padding=2, flip=True)
    second = pad_crop_flip(images, generator, padding=2, flip=True)
    assert not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_images_are_moved_independently_over_all_offsets_and_half_are_mirrored():
    image = distinct_images(1, 1, 6, 6)
    out = pad_crop_flip(
        image.expand(600, -1, -1, -1), torch.Generator().manual_seed(0), padding=1, flip=True
    )
    found = [places(image[0], result, 1) for result in out]
    assert all(len(place) == 1 for place in found)
    counts = {}
    for (place,) in found:
        counts[place] = counts.get(place, 0) + 1
    assert len(counts) == 18  # 3 x 3 offsets, mirrored or not
    mirrored = sum(number for (_, _, flag), number in counts.items() if flag)
    assert 240 < mirrored < 360  # 300 expected, 4.9 standard deviations


def test_no_padding_and_no_flip_is_the_identity_in_new_memory():
    images = distinct_images(4, 3, 5, 5)
    out = pad_crop_flip(images, torch.Generator().manual_seed(0), padding=0, flip=False)
    assert torch.equal(out, images)
    assert out.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(
    ("images", "padding", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), 1, "takes uint8 or float32"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), 1, "takes uint8 or float32"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), 1, "takes uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), -1, "padding=-1 is negative"),
    ],
)
def test_wrong_input_is_refused(images, padding, message):
    with pytest.raises(InputError, match=message):
        pad_crop_flip(images, torch.Generator(), padding=padding, flip=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cpu_generator_gives_the_same_images_on_the_gpu():
    images = distinct_images(8, 3, 6, 6)
    on_cpu = pad_crop_flip(images, torch.Generator().manual_seed(3), padding=2, flip=True)
    on_gpu = pad_crop_flip(images.cuda(), torch.Generator().manual_seed(3), padding=2, flip=True)
    assert torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_reflected_padding_is_that_of_torch(padding):
    """The draws are the same, so the crop is that of the image padded by torch."""
    images = distinct_images(6, 3, 5, 7)
    wide = torch.nn.functional.pad(images.float(), (padding,) * 4, mode="reflect").byte()
    for seed in range(5):
        ours, theirs = (
            pad_crop_flip(
                batch,
                torch.Generator().manual_seed(seed),
                padding=padding,
                flip=False,
                padding_mode=mode,
            )
            for batch, mode in ((images, "reflect"), (images, "zeros"))
        )
        # where the zero-padded crop has no padding both agree; the rest is in torch's wide image
        assert torch.equal(ours[theirs > 0], theirs[theirs > 0])
        for image, result in zip(wide, ours, strict=True):
            assert any(
                torch.equal(image[:, dy : dy + 5, dx : dx + 7], result)
                for dy in range(2 * padding + 1)
                for dx in range(2 * padding + 1)
            )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"padding_mode": "edge"}, "padding_mode='edge'; allowed: zeros, reflect"),
        ({"padding_mode": "reflect", "padding": 4}, "allowed: below 4"),
    ],
)
def test_padding_that_cannot_be_is_refused(changes, words):
    images = torch.zeros(1, 1, 4, 5, dtype=torch.uint8)
    arguments = {"padding": 1, "flip": False} | changes
    with pytest.raises(InputError, match=words):
        pad_crop_flip(images, torch.Generator(), **arguments)


def test_rotation_takes_the_nearest_pixel_and_fills_with_zero():
    """Against Pillow, whose nearest rotation differs in pixels that lie between two."""
    from PIL import Image

    images = distinct_images(40, 1, 15, 15)
    turned = rotate(images, torch.Generator().manual_seed(0), degrees=15.0)
    draws = torch.rand(40, 1, 1, generator=torch.Generator().manual_seed(0)).flatten()
    angles = ((2 * draws - 1) * 15.0).tolist()
    assert turned.dtype == torch.uint8
    assert max(angles) > 13
    assert min(angles) < -13
    agree = []
    for image, result, angle in zip(images, turned, angles, strict=True):
        pillow = torch.from_numpy(np.array(Image.fromarray(image[0].numpy()).rotate(angle)))
        agree.append((pillow == result[0]).float().mean())
    assert torch.stack(agree).mean() > 0.97
    assert torch.stack(agree).min() > 0.85


@pytest.mark.parametrize("degrees", [0.0, 1e-6])
def test_no_angle_changes_nothing(degrees):
    images = distinct_images(3, 3, 6, 7)
    turned = rotate(images, torch.Generator().manual_seed(0), degrees=degrees)
    assert torch.equal(turned, images)


def test_float_images_are_moved_like_whole_numbers():
    images = torch.randint(256, (5, 3, 8, 6), dtype=torch.uint8)

    def augmented(images):
        generator = torch.Generator().manual_seed(3)
        cropped = pad_crop_flip(images, generator, padding=2, flip=True)
        return rotate(cropped, generator, degrees=20.0)

    floats = augmented(images.float() / 255)
    assert floats.dtype == torch.float32
    assert torch.equal(floats, augmented(images).float() / 255)
