"""Reading an image, carrying its annotations through a transform, and turning them into Instances."""

import struct
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, polygons_to_bitmask
from detectron2.utils.file_io import PathManager
from fvcore.transforms.transform import Transform
from PIL import ExifTags, Image, ImageOps
from pycocotools import mask as coco_mask

from .catalog import MetadataCatalog


class SizeMismatchError(ValueError):
    """The annotation file states another size than the image has."""


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """The image the way a viewer shows it (EXIF orientation applied). -> [H, W, 3] uint8, or what the file holds.

    format: a mode of Pillow ("RGB", "L": [H, W, 1]), or "BGR"; None keeps the file's own.
    """
    with PathManager.open(file_name, "rb") as stream:
        picture = _upright(Image.open(stream))
        if format is None:
            return np.asarray(picture)
        pixels = np.asarray(picture.convert("RGB" if format == "BGR" else format))
    if format == "BGR":
        return pixels[..., ::-1]
    return pixels[..., None] if format == "L" else pixels


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, struct.error):  # a damaged EXIF block says nothing of the pixels
        return picture
    return picture if orientation == 1 else ImageOps.exif_transpose(picture)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Compare the size in a record with the image [H, W, C]; write it there where it is absent."""
    height, width = image.shape[:2]
    stated = (dataset_dict.setdefault("height", height), dataset_dict.setdefault("width", width))
    if stated != (height, width):
        where = dataset_dict.get("file_name", "the image")
        raise SizeMismatchError(
            f"{where} is {width} x {height} pixels but its annotation file says {stated[1]} x {stated[0]}; "
            "one of the two is not the right file"
        )


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: Transform,
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """Carry box and mask of one annotation (changed in place) through `transforms`.

    image_size: (height, width) afterwards; the box comes out as corners, clipped to it. Polygons stay polygons, run
    lengths become a bitmap [H, W]. Keypoints are not part of this implementation.
    """
    if "keypoints" in annotation or keypoint_hflip_indices is not None:
        raise NotImplementedError("keypoints are not supported here; use the official detectron2 for them")
    height, width = image_size
    corners = BoxMode.convert(np.array([annotation["bbox"]], dtype=float), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    moved = transforms.apply_box(corners)[0]
    annotation.update(bbox=np.clip(moved, 0, (width, height, width, height)), bbox_mode=BoxMode.XYXY_ABS)
    if "segmentation" in annotation:
        annotation["segmentation"] = _transform_mask(annotation["segmentation"], transforms, image_size)
    return annotation


def _transform_mask(
    mask: "list | dict", transforms: Transform, image_size: tuple[int, int]
) -> "list[np.ndarray] | np.ndarray":
    """Polygons [x, y, x, y, ...] -> polygons; run lengths -> bitmap [H, W]."""
    if isinstance(mask, dict):
        bitmap = transforms.apply_segmentation(coco_mask.decode(mask))
        if bitmap.shape[:2] != tuple(image_size):
            raise AssertionError(f"the mask became {bitmap.shape}, the image {image_size}")
        return bitmap
    if not isinstance(mask, list):
        raise ValueError(f"a mask is a list of polygons or a dict of COCO run lengths, not {type(mask).__name__}")
    points = [np.array(polygon, dtype=float).reshape(-1, 2) for polygon in mask]
    return [polygon.ravel() for polygon in transforms.apply_polygons(points)]


def annotations_to_instances(
    annos: list[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Instances with gt_boxes, gt_classes and, where the annotations have masks, gt_masks.

    mask_format: "polygon" for PolygonMasks (the annotations must be polygons), "bitmask" for BitMasks.
    """
    corners = [BoxMode.convert(anno["bbox"], anno["bbox_mode"], BoxMode.XYXY_ABS) for anno in annos]
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.as_tensor(np.array(corners, dtype=np.float64).reshape(-1, 4), dtype=torch.float32))
    instances.gt_classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    if annos and "segmentation" in annos[0]:
        masks = [anno["segmentation"] for anno in annos]
        instances.gt_masks = _polygon_masks(masks) if mask_format == "polygon" else _bit_masks(masks, image_size, mask_format)
    return instances


def _polygon_masks(masks: list) -> PolygonMasks:
    if not all(isinstance(mask, list) for mask in masks):
        raise ValueError("run lengths and bitmaps need mask_format (instance_mask_format of the mapper) 'bitmask'")
    return PolygonMasks(masks)


def _bit_masks(masks: list, image_size: tuple[int, int], mask_format: str) -> BitMasks:
    if mask_format != "bitmask":
        raise ValueError(f"mask_format is 'polygon' or 'bitmask', not {mask_format!r}")
    return BitMasks(torch.from_numpy(np.stack([_bitmap(mask, image_size) for mask in masks])))


def _bitmap(mask: Any, image_size: tuple[int, int]) -> np.ndarray:
    """Polygons, run lengths or an array as a bitmap. -> [H, W] bool."""
    if isinstance(mask, list):
        mask = polygons_to_bitmask(mask, *image_size)
    elif isinstance(mask, dict):
        mask = coco_mask.decode(mask)
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        raise ValueError(f"a mask is a list of polygons, a dict of COCO run lengths or an array [H, W], not {type(mask)}")
    return np.ascontiguousarray(mask, dtype=bool)


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> "Instances | tuple[Instances, torch.Tensor]":
    """Leave out instances whose box has a side of at most `box_threshold` pixels or whose mask is empty.

    return_mask: also return which ones were kept, [N] bool.
    """
    if not (by_box or by_mask):
        raise AssertionError("filter by box, by mask, or by both")
    kept = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        kept &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        kept &= instances.gt_masks.nonempty()
    return (instances[kept], kept) if return_mask else instances[kept]


def get_fed_loss_cls_weights(dataset_names: str | list[str], freq_weight_power: float = 1.0) -> torch.Tensor:
    """How likely the federated loss draws each class as a negative: (number of images that show it) ** power. -> [K]."""
    name = dataset_names if isinstance(dataset_names, str) else dataset_names[0]
    counts = MetadataCatalog.get(name).get("class_image_count")
    if counts is None:
        raise AssertionError(f"the metadata of data set {name!r} has no class_image_count, which the federated loss needs")
    by_class = sorted(counts, key=_category_id)
    return torch.tensor([entry["image_count"] for entry in by_class], dtype=torch.float32) ** freq_weight_power


def _category_id(entry: dict[str, int]) -> int:
    return entry["id"]
