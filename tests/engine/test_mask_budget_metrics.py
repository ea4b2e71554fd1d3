"""A mask budget on real annotations: every number of COCO and LVIS stays, for boxes and for masks."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, BoxMode, Instances
from torch import Tensor

from eva02_det.data.registration import load_dataset
from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import Maskness
from eva02_det.utils.coco_masks import mask_of

DATA = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets")
SIDE = 28
COPIES, STRAYS = 5, 40  # detections of each object, and others of an image
LIMIT = 12  # that an evaluation counts: small, for the excerpts are

pytestmark = pytest.mark.skipif(not (DATA / "coco").is_dir(), reason=f"no excerpts of the data sets at {DATA}")

Scene = tuple[dict, Instances, Tensor]  # record, detections, their masks


def detections(record: dict, draw: torch.Generator) -> tuple[Instances, Tensor]:
    """Boxes around and beside the objects of an image, most of them of one class, and soft masks of very different certainty."""
    size = (record["height"], record["width"])
    boxes, labels, masks = [], [], []
    for one in record["annotations"]:
        x0, y0, x1, y1 = BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS)
        bitmap = torch.from_numpy(mask_of(one["segmentation"], *size)).float()
        for _ in range(COPIES):
            shift = 1 + 0.15 * torch.randn(4, generator=draw)
            box = torch.tensor([x0, y0, x0, y0]) + torch.tensor([0.0, 0, x1 - x0, y1 - y0]) * shift
            boxes.append(torch.stack([box[0], box[1], box[2].clamp(min=x0), box[3].clamp(min=y0)]))
            labels.append(one["category_id"])
            left, top, right, bottom = int(x0), int(y0), max(math.ceil(x1), int(x0) + 1), max(math.ceil(y1), int(y0) + 1)
            crop = bitmap[top:bottom, left:right]
            masks.append(F.interpolate(crop[None, None], (SIDE, SIDE), mode="area")[0, 0])
    for _ in range(STRAYS):
        corner = torch.rand(2, generator=draw) * torch.tensor([size[1], size[0]]) * 0.8
        boxes.append(torch.cat([corner, corner + 10 + 60 * torch.rand(2, generator=draw)]))
        labels.append(int(torch.randint(0, 3, (1,), generator=draw)))
        masks.append(torch.ones(SIDE, SIDE))
    scores = torch.rand(len(boxes), generator=draw).pow(2).mul(50).ceil().div(50)
    certainty = 0.5 + 0.5 * torch.rand(len(boxes), generator=draw)
    certainty[torch.rand(len(boxes), generator=draw) < 0.1] = 0.45
    order = scores.argsort(descending=True, stable=True)
    corners = Boxes(torch.stack(boxes).float())
    corners.clip(size)
    found = Instances(size, pred_boxes=corners, scores=scores, pred_classes=torch.tensor(labels))
    found.row = torch.arange(len(found))
    soft = torch.stack(masks) * certainty[:, None, None]
    return found[order], soft[:, None]


@pytest.fixture(scope="module", params=["coco_2017_val", "lvis_v1_val"])
def scenes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Scene]]:
    """The ten images of a set with most objects."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DETECTRON2_DATASETS", str(DATA))
        environment.setenv("EVA02_DET_CACHE", str(tmp_path_factory.mktemp("cache")))
        records = load_dataset(request.param, filter_empty=False)
    assert request.param in DatasetCatalog.list()
    records = sorted(records, key=lambda record: len(record["annotations"]))[-10:]
    draw = torch.Generator().manual_seed(0)
    return request.param, [(record, *detections(record, draw)) for record in records]


def metrics(
    evaluator: DatasetEvaluator, scenes: list[Scene], select: Callable[[Instances, Tensor], Instances]
) -> tuple[dict, int]:
    """Results of the evaluator, and how many detections it saw."""
    seen = 0
    for record, found, masks in scenes:
        final = detector_postprocess(select(found, masks), record["height"], record["width"])
        seen += len(final)
        evaluator.process([record], [{"instances": final}])
    return evaluator.evaluate(), seen


@pytest.mark.parametrize("applies_to", ["masks", "boxes_and_masks"])
def test_every_metric_is_the_same_with_and_without_a_budget(scenes: tuple[str, list[Scene]], applies_to: str) -> None:
    name, images = scenes
    rescore = Maskness(applies_to=applies_to)
    federated = name.startswith("lvis")
    budget = MaskBudget(per_image=3 * LIMIT, rows_at_once=8) if federated else MaskBudget(per_class=LIMIT, rows_at_once=8)

    def evaluator() -> DatasetEvaluator:
        if federated:
            return LvisEvaluator(name, max_detections=3 * LIMIT, seen_only=True)
        return CocoEvaluator(name, max_detections=(1, 5, LIMIT), seen_only=True)

    asked = 0

    def all_masks(found: Instances, masks: Tensor) -> Instances:
        return rescore(with_masks(found, masks))

    def few_masks(found: Instances, masks: Tensor) -> Instances:
        def add(part: Instances) -> Instances:
            nonlocal asked
            asked += len(part)
            return with_masks(part, masks)

        return budget(found, add, rescore)

    whole, number = metrics(evaluator(), images, all_masks)
    limited, fewer = metrics(evaluator(), images, few_masks)
    assert asked < 0.85 * sum(len(found) for _, found, _ in images)
    assert fewer < number
    assert whole.keys() == limited.keys() == {"bbox", "segm"}
    for task in whole:
        assert 5 < whole[task]["AP"] < 95
        for metric, value in whole[task].items():
            assert limited[task][metric] == value or math.isnan(value), (task, metric)


def with_masks(found: Instances, masks: Tensor) -> Instances:
    complete = Instances(found.image_size, **found.get_fields())
    complete.pred_masks = masks[found.row]
    return complete
