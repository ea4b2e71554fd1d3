"""Masks as bitmaps and as polygons."""

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, PolygonMasks, polygons_to_bitmask

SQUARE = np.array([2.0, 3.0, 8.0, 3.0, 8.0, 9.0, 2.0, 9.0])  # 6 x 6 pixels at (2, 3)
TRIANGLE = np.array([0.0, 0.0, 4.0, 0.0, 0.0, 4.0])


def polygons() -> PolygonMasks:
    return PolygonMasks([[SQUARE], [TRIANGLE, SQUARE + 10], []])


def test_a_polygon_covers_the_pixels_inside_it():
    bitmap = polygons_to_bitmask([SQUARE], 12, 12)
    expected = np.zeros((12, 12), dtype=bool)
    expected[3:9, 2:8] = True
    assert (bitmap == expected).all()


def test_polygons_of_one_object_are_united():
    both = polygons_to_bitmask([SQUARE, SQUARE + 1], 12, 12)
    each = polygons_to_bitmask([SQUARE], 12, 12) | polygons_to_bitmask([SQUARE + 1], 12, 12)
    assert (both == each).all()


def test_no_polygon_covers_nothing():
    assert not polygons_to_bitmask([], 5, 6).any()
    assert polygons_to_bitmask([], 5, 6).shape == (5, 6)


@pytest.mark.parametrize("numbers", [[0.0, 0.0, 1.0, 1.0], [0.0] * 7])
def test_too_few_or_odd_numbers_are_no_polygon(numbers):
    with pytest.raises(ValueError, match="polygon"):
        PolygonMasks([[np.array(numbers)]])


def test_bounding_boxes_of_polygons_span_their_vertices():
    boxes = polygons()[:2].get_bounding_boxes().tensor
    assert boxes.tolist() == [[2, 3, 8, 9], [0, 0, 18, 19]]


def test_an_object_without_polygon_is_empty():
    assert polygons().nonempty().tolist() == [True, True, False]


def test_area_follows_the_shoelace_formula():
    assert polygons().area().tolist() == [36, 44, 0]


@pytest.mark.parametrize(
    ("item", "rows"),
    [
        (1, [1]),
        (slice(0, 2), [0, 1]),
        ([2, 0], [2, 0]),
        (torch.tensor([0, 0, 1]), [0, 0, 1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.zeros(0, dtype=torch.int64), []),
    ],
)
def test_polygons_are_chosen_by_any_kind_of_index(item, rows):
    chosen = polygons()[item]
    assert len(chosen) == len(rows)
    assert [len(parts) for parts in chosen] == [[1, 2, 0][row] for row in rows]


def test_polygons_join_in_order():
    assert [len(parts) for parts in PolygonMasks.cat([polygons(), polygons()[:1]])] == [1, 2, 0, 1]


def test_a_crop_equals_the_shifted_and_enlarged_polygon():
    box = torch.tensor([[1.0, 2.0, 11.0, 12.0]])
    crop = PolygonMasks([[SQUARE]]).crop_and_resize(box, 20)
    assert (crop[0].numpy() == polygons_to_bitmask([(SQUARE - np.tile([1, 2], 4)) * 2], 20, 20)).all()


def test_a_box_without_area_is_cropped_without_failing():
    crop = PolygonMasks([[SQUARE]]).crop_and_resize(torch.tensor([[4.0, 4.0, 4.0, 4.0]]), 7)
    assert crop.shape == (1, 7, 7)
    assert crop.all()


@pytest.mark.parametrize("masks", [PolygonMasks([]), BitMasks(torch.zeros(0, 9, 9))])
def test_no_masks_give_no_crops(masks):
    crops = masks.crop_and_resize(torch.zeros(0, 4), 14)
    assert crops.shape == (0, 14, 14)
    assert crops.dtype == torch.bool


def test_bitmaps_drawn_from_polygons_have_the_same_boxes():
    bitmaps = BitMasks.from_polygon_masks(polygons(), 25, 25)
    assert bitmaps.tensor.shape == (3, 25, 25)
    assert bitmaps.image_size == (25, 25)
    assert bitmaps.get_bounding_boxes().tensor[[0, 2]].tolist() == [[2, 3, 8, 9], [0, 0, 0, 0]]
    assert bitmaps.nonempty().tolist() == [True, True, False]


def test_a_single_pixel_has_a_box_of_one_pixel():
    bits = torch.zeros(1, 6, 6)
    bits[0, 5, 2] = 1
    assert BitMasks(bits).get_bounding_boxes().tensor.tolist() == [[2, 5, 3, 6]]


def test_cropping_a_bitmap_by_its_own_box_fills_the_crop():
    bitmaps = BitMasks.from_polygon_masks(polygons()[:1], 25, 25)
    assert bitmaps.crop_and_resize(bitmaps.get_bounding_boxes().tensor, 14).all()


def test_crops_of_bitmaps_and_polygons_agree_up_to_the_border():
    boxes = torch.tensor([[0.0, 0.0, 12.0, 12.0], [0.0, 0.0, 24.0, 24.0]])
    masks = polygons()[:2]
    exact = masks.crop_and_resize(boxes, 24)
    sampled = BitMasks.from_polygon_masks(masks, 25, 25).crop_and_resize(boxes, 24)
    assert (exact != sampled).float().mean() < 0.03


def test_bitmaps_are_chosen_and_joined():
    bitmaps = BitMasks(np.eye(4)[:, None].repeat(2, axis=1))
    assert bitmaps[2].tensor.shape == (1, 2, 4)
    assert bitmaps[torch.tensor([True, False, False, True])].tensor.shape == (2, 2, 4)
    assert len(BitMasks.cat([bitmaps, bitmaps[:1]])) == 5
    assert [int(mask.sum()) for mask in bitmaps] == [2, 2, 2, 2]
    assert bitmaps.to("cpu").device.type == "cpu"
