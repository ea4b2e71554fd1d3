"""Masks as a column of run lengths: byte by byte pycocotools', and their areas."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from eva02_det.evaluation import runs
from eva02_det.utils.errors import UserError


def compressed(masks: torch.Tensor) -> list[bytes]:
    """One by one, by pycocotools."""
    return [coco_mask.encode(np.asfortranarray(mask.numpy(), dtype=np.uint8))["counts"] for mask in masks]


def texts(column: runs.Runs) -> list[bytes]:
    return [column[row] for row in range(len(column))]


def noise(count: int, height: int, width: int, share: float) -> torch.Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(count)) < share


def blobs(count: int, height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(count, 1, 7, 9, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[:, 0] > 0.5


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (2, 1, 7), (2, 7, 1), (40, 37, 53), (0, 5, 5)])
def test_encoded_masks_are_pycocotools_bytes(shape, share):
    masks = noise(*shape, share)
    column = runs.encode(masks)
    assert texts(column) == compressed(masks)
    assert column.areas().tolist() == masks.sum((1, 2)).tolist()


def test_encoding_in_pieces_changes_nothing(monkeypatch):
    masks = blobs(300, 60, 80)
    whole = texts(runs.encode(masks))
    assert whole == compressed(masks)
    monkeypatch.setattr(runs, "PIXELS_AT_ONCE", 60 * 80 * 7)
    monkeypatch.setattr(runs, "BYTES_AT_ONCE", 500)
    column = runs.encode(masks)
    assert texts(column) == whole
    assert column.areas().tolist() == masks.sum((1, 2)).tolist()


def test_long_runs_of_large_images_take_as_many_characters_as_they_need():
    masks = torch.zeros(3, 3000, 4000, dtype=torch.bool)
    masks[1, -1, -1] = True
    masks[2] = True
    column = runs.encode(masks)
    assert texts(column) == compressed(masks)
    assert column.areas().tolist() == [0, 1, 12_000_000]


def test_masks_are_encoded_from_any_memory_layout_and_stay_as_they_are():
    masks = noise(6, 20, 30, 0.5)
    before = masks.clone()
    turned = masks.transpose(1, 2)[::2]
    assert texts(runs.encode(turned)) == compressed(turned)
    assert texts(runs.encode(masks.to(torch.uint8))) == compressed(masks)
    assert torch.equal(masks, before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masks_on_a_gpu_give_the_same_bytes():
    for masks in (blobs(50, 61, 83), noise(20, 33, 17, 0.5), noise(0, 5, 5, 0.5)):
        assert texts(runs.encode(masks.cuda())) == compressed(masks)


def test_rows_are_taken_in_the_order_asked_for_and_columns_joined():
    column = runs.encode(noise(9, 12, 11, 0.3))
    rows = np.array([7, 0, 0, 8, 3])
    assert texts(column.take(rows)) == [column[row] for row in rows]
    assert texts(column.take(rows[:0])) == []
    assert texts(runs.join([column, runs.no_masks(2), column.take(rows)])) == [
        *texts(column),
        b"",
        b"",
        *texts(column.take(rows)),
    ]


def test_a_missing_mask_has_no_area_and_no_bytes():
    column = runs.join([runs.no_masks(1), runs.encode(noise(1, 5, 5, 1.0)), runs.no_masks(1)])
    assert column.areas().tolist() == [0, 25, 0]
    assert column.sizes.tolist()[::2] == [0, 0]


@pytest.mark.parametrize("text", [b"\x05", b"o", b"`5`", b"PPPPPPPPPPPPPPPPPPPPPPPPP0"])
def test_text_that_is_no_run_lengths_is_refused(text):
    with pytest.raises(UserError, match="run lengths"):
        runs.from_texts([text]).areas()


def test_the_runs_of_a_mask_cover_every_pixel_of_its_image():
    for height, width in [(1, 1), (7, 13), (64, 48)]:
        column = runs.join([runs.encode(noise(5, height, width, share)) for share in (0.0, 0.02, 0.5, 1.0)])
        assert column.pixels().tolist() == [height * width] * 20
    mixed = runs.join([runs.encode(torch.ones(1, 4, 5)), runs.no_masks(1), runs.encode(torch.zeros(2, 6, 2))])
    assert mixed.pixels().tolist() == [20, 0, 12, 12]
