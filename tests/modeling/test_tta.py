"""Test-time augmentation: the plain detector where nothing is augmented, and what views, merging and averaging must keep."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import transforms as T
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from eva02_det.layers.mask_scores import mask_confidence
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.modeling.tta import TTA, View, fit
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import PIXELS, drawn_picture, tiny_config, tiny_model

PROTOCOLS = {
    "predictor's thresholds": {},
    "hard": {"select_boxes": L(HardNms)(score_threshold=0.3)},
    "soft and maskness": {"select_boxes": L(SoftNms)(max_detections=80), "rescore_masks": L(Maskness)()},
    "calibrated and a budget": {
        "select_boxes": L(SoftNms)(score_threshold=0.02),
        "rescore_masks": L(Maskness)(applies_to="boxes_and_masks"),
        "mask_budget": L(MaskBudget)(per_image=20),
    },
}


def picture(width: int = 112, height: int = 90, seed: int = 0) -> Tensor:
    """[3, H, W] uint8."""
    return torch.from_numpy(np.asarray(drawn_picture(width, height, seed)).transpose(2, 0, 1).copy())


def model_with(**options: object) -> nn.Module:
    return tiny_model(tiny_config(**options))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return model_with(**PROTOCOLS["hard"])


def detect(detector: nn.Module, image: Tensor, **size: int) -> Instances:
    with torch.no_grad():
        return detector([{"image": image, **size}])[0]["instances"]


def unscaled(detector: nn.Module, image: Tensor) -> Instances:
    """Detections in the pixels of the first view, masks not pasted."""
    with torch.no_grad():
        return detector.inference([{"image": image}], do_postprocess=False)[0]


def assert_same(one: Instances, other: Instances) -> None:
    """Equal to the last bit."""
    assert len(one) == len(other) > 0
    assert one.get_fields().keys() == other.get_fields().keys()
    for name, field in one.get_fields().items():
        a, b = (value.tensor if isinstance(value, Boxes) else value for value in (field, other.get(name)))
        assert torch.equal(a, b), name


def assert_matches(one: Instances, other: Instances, *, px: float = 0.01) -> None:
    """The same detections in any order, to rounding."""
    assert len(one) == len(other) > 0
    distance = (one.pred_boxes.tensor[:, None] - other.pred_boxes.tensor).abs().amax(-1)
    distance = distance + (one.pred_classes[:, None] != other.pred_classes) * 1e6
    nearest = distance.argmin(1)
    assert len(nearest.unique()) == len(one)
    assert distance.amin(1).max() < px
    torch.testing.assert_close(one.scores, other.scores[nearest], atol=1e-4, rtol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_one_scale_without_flip_is_the_plain_detector_to_the_last_bit(protocol: dict):
    plain, image = model_with(**protocol), picture(PIXELS, 90)
    assert_same(
        detect(TTA(plain, scales=[PIXELS], flip=False), image, height=45, width=70), detect(plain, image, height=45, width=70)
    )


def test_a_picture_as_it_was_decoded_is_resized_as_the_test_loader_does(model: nn.Module):
    image = picture(300, 217)
    augmentation = T.AugmentationList([T.ResizeShortestEdge(PIXELS, PIXELS)])
    seen = T.AugInput(image.permute(1, 2, 0).numpy())
    augmentation(seen)
    resized = torch.from_numpy(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
    assert torch.equal(fit(image, PIXELS), resized)
    size = {"height": 217, "width": 300}
    assert_same(detect(TTA(model, scales=[PIXELS], flip=False), image, **size), detect(model, resized, **size))


def test_a_picture_thinner_than_a_pixel_after_resizing_keeps_one():
    assert fit(picture(1, 900), 128).shape == (3, 128, 1)


def test_a_mirrored_picture_gives_mirrored_detections(model: nn.Module):
    image = picture(100, 128)
    tta = TTA(model, scales=[PIXELS, 160])
    mirrored = detect(tta, image.flip(-1))
    x0, y0, x1, y1 = mirrored.pred_boxes.tensor.unbind(1)
    mirrored.pred_boxes = Boxes(torch.stack([100 - x1, y0, 100 - x0, y1], 1))
    assert_matches(mirrored, detect(tta, image))


def test_without_flip_a_mirrored_picture_gives_other_detections(model: nn.Module):
    """So the test above can fail."""
    image = picture(100, 128)
    tta = TTA(model, scales=[PIXELS], flip=False)
    mirrored, plain = detect(tta, image.flip(-1)), detect(tta, image)
    assert len(mirrored) != len(plain) or not torch.allclose(mirrored.scores, plain.scores, atol=1e-3)


def test_the_order_of_the_scales_does_not_matter(model: nn.Module):
    image = picture(128, 96)
    size = {"height": 480, "width": 640}
    one, other = (detect(TTA(model, scales=scales), image, **size) for scales in ([128, 160, 96], [96, 128, 160]))
    assert_matches(one, other, px=0.05)


def test_the_best_score_of_each_class_is_the_best_of_all_views():
    """Candidates are merged before the selection, so none is lost to one that was better in another view."""
    plain = model_with(masks=False, select_boxes=L(HardNms)(max_detections=10_000))
    image = picture(128, 128)

    def best(detector: nn.Module, seen: Tensor) -> Tensor:
        found = detect(detector, seen)
        return torch.zeros(5).scatter_reduce(0, found.pred_classes, found.scores, "amax")

    views = [TTA(plain, scales=[scale], flip=False) for scale in (128, 96)]
    alone = torch.stack([best(view, seen) for view in views for seen in (image, image.flip(-1))])
    torch.testing.assert_close(best(TTA(plain, scales=[128, 96]), image), alone.amax(0), atol=1e-5, rtol=0)
    assert (alone.amax(0) > alone[0]).any()


def test_masks_are_the_mean_of_what_every_view_gives_for_the_same_boxes():
    plain = model_with(**PROTOCOLS["soft and maskness"])
    image, scales = picture(128, 100), (128, 160)
    found = unscaled(TTA(plain, scales=scales), image)
    boxes, total = found.pred_boxes.tensor, torch.zeros_like(found.pred_masks)
    for scale in scales:
        view = fit(image, scale)
        height, width = view.shape[-2:]
        scaled = boxes * torch.tensor([width / 128, height / 100] * 2)
        flipped = torch.stack([width - scaled[:, 2], scaled[:, 1], width - scaled[:, 0], scaled[:, 3]], 1)
        for seen, given, back in ((view, scaled, lambda m: m), (view.flip(-1), flipped, lambda m: m.flip(-1))):
            instances = Instances((height, width), pred_boxes=Boxes(given), pred_classes=found.pred_classes)
            with torch.no_grad():
                given_boxes = plain.inference([{"image": seen}], detected_instances=[instances], do_postprocess=False)
            total += back(given_boxes[0].pred_masks) / 4
    torch.testing.assert_close(found.pred_masks, total, atol=2e-4, rtol=0)
    torch.testing.assert_close(found.mask_scores, found.scores * mask_confidence(found.pred_masks, 0.5))


def test_a_symmetric_picture_gives_a_symmetric_mask_in_a_centred_box(model: nn.Module):
    half = picture(64, 100, seed=3)
    image = torch.cat([half, half.flip(-1)], -1)
    centred = Instances((100, 128), pred_boxes=Boxes(torch.tensor([[20.0, 10, 108, 90]])), pred_classes=torch.tensor([2]))

    def mask(flip: bool) -> Tensor:
        tta = TTA(model, scales=[128], flip=flip)
        with torch.no_grad():
            look, _ = tta._look(image)
            return tta._average_masks(centred, look.views[0], [look])

    torch.testing.assert_close(mask(flip=True), mask(flip=True).flip(-1), atol=1e-5, rtol=0)
    assert (mask(flip=False) - mask(flip=False).flip(-1)).abs().max() > 1e-3


def test_a_budget_leaves_the_best_masks_as_they_are():
    options = PROTOCOLS["calibrated and a budget"]
    whole = model_with(**{**options, "mask_budget": None})
    limited = model_with(**options)
    image = picture(128, 128)
    all_of_them, best = (unscaled(TTA(plain, scales=[128, 96]), image)[:20] for plain in (whole, limited))
    torch.testing.assert_close(best.scores, all_of_them.scores, atol=1e-5, rtol=0)


def test_a_detector_without_masks_is_augmented_too():
    found = detect(TTA(model_with(masks=False), scales=[128, 160]), picture(128, 96))
    assert len(found) > 0
    assert not found.has("pred_masks")


def test_any_size_above_the_padding_square_and_any_aspect_works(model: nn.Module):
    found = detect(TTA(model, scales=[200, 131]), picture(200, 70), height=70, width=200)
    assert len(found) > 0
    assert found.pred_masks.shape[1:] == (70, 200)
    assert found.pred_boxes.tensor.isfinite().all()


def test_boxes_move_between_views_and_back():
    first, second = View((100, 200), flipped=False), View((50, 80), flipped=True)
    box = torch.tensor([[20.0, 30, 60, 90]])
    moved = first.to(second, box)
    torch.testing.assert_close(moved, torch.tensor([[56.0, 15, 72, 45]]))  # 200 - 60 = 140, times 80 / 200 = 56
    torch.testing.assert_close(second.to(first, moved), box)


def test_the_model_itself_is_not_changed(model: nn.Module):
    image = picture(128, 96)
    before = detect(model, image)
    detect(TTA(model, scales=[160, 96]), image)
    assert_same(detect(model, image), before)
    wrapped = {name.removeprefix("model."): value for name, value in TTA(model, scales=[128]).state_dict().items()}
    assert wrapped.keys() == model.state_dict().keys()


@pytest.mark.parametrize("scales", [[], [0], [128, 128]])
def test_senseless_scales_are_refused(model: nn.Module, scales: list[int]):
    with pytest.raises(UserError, match="long sides"):
        TTA(model, scales=scales)


def test_other_heads_and_training_are_refused(model: nn.Module):
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.roi_heads = nn.Identity()
    with pytest.raises(UserError, match="Identity"):
        TTA(other, scales=[128])
    with pytest.raises(UserError, match=r"eval\(\)"):
        TTA(model_with().train(), scales=[128])([{"image": picture()}])
    assert issubclass(type(model.roi_heads), CascadeROIHeads)
