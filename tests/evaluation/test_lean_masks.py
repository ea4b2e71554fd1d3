"""Masks that stay small until they are encoded: the same predictions as the detector's own, a few bitmaps at a time."""

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from eva02_det.evaluation import runs
from eva02_det.evaluation.lean_masks import LeanMasks, lean
from eva02_det.evaluation.predictions import UNPASTED, pack
from tests.d2lite.modeling import small


def records() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((61, 97), (48, 64))
    return [
        {"image": torch.rand(3, 48, 64, generator=generator) * 255, "height": height, "width": width} for height, width in sizes
    ]


def eager_detector() -> GeneralizedRCNN:
    """One that finds something with the weights it starts with."""
    torch.manual_seed(0)
    detector = small.detector(small.cascade()).eval()
    for predictor in detector.roi_heads.box_predictor:
        predictor.test_score_thresh, predictor.test_topk_per_image = 0.0, 40
    return detector


def test_lean_masks_give_the_detectors_own_predictions(monkeypatch):
    monkeypatch.setattr(runs, "PIXELS_AT_ONCE", 61 * 97 * 7)  # seven masks of the first picture at a time
    detector = eager_detector()
    model = lean(detector)
    assert isinstance(model, LeanMasks)
    with torch.no_grad():
        plain, kept_small = detector(records()), model(records())
    for record, own, small_ones in zip(records(), plain, kept_small):
        assert not small_ones["instances"].has("pred_masks")
        assert small_ones["instances"].get(UNPASTED).shape[-1] < 48
        expected, found = pack(1, own["instances"]), pack(1, small_ones["instances"])
        assert len(found) > 10
        assert list(found.results(range(100))) == list(expected.results(range(100)))
        assert found.sizes.tolist() == [[record["height"], record["width"]]]
        assert found.masks.areas().sum() > 0


def test_other_models_stay_as_they_are():
    model = nn.Identity()
    assert lean(model) is model
