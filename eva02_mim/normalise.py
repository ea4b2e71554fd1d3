"""Pixel statistics, applied on the device to uint8 crops that teacher and student share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# OpenAI CLIP's statistics: pre-training (teacher and student) and classification; ImageNet's: detection and segmentation.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """uint8 [B, 3, H, W] -> (pixel / 255 - mean) / std as `dtype`, on the crops' own device. Adds nothing to a state dict."""

    factor: Tensor
    shift: Tensor

    def __init__(
        self, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.dtype = dtype
        factor = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.register_buffer("factor", factor.float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(1, 3, 1, 1), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> [B, 3, H, W]; the arithmetic is fp32 whatever the result's type."""
        return torch.addcmul(self.shift, crops.float(), self.factor).to(self.dtype)
