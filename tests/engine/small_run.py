"""A detector of a few thousand weights, pictures to train it on, and the config of a run of a few steps."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from configs.common.data import lsj_dataloader
from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn
from configs.common.optim import adamw, constant_schedule
from configs.common.train import train_settings
from eva02_det.modeling.vit import Positions, TrV

CLASSES = ("disc", "box", "triangle", "star", "ring")
PIXELS, DEPTH = 64, 2


def write_set(
    root: Path, split: str, count: int = 4, *, classes: tuple[str, ...] = CLASSES, name: str = "small"
) -> dict[str, Any]:
    """Grey pictures with one bright box each, as the data set `<name>_<split>`; returns the annotations, also on disk."""
    folder = root / name / split
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        picture = Image.new("RGB", (96, 80), (90, 90, 90))
        picture.paste((250, 20 * number, 60), (10, 20, 50, 60))
        picture.save(folder / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 96, "height": 80})
        outline = [[10, 20, 50, 20, 50, 60, 10, 60]]
        box = {"bbox": [10, 20, 40, 40], "area": 1600, "iscrowd": 0, "segmentation": outline}
        annotations.append({"id": number, "image_id": number, "category_id": 1 + number % len(classes), **box})
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_annotations(root, split, content, name=name)
    return content


def write_annotations(root: Path, split: str, content: dict[str, Any], *, name: str = "small") -> Path:
    file = root / name / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def forget(*names: str) -> None:
    """Take data sets out of the catalogue."""
    for name in names:
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def small_model(num_classes: int = len(CLASSES), pixels: int = PIXELS, **options: Any) -> DictConfig:
    """options: of `cascade_mask_rcnn`."""
    grid = L(Positions)(pretrain_grid=pixels // 16, cls_token=False)
    net = L(TrV)(embed_dim=32, depth=DEPTH, num_heads=2, window_size=2, global_block_indexes=[1], positions=grid)
    model = cascade_mask_rcnn(
        net,
        num_classes=num_classes,
        image_size=pixels,
        channels=16,
        heads=HeadSizes(box_convs=1, box_width=32, mask_convs=1),
        proposals=Proposals(anchor_sizes_px=(8, 16, 24, 32, 48), pre_nms_topk=(60, 60), post_nms_topk=(24, 24)),
        **options,
    )
    model.roi_heads.batch_size_per_image = 16
    return model


def small_config(run: Path, steps: int = 2, *, data: str = "small", **options: Any) -> DictConfig:
    """A whole config; options: of `small_model`, and as `loaders` those of `lsj_dataloader`, as `train` of `train_settings`."""
    loaders, settings = options.pop("loaders", {}), options.pop("train", {})
    config = OmegaConf.create({}, flags={"allow_objects": True})
    config.model = small_model(**options)
    config.dataloader = lsj_dataloader(
        data, pixels=options.get("pixels", PIXELS), batch_size=2, workers=0, test_workers=0, **{"scale": (0.8, 1.25), **loaders}
    )
    config.optimizer = adamw(1e-3, depth=DEPTH)
    config.lr_multiplier = constant_schedule(steps, warmup=1)
    config.train = train_settings(steps, output_dir=str(run), period=1000, **settings)
    config.train.device = "cpu"
    config.train.log_period = 1
    return config


def slow_down_scoring(folder: Path, seconds: float, *, then: str = "") -> str:
    """A path which, put first, makes Python processes that score predictions begin with a pause."""
    folder.mkdir()
    code = f"import os, sys, time\nif 'eva02_det.evaluation.score' in sys.orig_argv:\n    time.sleep({seconds})\n    {then}\n"
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)
