"""How often an image is drawn, and how often a file is read."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from eva02_det.data.loaders import build_train_loader

RECORDS = [
    {"image_id": number, "annotations": [{"category_id": 0}] + [{"category_id": 1}] * (number == 7)} for number in range(16)
]


def drawn(batches: int, **options) -> list[int]:
    loader = build_train_loader(RECORDS, mapper=identity, total_batch_size=4, **{"num_workers": 0, "seed": 5, **options})
    return [item["image_id"] for batch in islice(iter(loader), batches) for item in batch]


def identity(record: dict) -> dict:
    return record


def test_without_a_threshold_every_image_comes_once_a_pass():
    passes = np.array(drawn(12)).reshape(3, 16)
    assert all(sorted(one) == list(range(16)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_with_a_rare_class_comes_as_often_as_the_square_root_rule_says(workers):
    # class 1 is on 1 of 16 images: sqrt(0.25 / (1 / 16)) = 2 times a pass
    counts = Counter(drawn(17, repeat_threshold=0.25, num_workers=workers))  # 4 passes of 17
    assert counts[7] == 8
    assert {counts[number] for number in range(16) if number != 7} == {4}


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_the_same_seed_gives_the_same_order_with_any_number_of_workers(threshold):
    alone = drawn(8, repeat_threshold=threshold)
    assert alone == drawn(8, repeat_threshold=threshold, num_workers=2)
    assert alone != drawn(8, repeat_threshold=threshold, seed=6)
