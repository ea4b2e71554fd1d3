"""The whole detector at test time: features, proposals, cascade stages, detections before and after pasting."""

from functools import cache
from typing import Any

import pytest
import torch
from detectron2.structures import Instances
from pycocotools import mask as rle
from torch import Tensor

from tests.golden.cases import GoldenCase, golden_cases
from tests.golden.detectors import build, described_inputs, described_model, nearest

CASES = golden_cases("detector_inference")


class Trace:
    """What passes through the modules of one forward pass, under the names of the fixtures."""

    def __init__(self, case: GoldenCase) -> None:
        model = build(case, described_model(case.config)).eval()
        self.mid: dict[str, Tensor] = {}
        model.backbone.register_forward_hook(self._features)
        model.proposal_generator.register_forward_hook(self._proposals)
        model.roi_heads.box_pooler.register_forward_pre_hook(self._pooled)
        for stage, predictor in enumerate(model.roi_heads.box_predictor):
            predictor.register_forward_hook(self._predictions(stage))
        with torch.inference_mode():
            inputs = described_inputs(case)
            self.raw: list[Instances] = model.inference(inputs, do_postprocess=False)
            self.final: list[Instances] = [result["instances"] for result in model(inputs)]

    def _features(self, _module: Any, images: tuple[Tensor], maps: dict[str, Tensor]) -> None:
        self.mid["batched_images"] = images[0]
        self.mid.update({f"features.{name}": level for name, level in maps.items()})
        self._stage = 0

    def _proposals(self, _module: Any, _inputs: Any, outputs: tuple[list[Instances], dict]) -> None:
        for index, proposals in enumerate(outputs[0]):
            self.mid[f"proposals.{index}.boxes"] = proposals.proposal_boxes.tensor
            self.mid[f"proposals.{index}.objectness"] = proposals.objectness_logits

    def _pooled(self, _module: Any, inputs: tuple) -> None:
        self.mid[f"stage{self._stage}.input_boxes"] = torch.cat([boxes.tensor for boxes in inputs[1]])
        self._stage += 1

    def _predictions(self, stage: int) -> Any:
        def remember(_module: Any, _inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
            self.mid[f"stage{stage}.class_logits"], self.mid[f"stage{stage}.box_deltas"] = outputs

        return remember


@cache
def trace(case: GoldenCase) -> Trace:
    return Trace(case)


def tolerance_of(name: str, tolerance: dict[str, float]) -> float:
    if name.startswith("features") or name == "batched_images":
        return tolerance["features_atol"]
    return tolerance["boxes_atol_px"] if name.endswith("boxes") else tolerance["stage_logits_and_deltas_atol"]


@pytest.mark.parametrize("case", CASES)
def test_values_on_the_way_are_those_of_the_reference(case: GoldenCase) -> None:
    source = case.source()
    names = [key.removeprefix("mid.") for key in source.tensors if key.startswith("mid.")]
    assert names
    for name in names:
        atol = tolerance_of(name, source.tolerance)
        found, expected = trace(case).mid[name], source.tensor(f"mid.{name}")
        assert found.shape == expected.shape, name
        assert (found - expected).abs().max() <= atol, name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stage", ["raw", "final"])
def test_boxes_classes_and_scores_are_those_of_the_reference(case: GoldenCase, stage: str) -> None:
    for index, found in enumerate(getattr(trace(case), stage)):
        boxes, scores, classes = (case.tensor(f"out.{stage}.{index}.{name}") for name in ("boxes", "scores", "classes"))
        rows = nearest(found.pred_boxes.tensor, found.pred_classes, boxes, classes)
        assert len(rows) == len(found) == len(rows.unique())
        torch.testing.assert_close(found.pred_boxes.tensor[rows], boxes, atol=case.tolerance["boxes_atol_px"], rtol=0)
        calibrated = found.mask_scores if found.has("mask_scores") else found.scores
        torch.testing.assert_close(calibrated[rows], scores, atol=case.tolerance["scores_atol"], rtol=0)
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)


@pytest.mark.parametrize("case", CASES)
def test_masks_are_those_of_the_reference(case: GoldenCase) -> None:
    atol = case.source().tolerance["mask_prob_atol"]
    for index, found in enumerate(trace(case).raw):
        if f"out.raw.{index}.mask_probs" in case.tensors:
            rows = matching_rows(case, "raw", index, found)
            expected = case.tensor(f"out.raw.{index}.mask_probs")
            torch.testing.assert_close(found.pred_masks[rows, 0], expected, atol=atol, rtol=0)
    for index, found in enumerate(trace(case).final):
        masks = found.pred_masks[matching_rows(case, "final", index, found)]
        expected = torch.from_numpy(rle.decode(case.json("masks.json")[str(index)])).permute(2, 0, 1).bool()
        allowed = (case.tensor(f"out.final.{index}.mask_areas") * 0.01).clamp(min=3)
        assert ((masks.sum((1, 2)) - case.tensor(f"out.final.{index}.mask_areas")).abs() <= allowed).all()
        assert ((masks ^ expected).sum((1, 2)) <= allowed).all()


def matching_rows(case: GoldenCase, stage: str, index: int, found: Instances) -> Tensor:
    boxes, classes = case.tensor(f"out.{stage}.{index}.boxes"), case.tensor(f"out.{stage}.{index}.classes")
    return nearest(found.pred_boxes.tensor, found.pred_classes, boxes, classes)
