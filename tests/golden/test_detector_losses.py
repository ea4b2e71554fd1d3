"""The whole detector in training: every loss, their sum, gradient norms and what the heads count."""

from functools import cache, partial
from typing import Any

import pytest
import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor

from tests.golden.cases import GoldenCase, golden_cases
from tests.golden.detectors import build, described_inputs, described_model

CASES = golden_cases("detector_losses")


class RecordedClasses(FastRCNNOutputLayers):
    """Keeps the classes that the reference drew, instead of a draw of its own."""

    def __init__(self, *args: Any, kept: list[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kept = list(kept)

    def get_fed_loss_classes(self, gt_classes: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        assert set(gt_classes.unique().tolist()) <= set(self.kept)
        return torch.tensor(self.kept)


def training_inputs(case: GoldenCase) -> list[dict[str, Any]]:
    inputs = described_inputs(case)
    for index, entry in enumerate(inputs):
        height, width = entry["image"].shape[-2:]
        entry["instances"] = Instances(
            (height, width),
            gt_boxes=Boxes(case.tensor(f"in.gt.{index}.boxes").reshape(-1, 4)),
            gt_classes=case.tensor(f"in.gt.{index}.classes"),
            gt_masks=ground_truth_masks(case, index),
        )
    return inputs


def ground_truth_masks(case: GoldenCase, index: int) -> BitMasks | PolygonMasks:
    if case.spec["gt_kind"] == "bitmask":
        return BitMasks(case.tensor(f"in.gt.{index}.bitmasks").bool())
    return PolygonMasks(case.json("gt.json")[index])


@cache
def step(case: GoldenCase) -> tuple[dict[str, float], dict[str, Tensor], dict[str, float]]:
    """Losses, gradients of their sum, and what was counted, after one forward and backward pass."""
    tree = described_model(case.config)
    for predictor, kept in zip(tree.roi_heads.box_predictors, case.json("expected.json").get("fed_loss_classes_per_stage") or []):
        predictor["_target_"], predictor.kept = f"{__name__}.RecordedClasses", kept
    model = build(case, tree).train()
    with EventStorage(0) as storage:
        losses = model(training_inputs(case))
        counts = {name: value for name, (value, _) in storage.latest().items()}
    sum(losses.values()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    return {name: loss.item() for name, loss in losses.items()}, gradients, counts


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_the_reference(case: GoldenCase) -> None:
    losses, _, _ = step(case)
    expected = case.json("expected.json")
    close = partial(pytest.approx, rel=case.tolerance["loss_rtol"])
    assert losses == close(expected["losses"])
    assert sum(losses.values()) == close(expected["total"])


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_reference(case: GoldenCase) -> None:
    _, gradients, _ = step(case)
    rtol = case.tolerance["gradient_norm_rtol"]
    # the tolerance is one for norms; whole gradients may differ by ten times what float32 itself costs, the fixtures' rule
    whole_rtol = max(rtol, 10 * case.tolerance["measured_float32_vs_float64"]["gradient_max_rel_l2"])
    norms = case.json("expected.json")["gradient_l2_norms"]
    assert norms.keys() == gradients.keys()
    assert {name: gradient.norm().item() for name, gradient in gradients.items()} == pytest.approx(norms, rel=rtol)
    for key in case.tensors:
        if key.startswith("out.grad."):
            expected, found = case.tensor(key), gradients[key.removeprefix("out.grad.")]
            assert (found - expected).norm() <= whole_rtol * expected.norm(), key


@pytest.mark.parametrize("case", CASES)
def test_counted_samples_are_those_of_the_reference(case: GoldenCase) -> None:
    _, _, counts = step(case)
    expected = case.json("expected.json")["counts"]
    assert {name: counts.get(name) for name in expected} == expected
