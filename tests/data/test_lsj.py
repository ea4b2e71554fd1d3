"""Sizes that large-scale jitter produces."""

import numpy as np
from detectron2.data import transforms as T

from eva02_det.data.lsj import test_augmentations as resize_to
from eva02_det.data.lsj import train_augmentations


def jittered(image: np.ndarray, **options) -> np.ndarray:
    given = T.AugInput(image)
    given.apply_augmentations(train_augmentations(64, **options))
    return given.image


def test_no_side_is_longer_than_the_crop_and_nothing_is_padded():
    np.random.seed(0)
    white = np.full((90, 130, 3), 255, np.uint8)
    shapes = set()
    for _ in range(40):
        image = jittered(white)
        shapes.add(image.shape)
        assert max(image.shape[:2]) <= 64
        assert (image == 255).all()
    assert len(shapes) > 10


def test_the_scale_is_within_its_range():
    np.random.seed(1)
    widths = [jittered(np.zeros((90, 130, 3), np.uint8), scale=(0.25, 0.5)).shape[1] for _ in range(60)]
    assert 16 <= min(widths) < 18
    assert 30 < max(widths) <= 32


def test_half_of_the_images_are_mirrored_unless_asked_otherwise():
    np.random.seed(2)
    ramp = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(64, axis=0)

    def mirrored(**options) -> int:
        images = [jittered(ramp, scale=(1.0, 1.0), **options) for _ in range(60)]
        return sum(int(image[0, 0, 0] > image[0, -1, 0]) for image in images)

    assert 18 <= mirrored() <= 42
    assert mirrored(flip=0.0) == 0
    assert mirrored(flip=1.0) == 60


def test_the_test_image_is_as_long_as_asked():
    for height, width in ((90, 130), (130, 90), (20, 20)):
        given = T.AugInput(np.zeros((height, width, 3), np.uint8))
        given.apply_augmentations(resize_to(64))
        assert max(given.image.shape) == 64
