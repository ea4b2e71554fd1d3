"""Looks at the entries of a submission one after the other and keeps, for each kind of fault, the first and how many."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from eva02_det.evaluation.json_list import Fields
from eva02_det.evaluation.predictions import ImageId
from eva02_det.evaluation.runs import Runs, from_texts
from eva02_det.utils.errors import UserError

MASKS_AT_ONCE = 4096
OUTSIDE_PX = 1.0  # that a box may reach over the border of its image, for rounding
COMMON = ("image_id", "category_id", "score")
OWN = {"bbox": "bbox", "segm": "segmentation"}


class EntryCheck:
    """Give it the entries in their order, then ask `end` for the sentences."""

    def __init__(
        self,
        task: str | None,
        sizes: Mapping[ImageId, tuple[int, int]],
        category_ids: frozenset[int],
        cap: int,
        source: str,
    ) -> None:
        """task: None for that of the first entry. sizes: height and width of the images that are asked for."""
        self.task, self.sizes, self.category_ids, self.cap, self.source = task, sizes, category_ids, cap, source
        self.count = 0
        self.per_image: Counter[ImageId] = Counter()
        self._last_score: dict[ImageId, float] = {}
        self._first: dict[str, str] = {}  # by kind of fault
        self._times: Counter[str] = Counter()
        self._masks: list[tuple[str, int, bytes]] = []  # place, pixels, run lengths that are still to be looked at

    def add(self, entry: Any) -> None:
        """Look at the next entry."""
        place, self.count = f"entry {self.count}", self.count + 1
        if not isinstance(entry, Fields):
            self._note("entry", f"{place} is {_shown(entry)} where an object belongs; write one object for each detection")
            return
        if self.task is None:
            self.task = "segm" if "segmentation" in entry and "bbox" not in entry else "bbox"
        image = entry.get("image_id")
        if isinstance(image, int | str):
            place += f" (image {image})"
            self.per_image[image] += 1
        self._check_fields(entry, place)
        known = self._check_ids(entry, place)
        self._check_score(entry, place)
        if self.task == "bbox" and "bbox" in entry:
            self._check_box(entry["bbox"], self.sizes[image] if known else None, place)
        if self.task == "segm" and "segmentation" in entry:
            self._check_mask(entry["segmentation"], self.sizes[image] if known else None, place)

    def end(self) -> list[str]:
        """A sentence for each kind of fault."""
        self._check_runs()
        over = [image for image, count in self.per_image.items() if count > self.cap]
        if over:
            self._note(
                "cap",
                f"image {over[0]} has {self.per_image[over[0]]} detections and {self.cap} are the most that count; "
                f"keep the {self.cap} of the highest scores",
            )
            self._times["cap"] = len(over)
        return [
            text + (f" ({self._times[kind]:,} such faults, this is the first)" if self._times[kind] > 1 else "")
            for kind, text in self._first.items()
        ]

    def _note(self, kind: str, sentence: str) -> None:
        self._times[kind] += 1
        self._first.setdefault(kind, sentence)

    def _check_fields(self, entry: Fields, place: str) -> None:
        asked = (*COMMON, OWN[self.task or "bbox"])
        if entry.repeated:
            self._note("repeated", f"{place} has {', '.join(entry.repeated)} more than once; write each field once")
        if missing := [name for name in asked if name not in entry]:
            self._note("missing", f"{place} has no {', '.join(missing)}; the fields of a {self.task} file are {', '.join(asked)}")
        if strange := [name for name in entry if name not in asked]:
            self._note(
                "strange",
                f"{place} has {', '.join(strange)}, which no {self.task} file has; leave it out, boxes and masks are sent apart",
            )

    def _check_ids(self, entry: Fields, place: str) -> bool:
        """Whether the image is known."""
        category = entry.get("category_id")
        if "category_id" in entry and (not _is_integer(category) or category not in self.category_ids):
            low, high = min(self.category_ids, default=0), max(self.category_ids, default=0)
            self._note(
                "category",
                f"{place}: category_id {_shown(category)} is none of the {len(self.category_ids)} of {self.source} "
                f"({low} to {high}, with gaps where the set has them); write the data set's ids, not class numbers from 0",
            )
        image = entry.get("image_id")
        known = isinstance(image, int | str) and not isinstance(image, bool) and image in self.sizes
        if "image_id" in entry and not known:
            self._note(
                "image",
                f"{place}: image_id {_shown(image)} is none of the {len(self.sizes)} of {self.source}; "
                "write the ids of the set that was asked for, as whole numbers where it has those",
            )
        return known

    def _check_score(self, entry: Fields, place: str) -> None:
        if "score" not in entry:
            return
        score, image = entry["score"], entry.get("image_id")
        if not _is_number(score):
            self._note("score", f"{place}: the score is {_shown(score)}, no number; write a number from 0 to 1")
        elif not math.isfinite(score):
            self._note(
                "not finite", f"{place}: the score is {score}, which JSON does not have; look at the weights and predict again"
            )
        elif not 0 <= score <= 1:
            self._note("range", f"{place}: the score {score} is not from 0 to 1; write probabilities")
        elif isinstance(image, int | str):
            if score > self._last_score.get(image, math.inf):
                self._note(
                    "order",
                    f"{place}: the score {score} comes after {self._last_score[image]} of the same image; put the highest "
                    "first, as who reads only the first ones takes the wrong ones",
                )
            self._last_score[image] = score

    def _check_box(self, box: Any, size: tuple[int, int] | None, place: str) -> None:
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            self._note("box", f"{place}: the bbox is {_shown(box)}; write [x, y, width, height] in pixels")
            return
        if not all(map(math.isfinite, box)):
            self._note("box not finite", f"{place}: the bbox {_shown(box)} is not finite; look at the weights and predict again")
            return
        if min(box[2:]) < 0:
            self._note(
                "box side", f"{place}: the bbox {_shown(box)} has a negative side; write [x, y, width, height], not corners"
            )
        elif size is not None and _reach(box, size) > OUTSIDE_PX:
            self._note(
                "box outside",
                f"{place}: the bbox {_shown(box)} leaves its image of {size[1]} x {size[0]} pixels; write x, y, width and "
                "height in pixels of the original image",
            )

    def _check_mask(self, mask: Any, size: tuple[int, int] | None, place: str) -> None:
        if not isinstance(mask, Mapping) or not {"size", "counts"} <= mask.keys() or not isinstance(mask["counts"], str):
            self._note("mask", f"{place}: the segmentation is {_shown(mask)}; write compressed run lengths with size and counts")
            return
        sides = mask["size"]
        if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_integer, sides)):
            self._note("mask", f"{place}: the size of the mask is {_shown(sides)}; write [height, width] in pixels")
            return
        if size is not None and tuple(sides) != tuple(size):
            turned = ", height first" if tuple(sides) == (size[1], size[0]) else ""
            self._note(
                "mask size",
                f"{place}: the mask has the size {sides[0]} x {sides[1]} and its image {size[0]} x {size[1]} (height x width); "
                f"write masks of the original image{turned}",
            )
        self._masks.append((place, sides[0] * sides[1], mask["counts"].encode("utf-8", "replace")))
        if len(self._masks) >= MASKS_AT_ONCE:
            self._check_runs()

    def _check_runs(self) -> None:
        """Whether the run lengths cover their mask to the last pixel; many at once, as one by one takes long."""
        waiting, self._masks = self._masks, []
        covered = _pixels(from_texts([text for _, _, text in waiting]))
        for (place, pixels, _), found in zip(waiting, covered):
            if found != pixels:
                what = "cannot be read" if found < 0 else f"cover {found} pixels of {pixels}"
                self._note(
                    "runs", f"{place}: the run lengths of the mask {what}; encode the mask again, at the size that it states"
                )


def _pixels(masks: Runs) -> list[int]:
    """Pixels that each mask's runs cover; -1 where they cannot be read."""
    if not len(masks):
        return []
    try:
        return masks.pixels().tolist()
    except (UserError, IndexError, ValueError):
        if len(masks) == 1:
            return [-1]
    middle = len(masks) // 2
    return [count for rows in np.split(np.arange(len(masks)), [middle]) for count in _pixels(masks.take(rows))]


def _reach(box: list[float], size: tuple[int, int]) -> float:
    """How far a box reaches over the border of its image, in pixels."""
    x, y, width, height = box
    return max(-x, -y, x + width - size[1], y + height - size[0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value in a sentence, cut where it is long."""
    text = repr(dict(value) if isinstance(value, Fields) else value)
    return text if len(text) <= 60 else text[:57] + "..."
