"""A mask for every detection beside masks within a budget: the same numbers of the evaluation, the time saved.

`python benchmarks/bm_masks.py [--device cuda] [--steps 400] [--json FILE]`; DETECTRON2_DATASETS names the data sets (COCO, LVIS).
First a small detector, which has learnt a few images by heart, is evaluated on them by the system-level protocols, twice.
Then the mask branch of the released size (256 channels) runs on one image's detections, certain and uncertain ones.
"""

import argparse
import copy
import json
import logging
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

import eva02_det  # noqa: F401  activates the provider of detectron2
from configs.common.data import lsj_dataloader
from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn, sigmoid_loss, trv
from configs.common.optim import adamw, cosine_schedule
from configs.common.train import train_settings
from eva02_det.checkpoint.load import load_weights
from eva02_det.data.registration import load_dataset
from eva02_det.engine.recipe import use_protocol
from eva02_det.engine.train import train
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.protocols import named_protocol
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.vit import Positions, TrV

from detectron2.config import LazyCall as L  # isort: skip  after the provider is chosen
from detectron2.config import instantiate  # isort: skip
from detectron2.data import MetadataCatalog  # isort: skip
from detectron2.structures import Boxes, Instances  # isort: skip

PIXELS, DEPTH, IMAGES = 128, 4, 8
PROTOCOLS = {"coco_2017": "coco_system", "lvis_v1": "lvis_system"}
SCALES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
IMAGE_PX = 1024  # of the mask branch of the released size
log = logging.getLogger("bm_masks")


