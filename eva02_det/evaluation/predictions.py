"""A detector's predictions as columns: small while they are kept, quick to store and to score; and COCO's result format."""

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from eva02_det.evaluation import runs
from eva02_det.evaluation.runs import Runs
from eva02_det.utils.errors import UserError

# Axes: I images, N detections of all of them, or of one, S side of a predicted mask.

UNPASTED = "mask_probabilities"  # of an image: [N, 1, S, S] in place of bitmaps

ImageId = int | str


@dataclass(frozen=True)
class Predictions:
    """What was found in some images, image after image in the order of the detector's lists."""

    image_ids: NDArray[Any]  # [I]
    sizes: NDArray[np.int32]  # [I, 2] height and width of the masks
    image: NDArray[np.int32]  # [N] which of the images
    boxes: NDArray[np.floating]  # [N, 4] x, y, width, height, pixels
    scores: NDArray[np.floating]  # [N] of the boxes
    classes: NDArray[np.int32]  # [N] class index, contiguous from 0
    masks: Runs | None = None  # None where the detector makes no masks
    mask_scores: NDArray[np.floating] | None = None  # [N] None where masks are ranked like boxes

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.integer]) -> "Predictions":
        """These detections alone, of the same images."""
        masks = None if self.masks is None else self.masks.take(rows)
        mask_scores = None if self.mask_scores is None else self.mask_scores[rows]
        columns = {name: getattr(self, name)[rows] for name in ("image", "boxes", "scores", "classes")}
        return replace(self, **columns, masks=masks, mask_scores=mask_scores)

    def of_images(self, wanted: NDArray[np.bool_]) -> "Predictions":
        """These images alone. wanted: [I]."""
        place = np.cumsum(wanted, dtype=np.int32) - 1
        kept = self.take(np.flatnonzero(wanted[self.image]))
        return replace(kept, image_ids=self.image_ids[wanted], sizes=self.sizes[wanted], image=place[kept.image])

    def results(self, category_ids: Mapping[int, int] | Sequence[int]) -> Iterator[dict[str, Any]]:
        """One COCO result per detection: bbox and score; with masks also segmentation and, where it differs, mask_score."""
        image_ids, sizes = self.image_ids.tolist(), self.sizes.tolist()
        for row, (image, label) in enumerate(zip(self.image.tolist(), self.classes.tolist())):
            result = {
                "image_id": image_ids[image],
                "category_id": category_ids[label],
                "bbox": self.boxes[row].tolist(),
                "score": float(self.scores[row]),
            }
            if self.masks is not None and (text := self.masks[row]):
                result["segmentation"] = runs.as_result(text, sizes[image])
            if self.mask_scores is not None:
                result["mask_score"] = float(self.mask_scores[row])
            yield result


def pack(image_id: ImageId, instances: Instances) -> Predictions:
    """One image: the fields pred_boxes, scores, pred_classes and, where present, mask_scores and the masks.

    These are bitmaps, pred_masks [N, H, W], or mask_probabilities [N, 1, S, S] to be pasted into the boxes (see lean_masks).
    """
    corners = _numpy(instances.pred_boxes.tensor)
    return Predictions(
        image_ids=np.array([image_id]),
        sizes=np.array([instances.image_size], dtype=np.int32),
        image=np.zeros(len(corners), np.int32),
        boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        scores=_numpy(instances.scores),
        classes=_numpy(instances.pred_classes).astype(np.int32),
        masks=_masks(instances),
        mask_scores=_numpy(instances.mask_scores) if instances.has("mask_scores") else None,
    )


def encode_pasted(probabilities: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]) -> Runs:
    """[N, 1, S, S] in boxes [N, 4] x0, y0, x1, y1 -> N masks of the image, some at a time."""
    height, width = image_size
    at_once = max(1, runs.PIXELS_AT_ONCE // max(1, height * width))
    parts = zip(probabilities[:, 0].split(at_once), boxes.split(at_once))
    return runs.join([runs.encode(paste_masks_in_image(*part, image_size)) for part in parts if len(part[0])])


def join(parts: Sequence[Predictions]) -> Predictions:
    """All images in one. A mask or a mask's score that some parts lack is empty, or the box's score, there."""
    if not parts:
        return _NOTHING
    shifts = np.cumsum([0, *(len(part.image_ids) for part in parts)])
    with_masks = any(part.masks is not None for part in parts)
    with_scores = any(part.mask_scores is not None for part in parts)
    return Predictions(
        image_ids=np.concatenate([part.image_ids for part in parts]),
        sizes=np.concatenate([part.sizes for part in parts]),
        image=np.concatenate([part.image + np.int32(shift) for part, shift in zip(parts, shifts)]),
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        masks=runs.join([part.masks or runs.no_masks(len(part)) for part in parts]) if with_masks else None,
        mask_scores=np.concatenate([_mask_scores(part) for part in parts]) if with_scores else None,
    )


def from_results(results: Iterable[Mapping[str, Any]], category_ids: Mapping[int, int]) -> Predictions:
    """COCO's or LVIS's result format. category_ids: class index -> category id. Images come in order of their first result.

    A result without box takes that of its mask, one without mask has none; "mask_score" ranks the masks where it is given.
    """
    columns = _ResultColumns(category_ids)
    for result in results:
        columns.add(result)
    return columns.predictions()


def read_results(file: str | Path, category_ids: Mapping[int, int]) -> Predictions:
    """As `from_results`, from a JSON file, whose results are never in memory as objects all at once."""
    columns = _ResultColumns(category_ids)
    try:
        with Path(file).open(encoding="utf-8") as stream:
            content = json.load(stream, object_hook=columns.add)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; give a folder of predictions or a JSON file of results") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid JSON ({error}); write the results again") from error
    if not isinstance(content, list) or any(one is not None for one in content):
        raise UserError(f"{file} is not a list of results, each with image_id, category_id, score and bbox or segmentation")
    return columns.predictions()


