"""The box selectors against the published soft-NMS kernel and detectron2's hard NMS."""

import numpy as np
import pytest
import torch
from torch import Tensor

from eva02_det.modeling.selectors import HardNms, Selection, SoftNms
from tests.golden.cases import GoldenCase, golden_cases


def selector(config: dict) -> HardNms | SoftNms:
    if not config["use_soft_nms"]:
        return HardNms(config["hard_nms_iou"], config["score_threshold"], config["topk_per_image"])
    override = config["override_score_threshold"]
    return SoftNms(
        method=config["method"],
        iou_threshold=config["iou_threshold"],
        sigma=config["sigma"],
        min_score=config["min_score"],
        score_threshold=config["score_threshold"] if override is None else override,
        per_class=config["class_wise"],
    )


def run(case: GoldenCase) -> Selection:
    height, width = case.config["image_size_hw"]
    return selector(case.config)(case.tensor("in.boxes"), case.tensor("in.scores"), (height, width))


def score_tolerance(case: GoldenCase) -> float:
    """We separate classes exactly; the reference shifts coordinates, for which the case allows more."""
    return max(case.tolerance["atol"], case.tolerance.get("if_no_coordinate_offsets", {}).get("score_atol", 0.0))


def table(case: GoldenCase, boxes: Tensor, scores: Tensor, classes: Tensor, rows: Tensor) -> np.ndarray:
    """One line per detection: class, box, undecayed score, final score; in an order free of the order among equal scores.

    Of two exact duplicates either may be kept: what identifies a detection is what stood in its row, not the row number.
    """
    given = case.tensor("in.scores")
    finite = given.isfinite().all(1) & case.tensor("in.boxes").isfinite().all(1)
    lines = np.column_stack([part.double().numpy() for part in (classes, boxes, given[finite][rows, classes], scores)])
    return lines[np.lexsort(lines.T[::-1])]


@pytest.mark.parametrize("case", golden_cases("soft_nms"))
def test_detections_are_those_of_the_reference(case: GoldenCase) -> None:
    found, rows = run(case)
    ours = table(case, found.pred_boxes.tensor, found.scores, found.pred_classes, rows)
    theirs = table(case, *(case.tensor(f"out.{name}") for name in ("boxes", "scores", "classes", "kept_rows")))
    np.testing.assert_array_equal(ours[:, :6], theirs[:, :6])
    np.testing.assert_allclose(ours[:, 6], theirs[:, 6], atol=score_tolerance(case), rtol=case.tolerance["rtol"])


@pytest.mark.parametrize("case", golden_cases("soft_nms"))
def test_order_is_that_of_the_reference_where_scores_differ(case: GoldenCase) -> None:
    found, rows = run(case)
    scores, expected_rows = case.tensor("out.scores"), case.tensor("out.kept_rows")
    torch.testing.assert_close(found.scores, scores, atol=score_tolerance(case), rtol=case.tolerance["rtol"])
    clear = ~near_a_neighbour(scores, score_tolerance(case))
    assert torch.equal(found.pred_classes[clear], case.tensor("out.classes")[clear])
    boxes = case.tensor("in.boxes")
    boxes = boxes[boxes.isfinite().all(1) & case.tensor("in.scores").isfinite().all(1)]
    assert torch.equal(boxes[rows[clear]], boxes[expected_rows[clear]])


def near_a_neighbour(scores: Tensor, distance: float) -> Tensor:
    """Whether the entry before or after in the sorted list is so close that the order is open. [M] -> [M]."""
    close = torch.zeros(len(scores) + 1, dtype=torch.bool)
    close[1:-1] = scores[:-1] - scores[1:] <= 2 * distance
    return close[1:] | close[:-1]
