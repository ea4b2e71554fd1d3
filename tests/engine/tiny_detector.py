"""A detector of a few thousand weights that finds things, its config as a user's file, and real or drawn pictures."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageDraw
from torch import nn

from configs.common.data import lsj_dataloader
from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn
from eva02_det.modeling.vit import Positions, TrV

PIXELS, CLASSES = 128, ("ant", "bee", "cat", "dog", "emu")
REAL = Path(os.environ.get("DETECTRON2_DATASETS") or Path(__file__).resolve().parents[3] / "shared" / "datasets") / "coco"


def tiny_config(**options: object) -> DictConfig:
    """Windowed and global blocks, three cascade stages, masks; tested on 128 px. options: of `cascade_mask_rcnn`."""
    net = L(TrV)(
        embed_dim=32,
        depth=4,
        num_heads=2,
        window_size=3,
        global_block_indexes=[1, 3],
        positions=L(Positions)(pretrain_grid=8, cls_token=False),
    )
    sizes = Proposals(anchor_sizes_px=(16, 32, 48, 64, 96), pre_nms_topk=(100, 100), post_nms_topk=(60, 60))
    config = OmegaConf.create(flags={"allow_objects": True})
    config.model = cascade_mask_rcnn(
        net,
        num_classes=options.pop("num_classes", len(CLASSES)),
        image_size=options.pop("image_size", PIXELS),
        channels=16,
        heads=HeadSizes(1, 32, 1),
        proposals=sizes,
        **options,
    )
    config.dataloader = lsj_dataloader("tiny", pixels=PIXELS, batch_size=1, workers=0, test_workers=0)
    config.train = OmegaConf.create({"output_dir": "output", "init_checkpoint": "", "device": "cpu"})
    return config


def with_opinions(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, spread so that scores, boxes and masks differ clearly from place to place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = parameter[0].numel() ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 * scale)
            else:
                parameter.fill_(float(name.endswith("weight")))  # of norms; biases become 0
        for predictor in model.roi_heads.box_predictor:
            predictor.cls_score.weight *= 4
            predictor.bbox_pred.weight *= 0.5
        if model.roi_heads.mask_on:
            model.roi_heads.mask_head.predictor.weight *= 6
    return model.eval()


def tiny_model(config: DictConfig) -> nn.Module:
    """The model of the config with the weights that every call gives."""
    return with_opinions(instantiate(config.model))


def save_config(config: DictConfig, folder: Path) -> Path:
    """The config as a file."""
    LazyConfig.save(config, str(folder / "tiny.yaml"))
    return folder / "tiny.yaml"


def drawn_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured shapes on noise."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(60, 140, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    pen = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y = generator.integers(0, width), generator.integers(0, height)
        side = int(generator.integers(min(width, height) // 6 + 1, min(width, height) // 2 + 2))
        color = tuple(int(value) for value in generator.integers(0, 255, 3))
        pen.rectangle((int(x), int(y), int(x) + side, int(y) + side), fill=color)
    return picture


def write_pictures(folder: Path, count: int = 4) -> list[Path]:
    """Pictures on disk: photographs of COCO where they are at hand, otherwise drawn ones."""
    folder.mkdir(parents=True, exist_ok=True)
    photographs = sorted((REAL / "val2017").glob("*.jpg"))[:count]
    for index in range(count):
        if photographs:
            shutil.copyfile(photographs[index], folder / f"{index}.jpg")
        else:
            drawn_picture(150 + 20 * index, 120 + 31 * index, index).save(folder / f"{index}.jpg")
    return sorted(folder.iterdir())


def write_dataset(root: Path, count: int = 4) -> list[Path]:
    """The data set tiny_val below `root`, category ids 10, 20, ...; returns its pictures."""
    forget_dataset()
    pictures = write_pictures(root / "tiny" / "val", count)
    (root / "tiny" / "annotations").mkdir()
    images = []
    for number, path in enumerate(pictures, start=1):
        with Image.open(path) as picture:
            images.append({"id": number, "file_name": path.name, "width": picture.width, "height": picture.height})
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": [], "categories": categories}
    (root / "tiny" / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return pictures


def forget_dataset() -> None:
    """Another test may have registered it below another root."""
    if "tiny_val" in DatasetCatalog.list():
        DatasetCatalog.remove("tiny_val")
        MetadataCatalog.remove("tiny_val")


def save_checkpoint(config: DictConfig, path: Path, *, averaged_seed: int | None = None) -> Path:
    """The weights of `tiny_model` as a training run saves them; with averaged weights of another seed beside them."""
    model = tiny_model(config)
    content = {"model": model.state_dict(), "iteration": 7}
    if averaged_seed is not None:
        average = with_opinions(instantiate(config.model), averaged_seed)
        content["ema_state"] = {name: value.detach() for name, value in average.named_parameters()}
    torch.save(content, path)
    return path
