"""The one deterministic transform that fvcore lacks: resizing with Pillow."""

import numpy as np
from fvcore.transforms.transform import Transform
from PIL import Image


class ResizeTransform(Transform):
    """Resize [h, w] to [new_h, new_w] with Pillow (antialiased when it shrinks); maps go through nearest neighbour."""

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        super().__init__()
        self.h, self.w = h, w
        self.new_h, self.new_w = new_h, new_w
        self.interp = Image.BILINEAR if interp is None else interp

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """[h, w] or [h, w, C] -> [new_h, new_w] or [new_h, new_w, C], of the same dtype."""
        if img.shape[:2] != (self.h, self.w):
            raise AssertionError(f"made for an image of {self.h} x {self.w}, got {img.shape[0]} x {img.shape[1]}")
        method = Image.Resampling(self.interp if interp is None else interp)
        if img.dtype == np.uint8 and (img.ndim == 2 or img.shape[2] in (3, 4)):
            return self._resized(img, method)
        # Pillow has no many-channel images and no 8-byte numbers: one 32-bit float plane at a time
        planes = np.atleast_3d(img).astype(np.float32)
        resized = np.stack([self._resized(plane, method) for plane in np.moveaxis(planes, 2, 0)], axis=2)
        if np.issubdtype(img.dtype, np.integer):
            resized = resized.round()
        return resized.reshape(resized.shape[: img.ndim]).astype(img.dtype)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale points (x, y). [N, 2] -> [N, 2], changed in place."""
        coords *= (self.new_w / self.w, self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a map of labels without blending them. [h, w] -> [new_h, new_w]."""
        return self.apply_image(segmentation, Image.NEAREST)

    def inverse(self) -> Transform:
        """Back to the size before."""
        return type(self)(self.new_h, self.new_w, self.h, self.w, self.interp)

    def _resized(self, plane: np.ndarray, method: Image.Resampling) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(plane))
        return np.asarray(picture.resize((self.new_w, self.new_h), method))
