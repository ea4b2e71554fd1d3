"""From a record of a data set to what a detector takes in."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from . import detection_utils
from .transforms import AugInput, Augmentation, AugmentationList, Transform, TransformList


class DatasetMapper:
    """Reads the image of a record, augments it with its annotations and makes tensors of both."""

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[Augmentation | Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        """is_train: False leaves the annotations away. recompute_boxes: boxes around the transformed masks instead of
        transformed boxes. Keypoints and precomputed proposals exist only in the official detectron2."""
        if use_keypoint or keypoint_hflip_indices is not None or precomputed_proposal_topk is not None:
            raise NotImplementedError("keypoints and precomputed proposals need the official detectron2")
        if recompute_boxes and not use_instance_mask:
            raise AssertionError("recompute_boxes takes the boxes from the masks, so it needs use_instance_mask=True")
        self.is_train = is_train
        self.augmentations = AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes
        mode = "training" if is_train else "inference"
        logging.getLogger(__name__).info("augmentations used in %s: %s", mode, augmentations)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """A record -> a copy of it with "image" [C, H, W] uint8 and, in training, "instances"."""
        record = copy.deepcopy(dataset_dict)
        pixels = detection_utils.read_image(record["file_name"], format=self.image_format)
        detection_utils.check_image_size(record, pixels)
        picture = AugInput(pixels)
        transforms = self.augmentations(picture)
        # Flips and crops are views with odd strides, which tensors do not have.
        record["image"] = torch.from_numpy(np.ascontiguousarray(np.moveaxis(picture.image, 2, 0)))
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, picture.image.shape[:2])
        return record

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: TransformList, image_shape: tuple[int, int]
    ) -> None:
        """Replace "annotations" by "instances"; crowds and what has left the image are dropped."""
        singles = [anno for anno in dataset_dict.pop("annotations") if not anno.get("iscrowd", 0)]
        for anno in singles:
            anno.pop("keypoints", None)
            if not self.use_instance_mask:
                anno.pop("segmentation", None)
        moved = [detection_utils.transform_instance_annotations(anno, transforms, image_shape) for anno in singles]
        instances = detection_utils.annotations_to_instances(moved, image_shape, mask_format=self.instance_mask_format)
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = detection_utils.filter_empty_instances(instances)
