"""Predictions in files: whole or refused, of this pass alone, each image once."""

import json

import numpy as np
import pytest

from eva02_det.evaluation.predictions import Predictions, from_results, join
from eva02_det.evaluation.shards import (
    DESCRIPTION,
    FOLDER,
    Description,
    Shards,
    ShardWriter,
    each_image_once,
    read_description,
    write_description,
)
from eva02_det.utils.errors import UserError
from tests.evaluation import scenes

CATEGORIES = dict(enumerate(scenes.CLASSES))


def predictions(*images: int) -> Predictions:
    results = scenes.detections(scenes.ground_truth(1), 2, crowded=5)
    return from_results([one for one in results if one["image_id"] in images], CATEGORIES)


def write(folder, parts_by_rank: list[list[Predictions]]) -> list[ShardWriter]:
    writers = [ShardWriter(folder, rank, len(parts_by_rank)) for rank in range(len(parts_by_rank))]
    for writer, parts in zip(writers, parts_by_rank):
        writer.clear()
        for part in parts:
            writer.write(part)
        writer.finish()
    return writers


def as_results(parts) -> list[dict]:
    return [one for part in parts for one in part.results(CATEGORIES)]


def test_parts_of_all_ranks_come_back_as_they_were(tmp_path):
    parts = [[predictions(1), predictions(3, 4)], [], [predictions(2)]]
    write(tmp_path, parts)
    shards = Shards(tmp_path, 3)
    expected = as_results(part for rank in parts for part in rank)
    assert as_results(shards) == expected
    assert as_results(shards) == expected  # and again
    assert shards.with_masks
    assert shards.image_ids().tolist() == [1, 2, 3, 4]
    dtypes = {name: getattr(next(iter(shards)), name).dtype for name in ("boxes", "scores", "classes", "image")}
    assert dtypes == {"boxes": np.float64, "scores": np.float64, "classes": np.int32, "image": np.int32}


def test_masks_are_left_in_the_files_where_they_are_not_wanted(tmp_path):
    write(tmp_path, [[predictions(1)]])
    (part,) = Shards(tmp_path, 1, read_masks=False)
    assert part.masks is None
    assert len(part) == len(predictions(1))


def test_an_image_that_two_ranks_saw_counts_once(tmp_path, caplog):
    write(tmp_path, [[predictions(1, 2)], [predictions(2, 3)]])
    images = [one["image_id"] for one in as_results(Shards(tmp_path, 2))]
    assert images == [one["image_id"] for one in as_results([join([predictions(1, 2), predictions(3)])])]
    assert "1 images were evaluated more than once" in caplog.text


def test_an_image_seen_twice_by_one_rank_counts_once():
    twice = join([predictions(1), predictions(2), predictions(1)])
    assert as_results(each_image_once([twice])) == as_results([join([predictions(1), predictions(2)])])


def test_the_shard_of_a_rank_that_did_not_finish_is_missed_with_numbers(tmp_path):
    *_, last = write(tmp_path, [[predictions(1)], [predictions(2)], [predictions(3)]])
    last.clear()
    with pytest.raises(UserError, match=r"1 of 3 ranks .* rank 2"):
        Shards(tmp_path, 3)
    with pytest.raises(UserError, match=r"4 of 4 ranks .* rank 0"):
        Shards(tmp_path, 4)


def test_missing_and_damaged_parts_are_named(tmp_path):
    write(tmp_path, [[predictions(1), predictions(2)]])
    first, second = sorted((tmp_path / FOLDER).glob("*.npz"))
    content = first.read_bytes()
    first.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{first.name} is damaged"):
        list(Shards(tmp_path, 1))
    middle = len(content) // 2
    first.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    with pytest.raises(UserError, match=f"{first.name} is damaged"):
        list(Shards(tmp_path, 1))
    first.write_bytes(content)
    second.unlink()
    with pytest.raises(UserError, match=f"{second.name} is missing"):
        list(Shards(tmp_path, 1))
    second.write_bytes(content)
    counts = tmp_path / FOLDER / "rank-00000-of-00001.json"
    counts.write_text(json.dumps(json.loads(counts.read_text()) | {"images": 7}))
    with pytest.raises(UserError, match=r"evaluated 7 images but .* holds 2"):
        list(Shards(tmp_path, 1))


def test_a_new_pass_removes_what_an_earlier_one_left(tmp_path):
    write(tmp_path, [[predictions(1)] * 3, [predictions(2)], [predictions(3)]])
    write_description(tmp_path, Description("coco", "a", "b", 3, [100]))
    ShardWriter(tmp_path, 1, 2).clear()  # not rank 0: touches nothing of others
    assert len(list((tmp_path / FOLDER).iterdir())) == 9
    write(tmp_path, [[predictions(4)], [predictions(5)]])
    names = sorted(file.name for file in (tmp_path / FOLDER).iterdir())
    assert all("-of-00002" in name for name in names)
    assert len(names) == 4
    assert as_results(Shards(tmp_path, 2)) == as_results([predictions(4), predictions(5)])


def test_descriptions_come_back_and_others_are_refused(tmp_path):
    description = Description("lvis", "a_val", "a.json", 2, [300], split="val", category_ids=[3, 1], image_ids=["x"])
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description
    file = tmp_path / FOLDER / DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="another version"):
        read_description(tmp_path)
    file.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_description(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="does not exist"):
        read_description(tmp_path)
