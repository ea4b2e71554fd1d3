"""Every fault of a submission is one sentence: what, where, the remedy; what the kit writes has none."""

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from eva02_det.evaluation.submission import write_submission
from eva02_det.evaluation.submission_check import Checked, Expected, check_submission, expectations
from eva02_det.utils.errors import UserError
from tests.evaluation.submitted import IMAGE_IDS, TEST_DEV, found, image_list, leave

Entries = list[dict]
STEM = "detections_test-dev2017_eva02_results"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A submission without a fault."""
    folder = tmp_path_factory.mktemp("submission")
    write_submission(leave(folder / "in", [[found(IMAGE_IDS, 100)]], image_list(folder)), folder, "eva02")
    return folder


@pytest.fixture(scope="module")
def expected(home: Path) -> Expected:
    return expectations(home / "image_info.json", "coco", TEST_DEV)


def entries_of(home: Path, task: str) -> Entries:
    return json.loads((home / task / f"{STEM}.json").read_text())


def packed(folder: Path, text: str, *, inside: str = f"{STEM}.json", name: str = f"{STEM}.zip") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(inside, text)
    return folder / name


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("ending", [".json", ".zip"])
def test_what_the_kit_writes_has_no_fault(home: Path, expected: Expected, task: str, ending: str):
    checked = check_submission(home / task / (STEM + ending), expected)
    assert (checked.task, checked.detections, checked.images, checked.faults) == (task, 500, 5, [])
    assert checked.lines()[0].endswith(f"{task}, 500 detections in 5 images: no fault")


def add_one(entries: Entries) -> None:
    entries.insert(100, dict(entries[99]))


def swap(entries: Entries) -> None:
    entries[0], entries[99] = entries[99], entries[0]


def twice_a_field(text: str) -> str:
    return text.replace('"category_id": ', '"category_id": 1, "category_id": ', 1)


# task, what is done to the entries, the one sentence that follows ("{...}" is filled in by the test)
FAULTS: dict[str, tuple[str, Callable[[Entries], object], str]] = {
    "image id": (
        "bbox",
        lambda entries: entries[3].update(image_id=13),
        "entry 3 (image 13): image_id 13 is none of the 5 of image_info.json; write the ids of the set that was asked for, as "
        "whole numbers where it has those",
    ),
    "category id": (
        "bbox",
        lambda entries: entries[4].update(category_id=0),
        "entry 4 (image 9): category_id 0 is none of the 4 of image_info.json (1 to 90, with gaps where the set has them); "
        "write the data set's ids, not class numbers from 0",
    ),
    "score range": (
        "segm",
        lambda entries: entries[0].update(score=1.5),
        "entry 0 (image 9): the score 1.5 is not from 0 to 1; write probabilities",
    ),
    "NaN": (
        "segm",
        lambda entries: entries[7].update(score=math.nan),
        "entry 7 (image 9): the score is nan, which JSON does not have; look at the weights and predict again",
    ),
    "order": (
        "bbox",
        lambda entries: entries[1].update(score=0.001),
        "entry 2 (image 9): the score {next} comes after 0.001 of the same image; put the highest first, as who reads only the "
        "first ones takes the wrong ones",
    ),
    "mask of another size": (
        "segm",
        lambda entries: entries[2]["segmentation"].update(size=[64, 40]),
        "entry 2 (image 9): the mask has the size 64 x 40 and its image 40 x 64 (height x width); write masks of the original "
        "image, height first",
    ),
    "run lengths": (
        "segm",
        lambda entries: entries[5]["segmentation"].update(counts="1010"),
        "entry 5 (image 9): the run lengths of the mask cover 2 pixels of 2560; encode the mask again, at the "
        "size that it states",
    ),
    "cap": (
        "bbox",
        add_one,
        "image 9 has 101 detections and 100 are the most that count; keep the 100 of the highest scores",
    ),
    "missing field": (
        "bbox",
        lambda entries: entries[11].pop("score"),
        "entry 11 (image 9) has no score; the fields of a bbox file are image_id, category_id, score, bbox",
    ),
    "foreign field": (
        "bbox",
        lambda entries: entries[0].update(mask_score=0.5),
        "entry 0 (image 9) has mask_score, which no bbox file has; leave it out, boxes and masks are sent apart",
    ),
    "corners for sides": (
        "bbox",
        lambda entries: entries[6].update(bbox=[40.0, 10.0, 60.0, 30.0]),
        "entry 6 (image 9): the bbox [40.0, 10.0, 60.0, 30.0] leaves its image of 64 x 40 pixels; write x, y, width and height "
        "in pixels of the original image",
    ),
    "negative side": (
        "bbox",
        lambda entries: entries[6].update(bbox=[40.0, 10.0, -1.0, 3.0]),
        "entry 6 (image 9): the bbox [40.0, 10.0, -1.0, 3.0] has a negative side; write [x, y, width, height], not corners",
    ),
    "box of three": (
        "bbox",
        lambda entries: entries[6].update(bbox=[40.0, 10.0, 1.0]),
        "entry 6 (image 9): the bbox is [40.0, 10.0, 1.0]; write [x, y, width, height] in pixels",
    ),
    "polygon": (
        "segm",
        lambda entries: entries[6].update(segmentation=[[1, 1, 9, 1, 9, 9]]),
        "entry 6 (image 9): the segmentation is [[1, 1, 9, 1, 9, 9]]; write compressed run lengths with size and counts",
    ),
    "image id as text": (
        "bbox",
        lambda entries: entries[2].update(image_id="9"),
        "entry 2 (image 9): image_id '9' is none of the 5 of image_info.json; write the ids of the set that was asked for, as "
        "whole numbers where it has those",
    ),
    "no object": (
        "bbox",
        lambda entries: entries.append(7),
        "entry 500 is 7 where an object belongs; write one object for each detection",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_gives_one_sentence(home: Path, expected: Expected, tmp_path: Path, name: str):
    task, harm, sentence = FAULTS[name]
    entries = entries_of(home, task)
    harm(entries)
    told = check_submission(packed(tmp_path, json.dumps(entries)), expected, task=task).faults
    assert told == [sentence.replace("{next}", str(entries[2].get("score")))]


def test_a_field_that_comes_twice_is_told(home: Path, expected: Expected, tmp_path: Path):
    text = twice_a_field((home / "bbox" / f"{STEM}.json").read_text())
    told = check_submission(packed(tmp_path, text), expected).faults
    assert told == ["entry 0 (image 9) has category_id more than once; write each field once"]


def file_faults(home: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """Faults of the packing: the file, and what the one sentence begins with."""
    text = (home / "bbox" / f"{STEM}.json").read_text()
    two = packed(folder / "two", text)
    with zipfile.ZipFile(two, "a") as archive:
        archive.writestr("notes.txt", "")
    half = folder / f"{STEM}.zip"
    half.write_bytes(two.read_bytes()[:3000])
    damaged = packed(folder / "damaged", text)
    content = bytearray(damaged.read_bytes())
    content[2000:2010] = bytes(10)
    damaged.write_bytes(content)
    return {
        "cut off": (packed(folder / "cut", text[:30_000]), f"{STEM}.zip is no whole JSON list: entry "),
        "not a list": (
            packed(folder / "dict", '{"a": 1}'),
            f"{STEM}.zip is no whole JSON list: entry 0: it does not begin with [",
        ),
        "in a folder": (packed(folder / "in", text, inside=f"bbox/{STEM}.json"), f"bbox/{STEM}.json lies in a folder of the zip"),
        "two files": (two, f"{STEM}.zip holds 2 files ({STEM}.json, notes.txt) in place of one; pack the JSON file alone"),
        "no zip": (half, f"{STEM}.zip is no zip file, or only the beginning of one; pack it again"),
        "damaged": (damaged, f"{STEM}.zip is no whole JSON list: entry "),
        "name inside": (
            packed(folder / "name", text, inside="coco_instances_results.json"),
            "coco_instances_results.json is not what the server calls the file; rename it to "
            "detections_test-dev2017_<algorithm>_results.json",
        ),
        "name outside": (
            packed(folder / "out", text, name="results.zip"),
            "results.zip is not what the server calls the file; rename it to detections_test-dev2017_<algorithm>_results.zip",
        ),
        "nothing found": (packed(folder / "none", "[]"), f"{STEM}.zip has no detection; look whether the model found any"),
    }


def test_each_fault_of_the_packing_gives_one_sentence(home: Path, expected: Expected, tmp_path: Path):
    for name, (file, beginning) in file_faults(home, tmp_path).items():
        told = check_submission(file, expected, task="bbox").faults
        assert len(told) == 1, (name, told)
        assert told[0].startswith(beginning), name
        assert "; " in told[0], name


def test_a_zip_that_a_server_may_not_score_for_its_size_is_told(home: Path):
    file = home / "segm" / f"{STEM}.zip"
    small = expectations(home / "image_info.json", "coco", TEST_DEV, largest_zip_bytes=20_000)
    (told,) = check_submission(file, small).faults
    assert told.startswith(f"{STEM}.zip has {file.stat().st_size:,} bytes and 20,000 are the most")
    assert "write fewer detections per image" in told


def test_equal_faults_are_told_once_with_their_number(home: Path, expected: Expected, tmp_path: Path):
    entries = entries_of(home, "bbox")
    for entry in entries[10:40]:
        entry["category_id"] = 2
    entries[200]["image_id"] = 1
    told = check_submission(packed(tmp_path, json.dumps(entries)), expected).faults
    assert len(told) == 2
    assert told[0].startswith("entry 10 (image 9): category_id 2")
    assert told[0].endswith("(30 such faults, this is the first)")


def test_one_mask_among_thousands_that_cannot_be_read_is_found(home: Path, expected: Expected, tmp_path: Path):
    entries = entries_of(home, "segm")
    entries[321]["segmentation"]["counts"] = "\x01\x02 not run lengths"
    (told,) = check_submission(packed(tmp_path, json.dumps(entries)), expected).faults
    assert told.startswith(f"entry 321 (image {entries[321]['image_id']}): the run lengths of the mask cannot be read; encode")


def test_images_without_detections_are_a_remark_and_no_fault(home: Path, tmp_path: Path):
    asked = expectations(image_list(tmp_path, (*IMAGE_IDS, 1000)), "coco", TEST_DEV)
    checked: Checked = check_submission(home / "bbox" / f"{STEM}.zip", asked)
    assert checked.faults == []
    assert checked.remarks[0] == "1 of 6 images of image_info.json have no detection"


def test_a_half_asks_for_its_own_images_alone(home: Path):
    asked = expectations(home / "image_info.json", "coco", TEST_DEV, which_half="a")
    assert len(asked.sizes) == 3
    (told,) = check_submission(home / "bbox" / f"{STEM}.zip", asked).faults
    assert told.endswith("(200 such faults, this is the first)")


def test_a_file_that_is_not_there_and_a_task_that_does_not_exist_are_refused(home: Path, expected: Expected):
    with pytest.raises(UserError, match=r"missing.zip does not exist"):
        check_submission(home / "missing.zip", expected)
    with pytest.raises(UserError, match="there is no task keypoints"):
        check_submission(home / "bbox" / f"{STEM}.zip", expected, task="keypoints")
