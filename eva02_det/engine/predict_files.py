"""Predicts on files: annotated pictures and videos, detections in COCO's formats, and a list of what could not be read."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from detectron2.structures import Boxes, Instances
from PIL import Image

from eva02_det.data.mapper import ImageError
from eva02_det.engine.images import Inputs, Picture, Pixels, read_picture
from eva02_det.engine.predictor import Prediction, Predictor
from eva02_det.engine.video import Frame, read_frames, writing
from eva02_det.evaluation.predictions import pack
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_json

# pixels [H, W, 3], what was found in them, whether the result must keep that size -> the annotated picture
Painter = Callable[[Pixels, Prediction, bool], Image.Image]

RESULTS_FILE, IMAGES_FILE = "predictions.json", "images.json"
JPEG_QUALITY, JPEG_SIDE_PX = 92, 65_500  # no larger picture fits the format
SAY_EVERY_S = 10.0

log = logging.getLogger(__name__)


@dataclass
class Summary:
    """What a run did."""

    pictures: int = 0
    frames: int = 0
    objects: int = 0
    unreadable: list[str] = field(default_factory=list)  # one sentence each
    remarks: list[str] = field(default_factory=list)  # what was done to a picture when it was read


class FilesRun:
    """One run over files, writing below `out`.

    `pictures/<name>.jpg` show the detections; predictions.json lists them as a COCO result file does, with image ids that
    images.json explains (a COCO file of images and categories); `videos/<name>.mp4` and `.jsonl`, one line a frame.
    """

    def __init__(self, predictor: Predictor, out: str | Path, *, paint: Painter, limit: int | None = None) -> None:
        """limit: at most so many pictures, and so many frames of each video."""
        if limit is not None and limit < 1:
            raise UserError(f"a limit of {limit} leaves nothing to predict on; give one of at least 1")
        self.predictor, self.out, self.paint, self.limit = predictor, Path(out), paint, limit
        self.summary = Summary()
        self._said = time.monotonic()

    def __call__(self, inputs: Inputs) -> Summary:
        """Every file that can be read is predicted on, the others are listed in the summary."""
        if inputs.pictures:
            self._pictures(inputs)
        for path in inputs.videos:
            try:
                self._video(path, self.out / "videos" / inputs.names[path])
            except ImageError as error:
                self.summary.unreadable.append(str(error))
        return self.summary

    def _pictures(self, inputs: Inputs) -> None:
        images: list[dict[str, Any]] = []
        with _json_array(self.out / RESULTS_FILE) as add:
            for batch in _batches(self._readable(inputs.pictures), self.predictor.batch_size):
                found = self.predictor.predict([picture for _, picture in batch])
                for (path, picture), result in zip(batch, found, strict=True):
                    image = {"id": len(images) + 1, "file_name": path.absolute().as_posix()}
                    images.append({**image, "width": result.size[1], "height": result.size[0]})
                    add(coco_results(result, image["id"], self.predictor.description.ids))
                    self._save(self.paint(picture.pixels, result, False), inputs.names[path])
                    self.summary.pictures += 1
                    self.summary.objects += len(result)
                    self.summary.remarks += [f"{path}: {note}" for note in picture.notes]
                self._say(f"{len(images)} of {len(inputs.pictures)} pictures")
        description = self.predictor.description
        categories = [{"id": number, "name": name} for number, name in zip(description.ids, description.classes)]
        write_json(self.out / IMAGES_FILE, {"images": images, "categories": categories}, indent=1)

    def _readable(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Picture]]:
        for path in islice(paths, self.limit):
            try:
                yield path, read_picture(path)
            except ImageError as error:
                self.summary.unreadable.append(str(error))

    def _video(self, path: Path, target: Path) -> None:
        """A video that breaks off keeps what was decoded of it. Its sound is not copied."""
        frames = _Interruptible(islice(read_frames(path), self.limit))
        first = next(frames, None)
        if first is not None:
            with (
                atomic_path(target.with_name(f"{target.name}.jsonl")) as beside,
                beside.open("w", encoding="utf-8") as lines,
                writing(target.with_name(f"{target.name}.mp4")) as video,
            ):
                for batch in _batches(chain([first], frames), self.predictor.batch_size):
                    found = self.predictor.predict([Picture(frame.pixels) for frame in batch])
                    for frame, result in zip(batch, found, strict=True):
                        video.write(np.asarray(self.paint(frame.pixels, result, True)), frame.time_s)
                        lines.write(json.dumps(self._line(frame, result)) + "\n")
                        self.summary.frames += 1
                        self.summary.objects += len(result)
                    self._say(f"{batch[-1].number + 1} frames of {path}")
        if frames.error is not None:
            raise frames.error

    def _line(self, frame: Frame, result: Prediction) -> dict[str, Any]:
        height, width = result.size
        found = coco_results(result, frame.number, self.predictor.description.ids)
        return {"frame": frame.number, "time_s": frame.time_s, "width": width, "height": height, "detections": found}

    def _save(self, picture: Image.Image, name: str) -> None:
        if max(picture.size) > JPEG_SIDE_PX:
            picture.thumbnail((JPEG_SIDE_PX, JPEG_SIDE_PX))
        with atomic_path(self.out / "pictures" / f"{name}.jpg") as beside:
            picture.save(beside, format="JPEG", quality=JPEG_QUALITY)

    def _say(self, progress: str) -> None:
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            log.info("%s", progress)


def coco_results(result: Prediction, image_id: int, category_ids: tuple[int, ...]) -> list[dict[str, Any]]:
    """Detections as COCO's result files list them; with `mask_score` where masks have a score of their own."""
    found = Instances(result.size, pred_boxes=Boxes(result.boxes), scores=result.scores, pred_classes=result.labels)
    for name, values in (("pred_masks", result.masks), ("mask_scores", result.mask_scores)):
        if values is not None:
            found.set(name, values)
    return list(pack(image_id, found).results(category_ids))


class _Interruptible:
    """An iterator that ends where another one fails, and remembers why."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self._frames = frames
        self.error: ImageError | None = None

    def __iter__(self) -> "_Interruptible":
        return self

    def __next__(self) -> Frame:
        try:
            return next(self._frames)
        except ImageError as error:
            self.error = error
            raise StopIteration from error


@contextmanager
def _json_array(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Writes a JSON list of any length piece by piece; the file appears when the block ends well."""
    with atomic_path(path) as beside, beside.open("w", encoding="utf-8") as stream:
        stream.write("[")
        yield _Appender(stream)
        stream.write("\n]\n")


class _Appender:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._separator = stream, "\n"

    def __call__(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            self._stream.write(self._separator + json.dumps(item))
            self._separator = ",\n"


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
