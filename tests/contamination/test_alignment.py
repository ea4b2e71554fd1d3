"""Aligned pixels say how a copy lies over its original, and that two pictures are none."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from benchmarks.planted import distractor
from eva02_det.contamination.alignment import Alignment, confirm
from eva02_det.contamination.poses import POSES, Pose
from tests.contamination.photographs import photograph

NUMBER = 1


def sure(alignment: Alignment | None) -> Alignment:
    assert alignment is not None
    return alignment


@pytest.mark.parametrize("pose", POSES, ids=str)
def test_the_pose_is_that_of_the_copy(pose: Pose) -> None:
    found = sure(confirm(photograph(NUMBER), np.ascontiguousarray(pose.of_image(photograph(NUMBER)))))
    assert (found.flip, found.quarter_turns) == (pose.flip, pose.quarter_turns)
    assert found.similarity > 0.97
    assert found.coverage > 0.98


def test_the_window_is_the_part_that_the_copy_shows() -> None:
    image = photograph(NUMBER)
    height, width = image.shape[:2]
    window = (0.1, 0.2, 0.8, 0.9)
    crop = image[round(0.2 * height) : round(0.9 * height), round(0.1 * width) : round(0.8 * width)]
    found = sure(confirm(image, np.ascontiguousarray(np.rot90(crop))))
    np.testing.assert_allclose(found.window, window, atol=0.025)
    assert found.coverage == pytest.approx(0.49, abs=0.03)
    assert found.quarter_turns == 1


def test_a_copy_on_a_larger_page_covers_the_whole_evaluation_image() -> None:
    page = np.full((900, 1100, 3), 235, dtype=np.uint8)
    image = np.asarray(Image.fromarray(photograph(NUMBER)).resize((320, 480)))
    page[210:690, 90:410] = image
    found = sure(confirm(photograph(NUMBER), page))
    assert found.coverage > 0.97
    assert found.similarity > 0.9


def test_a_copy_pressed_into_another_shape_is_found() -> None:
    squeezed = np.asarray(Image.fromarray(photograph(NUMBER)).resize((300, 300)))
    assert sure(confirm(photograph(NUMBER), squeezed)).coverage > 0.97


def test_a_pose_asked_for_is_the_only_one_tried() -> None:
    image = photograph(NUMBER)
    assert confirm(image, image, Pose()) is not None
    assert confirm(image, image, Pose(flip=True)) is None


@pytest.mark.parametrize("other", [0, 2, 3, 4])
def test_other_photographs_are_none(other: int) -> None:
    assert confirm(photograph(NUMBER), photograph(other)) is None


@pytest.mark.parametrize("value", [0, 255])
def test_a_plain_picture_is_a_copy_of_nothing_not_even_of_itself(value: int) -> None:
    plain = np.full((200, 300, 3), value, dtype=np.uint8)
    assert confirm(plain, plain) is None
    assert confirm(photograph(NUMBER), plain) is None


def test_slopes_of_the_same_colours_are_none() -> None:
    first = np.asarray(Image.fromarray(np.array([[0, 90], [160, 255]], np.uint8)).resize((300, 200), Image.Resampling.BILINEAR))
    second = np.asarray(Image.fromarray(first).resize((200, 200)))
    assert confirm(first, second) is None


def test_another_photograph_of_the_same_texture_is_none() -> None:
    def texture(seed: int) -> np.ndarray:
        grain = np.random.default_rng(seed).integers(0, 256, (300, 400), dtype=np.uint8)
        return np.asarray(Image.fromarray(grain).filter(ImageFilter.GaussianBlur(3)))

    assert confirm(texture(0), texture(0)) is not None
    assert confirm(texture(0), texture(1)) is None


def test_a_scene_whose_things_have_moved_is_none() -> None:
    """The same ground, most of it hidden behind things that lie elsewhere in the second picture."""
    rng = np.random.default_rng(0)
    things = [np.asarray(distractor(n).convert("RGB").resize((110, 110))) for n in range(100, 112)]

    def scene() -> np.ndarray:
        image = np.full((360, 480, 3), 120, np.uint8)
        cells = rng.permutation(12)
        for thing, cell in zip(things, cells):
            image[cell // 4 * 120 + 5 : cell // 4 * 120 + 115, cell % 4 * 120 + 5 : cell % 4 * 120 + 115] = thing
        return image

    assert confirm(scene(), scene()) is None
