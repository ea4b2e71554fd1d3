"""Crops against timm's and torchvision's, and the pixel statistics on the device."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms

from eva02_mim.crops import CentreCrop, RandomCrop, decode
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise
from tests.utils.image_files import encoded

SHAPES = [(500, 375), (375, 500), (64, 64), (1000, 90), (90, 1000), (3, 1), (1, 1), (225, 400)]
# the published crop is the same transform with its own range of areas
reference = RandomResizedCropAndInterpolation(224, scale=(0.2, 1.0), interpolation="bicubic")


def picture(width: int, height: int) -> Image.Image:
    return decode(encoded(width * 7 + height, "PNG", (width, height)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_box_is_timms_for_the_same_seed(shape: tuple[int, int]):
    image = picture(*shape)
    for seed in range(100):
        random.seed(seed)
        top, left, height, width = reference.get_params(image, reference.scale, reference.ratio)
        assert RandomCrop().box(*shape, random.Random(seed)) == (left, top, left + width, top + height)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pixels_are_timms_for_the_same_seed(shape: tuple[int, int]):
    image = picture(*shape)
    for seed in range(5):
        random.seed(seed)
        random.random()  # the draw of the flip comes first
        expected = np.asarray(reference(image))
        assert np.array_equal(RandomCrop(flip=0.0)(image, 224, random.Random(seed)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pixels_are_timms_for_an_image_flipped_before(shape: tuple[int, int]):
    image = picture(*shape)
    for seed in range(5):
        random.seed(seed)
        random.random()
        expected = np.asarray(reference(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
        assert np.array_equal(RandomCrop(flip=1.0)(image, 224, random.Random(seed)), expected)


def test_half_of_the_crops_are_flipped():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3)))
    rng = random.Random(0)
    flipped = sum(bool(crop[0, 0, 0] > crop[0, -1, 0]) for crop in (RandomCrop()(ramp, 14, rng) for _ in range(1000)))
    assert abs(flipped - 500) < 80  # five standard deviations of a fair coin


def test_areas_and_shapes_of_crops_keep_their_ranges_and_reach_their_ends():
    rng = random.Random(1)
    boxes = [RandomCrop().box(100_000, 100_000, rng) for _ in range(3000)]  # rounding to pixels is small
    areas = np.array([(r - x) * (b - y) / 1e10 for x, y, r, b in boxes])
    shapes = np.array([(r - x) / (b - y) for x, y, r, b in boxes])
    assert 0.1999 < areas.min() < 0.22
    assert 0.9 < areas.max() <= 1
    assert 0.7499 < shapes.min() < 0.77
    assert 1.3 < shapes.max() < 1.3335


@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (256, 256), (1000, 90), (33, 47)])
@pytest.mark.parametrize("side", [224, 56, 98])
def test_the_validation_crop_is_torchvisions_resize_and_central_crop(shape: tuple[int, int], side: int):
    shorter = {224: 256, 56: 64, 98: 112}[side]
    image = picture(*shape)
    pipeline = transforms.Compose([transforms.Resize(shorter, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(side)])
    assert np.array_equal(CentreCrop()(image, side, random.Random(0)), np.asarray(pipeline(image)))


def test_images_of_every_mode_become_rgb():
    for mode in ("L", "RGBA", "P", "CMYK", "1", "LA"):
        stream = io.BytesIO()
        picture(30, 20).convert("RGB").convert(mode if mode != "LA" else "L").convert(mode).save(stream, "TIFF")
        image = decode(stream.getvalue())
        assert image.mode == "RGB"
        assert image.size == (30, 20)


def test_normalised_on_the_device_is_normalised_as_torchvision_does():
    crops = torch.arange(256, dtype=torch.uint8).repeat(3 * 4).view(1, 3, 32, 32)
    expected = transforms.functional.normalize(crops.float() / 255, CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(Normalise()(crops), expected, rtol=1e-6, atol=1e-6)


def test_the_pixel_statistics_are_no_weights_and_the_type_is_the_one_asked_for():
    helper = Normalise(dtype=torch.bfloat16)
    assert not helper.state_dict()
    assert helper(torch.zeros(1, 3, 2, 2, dtype=torch.uint8)).dtype is torch.bfloat16
