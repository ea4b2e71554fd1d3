"""RoIAlign as a module."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torchvision.ops import roi_align


class ROIAlign(nn.Module):
    """Bilinear pooling of boxes from one map.

    `aligned` puts the centre of the first pixel at 0.5 (the later, correct convention); `sampling_ratio` 0 adapts the
    number of samples to the size of the box.
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int, aligned: bool = True
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """[B, C, H, W] and rois [R, 5] (image index, x0, y0, x1, y1 in image pixels) -> [R, C, h, w]."""
        if rois.dim() != 2 or rois.shape[1] != 5:
            raise AssertionError(f"rois need the shape [R, 5], got {list(rois.shape)}")
        size = _pair(self.output_size)
        return roi_align(input, rois.to(input.dtype), size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
