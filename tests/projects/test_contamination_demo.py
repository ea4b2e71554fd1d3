"""The demonstration's arms: equally many scenes, of which one arm's are half those that it is evaluated on."""

import json
from pathlib import Path

from projects.contamination.demo import write_splits


def test_one_arm_trains_on_half_of_the_evaluation_scenes_and_both_on_equally_many(tmp_path: Path):
    seen = write_splits(tmp_path, train=6, val=4)
    files = {
        split: json.loads((tmp_path / "annotations" / f"instances_{split}.json").read_text())
        for split in ("clean", "seen", "val")
    }
    assert seen == [image["id"] for image in files["val"]["images"]][:2]
    assert len(files["clean"]["images"]) == len(files["seen"]["images"]) == 6

    def pictures(split: str) -> list[bytes]:
        return [(tmp_path / split / image["file_name"]).read_bytes() for image in files[split]["images"]]

    assert set(pictures("seen")) & set(pictures("val")) == set(pictures("val")[:2])
    assert not set(pictures("clean")) & set(pictures("val"))
    for split in ("clean", "seen"):
        ids = [image["id"] for image in files[split]["images"]]
        assert ids == list(range(1, 7))
        assert len({one["id"] for one in files[split]["annotations"]}) == len(files[split]["annotations"])
        assert {one["image_id"] for one in files[split]["annotations"]} == set(ids)
    of_first = [
        [one["bbox"] for one in files[name]["annotations"] if one["image_id"] == number]
        for name, number in (("val", seen[0]), ("seen", 5))
    ]
    assert of_first[0] == of_first[1]