def small_detector(data: str, classes: int, steps: int, run: str, device: str) -> DictConfig:
    """A detector that learns eight images in minutes, tested by the published system-level protocol."""
    grid = L(Positions)(pretrain_grid=PIXELS // 16, cls_token=False)
    net = L(TrV)(embed_dim=96, depth=DEPTH, num_heads=3, window_size=4, global_block_indexes=[1, 3], positions=grid)
    config = OmegaConf.create({}, flags={"allow_objects": True})
    config.model = cascade_mask_rcnn(
        net,
        num_classes=classes,
        image_size=PIXELS,
        channels=48,
        heads=HeadSizes(box_convs=1, box_width=128, mask_convs=2),
        proposals=Proposals(anchor_sizes_px=(8, 16, 32, 64, 128), pre_nms_topk=(200, 1000), post_nms_topk=(64, 600)),
        class_loss=sigmoid_loss() if data == "lvis_v1" else None,
    )
    config.model.roi_heads.batch_size_per_image = 32
    one = f"{data}_val"  # learnt and evaluated: the numbers must be above zero to say something
    config.dataloader = lsj_dataloader(
        data,
        train=one,
        test=one,
        pixels=PIXELS,
        batch_size=2,
        workers=0,
        test_workers=0,
        mask_format="bitmask",
        scale=(1.0, 1.0),
        flip=0.0,
    )
    config.dataloader.train.dataset.first = config.dataloader.test.dataset.first = IMAGES
    config.dataloader.test.dataset.filter_empty = config.dataloader.evaluator.seen_only = True
    config.optimizer = adamw(7e-4, depth=DEPTH, weight_decay=0.05)
    config.lr_multiplier = cosine_schedule(steps, warmup=min(20, steps))
    config.train = train_settings(steps, output_dir=run, period=steps)
    config.train.device, config.train.clip_grad_norm = device, 1.0
    use_protocol(config, named_protocol(PROTOCOLS[data]))
    return config


def classes_of(data: str) -> int:
    load_dataset(f"{data}_val", filter_empty=False)
    return len(MetadataCatalog.get(f"{data}_val").thing_classes)


class Counted:
    """How many regions went through a module, and the seconds spent from the box heads to the packed predictions."""

    def __init__(self, model: nn.Module) -> None:
        self.masks, self.boxes_done = 0, 0.0
        model.roi_heads.mask_head.deconv.register_forward_pre_hook(self._count)
        plain = model.roi_heads._forward_box

        def timed(*inputs: Any) -> Any:
            found = plain(*inputs)
            self.boxes_done = time.perf_counter()
            return found

        model.roi_heads._forward_box = timed

    def _count(self, _module: nn.Module, inputs: tuple[Tensor]) -> None:
        self.masks += len(inputs[0])


def evaluated(config: DictConfig, weights: str, budget: DictConfig | None) -> tuple[dict[str, Any], dict[str, float]]:
    """One pass: the metrics, and masks, detections and seconds an image, of which after the box heads."""
    config = copy.deepcopy(config)
    config.model.roi_heads.mask_budget = budget
    model = instantiate(config.model).eval().to(config.train.device)
    load_weights(model, weights)
    loader = instantiate(config.dataloader.test)
    config.dataloader.evaluator.output_dir = None
    evaluator, counted = instantiate(config.dataloader.evaluator), Counted(model)
    seen = images = 0
    total = tail = 0.0
    with torch.inference_mode():
        for batch in loader:
            start = time.perf_counter()
            outputs = model(batch)
            evaluator.process(batch, outputs)
            end = time.perf_counter()
            total, tail = total + end - start, tail + end - counted.boxes_done
            seen, images = seen + sum(len(output["instances"]) for output in outputs), images + len(batch)
    figures = {"masks": counted.masks / images, "detections": seen / images, "s": total / images, "s_after_boxes": tail / images}
    return evaluator.evaluate(), figures


def whole_evaluation(data: str, steps: int, device: str) -> dict[str, Any]:
    """The evaluation of one data set with and without its budget."""
    with tempfile.TemporaryDirectory() as run:
        config = small_detector(data, classes_of(data), steps, run, device)
        training = copy.deepcopy(config)
        training.dataloader.evaluator = None
        train(training)
        weights = str(Path(run) / "model_final.pth")
        budget = config.model.roi_heads.mask_budget
        without, slow = evaluated(config, weights, None)
        within, fast = evaluated(config, weights, budget)
    same = all(
        within[task][name] == value or math.isnan(value) for task, metrics in without.items() for name, value in metrics.items()
    )
    values = sum(len(metrics) for metrics in without.values())
    aps = {task: metrics["AP"] for task, metrics in without.items()}
    return {
        "data": data,
        "budget": str(instantiate(budget)),
        "same": same,
        "values": values,
        **aps,
        "without": slow,
        "within": fast,
    }


def released_branch(classes: int, device: str) -> nn.Module:
    """Heads with the mask branch of the released size; the box heads are small, they are not used."""
    tree = cascade_mask_rcnn(trv("Ti"), num_classes=classes, heads=HeadSizes(1, 8, 4)).roi_heads
    torch.manual_seed(0)
    return instantiate(tree).eval().to(device)


def branch_seconds(classes: int, found: int, budget: MaskBudget, certain: bool, device: str) -> dict[str, Any]:
    """Seconds of the mask branch on one image with `found` detections; random weights, sharpened where masks shall be certain."""
    heads = released_branch(classes, device)
    if certain:
        with torch.no_grad():
            heads.mask_head.predictor.weight *= 3000
    draw = torch.Generator().manual_seed(1)
    maps = {
        name: torch.randn(1, 256, IMAGE_PX // stride, IMAGE_PX // stride, generator=draw).to(device)
        for name, stride in SCALES.items()
    }
    corner = torch.rand(found, 2, generator=draw) * IMAGE_PX * 0.6
    boxes = torch.cat([corner, corner + 20 + torch.rand(found, 2, generator=draw) * 300], 1)
    scores = (torch.rand(found, generator=draw) ** 4).clamp(min=1e-3).sort(descending=True).values
    popular = 1 / torch.arange(1, classes + 1)
    detections = Instances((IMAGE_PX, IMAGE_PX), pred_boxes=Boxes(boxes), scores=scores)
    detections.pred_classes = torch.multinomial(popular, found, replacement=True, generator=draw)
    detections = detections.to(device)
    heads.rescore_masks, counted = Maskness(), []
    heads.mask_head.deconv.register_forward_pre_hook(lambda _module, inputs: counted.append(len(inputs[0])))

    def seconds(limit: MaskBudget | None) -> tuple[float, int, Instances]:
        heads.mask_budget = limit
        counted.clear()
        start = time.perf_counter()
        with torch.inference_mode():
            result = (
                heads._forward_mask(maps, [detections])[0] if limit is None else heads._masks_within_budget(maps, 0, detections)
            )
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, sum(counted), result

    seconds(budget)  # warms up
    all_s, all_masks, whole = seconds(None)
    few_s, few_masks, _ = seconds(budget)
    confidence = float((whole.mask_scores / whole.scores).mean())
    return {
        "classes": classes, "detections": found, "budget": str(budget), "confidence": confidence,
        "masks": all_masks, "masks_within": few_masks, "s": all_s, "s_within": few_s,
    }  # fmt: skip


def shown(row: dict[str, Any]) -> str:
    parts = []
    for key, value in row.items():
        text = f"({shown(value)})" if isinstance(value, dict) else f"{value:.3f}" if isinstance(value, float) else str(value)
        parts.append(f"{key} {text}")
    return "  ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=400, help="of the training of the small detector; 0 leaves evaluations out")
    parser.add_argument("--detections", type=int, default=600, help="of one image, for the branch of the released size")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
    rows = []
    if chosen.steps:
        for data in PROTOCOLS:
            rows.append(whole_evaluation(data, chosen.steps, chosen.device))
            log.info(shown(rows[-1]))
    for classes, budget in ((80, MaskBudget(per_class=100)), (80, MaskBudget(per_image=300)), (1203, MaskBudget(per_image=300))):
        for certain in (True, False):
            rows.append(branch_seconds(classes, chosen.detections, budget, certain, chosen.device))
            log.info(shown(rows[-1]))
    if chosen.json:
        chosen.json.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