class _ResultColumns:
    """Takes results one by one and keeps them as columns."""

    def __init__(self, category_ids: Mapping[int, int]) -> None:
        self.labels = {category: label for label, category in category_ids.items()}
        self.rows: dict[ImageId, int] = {}
        self.sizes: dict[int, tuple[int, int]] = {}
        self.image, self.classes = array("i"), array("i")
        self.boxes, self.scores, self.mask_scores = array("d"), array("d"), array("d")
        self.text, self.ends = bytearray(), array("q")
        self.calibrated = False

    def add(self, result: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Keep a result; what is none, such as a mask inside of one, is handed back."""
        if not {"image_id", "category_id", "score"} <= result.keys():
            return result
        row = self.rows.setdefault(result["image_id"], len(self.rows))
        if result["category_id"] not in self.labels:
            raise UserError(f"a result is of category {result['category_id']!r}, which the annotation file does not have")
        stored = result.get("segmentation")
        box = result.get("bbox") or (None if not stored else coco_mask.toBbox(_compressed(result)).tolist())
        if box is None or len(box) != 4:
            raise UserError(f"a result for image {result['image_id']!r} has neither a bbox of four numbers nor a mask")
        if stored:
            mask = _compressed(result)
            self.text += mask["counts"]
            self.sizes[row] = (int(mask["size"][0]), int(mask["size"][1]))
        self.ends.append(len(self.text))
        self.image.append(row)
        self.classes.append(self.labels[result["category_id"]])
        self.boxes.extend(box)
        self.scores.append(result["score"])
        self.mask_scores.append(result.get("mask_score", result["score"]))
        self.calibrated |= "mask_score" in result
        return None

    def predictions(self) -> Predictions:
        """All that were added."""
        masks = Runs(np.frombuffer(bytes(self.text), np.uint8), np.array(self.ends, np.int64))
        return Predictions(
            image_ids=np.array(list(self.rows)) if self.rows else np.zeros(0, np.int64),
            sizes=np.array([self.sizes.get(row, (0, 0)) for row in range(len(self.rows))], np.int32).reshape(-1, 2),
            image=np.array(self.image, np.int32),
            boxes=np.array(self.boxes, np.float64).reshape(-1, 4),
            scores=np.array(self.scores, np.float64),
            classes=np.array(self.classes, np.int32),
            masks=masks if self.text else None,
            mask_scores=np.array(self.mask_scores, np.float64) if self.calibrated else None,
        )


def _compressed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result's mask as compressed run lengths."""
    stored = result["segmentation"]
    if not isinstance(stored, Mapping) or "counts" not in stored:
        raise UserError(f"a result for image {result['image_id']!r} has a mask that is not run lengths; store its masks as RLE")
    counts = stored["counts"]
    if isinstance(counts, list):
        return coco_mask.frPyObjects(dict(stored), *stored["size"])
    return {"size": stored["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else bytes(counts)}


def _masks(instances: Instances) -> Runs | None:
    if instances.has(UNPASTED):
        return encode_pasted(instances.get(UNPASTED), instances.pred_boxes.tensor, instances.image_size)
    return runs.encode(instances.pred_masks) if instances.has("pred_masks") else None


_NOTHING = Predictions(
    image_ids=np.zeros(0, np.int64),
    sizes=np.zeros((0, 2), np.int32),
    image=np.zeros(0, np.int32),
    boxes=np.zeros((0, 4), np.float32),
    scores=np.zeros(0, np.float32),
    classes=np.zeros(0, np.int32),
)


def _mask_scores(part: Predictions) -> NDArray[np.floating]:
    return part.scores if part.mask_scores is None else part.mask_scores


def _numpy(values: torch.Tensor) -> NDArray[Any]:
    values = values.detach().cpu()
    # NumPy has no bfloat16, and nothing is gained by computing with halves here
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
