"""Loaders and evaluator of COCO, LVIS, Objects365 and sets of COCO's format as a LazyCall tree, with jitter of any size."""

from collections.abc import Sequence

from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader
from omegaconf import DictConfig, OmegaConf

from eva02_det.data.jitter_mapper import JitterMapper
from eva02_det.data.loaders import build_train_loader
from eva02_det.data.lsj import test_augmentations, train_augmentations
from eva02_det.data.mapper import CheckedMapper
from eva02_det.data.registration import load_dataset
from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.lvis import LvisEvaluator

LVIS_DETECTIONS = 300  # per image, over all classes


def lsj_dataloader(
    name: str = "coco_2017",
    *,
    train: str | Sequence[str] | None = None,
    test: str | Sequence[str] | None = None,
    pixels: int = 1024,
    batch_size: int = 64,
    workers: int = 4,
    test_workers: int = 4,
    masks: bool = True,
    mask_format: str = "polygon",
    recompute_boxes: bool = True,
    scale: tuple[float, float] = (0.1, 2.0),
    flip: float = 0.5,
    repeat_threshold: float | None = None,
    max_detections: int | None = None,
) -> DictConfig:
    """`train`, `test` and `evaluator` for the sets `<name>_train` and `<name>_val`, with name coco_2017, lvis_v1, objects365...

    train, test: other sets, or several, than those two. batch_size: images a step over all processes. workers: per process.
    masks=False trains boxes only. recompute_boxes: boxes around the cropped masks, as published (needs masks). scale, flip:
    range and probability of the jitter. repeat_threshold: of repeat-factor sampling (published for LVIS: 0.001); None:
    every image once a pass. max_detections: how many the evaluator looks at; None: LVIS 300 an image, COCO 100 an image and
    class. Images are not grouped by shape, because the model pads them to squares.
    """
    loaders = OmegaConf.create(flags={"allow_objects": True})
    loaders.train = L(build_train_loader)(
        dataset=L(load_dataset)(names=_names(train, f"{name}_train")),
        mapper=L(JitterMapper)(
            is_train=True,
            augmentations=L(train_augmentations)(pixels=pixels, scale=list(scale), flip=flip),
            image_format="RGB",
            use_instance_mask=masks,
            instance_mask_format=mask_format,
            recompute_boxes=recompute_boxes and masks,
        ),
        total_batch_size=batch_size,
        repeat_threshold=repeat_threshold,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    tested = _names(test, f"{name}_val")
    loaders.test = L(build_detection_test_loader)(
        dataset=L(load_dataset)(names=tested, filter_empty=False),
        mapper=L(CheckedMapper)(is_train=False, augmentations=L(test_augmentations)(pixels=pixels), image_format="RGB"),
        num_workers=test_workers,
    )
    loaders.evaluator = _evaluator(tested, max_detections)
    return loaders


def _names(given: str | Sequence[str] | None, usual: str) -> str | list[str]:
    if given is None or isinstance(given, str):
        return given or usual
    return list(given)


def _evaluator(names: str | list[str], max_detections: int | None) -> DictConfig:
    """LVIS counts detections over all classes of an image, COCO those of each class."""
    first = names if isinstance(names, str) else names[0]
    if first.startswith("lvis"):
        return L(LvisEvaluator)(dataset_name="${..test.dataset.names}", max_detections=max_detections or LVIS_DETECTIONS)
    if max_detections is None:
        return L(CocoEvaluator)(dataset_name="${..test.dataset.names}")
    return L(CocoEvaluator)(dataset_name="${..test.dataset.names}", max_detections=[1, 10, max_detections])
