"""Batches of images of different sizes."""

from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.structures import ImageList


def images() -> list[torch.Tensor]:
    return [torch.rand(3, 10, 13), torch.rand(3, 12, 7)]


def test_the_smallest_canvas_holds_every_image_in_its_corner():
    given = images()
    batch = ImageList.from_tensors(given)
    assert batch.tensor.shape == (2, 3, 12, 13)
    assert batch.image_sizes == [(10, 13), (12, 7)]
    assert torch.equal(batch[0], given[0])
    assert torch.equal(batch[1], given[1])


def test_padding_has_the_asked_value():
    batch = ImageList.from_tensors(images(), pad_value=7.0)
    assert (batch.tensor[0, :, 10:] == 7).all()
    assert (batch.tensor[1, :, :, 7:] == 7).all()


@pytest.mark.parametrize(
    ("divisor", "constraints", "side"),
    [
        (0, {"square_size": 20}, (20, 20)),
        (8, None, (16, 16)),
        (5, None, (15, 15)),
        (1, {}, (12, 13)),
        (32, {"square_size": 20}, (32, 32)),
        (0, {"square_size": 0, "size_divisibility": 6}, (12, 18)),
        (0, {"square_size": 20, "size_divisiblity": 32}, (20, 20)),
    ],
)
def test_divisor_and_square_shape_the_canvas(divisor, constraints, side):
    batch = ImageList.from_tensors(images(), divisor, padding_constraints=constraints)
    assert tuple(batch.tensor.shape[-2:]) == side


def test_maps_without_channels_are_batched_too():
    batch = ImageList.from_tensors([torch.ones(4, 5), torch.ones(3, 6)])
    assert batch.tensor.shape == (2, 4, 6)
    assert batch[1].shape == (3, 6)


def test_the_type_of_the_images_is_kept():
    assert ImageList.from_tensors([torch.zeros(3, 4, 4, dtype=torch.uint8)]).tensor.dtype == torch.uint8
    assert ImageList.from_tensors(images()).to(torch.float64).tensor.dtype == torch.float64


def test_a_batch_has_the_length_of_its_images():
    assert len(ImageList.from_tensors(images())) == 2


@pytest.mark.skipif("d2lite" not in Path(detectron2.__file__).parts, reason="the official package cuts such an image off")
def test_an_image_larger_than_the_square_enlarges_the_square():
    batch = ImageList.from_tensors(images(), padding_constraints={"square_size": 11})
    assert batch.tensor.shape[-2:] == (13, 13)
