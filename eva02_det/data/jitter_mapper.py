"""Large-scale jitter several times faster than decoding, resizing, cutting and clipping one after another.

Axes: N objects, H x W pixels of the augmented image.
"""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.file_io import PathManager

from eva02_det.data.bitmaps import bitmaps
from eva02_det.data.geometry import Geometry, draw, is_jitter
from eva02_det.data.image_files import SourceImage
from eva02_det.data.mapper import CheckedMapper, ImageError, deep_image
from eva02_det.data.outlines import Outlines
from eva02_det.data.pixels import render
from eva02_det.data.validate import box_corners

Record = dict[str, Any]
Annotation = dict[str, Any]

EMPTY_PX = 1e-5  # a box with a side no longer than this shows nothing

log = logging.getLogger(__name__)


class JitterMapper(CheckedMapper):
    """CheckedMapper with the same random decisions, objects, boxes and masks, and pixels within one grey level.

    All is decided before the image is decoded; only the source pixels that are shown are resized, and polygons are cut
    only where they cross the edge. Augmentations other than flip, resize and crop go the way of CheckedMapper.
    """

    def __init__(self, is_train: bool, **options: Any) -> None:
        super().__init__(is_train, **options)
        self.is_fast = is_jitter(self.augmentations.augs) and self.image_format in ("RGB", "BGR") and not _more_is_asked(options)
        if not self.is_fast:
            log.info("the augmentations are more than flip, resize and crop, so images are mapped step by step")

    def _map(self, record: Record) -> Record:
        if not self.is_fast or "sem_seg_file_name" in record:
            return super()._map(record)
        mapped = {key: value for key, value in record.items() if key != "annotations"}
        with PathManager.open(record["file_name"], "rb") as stream:
            source = SourceImage(stream)
            if source.is_deep:
                raise deep_image(record["file_name"])
            detection_utils.check_image_size(mapped, np.broadcast_to(np.uint8(0), (*source.size, 3)))
            transforms, geometry = draw(self.augmentations.augs, *source.size)
            pixels = render(source.decode(), geometry)
        mapped["image"] = pixels if self.image_format == "RGB" else pixels.flip(0)
        if self.is_train and "annotations" in record:
            mapped["instances"] = self._instances(record, transforms, geometry)
        return mapped

    def _instances(self, record: Record, transforms: T.TransformList, geometry: Geometry) -> Instances:
        annotations = [one for one in record["annotations"] if not one.get("iscrowd", 0)]
        height, width = geometry.shape
        boxes = transforms.apply_box(box_corners(annotations)).clip(0, (width, height, width, height))
        kept, masks = np.arange(len(annotations)), None
        if annotations and self.use_instance_mask and "segmentation" in annotations[0]:
            kept, boxes, masks = self._masks(_segmentations(annotations, record), boxes, transforms, geometry)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.tensor([annotations[index]["category_id"] for index in kept], dtype=torch.int64)
        if masks is not None:
            instances.gt_masks = masks
        # as `filter_empty_instances`; masks that show nothing are gone already, and bitmaps are large to copy
        shown = instances.gt_boxes.nonempty(threshold=EMPTY_PX)
        return instances if shown.all() else instances[shown]

    def _masks(
        self, segmentations: list[Any], boxes: np.ndarray, transforms: T.TransformList, geometry: Geometry
    ) -> tuple[np.ndarray, np.ndarray, PolygonMasks | BitMasks]:
        """Objects whose mask is still visible, their boxes and masks. -> [M], [M, 4], M masks."""
        outlines = Outlines.of([one if isinstance(one, list) else [] for one in segmentations]).moved(transforms.transforms)
        if self.instance_mask_format == "polygon":
            kept = np.unique(outlines.owner)
            around = outlines.boxes(kept) if self.recompute_boxes else boxes[kept]
            return kept, around, PolygonMasks(outlines.polygons(kept))
        kept, around, masks = bitmaps(segmentations, outlines, transforms, geometry)
        return kept, around if self.recompute_boxes else boxes[kept], masks


def _segmentations(annotations: list[Annotation], record: Record) -> list[Any]:
    without = sum("segmentation" not in one for one in annotations)
    if without:
        raise ImageError(
            f"{without} of {len(annotations)} objects of image {record['file_name']} have no mask; complete the annotations, "
            "or train boxes alone with masks=False"
        )
    return [one["segmentation"] for one in annotations]


def _more_is_asked(options: dict[str, Any]) -> bool:
    """Keypoints and proposals are the official mapper's business."""
    return any(options.get(key) for key in ("use_keypoint", "keypoint_hflip_indices", "precomputed_proposal_topk"))
