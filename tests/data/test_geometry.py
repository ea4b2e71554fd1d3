"""A row of transforms, summed up before there is an image."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import VFlipTransform

from eva02_det.data.geometry import Geometry, draw, is_jitter
from eva02_det.data.lsj import test_augmentations as resize_to
from eva02_det.data.lsj import train_augmentations
from eva02_det.utils.errors import UserError

OFFICIAL_ORDER = (T.ResizeScale(0.1, 2.0, 60, 60), T.FixedSizeCrop((60, 60), pad=True), T.RandomFlip())


@pytest.mark.parametrize("augmentations", [train_augmentations(60), OFFICIAL_ORDER, resize_to(60)])
def test_the_same_numbers_are_drawn_and_the_same_shape_comes_out_as_with_an_image(augmentations):
    for seed, (height, width) in enumerate([(40, 70), (70, 40), (33, 33), (200, 150), (1, 9)] * 5):
        np.random.seed(seed)
        given = T.AugInput(np.zeros((height, width, 3), np.uint8))
        expected = given.apply_augmentations(augmentations)
        after = np.random.random()
        np.random.seed(seed)
        drawn, geometry = draw(augmentations, height, width)
        assert np.random.random() == after
        assert geometry.shape == given.image.shape[:2]
        corners = np.array([[3.0, 4.0], [20.0, 9.5]])
        np.testing.assert_array_equal(drawn.apply_coords(corners.copy()), expected.apply_coords(corners.copy()))


def test_a_strip_that_would_vanish_keeps_one_pixel():
    _, geometry = draw([T.ResizeScale(0.1, 0.1, 60, 60)], 1, 300)
    assert geometry.shape == (1, 6)


def test_only_a_flip_a_resize_and_a_crop_of_known_kind_can_be_drawn_ahead():
    resize, crop, flip = T.ResizeScale(0.1, 2.0, 60, 60), T.FixedSizeCrop((60, 60)), T.RandomFlip()

    class Peeking(T.RandomFlip):
        """Looks at the pixels."""

    assert is_jitter([flip, resize, crop, flip])
    assert is_jitter([])
    for other in ([crop, resize], [resize, resize], [Peeking()], [T.RandomFlip(horizontal=False, vertical=True)]):
        assert not is_jitter(other)


def test_a_transform_of_another_kind_is_refused_by_name():
    with pytest.raises(UserError, match="VFlipTransform"):
        Geometry.unchanged(4, 4).after(VFlipTransform(4))
