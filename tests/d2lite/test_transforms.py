"""Augmentations: sizes, geometry, and the random numbers they draw."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from PIL import Image


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [3, 1, 0])
def test_resize_equals_pillow_for_every_layout(channels):
    image = picture(20, 31, channels)
    resized = T.ResizeTransform(20, 31, 13, 11, Image.BILINEAR).apply_image(image)
    assert resized.shape == (13, 11, *image.shape[2:])
    assert resized.dtype == np.uint8
    expected = np.asarray(Image.fromarray(image.squeeze()).resize((11, 13), Image.BILINEAR))
    assert np.abs(resized.squeeze().astype(int) - expected).max() <= 1


def test_resize_of_a_label_map_invents_no_label():
    labels = np.random.default_rng(1).choice(np.array([0, 3, 200], np.uint8), (20, 31))
    resized = T.ResizeTransform(20, 31, 47, 50, Image.BILINEAR).apply_segmentation(labels)
    assert resized.shape == (47, 50)
    assert set(np.unique(resized)) <= {0, 3, 200}


def test_resize_moves_boxes_with_the_image_and_its_inverse_moves_them_back():
    resize = T.ResizeTransform(20, 30, 40, 90, Image.BILINEAR)
    box = np.array([[2.0, 3.0, 10.0, 20.0]])
    moved = resize.apply_box(box.copy())
    np.testing.assert_allclose(moved, [[6, 6, 30, 40]])
    np.testing.assert_allclose(resize.inverse().apply_box(moved), box)


@pytest.mark.parametrize(
    ("height", "width", "short", "longest", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),
        (427, 640, 1024, 1024, (683, 1024)),
        (1000, 100, 64, 128, (128, 13)),
        (7, 7, 5, 9, (5, 5)),
    ],
)
def test_short_edge_resize_keeps_to_both_limits(height, width, short, longest, expected):
    resize = T.ResizeShortestEdge(short, longest).get_transform(np.zeros((height, width, 3), np.uint8))
    assert (resize.new_h, resize.new_w) == expected == T.ResizeShortestEdge.get_output_shape(height, width, short, longest)


def test_short_edge_lengths_come_from_the_range_or_the_list():
    image = np.zeros((100, 100, 3), np.uint8)
    ranged = {T.ResizeShortestEdge((10, 12)).get_transform(image).new_h for _ in range(60)}
    chosen = {T.ResizeShortestEdge((10, 30), sample_style="choice").get_transform(image).new_h for _ in range(60)}
    assert ranged == {10, 11, 12}
    assert chosen == {10, 30}


def test_scale_resize_fits_the_scaled_target_and_keeps_the_shape():
    np.random.seed(3)
    augmentation = T.ResizeScale(0.1, 2.0, 640, 320)
    for _ in range(20):
        resize = augmentation.get_transform(np.zeros((300, 200, 3), np.uint8))
        scale = resize.new_h / 300
        assert 0.1 * 320 / 200 - 0.01 <= scale <= 2.0 * 320 / 200 + 0.01
        assert abs(resize.new_w - 200 * scale) <= 1


@pytest.mark.parametrize("pad", [True, False])
def test_fixed_crop_has_its_size_where_the_image_fills_it_or_padding_does(pad):
    crop = T.FixedSizeCrop((40, 50), pad=pad, pad_value=128)
    large = crop.get_transform(picture(80, 90)).apply_image(picture(80, 90))
    small = crop.get_transform(picture(30, 90)).apply_image(picture(30, 90))
    assert large.shape == (40, 50, 3)
    assert small.shape == ((40, 50, 3) if pad else (30, 50, 3))
    if pad:
        assert (small[30:] == 128).all()


def test_fixed_crop_places_both_axes_with_one_random_number():
    np.random.seed(0)
    for _ in range(10):
        crop = T.FixedSizeCrop((10, 10), pad=False).get_transform(np.zeros((110, 210, 3), np.uint8))[0]
        assert abs(crop.x0 / 200 - crop.y0 / 100) <= 0.01


def test_flip_happens_as_often_as_asked_and_mirrors_boxes():
    image = picture(4, 6)
    always, never = T.RandomFlip(prob=1.0), T.RandomFlip(prob=0.0)
    np.testing.assert_array_equal(always.get_transform(image).apply_image(image), image[:, ::-1])
    np.testing.assert_array_equal(never.get_transform(image).apply_image(image), image)
    np.testing.assert_allclose(always.get_transform(image).apply_box(np.array([[1.0, 0, 2, 4]])), [[4, 0, 5, 4]])
    upside_down = T.RandomFlip(prob=1.0, horizontal=False, vertical=True).get_transform(image)
    np.testing.assert_array_equal(upside_down.apply_image(image), image[::-1])
    with pytest.raises(ValueError):
        T.RandomFlip(horizontal=True, vertical=True)


def test_a_list_applies_its_parts_in_order_to_image_boxes_and_labels():
    image, labels = picture(40, 60), np.arange(40 * 60, dtype=np.int32).reshape(40, 60) % 7
    given = T.AugInput(image, boxes=np.array([[10.0, 5, 30, 25]]), sem_seg=labels.astype(np.uint8))
    done = T.AugmentationList([T.RandomFlip(prob=1.0), T.CropTransform(10, 0, 40, 40), T.NoOpTransform()])(given)
    assert isinstance(done, T.TransformList)
    assert len(done) == 3
    np.testing.assert_array_equal(given.image, image[:, ::-1][:, 10:50])
    np.testing.assert_array_equal(given.sem_seg, labels[:, ::-1][:, 10:50])
    np.testing.assert_allclose(given.boxes, [[20, 5, 40, 25]])
    np.testing.assert_array_equal(done.apply_image(image), given.image)


def test_an_augmentation_of_ones_own_sees_the_inputs_it_names():
    class CropToFirstBox(T.Augmentation):
        def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> T.Transform:
            x0, y0, x1, y1 = boxes[0].astype(int)
            return T.CropTransform(x0, y0, x1 - x0, y1 - y0)

    given = T.AugInput(picture(40, 60), boxes=np.array([[10.0, 5, 30, 25]]))
    CropToFirstBox()(given)
    assert given.image.shape == (20, 20, 3)


def test_an_augmentation_that_looks_at_what_the_input_does_not_have_is_an_error():
    class ByDepth(T.Augmentation):
        def get_transform(self, image: np.ndarray, depth: np.ndarray) -> T.Transform:
            return T.NoOpTransform()

    with pytest.raises(AttributeError, match="depth"):
        ByDepth()(T.AugInput(picture(40, 60)))


def test_equal_seeds_draw_equal_augmentations():
    steps = [T.RandomFlip(), T.ResizeScale(0.5, 2.0, 32, 32), T.FixedSizeCrop((32, 32))]

    def run() -> np.ndarray:
        np.random.seed(11)
        given = T.AugInput(picture(40, 60))
        given.apply_augmentations(steps)
        return given.image

    np.testing.assert_array_equal(run(), run())
