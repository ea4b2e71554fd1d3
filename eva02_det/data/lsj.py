"""Large-scale jitter (Ghiasi et al., "Simple Copy-Paste", section 4.1) as the released recipes train with it."""

from collections.abc import Sequence

from detectron2.data import transforms as T


def train_augmentations(pixels: int, *, scale: Sequence[float] = (0.1, 2.0), flip: float = 0.5) -> list[T.Augmentation]:
    """Flip, fit into a square of `pixels` times a random scale, cut to at most that square.

    Nothing is padded here: the model pads, so that boxes and masks speak of the image alone.
    """
    smallest, largest = scale
    return [
        T.RandomFlip(prob=flip, horizontal=True),
        T.ResizeScale(min_scale=smallest, max_scale=largest, target_height=pixels, target_width=pixels),
        T.FixedSizeCrop(crop_size=(pixels, pixels), pad=False),
    ]


def test_augmentations(pixels: int) -> list[T.Augmentation]:
    """Resize so that the long side is `pixels`."""
    return [T.ResizeShortestEdge(short_edge_length=pixels, max_size=pixels)]
