"""Test-time augmentation in an evaluation: what the config's node `tta` asks for."""

from collections.abc import Callable
from functools import partial

from detectron2.modeling import GeneralizedRCNN
from omegaconf import DictConfig
from torch import nn

from eva02_det.engine.description import preprocessing_of
from eva02_det.modeling.tta import TTA
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError

# long sides of the views, as parts of the size that the model is tested at
USUAL_PARTS = (5 / 6, 1.0, 7 / 6, 4 / 3)
STEP_PX = 32  # stride of the coarsest map that is not subsampled


def usual_scales(long_side_px: int) -> tuple[int, ...]:
    """Long sides in px for a model that is tested at one: one smaller, the same, two larger (fewer where the model is tiny)."""
    sides = [long_side_px if part == 1 else max(round(long_side_px * part / STEP_PX), 1) * STEP_PX for part in USUAL_PARTS]
    return tuple(dict.fromkeys(sides))


def scales_of(text: str) -> list[int]:
    """Long sides in px from a text like 1280,1536."""
    sides = [side.strip() for side in text.split(",")]
    if not all(side.isdigit() for side in sides):
        raise UserError(f"{text!r} is no list of long sides in px; write for example 1280,1536,1792")
    return [int(side) for side in sides]


def with_tta(config: DictConfig, model: GeneralizedRCNN) -> nn.Module:
    """The model, wrapped as `tta_wrapper` says."""
    return tta_wrapper(config)(model)


def tta_wrapper(config: DictConfig) -> Callable[[GeneralizedRCNN], nn.Module]:
    """What wraps the model where the config has `tta: {scales: [px, ...], flip: true}`, scales null for the usual ones.

    Without that node the model stays as it is. With it the test loader of the config is told to hand over pictures as they
    were decoded, so call this before the loader is built.
    """
    if get(config, "tta") is None or get(config, "tta.enabled", True) is False:
        return _unchanged
    unknown = set(config.tta) - {"enabled", "scales", "flip"}
    if unknown:
        raise UserError(f"tta.{min(unknown)} in the config is not known; tta takes scales, flip and enabled")
    scales = get(config, "tta.scales") or usual_scales(preprocessing_of(config).long_side_px)
    config.dataloader.test.mapper.augmentations = []
    return partial(_wrapped, scales=[int(side) for side in scales], flip=bool(get(config, "tta.flip", True)))


def _wrapped(model: GeneralizedRCNN, *, scales: list[int], flip: bool) -> nn.Module:
    return TTA(model, scales=scales, flip=flip).eval()


def _unchanged(model: GeneralizedRCNN) -> nn.Module:
    return model
