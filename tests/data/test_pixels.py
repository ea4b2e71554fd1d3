"""Pixels of a geometry against the transforms, one after another, on the whole image."""

from io import BytesIO

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from PIL import Image

from eva02_det.data.geometry import Geometry, draw
from eva02_det.data.image_files import SourceImage
from eva02_det.data.lsj import train_augmentations
from eva02_det.data.pixels import render

SIZES = [(48, 64), (64, 48), (1, 1), (3, 200), (427, 640), (500, 333), (640, 480)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def official(pixels: int) -> list[T.Augmentation]:
    return [T.ResizeScale(0.3, 2.0, pixels, pixels), T.FixedSizeCrop((pixels, pixels), pad=True), T.RandomFlip()]


@pytest.mark.parametrize("pixels", [40, 300])
@pytest.mark.parametrize("augmentations", [train_augmentations, official])
def test_pixels_are_within_one_grey_level_of_the_whole_image_resized_by_pillow(augmentations, pixels):
    levels = np.zeros(3, dtype=int)
    for seed in range(24):
        image = noise(*SIZES[seed % len(SIZES)])
        np.random.seed(seed)
        drawn, geometry = draw(augmentations(pixels), *image.shape[:2])
        expected = drawn.apply_image(image)
        found = render(Image.fromarray(image), geometry)
        assert found.is_contiguous()
        assert found.shape == (3, *expected.shape[:2])
        different = np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected)
        levels += np.bincount(different.ravel(), minlength=3)  # of another length where a pixel is off by three or more
    # both passes may round a value the other way: noise shows that in one pixel of a hundred thousand
    assert levels[1] < 0.03 * levels.sum()
    assert levels[2] < 1e-5 * levels.sum()


def test_an_unchanged_geometry_gives_the_pixels_themselves():
    image = noise(37, 53)
    found = render(Image.fromarray(image), Geometry.unchanged(37, 53))
    torch.testing.assert_close(found, torch.from_numpy(image).permute(2, 0, 1), rtol=0, atol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_and_pixels_are_upright_as_the_reader_of_detectron2_shows_them(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(30, 50)).save(tmp_path / "turned.png", exif=exif)
    expected = read_image(str(tmp_path / "turned.png"), format="RGB")
    with (tmp_path / "turned.png").open("rb") as stream:
        source = SourceImage(stream)
        assert source.size == expected.shape[:2]
        np.testing.assert_array_equal(np.asarray(source.decode()), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_other_modes_become_rgb_as_the_reader_of_detectron2_makes_them(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    grey = Image.fromarray(noise(20, 30)[..., 0])
    picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200) if mode == "I;16" else grey.convert(mode)
    picture.save(tmp_path / f"image.{suffix}")
    with (tmp_path / f"image.{suffix}").open("rb") as stream:
        found = np.asarray(SourceImage(stream).decode())
    np.testing.assert_array_equal(found, read_image(str(tmp_path / f"image.{suffix}"), format="RGB"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_says_nothing_of_the_pixels():
    stream = BytesIO()
    Image.fromarray(noise(20, 30)).save(stream, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert SourceImage(BytesIO(stream.getvalue())).size == (20, 30)
