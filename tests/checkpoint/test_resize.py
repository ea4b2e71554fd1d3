"""Patch kernels and position tables in another size, beside timm and by their properties."""

import pytest
import torch
import torch.nn.functional as F

from eva02_det.checkpoint.resize import position_grid, resize_patch_kernel, resize_position_table


@pytest.mark.parametrize(("old", "new"), [(14, 16), (16, 14), (14, 32), (16, 16)])
def test_the_pseudo_inverse_is_timms(old: int, new: int) -> None:
    resample = pytest.importorskip("timm.layers").resample_patch_embed
    kernel = torch.randn(6, 3, old, old)
    expected = resample(kernel, [new, new], interpolation="bicubic", antialias=True)
    torch.testing.assert_close(resize_patch_kernel(kernel, new, "pseudo_inverse"), expected, rtol=1e-4, atol=1e-5)


def test_the_pseudo_inverse_keeps_the_response_to_an_enlarged_patch_and_bicubic_enlarges_it() -> None:
    torch.manual_seed(0)
    patch, kernel = torch.randn(64, 3, 14, 14), torch.randn(8, 3, 14, 14)
    large = F.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    response = torch.einsum("bcyx,dcyx->bd", patch, kernel)
    kept = torch.einsum("bcyx,dcyx->bd", large, resize_patch_kernel(kernel, 16, "pseudo_inverse"))
    torch.testing.assert_close(kept, response, rtol=1e-3, atol=1e-3)
    flat = torch.ones(1, 1, 14, 14)
    assert resize_patch_kernel(flat, 16).sum().item() == pytest.approx(256, rel=1e-5)  # (16 / 14)^2 times 196
    assert resize_patch_kernel(flat, 16, "pseudo_inverse").sum().item() == pytest.approx(196, rel=1e-2)


@pytest.mark.parametrize("method", ["bicubic", "pseudo_inverse"])
def test_kernels_come_out_in_float32_and_channels_do_not_mix(method: str) -> None:
    kernel = torch.randn(4, 3, 14, 14).half()
    resized = resize_patch_kernel(kernel, 16, method)
    assert resized.dtype == torch.float32
    torch.testing.assert_close(resize_patch_kernel(kernel[2:3, 1:2], 16, method), resized[2:3, 1:2], rtol=1e-5, atol=1e-6)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="resize='nearest' is unknown; choose one of bicubic, pseudo_inverse"):
        resize_patch_kernel(torch.zeros(1, 3, 14, 14), 16, "nearest")


def test_the_class_row_is_copied_and_a_plane_of_positions_stays_a_plane_inside() -> None:
    rows, cols = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    table = torch.stack((rows, cols, torch.ones(16, 16)), -1).reshape(1, 256, 3)
    resized = resize_position_table(torch.cat((torch.full((1, 1, 3), 7.0), table), 1), 197)
    assert resized.shape == (1, 197, 3)
    assert (resized[:, 0] == 7).all()
    inside = resized[0, 1:].view(14, 14, 3)[2:12, 2:12]
    centres = (torch.arange(14) + 0.5) * 16 / 14 - 0.5
    torch.testing.assert_close(inside[..., 0], centres[2:12, None].expand(10, 10), rtol=0, atol=0.05)
    torch.testing.assert_close(inside[..., 1], centres[None, 2:12].expand(10, 10), rtol=0, atol=0.05)
    torch.testing.assert_close(inside[..., 2], torch.ones(10, 10))


def test_a_table_of_the_wanted_grid_is_untouched() -> None:
    table = torch.randn(1, 197, 5)
    assert torch.equal(resize_position_table(table, 197), table)
    assert torch.equal(resize_position_table(table, 196), table[:, 1:])


@pytest.mark.parametrize(
    ("rows", "side"), [(197, 14), (196, 14), (1, 1), (2, 1), (1025, 32), (198, None), (0, None), (255, None)]
)
def test_a_square_of_positions_is_recognised_with_and_without_a_class_row(rows: int, side: int | None) -> None:
    assert position_grid(rows) == side


def test_rows_that_are_no_square_are_an_error() -> None:
    with pytest.raises(ValueError, match="200 or 197 rows are no square"):
        resize_position_table(torch.zeros(1, 200, 3), 197)
