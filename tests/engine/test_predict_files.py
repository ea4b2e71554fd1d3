"""A run over files: every readable one is predicted right, the others are listed, and the JSON is COCO's."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch import nn

from eva02_det.engine.description import describe
from eva02_det.engine.images import Pixels, find_inputs
from eva02_det.engine.predict_files import FilesRun, Summary
from eva02_det.engine.predictor import Prediction, Predictor
from eva02_det.engine.video import read_frames, writing
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import CLASSES, drawn_picture, forget_dataset, tiny_config, tiny_model, write_dataset

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def predict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    root = tmp_path_factory.mktemp("files")
    write_dataset(root, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        config = tiny_config()
        description = describe(config).under("coco_system")
        config.model = description.architecture
        yield Predictor(tiny_model(config), description, score_threshold=0.5, batch_size=3)
    forget_dataset()


def paint(pixels: Pixels, found: Prediction, keep_size: bool) -> Image.Image:
    """The picture itself, enlarged where that is allowed."""
    return Image.fromarray(pixels).resize((pixels.shape[1] * (1 if keep_size else 2), pixels.shape[0]))


def run(predict: Predictor, folder: Path, out: Path, **options: int) -> Summary:
    return FilesRun(predict, out, paint=paint, **options)(find_inputs([folder], without=out))


def results_of(out: Path) -> dict[str, list[dict]]:
    """Detections by the name of the file."""
    names = {image["id"]: Path(image["file_name"]).name for image in json.loads((out / "images.json").read_text())["images"]}
    found: dict[str, list[dict]] = {name: [] for name in names.values()}
    for one in json.loads((out / "predictions.json").read_text()):
        found[names[one["image_id"]]].append(one)
    return found


def write_odd_folder(folder: Path) -> None:
    """One scene in every form that a user may have, and files that are no pictures."""
    (folder / "sub").mkdir(parents=True)
    scene = drawn_picture(140, 100, seed=4)
    scene.save(folder / "plain.png")
    transparent = scene.copy()
    transparent.putalpha(100)
    transparent.save(folder / "rgba.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: a viewer turns the stored picture clockwise
    scene.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    gray = scene.convert("L")
    gray.save(folder / "gray.png")
    Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(folder / "sixteen.png")
    scene.quantize(256).save(folder / "palette.png")
    scene.convert("CMYK").save(folder / "cmyk.jpg", quality=98)
    scene.resize((1, 1)).save(folder / "one.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "sub" / "cut.png").write_bytes((folder / "plain.png").read_bytes()[:4000])
    (folder / "notes.txt").write_text("nothing to see")


def test_every_readable_file_of_an_odd_folder_is_predicted_right_and_the_others_are_listed(predict: Predictor, tmp_path: Path):
    write_odd_folder(tmp_path / "odd")
    summary = run(predict, tmp_path / "odd", tmp_path / "out")
    found = results_of(tmp_path / "out")
    assert sorted(found) == [
        "cmyk.jpg",
        "gray.png",
        "one.png",
        "palette.png",
        "plain.png",
        "rgba.png",
        "sixteen.png",
        "turned.png",
    ]
    assert sorted(path.stem for path in (tmp_path / "out" / "pictures").iterdir()) == sorted(Path(name).stem for name in found)
    assert [Path(line.split()[1]).name for line in summary.unreadable] == ["empty.jpg", "cut.png"]

    def detections(name: str) -> list[dict]:
        return [{key: value for key, value in one.items() if key != "image_id"} for one in found[name]]

    assert detections("plain.png") == detections("rgba.png") == detections("turned.png")
    assert detections("gray.png") == detections("sixteen.png")
    assert len(detections("plain.png")) > 0
    assert len(detections("gray.png")) > 0
    for name in ("palette.png", "cmyk.jpg", "one.png"):  # their colours are others: compared with what Python gives for the file
        expected = predict(tmp_path / "odd" / name)
        np.testing.assert_allclose([one["score"] for one in found[name]], expected.scores.numpy(), atol=1e-4)
    remarks = "\n".join(summary.remarks)
    assert all(words in remarks for words in ("turned.png: turned upright", "sixteen.png: 16 bits", "rgba.png: transparency"))


def test_the_json_is_read_by_the_coco_api_and_holds_what_python_gives(predict: Predictor, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for seed in range(4):
        drawn_picture(120 + seed, 90, seed).save(tmp_path / "in" / f"{seed}.png")
    run(predict, tmp_path / "in", tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "out" / "images.json"))
        coco = truth.loadRes(str(tmp_path / "out" / "predictions.json"))
    assert [category["name"] for category in truth.loadCats(truth.getCatIds())] == list(CLASSES)
    assert truth.getCatIds() == [10, 20, 30, 40, 50]
    count = 0
    for image in truth.loadImgs(truth.getImgIds()):
        expected = predict(image["file_name"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert (image["height"], image["width"]) == expected.size
        assert len(found) == len(expected)
        count += len(found)
        for row, one in enumerate(found):
            x, y, width, height = one["bbox"]
            torch.testing.assert_close(torch.tensor([x, y, x + width, y + height]), expected.boxes[row], atol=0.01, rtol=0)
            assert one["category_id"] == 10 * (int(expected.labels[row]) + 1)
            mask = coco_mask.decode(one["segmentation"]).astype(bool)
            assert (mask != expected.masks[row].numpy()).mean() < 1e-3
            assert one["mask_score"] == pytest.approx(float(expected.mask_scores[row]), abs=1e-4)
    assert count > 0


def test_a_folder_without_detections_gives_an_empty_list(predict: Predictor, tmp_path: Path):
    (tmp_path / "in").mkdir()
    drawn_picture(40, 40).save(tmp_path / "in" / "x.png")
    sure = Predictor(predict.model, predict.description, score_threshold=1.0)
    summary = FilesRun(sure, tmp_path / "out", paint=paint)(find_inputs([tmp_path / "in"]))
    assert (summary.pictures, summary.objects) == (1, 0)
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []


def test_a_limit_counts_pictures_and_frames(predict: Predictor, tmp_path: Path):
    (tmp_path / "in").mkdir()
    for seed in range(3):
        drawn_picture(40, 40, seed).save(tmp_path / "in" / f"{seed}.png")
    film(tmp_path / "in" / "film.mp4", 5)
    summary = run(predict, tmp_path / "in", tmp_path / "out", limit=2)
    assert (summary.pictures, summary.frames) == (2, 2)
    with pytest.raises(UserError, match="limit of 0"):
        run(predict, tmp_path / "in", tmp_path / "out", limit=0)


def film(path: Path, frames: int) -> None:
    with writing(path) as video:
        for number in range(frames):
            video.write(np.asarray(drawn_picture(96, 64, number)), number / 10)


def test_a_film_becomes_a_film_of_its_size_and_a_line_of_json_a_frame(predict: Predictor, tmp_path: Path):
    film(tmp_path / "film.mp4", 5)
    summary = run(predict, tmp_path / "film.mp4", tmp_path / "out")
    assert (summary.pictures, summary.frames, summary.unreadable) == (0, 5, [])
    lines = [json.loads(line) for line in (tmp_path / "out" / "videos" / "film.jsonl").read_text().splitlines()]
    assert [(line["frame"], line["width"], line["height"]) for line in lines] == [(number, 96, 64) for number in range(5)]
    assert [line["time_s"] for line in lines] == pytest.approx([number / 10 for number in range(5)], abs=1e-3)
    for line, frame in zip(lines, read_frames(tmp_path / "film.mp4"), strict=True):
        expected = predict(frame.pixels)
        np.testing.assert_allclose([one["score"] for one in line["detections"]], expected.scores.numpy(), atol=1e-4)
    shown = list(read_frames(tmp_path / "out" / "videos" / "film.mp4"))
    assert [frame.time_s for frame in shown] == pytest.approx([line["time_s"] for line in lines], abs=1e-3)
    assert shown[0].pixels.shape == (64, 96, 3)
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_a_film_that_breaks_off_keeps_its_first_part_and_is_listed(predict: Predictor, tmp_path: Path):
    film(tmp_path / "whole.mp4", 12)
    content = bytearray((tmp_path / "whole.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    middle = (start + content.index(b"moov")) // 2
    content[middle : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - middle)
    (tmp_path / "broken.mp4").write_bytes(content)
    (tmp_path / "none.mp4").write_bytes(b"no film")
    inputs = find_inputs([tmp_path / "broken.mp4", tmp_path / "none.mp4"])
    summary = FilesRun(predict, tmp_path / "out", paint=paint)(inputs)
    assert 0 < summary.frames < 12
    assert [name in line for name, line in zip(("broken.mp4", "none.mp4"), summary.unreadable, strict=True)] == [True, True]
    assert sorted(path.name for path in (tmp_path / "out" / "videos").iterdir()) == ["broken.jsonl", "broken.mp4"]
    assert len((tmp_path / "out" / "videos" / "broken.jsonl").read_text().splitlines()) == summary.frames


def test_a_picture_longer_than_jpeg_allows_is_drawn_smaller(predict: Predictor, tmp_path: Path):
    Image.new("L", (70_000, 20)).save(tmp_path / "long.png")
    summary = run(predict, tmp_path / "long.png", tmp_path / "out")
    assert (summary.pictures, summary.unreadable) == (1, [])
    with Image.open(tmp_path / "out" / "pictures" / "long.jpg") as drawn:
        assert drawn.width == 65_500


class Failing(nn.Module):
    """A model that runs out of something."""

    def inference(self, *_: object, **__: object) -> list:
        raise RuntimeError("out of memory")


def test_a_failing_model_leaves_no_half_written_json(predict: Predictor, tmp_path: Path):
    drawn_picture(40, 40).save(tmp_path / "x.png")
    with pytest.raises(RuntimeError, match="out of memory"):
        FilesRun(Predictor(Failing(), predict.description), tmp_path / "out", paint=paint)(find_inputs([tmp_path / "x.png"]))
    assert not list((tmp_path / "out").iterdir())
