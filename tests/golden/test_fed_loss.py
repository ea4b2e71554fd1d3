"""Sigmoid classification with and without the federated restriction against stored losses and gradients."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor

from eva02_det.data.counts import ImageCounts
from eva02_det.data.federated import FederatedClassWeights
from tests.golden.cases import GoldenCase, golden_cases


class RecordedDraw(FastRCNNOutputLayers):
    """Takes the classes that the case recorded instead of drawing them."""

    recorded: Tensor

    def get_fed_loss_classes(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.recorded


def power(frequency: Tensor, exponent: float) -> Tensor:
    return frequency**exponent


def predictor(case: GoldenCase, kind: type[FastRCNNOutputLayers] = FastRCNNOutputLayers) -> FastRCNNOutputLayers:
    """Output layers set up as the case says; the width of their input does not matter here."""
    config = case.config
    return kind(
        3,
        box2box_transform=Box2BoxTransform((10, 10, 5, 5)),
        num_classes=config["num_classes"],
        use_sigmoid_ce=True,
        use_fed_loss=config["federated"],
        get_fed_loss_cls_weights=partial(power, case.tensor("in.class_frequency"), config["frequency_power"]),
        fed_loss_num_classes=config["num_kept_classes"],
    )


def cases_with(key: str) -> list[Any]:
    """Cases whose settings hold a true `key`, or the skipped one that stands for absent fixtures."""
    return [p for p in golden_cases("fed_loss") if p.values[0] is None or p.values[0].config.get(key)]


@pytest.mark.parametrize("case", cases_with("num_classes"))
def test_loss_and_gradient_equal_the_stored_ones(case: GoldenCase) -> None:
    layers = predictor(case, RecordedDraw)
    if case.config["federated"]:
        layers.recorded = case.tensor("in.kept_classes")
    logits = case.tensor("in.logits").requires_grad_()
    loss = layers.sigmoid_cross_entropy_loss(logits, case.tensor("in.gt_classes"))
    loss.backward()
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    torch.testing.assert_close(loss.detach(), case.tensor("out.loss"), **close)
    torch.testing.assert_close(logits.grad, case.tensor("out.grad_logits"), **close)


@pytest.mark.parametrize("case", cases_with("federated"))
def test_the_draw_keeps_present_classes_and_fills_the_budget_with_others(case: GoldenCase) -> None:
    layers, config, labels = predictor(case), case.config, case.tensor("in.gt_classes")
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    torch.testing.assert_close(layers.fed_loss_cls_weights, case.tensor("out.class_weights"), **close)
    torch.manual_seed(0)
    budget = (config["num_kept_classes"], config["num_classes"])
    drawn = layers.get_fed_loss_classes(labels, *budget, layers.fed_loss_cls_weights)
    recorded = case.tensor("in.kept_classes")
    present = labels.unique()
    assert len(drawn) == len(recorded) == len(drawn.unique())
    assert torch.equal(drawn[: len(present)], recorded[: len(present)])


@pytest.mark.parametrize("case", cases_with("power"))
def test_sampling_weights_of_a_dataset_equal_the_stored_ones(case: GoldenCase, tmp_path: Path) -> None:
    counts = [{"id": row + 1, "image_count": int(count)} for row, count in enumerate(case.tensors["in.image_count"])]
    name = f"golden {case.name}"
    MetadataCatalog.get(name).set(class_image_count=counts)
    found = get_fed_loss_cls_weights(name, case.config["power"])
    torch.testing.assert_close(found, case.tensor("out.weights"), atol=0, rtol=case.tolerance["rtol"])
    file = tmp_path / "lvis_v1_train.json"  # and from a user's own file, which is all that the package looks at
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"name": "", **one} for one in counts[::-1]]}))
    MetadataCatalog.get(f"{name} file").set(class_image_count=ImageCounts(str(file)))
    assert torch.equal(FederatedClassWeights(f"{name} file", case.config["power"])(), found)
