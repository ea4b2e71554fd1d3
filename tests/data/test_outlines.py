"""Polygons of a whole image at once, against fvcore's transforms polygon by polygon."""

import numpy as np
import pytest
import shapely
from detectron2.data import transforms as T

from eva02_det.data.outlines import Outlines

WINDOW = T.CropTransform(20, 10, 50, 40)  # x 20 .. 70, y 10 .. 50


def region(polygons: list[np.ndarray]) -> shapely.Geometry:
    return shapely.union_all([shapely.Polygon(np.reshape(one, (-1, 2))).buffer(0.0) for one in polygons])


def star(generator: np.random.Generator, corners: int, crossed: bool = False) -> np.ndarray:
    """A polygon around a random centre; its corners in the order of their angle, or in any order."""
    angles = generator.uniform(0, 2 * np.pi, corners)
    angles = angles if crossed else np.sort(angles)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * generator.uniform(2, 40, (corners, 1))
    return (around + generator.uniform(-10, 100, 2)).ravel()


@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize(
    "transforms",
    [
        [WINDOW],
        [T.HFlipTransform(90), T.ResizeTransform(60, 90, 77, 131), WINDOW],
        [T.ResizeTransform(60, 90, 55, 101), WINDOW, T.PadTransform(0, 0, 5, 9, 50, 40), T.HFlipTransform(55)],
    ],
    ids=["crop", "ours", "padded"],
)
def test_the_region_of_every_object_is_the_one_that_shapely_gives(transforms, crossed):
    generator = np.random.default_rng(5)
    masks = [[star(generator, corners, crossed) for corners in generator.integers(3, 12, n)] for n in (1, 3, 0, 2, 1, 4, 1, 1)]
    moved = Outlines.of(masks).moved(transforms)
    found = moved.polygons(np.arange(len(masks)))
    for mine, mask in zip(found, masks, strict=True):
        points = [polygon.reshape(-1, 2) for polygon in mask]
        for transform in transforms:
            points = transform.apply_polygons([one.copy() for one in points])
        expected = [one.ravel() for one in points]
        assert len(mine) == len(expected)
        assert region(mine).symmetric_difference(region(expected)).area < 1e-3
        assert sum(map(len, mine)) == sum(map(len, expected)) or not crossed
        if mine:
            np.testing.assert_allclose(region(mine).bounds, region(expected).bounds, atol=1e-3)


def test_a_polygon_inside_keeps_its_points_in_their_order():
    triangle = [30.0, 20.0, 60.0, 20.5, 45.0, 49.0]
    found = Outlines.of([[triangle]]).moved([WINDOW]).polygons(np.array([0]))
    np.testing.assert_array_equal(found[0][0], [10.0, 10.0, 40.0, 10.5, 25.0, 39.0])


def test_what_only_touches_the_window_leaves_nothing():
    beside, corner = [0.0, 0, 20, 20, 0, 30], [70.0, 50, 90, 50, 90, 70]
    assert len(Outlines.of([[beside], [corner]]).moved([WINDOW]).owner) == 0


def test_one_polygon_may_be_cut_into_several_of_the_same_object():
    comb = [10.0, 0, 80, 0, 80, 30, 60, 30, 60, 5, 40, 5, 40, 30, 10, 30]
    moved = Outlines.of([[], [comb]]).moved([WINDOW])
    assert moved.owner.tolist() == [1, 1]
    np.testing.assert_allclose(moved.boxes(np.array([1])), [[0, 0, 50, 20]])


def test_boxes_go_around_all_polygons_of_an_object():
    two, one = [[1.0, 2, 3, 2, 3, 4], [10.0, 20, 30, 20, 30, 40]], [[5.0, 6, 7, 6, 7, 8]]
    outlines = Outlines.of([two, [], one])
    np.testing.assert_array_equal(outlines.boxes(np.array([0, 2])), [[1, 2, 30, 40], [5, 6, 7, 8]])
    assert outlines.boxes(np.array([], dtype=int)).shape == (0, 4)


def test_no_objects_at_all_stay_none():
    nothing = Outlines.of([]).moved([T.HFlipTransform(10), WINDOW])
    assert nothing.polygons(np.array([], dtype=int)) == []
