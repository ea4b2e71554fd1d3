"""Drawing: what is painted, where, and that it can be read."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eva02_det.report.draw import HEADING_PX, SIDE_PX, Objects, class_color, draw, draw_found, side_by_side
from eva02_det.utils.errors import UserError

GRAY = 128


def one_object(class_id: int = 0, *, size: tuple[int, int] = (600, 600), with_mask: bool = True) -> Objects:
    """A box from (200, 300) to (400, 500) whose mask is its inner half."""
    mask = np.zeros((1, size[1], size[0]), dtype=bool)
    mask[:, 350:450, 250:350] = True
    box, ids = np.array([[200.0, 300.0, 400.0, 500.0]]), np.array([class_id])
    return Objects(box, ids, ("thing",), masks=mask if with_mask else None)


def gray(width: int = 600, height: int = 600) -> Image.Image:
    return Image.new("RGB", (width, height), (GRAY, GRAY, GRAY))


def test_the_box_lies_on_its_corners_and_the_mask_is_translucent_inside():
    drawn = np.asarray(draw(gray(), one_object())).astype(int)
    color = np.array(class_color(0))
    np.testing.assert_array_equal(drawn[400, 200], color)  # on the left side of the box
    np.testing.assert_array_equal(drawn[500, 300], color)  # on its lower side
    np.testing.assert_array_equal(drawn[320, 230], [GRAY] * 3)  # in the box, outside the mask
    tinted = drawn[400, 300]
    assert (abs(tinted - (0.45 * color + 0.55 * GRAY)) <= 2).all()
    np.testing.assert_array_equal(drawn[100, 100], [GRAY] * 3)


def test_the_picture_given_is_not_changed():
    picture = gray()
    draw(picture, one_object())
    assert np.unique(np.asarray(picture)).tolist() == [GRAY]


def test_objects_without_masks_get_boxes_and_names_only():
    drawn = np.asarray(draw(gray(), one_object(with_mask=False)))
    np.testing.assert_array_equal(drawn[400, 300], [GRAY] * 3)
    np.testing.assert_array_equal(drawn[400, 200], class_color(0))


def test_the_name_stands_in_its_colour_above_the_box():
    drawn = np.asarray(draw(gray(), one_object()))
    strip = drawn[280:298, 200:240].reshape(-1, 3)
    assert (strip == class_color(0)).all(axis=1).mean() > 0.5  # its ground
    assert len(np.unique(strip, axis=0)) > 2  # the letters


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_picture_without_objects_is_only_resized(with_mask: bool):
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, dtype=int), (), masks=np.zeros((0, 600, 600), bool) if with_mask else None)
    assert np.unique(np.asarray(draw(gray(), nothing))).tolist() == [GRAY]


@pytest.mark.parametrize(
    ("given", "drawn"),
    [((192, 96), (560, 280)), ((640, 480), (640, 480)), ((3000, 1500), (960, 480)), ((1500, 3000), (480, 960))],
)
def test_small_pictures_are_enlarged_and_large_ones_shrunk(given: tuple[int, int], drawn: tuple[int, int]):
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, dtype=int), ())
    assert draw(gray(*given), nothing).size == drawn
    assert SIDE_PX[0] <= max(drawn) <= SIDE_PX[1]


@pytest.mark.parametrize(
    ("given", "options", "drawn"),
    [
        ((192, 96), {"grow": False}, (192, 96)),
        ((3000, 1500), {"shrink": False}, (3000, 1500)),
        ((1, 3000), {}, (1, 960)),
        ((1, 1), {}, (560, 560)),
    ],
)
def test_a_size_is_kept_where_that_is_asked_for(given: tuple[int, int], options: dict, drawn: tuple[int, int]):
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, dtype=int), ())
    assert draw(gray(*given), nothing, **options).size == drawn


def test_lines_are_as_visible_on_a_large_picture_as_on_a_small_one():
    box = np.array([[1000.0, 1000.0, 2000.0, 2000.0]])
    drawn = np.asarray(draw(gray(3840, 3840), Objects(box, np.array([0]), ("thing",)), shrink=False))
    row = drawn[1500, 900:1100]
    assert (row == class_color(0)).all(axis=1).sum() == pytest.approx(2 * 3840 / SIDE_PX[1], abs=2)


def test_the_output_of_a_detector_is_drawn_on_its_picture():
    objects = one_object(2)
    tensors = (torch.from_numpy(objects.boxes), torch.from_numpy(objects.class_ids))
    found = draw_found(np.asarray(gray()), *tensors, ("thing",), torch.tensor([0.5]), torch.from_numpy(objects.masks))
    expected = draw(gray(), replace(objects, scores=np.array([0.5])))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    small = draw_found(np.zeros((5, 7, 3), np.uint8), *tensors, ("thing",), torch.tensor([0.5]), keep_size=True)
    assert small.size == (7, 5)


def test_boxes_and_masks_grow_with_the_picture():
    mask = np.zeros((1, 100, 100), dtype=bool)
    mask[:, 40:60, 40:60] = True
    drawn = np.asarray(draw(gray(100, 100), Objects(np.array([[20.0, 20, 80, 80]]), np.array([1]), ("thing",), masks=mask)))
    scale = SIDE_PX[0] / 100
    np.testing.assert_array_equal(drawn[int(50 * scale), int(20 * scale)], class_color(1))
    assert (drawn[int(50 * scale), int(50 * scale)] != GRAY).any()
    np.testing.assert_array_equal(drawn[int(30 * scale), int(30 * scale)], [GRAY] * 3)


def test_a_label_shows_the_score_in_per_cent():
    objects = Objects(np.zeros((2, 4)), np.zeros(2, dtype=int), ("cat", "dog"), np.array([0.987, 0.05]))
    assert objects.labels() == ["cat 99%", "dog 5%"]


def test_no_two_of_eighty_classes_share_a_colour_and_neighbours_differ_clearly():
    colors = np.array([class_color(index) for index in range(80)]).astype(int)
    assert len(np.unique(colors, axis=0)) == 80
    assert abs(np.diff(colors, axis=0)).sum(axis=1).min() > 120


def test_panels_stand_in_a_row_under_their_headings():
    sheet = side_by_side({"left": gray(100, 50), "right": gray(60, 50)})
    assert sheet.size == (168, 50 + HEADING_PX)
    pixels = np.asarray(sheet)
    assert (pixels[HEADING_PX:, :100] == GRAY).all()
    assert (pixels[HEADING_PX:, 108:] == GRAY).all()
    assert (pixels[:HEADING_PX, :100] < 100).any()  # the heading's letters


def test_an_absent_drawing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match=r"supervision.*pip install"):
        draw(gray(), one_object())
