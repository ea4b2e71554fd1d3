"""Rows of pictures: the same for the same pixels, near for copies in any pose, none for plain pictures."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.planted import encoded
from eva02_det.contamination.fingerprints import (
    BYTES,
    MAX_BITS,
    corpus_rows,
    evaluation_rows,
    hashes,
    places,
    small_image,
    trimmed,
)
from eva02_det.contamination.poses import POSES, Pose
from eva02_det.contamination.search import FingerprintIndex
from tests.contamination.photographs import photograph


def framed(rows: np.ndarray) -> np.ndarray:
    return rows[places(rows).framed]


def test_rows_have_their_length_and_every_evaluation_row_has_its_pose() -> None:
    rows, poses = evaluation_rows(photograph(0))
    assert rows.dtype == np.uint8
    assert rows.shape == (len(poses), BYTES)
    assert set(poses) == set(POSES)
    assert corpus_rows(photograph(0)).shape[1] == BYTES
    np.testing.assert_array_equal(rows, evaluation_rows(photograph(0))[0])


@pytest.mark.parametrize("pose", POSES, ids=str)
def test_a_picture_in_any_pose_is_found_by_its_frame_in_that_pose_and_by_its_regions(pose: Pose) -> None:
    rows, poses = evaluation_rows(photograph(1))
    asked = corpus_rows(np.ascontiguousarray(pose.of_image(photograph(1))))
    frames = FingerprintIndex(hashes(framed(rows)), MAX_BITS).search(hashes(framed(asked)[:1]))
    first = [poses[n] for n in np.flatnonzero(places(rows).framed)]
    assert pose in [first[row] for row in frames.row]
    regions = FingerprintIndex(hashes(rows[~places(rows).framed]), MAX_BITS).search(hashes(asked[~places(asked).framed]))
    assert len(np.unique(regions.query)) >= 0.8 * (~places(asked).framed).sum()


def test_the_place_of_a_region_is_where_the_picture_has_it() -> None:
    """A picture with twice as many columns, the right half of them plain: regions stay where they are, in the left half."""
    image = np.asarray(Image.fromarray(photograph(2)).convert("L"))
    wide = np.pad(image, ((0, 0), (0, image.shape[1])), constant_values=128)
    rows = corpus_rows(wide)
    found = places(rows[~places(rows).framed])
    width = 160 * np.sqrt(wide.shape[1] / wide.shape[0])
    assert len(found.side) > 10
    assert (found.center[:, 0] < 0.6 * width).all()
    assert (found.center - found.side[:, None] / 2 > -2).all()
    assert found.side.max() < 200


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_plain_picture_has_no_rows(value: int) -> None:
    plain = np.full((120, 200, 3), value, dtype=np.uint8)
    assert len(corpus_rows(plain)) == 0
    assert len(evaluation_rows(plain)[0]) == 0


def test_an_even_slope_and_faint_noise_have_no_rows() -> None:
    slope = np.broadcast_to(np.linspace(0, 255, 300).astype(np.uint8), (200, 300))
    noise = np.random.default_rng(0).integers(127, 130, (200, 300), dtype=np.uint8)
    assert len(corpus_rows(slope)) == 0
    assert len(corpus_rows(noise)) == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (2000, 7)])
def test_pictures_of_any_shape_have_rows_or_none(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert corpus_rows(image).shape[1] == BYTES
    assert evaluation_rows(image)[0].shape[1] == BYTES


def test_grey_pictures_have_the_rows_of_their_brightness() -> None:
    grey = np.asarray(Image.fromarray(photograph(3)).convert("L"))
    np.testing.assert_array_equal(corpus_rows(grey), corpus_rows(photograph(3)))


def test_margins_are_trimmed_to_the_picture_and_a_picture_of_margins_is_left_whole() -> None:
    inner = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    page = np.pad(inner, ((20, 10), (5, 0)), constant_values=250)
    left, top, right, bottom = trimmed(page)
    assert (left, top, right, bottom) == (6, 21, 85, 79)  # a line more where there was a margin: it is a blend
    assert trimmed(np.pad(inner[:10, :10], 80)) == (0, 0, 170, 170)


def test_a_picture_decoded_small_is_found_among_those_decoded_whole() -> None:
    large = Image.fromarray(photograph(4)).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encoded(large)
    small = small_image(data)
    assert 200 <= min(small.shape) < 500
    rows, _ = evaluation_rows(np.asarray(large))
    frames = FingerprintIndex(hashes(framed(rows)), 3).search(hashes(framed(corpus_rows(small))[:1]))
    assert len(frames.row) >= 1
