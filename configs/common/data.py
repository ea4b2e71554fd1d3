"""Loaders and evaluator of a data set in COCO's format as a LazyCall tree: large-scale jitter at any image size."""

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from omegaconf import DictConfig, OmegaConf

from eva02_det.data.lsj import test_augmentations, train_augmentations
from eva02_det.data.mapper import CheckedMapper
from eva02_det.data.registration import load_dataset
from eva02_det.evaluation.coco import CocoEvaluator


def lsj_dataloader(
    name: str = "coco_2017",
    *,
    pixels: int = 1024,
    batch_size: int = 64,
    workers: int = 4,
    test_workers: int = 4,
    masks: bool = True,
    mask_format: str = "polygon",
    recompute_boxes: bool = True,
    scale: tuple[float, float] = (0.1, 2.0),
    flip: float = 0.5,
) -> DictConfig:
    """`train`, `test` and `evaluator` for the sets `<name>_train` and `<name>_val`.

    batch_size: images a step over all processes. workers: per process. masks=False trains boxes only. recompute_boxes:
    boxes around the cropped masks, as published (needs masks). scale, flip: range and probability of the jitter.
    Images are not grouped by shape, because the model pads them to squares.
    """
    loaders = OmegaConf.create(flags={"allow_objects": True})
    loaders.train = L(build_detection_train_loader)(
        dataset=L(load_dataset)(names=f"{name}_train"),
        mapper=L(CheckedMapper)(
            is_train=True,
            augmentations=L(train_augmentations)(pixels=pixels, scale=list(scale), flip=flip),
            image_format="RGB",
            use_instance_mask=masks,
            instance_mask_format=mask_format,
            recompute_boxes=recompute_boxes and masks,
        ),
        total_batch_size=batch_size,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    loaders.test = L(build_detection_test_loader)(
        dataset=L(load_dataset)(names=f"{name}_val", filter_empty=False),
        mapper=L(CheckedMapper)(is_train=False, augmentations=L(test_augmentations)(pixels=pixels), image_format="RGB"),
        num_workers=test_workers,
    )
    loaders.evaluator = L(CocoEvaluator)(dataset_name="${..test.dataset.names}")
    return loaders
