"""Reports on data sets: counts of what is missing, broken and invalid."""

import json

import pytest
from PIL import Image

from eva02_det.data.check import Report, check_files, check_named
from eva02_det.data.image_check import by_kind, check_images
from eva02_det.data.objects365 import NEVER_RELEASED
from tests.data import tiny_coco, tiny_sets


def spoiled(root) -> None:
    """Image 1 is missing, 2 ends early, 3 has another size, 4 and 5 are sound, 6 has 16 bits."""
    content = tiny_coco.content(images=6)
    content["images"][5]["file_name"] = "6.png"
    content["annotations"][0]["bbox"][2] = None
    tiny_coco.write(root, "val", content)
    folder = root / "tiny/val"
    (folder / "1.jpg").unlink()
    whole = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (10, 20)).save(folder / "3.jpg")
    Image.new("I;16", (tiny_coco.WIDTH, tiny_coco.HEIGHT)).save(folder / "6.png")


def kinds(report: Report) -> dict[str, list[str]]:
    return {kind: [fault.path.rsplit("/", 1)[1] for fault in faults] for kind, faults in report.faults.items()}


def test_faults_of_images_are_told_apart_and_only_decoding_finds_a_file_that_ends_early(root):
    spoiled(root)
    (quick,) = check_named(["tiny_val"], depth="exists")
    (header,) = check_named(["tiny_val"])
    (decoded,) = check_named(["tiny_val"], depth="decode")
    assert kinds(quick) == {"missing": ["1.jpg"]}
    assert kinds(header) == {"missing": ["1.jpg"], "wrong size": ["3.jpg"], "16 bit": ["6.png"]}
    assert kinds(decoded) == {**kinds(header), "broken": ["2.jpg"]}
    assert (decoded.images, decoded.annotations, decoded.classes) == (6, 12, 2)
    assert not decoded.is_usable
    text = "\n".join(decoded.lines())
    assert "FAULTY" in text
    assert "10 x 20, stated 64 x 48" in text
    assert "1 annotations have no 'bbox' of four numbers" in text
    assert json.loads(json.dumps(decoded.as_record()))["faults"]["broken"][0]["path"].endswith("2.jpg")


def test_several_processes_find_what_one_finds(root, monkeypatch):
    spoiled(root)
    stated = [(str(root / f"tiny/val/{n}.jpg"), tiny_coco.HEIGHT, tiny_coco.WIDTH) for n in range(1, 6)]
    monkeypatch.setattr("eva02_det.data.image_check.CHUNK", 2)
    alone, together = (by_kind(check_images(stated, depth="decode", workers=workers)) for workers in (1, 2))
    assert alone == together
    assert set(alone) == {"missing", "broken", "wrong size"}


def test_a_sound_set_is_usable_and_one_with_a_16_bit_image_is_not(root):
    tiny_coco.write(root, "train", tiny_coco.content())
    (report,) = check_named(["tiny_train"], depth="decode")
    assert report.is_usable
    assert next(iter(report.lines())) == "tiny_train: ok: 3 images, 6 annotations, 2 classes"
    Image.new("I;16", (tiny_coco.WIDTH, tiny_coco.HEIGHT)).save(root / "tiny/train/2.png")
    (root / "tiny/train/2.png").rename(root / "tiny/train/2.jpg")
    (report,) = check_named(["tiny_train"], depth="decode")
    assert not report.is_usable
    assert kinds(report) == {"16 bit": ["2.jpg"]}


def test_what_is_not_there_is_said_of_every_known_set(root):
    reports = {report.name: report for report in check_named()}
    assert {"coco_2017_val", "coco_2017_test-dev", "lvis_v1_minival", "objects365_train"} <= set(reports)
    assert all(report.absent and not report.is_usable for report in reports.values())
    assert "instances_val2017.json does not exist" in reports["coco_2017_val"].absent
    (unknown,) = check_named(["nonsense"])
    assert "nonsense" in unknown.absent


def test_lvis_and_objects365_are_looked_for_where_their_images_lie(root, monkeypatch):
    monkeypatch.setenv("EVA02_DET_CACHE", str(root / "cache"))
    tiny_sets.lvis(root, "val", ["train2017/3.jpg", "val2017/1.jpg"])
    names = ["objects365_v1_1.jpg", NEVER_RELEASED[0]]
    tiny_sets.objects365(root, "train", names, folder="o365", images="patch0")
    (root / "o365/patch0" / names[1]).unlink()
    reports = {report.name: report for report in check_named()}
    usable = {name for name, report in reports.items() if report.is_usable}
    assert usable == {"lvis_v1_val", "lvis_v1_minival", "lvis_v1_val_5k", "objects365_train"}
    assert (reports["lvis_v1_val"].images, reports["lvis_v1_minival"].images) == (2, 1)
    assert reports["objects365_train"].never_released == 1
    (both, _) = check_named(["objects365_trainval"])
    assert both == reports["objects365_train"]
    (root / "coco/val2017/1.jpg").unlink()
    assert not next(check_named(["lvis_v1_val"])).is_usable


def test_a_file_of_ones_own_is_checked_alike(root):
    file = tiny_coco.write(root, "train", tiny_coco.content())
    assert check_files(file, root / "tiny/train", depth="decode").is_usable
    assert "does not exist" in check_files(file, root / "nowhere").absent
    file.write_text("{")
    assert "not valid JSON" in check_files(file, root / "tiny/train").absent


@pytest.mark.parametrize("images", [[], [{"id": 1}]])
def test_images_without_a_name_or_size_are_findings_not_crashes(root, images):
    file = tiny_coco.write(root, "train", tiny_coco.content())
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": tiny_coco.CATEGORIES}))
    report = check_files(file, root / "tiny/train")
    assert any(finding.fatal for finding in report.findings)
    assert not report.is_usable
