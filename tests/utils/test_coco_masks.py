"""Masks as COCO stores them: polygons along pixel edges are exact or are not offered."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from eva02_det.utils.coco_masks import box_around, outline, segmentation


def painted(rows: list[str]) -> np.ndarray:
    """'#' is inside. Rows of text -> [H, W] bool."""
    return np.array([[mark == "#" for mark in row] for row in rows])


def rasterised(stored: list[list[int]] | dict, height: int, width: int) -> np.ndarray:
    runs = coco_mask.frPyObjects(stored, height, width) if isinstance(stored, list) else [stored]
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def test_the_outline_of_a_rectangle_has_its_four_corners() -> None:
    assert outline(painted(["....", ".##.", ".##.", ".##."])) == [1, 1, 3, 1, 3, 4, 1, 4]


def test_the_outline_of_an_l_turns_six_times() -> None:
    assert outline(painted(["#..", "#..", "###"])) == [0, 0, 1, 0, 1, 2, 3, 2, 3, 3, 0, 3]


@pytest.mark.parametrize(
    "rows",
    [["....", "...."], ["###", "#.#", "###"], ["#.#", "#.#"], ["##..", "##..", "..##"], ["###", "#.#", "##."]],
    ids=["empty", "hole", "two parts", "parts that touch at a corner", "a ring closed by a corner"],
)
def test_masks_that_no_simple_polygon_covers_have_no_outline(rows: list[str]) -> None:
    assert outline(painted(rows)) is None


@pytest.mark.parametrize("seed", range(30))
def test_any_mask_comes_back_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(3, 40)), int(rng.integers(3, 40))
    coarse = rng.random((height, width)) < rng.uniform(0.2, 0.95)
    mask = np.kron(coarse, np.ones((1 + seed % 3, 1 + seed % 4), dtype=bool))
    np.testing.assert_array_equal(rasterised(segmentation(mask), *mask.shape), mask)


@pytest.mark.parametrize("seed", range(20))
def test_smooth_simple_masks_come_back_exactly_from_their_polygon(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:50, 0:60] + 0.5
    mask = ((x - rng.uniform(10, 50)) / rng.uniform(4, 40)) ** 2 + ((y - rng.uniform(10, 40)) / rng.uniform(4, 30)) ** 2 < 1
    polygon = outline(mask)
    assert polygon is not None
    np.testing.assert_array_equal(rasterised([polygon], 50, 60), mask)


def test_the_box_holds_whole_pixels() -> None:
    assert box_around(painted(["....", "..#.", ".#..", "...."])) == [1, 1, 2, 2]
    assert box_around(painted(["....", "...."])) == [0, 0, 0, 0]
