"""Poses act alike on pixels, on frequencies and on points."""

import numpy as np
import pytest

from eva02_det.contamination.poses import POSES, Pose

SIDE = 8
COSINES = np.cos(np.pi / SIDE * np.arange(SIDE)[:, None] * (np.arange(SIDE) + 0.5))


@pytest.mark.parametrize("pose", POSES, ids=str)
def test_frequencies_of_a_posed_picture_are_the_posed_frequencies(pose: Pose) -> None:
    image = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    posed = COSINES @ pose.of_image(image) @ COSINES.T
    np.testing.assert_allclose(pose.of_frequencies(COSINES @ image @ COSINES.T), posed, atol=1e-9)


@pytest.mark.parametrize("pose", POSES, ids=str)
def test_the_matrix_takes_a_point_to_where_the_pose_puts_it(pose: Pose) -> None:
    image = np.zeros((5, 7))
    image[1, 5] = 1  # x = 2, y = -1 from the middle
    ((row, col),) = np.argwhere(pose.of_image(image))
    height, width = pose.of_image(image).shape
    np.testing.assert_array_equal(pose.matrix() @ [2, -1], [col - width // 2, row - height // 2])


def test_a_pose_knows_its_place_and_whether_rows_become_columns() -> None:
    assert [pose.number for pose in POSES] == list(range(8))
    assert [pose.turned for pose in POSES] == [pose.of_image(np.zeros((2, 3))).shape == (3, 2) for pose in POSES]
