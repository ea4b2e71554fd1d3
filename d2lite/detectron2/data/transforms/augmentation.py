"""What an augmentation is: something random that looks at an image and returns a deterministic transform."""

import inspect
from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import Transform, TransformList


class AugInput:
    """An image with what has to move along with it; augmentations change it in place."""

    def __init__(self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None) -> None:
        """image [H, W, C] uint8 or float, boxes [N, 4] as x0 y0 x1 y1, sem_seg [H, W] labels."""
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply `tfm` to every part that is present."""
        for part, method in (("image", "apply_image"), ("boxes", "apply_box"), ("sem_seg", "apply_segmentation")):
            before = getattr(self, part)
            if before is not None:
                setattr(self, part, getattr(tfm, method)(before))

    def apply_augmentations(self, augmentations: "Sequence[Augmentation | Transform]") -> TransformList:
        """Run several augmentations one after another and return what they did."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """A random policy. A subclass defines `get_transform`, whose argument names are the parts of the input it looks at."""

    def _init(self, params: dict | None = None) -> None:
        """Keep the arguments of a constructor as attributes: `self._init(locals())`."""
        public = {name: value for name, value in (params or {}).items() if name != "self" and not name.startswith("_")}
        vars(self).update(public)

    def get_transform(self, *args: np.ndarray) -> Transform:
        """Draw the random numbers and return the transform they make."""
        raise NotImplementedError(f"{type(self).__name__} does not say which transform it makes")

    def __call__(self, aug_input: AugInput) -> Transform:
        """Draw a transform for `aug_input`, apply it there, return it."""
        wanted = [p.name for p in inspect.signature(self.get_transform).parameters.values() if p.default is p.empty]
        if len(wanted) == 1:  # a lone argument is the image, whatever it is called
            wanted = ["image"]
        missing = [name for name in wanted if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(f"{type(self).__name__} looks at {', '.join(missing)}, which the input does not have")
        drawn = self.get_transform(*(getattr(aug_input, name) for name in wanted))
        aug_input.transform(drawn)
        return drawn

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: int | None = None) -> float | np.ndarray:
        """Uniform in [low, high), or in [0, low) when only one number is given; from NumPy's global generator."""
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self).__init__).parameters if name in vars(self)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class _Fixed(Augmentation):
    """A transform that leaves nothing to chance."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def get_transform(self) -> Transform:
        return self.transform


class AugmentationList(Augmentation):
    """Several augmentations (or plain transforms) in order, each seeing the result of the one before."""

    def __init__(self, augs: "Sequence[Augmentation | Transform]") -> None:
        self.augs = [_Fixed(step) if isinstance(step, Transform) else step for step in augs]

    def __call__(self, aug_input: AugInput) -> TransformList:
        return TransformList([step(aug_input) for step in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList{self.augs}"
