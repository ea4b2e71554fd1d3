"""The effect study: its numbers are the evaluators', its differences those of its numbers, its intervals see a planted effect."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eva02_det.contamination.effects import Estimate, Settings, category_groups, size_of
from eva02_det.contamination.study import Study, study
from eva02_det.contamination.study_files import write_study
from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.subsets import score_subsets
from eva02_det.evaluation.truth import truth_of
from eva02_det.utils.errors import UserError
from tests.contamination.made_up_study import COCO_NAME, IMAGES, NAME, SEEN, content, registered, write_arms
from tests.evaluation.feeding import feed
from tests.evaluation.oracle import noisy_oracle
from tests.evaluation.test_subsets import DATASETS, LVIS_VAL, needs_data

FEW = Settings(resamples=60)
FREQUENCY = {"APr": "rare", "APc": "common", "APf": "frequent"}


def numbers(found: Study, **fixed: str) -> dict[tuple[str, ...], Estimate]:
    """Estimates by subset, group and metric."""
    chosen = [one for one in found.estimates if all(getattr(one, key) == value for key, value in fixed.items())]
    return {(one.subset, one.group, one.metric): one for one in chosen}


def assert_like_the_benchmark(found: Study) -> None:
    """AP, AP50, AP75 of every subset, and AP of the frequency groups, to 1e-9."""
    for arm, subsets in found.metrics.items():
        for subset, tasks in subsets.items():
            for task, metrics in tasks.items():
                mine = numbers(found, task=task, arm=arm, quantity="AP")
                for metric in ("AP", "AP50", "AP75"):
                    assert mine[subset, "all", metric].value == pytest.approx(metrics[metric], abs=1e-9)
                for name, group in FREQUENCY.items():
                    if name in metrics:
                        value = mine[subset, group, "AP"].value
                        assert (np.nan if value is None else value) == pytest.approx(metrics[name], abs=1e-9, nan_ok=True)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Study]]:
    folder = tmp_path_factory.mktemp("study")
    with registered(folder, content()):
        yield folder, study(NAME, SEEN, write_arms(folder, content()), settings=Settings(resamples=300))


@needs_data
def test_on_real_images_the_estimates_are_the_benchmarks_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(DATASETS))
    images = json.loads(LVIS_VAL.read_text())
    contaminated = {image["id"] for image in images["images"] if "/train2017/" in image["coco_url"]}
    (tmp_path / "a.json").write_text(json.dumps(noisy_oracle(images, seed=4)))
    found = study("lvis_v1_val", contaminated, {"a": tmp_path / "a.json"}, settings=FEW)
    assert list(found.metrics["a"]["clean"]) == ["bbox", "segm"]
    assert_like_the_benchmark(found)
    ids = {image["id"] for image in images["images"]}
    alone = score_subsets(LVIS_VAL, tmp_path / "a.json", {"clean": ids - contaminated}, benchmark="lvis")
    assert found.metrics["a"]["clean"] == alone["clean"]
    assert found.subsets["contaminated"]["all"]["images"] == len(contaminated)


def test_an_effect_that_was_planted_is_found_and_none_elsewhere(planted: tuple[Path, Study]):
    found = planted[1]
    assert_like_the_benchmark(found)
    double = numbers(found, quantity="difference of differences")["contaminated - clean", "all", "AP"]
    assert double.arm == "seen - clean"
    assert double.beyond_noise
    assert double.low > 5
    difference = numbers(found, quantity="difference")
    assert difference["contaminated", "all", "AP"].beyond_noise
    assert difference["clean", "all", "AP"].beyond_noise is False


def test_differences_are_those_of_the_numbers_and_rest_on_what_they_say(planted: tuple[Path, Study]):
    found = planted[1]
    clean, seen = (numbers(found, quantity="AP", arm=arm) for arm in ("clean", "seen"))
    for key, one in numbers(found, quantity="difference").items():
        assert one.value == pytest.approx(seen[key].value - clean[key].value)
        assert (one.images, one.instances, one.categories) == (seen[key].images, seen[key].instances, seen[key].categories)
    difference = numbers(found, quantity="difference")
    for (_, group, metric), one in numbers(found, quantity="difference of differences").items():
        sides = [difference[subset, group, metric] for subset in ("contaminated", "clean")]
        assert one.value == pytest.approx(sides[0].value - sides[1].value)
        assert one.images == min(side.images for side in sides)
    for (_, group, metric), one in numbers(found, quantity="gap", arm="seen").items():
        assert one.value == pytest.approx(seen["contaminated", group, metric].value - seen["clean", group, metric].value)
    assert seen["all", "all", "AP"].images == IMAGES
    assert all(one.beyond_noise is None and 0 <= one.low <= one.value <= one.high <= 100 for one in seen.values())


def test_arms_that_agree_differ_by_nothing_at_all(planted: tuple[Path, Study]):
    """Paired: both meet the same resamples, so that what they have in common cancels."""
    folder, _ = planted
    found = study(NAME, SEEN, {"one": folder / "seen.json", "other": folder / "seen.json"}, settings=FEW)
    for quantity in ("difference", "difference of differences"):
        for one in numbers(found, quantity=quantity).values():
            assert (one.value, one.low, one.high) == (0, 0, 0)
            assert not one.beyond_noise


def test_with_few_images_on_one_side_no_comparison_of_the_sides_is_judged(planted: tuple[Path, Study]):
    folder, _ = planted
    arms = {name: folder / f"{name}.json" for name in ("clean", "seen")}
    found = study(NAME, set(range(1, 11)), arms, settings=FEW)
    assert numbers(found, quantity="difference")["clean", "all", "AP"].beyond_noise is not None
    assert numbers(found, quantity="difference")["contaminated", "all", "AP"].beyond_noise is None
    double = numbers(found, quantity="difference of differences")["contaminated - clean", "all", "AP"]
    assert (double.beyond_noise, double.images) == (None, 10)
    assert double.low < double.value < double.high


def test_the_same_study_gives_the_same_record(planted: tuple[Path, Study]):
    folder, found = planted
    again = study(NAME, SEEN, {name: folder / f"{name}.json" for name in ("clean", "seen")}, settings=Settings(resamples=300))
    assert again.as_record() == found.as_record()


def test_a_study_becomes_three_files(planted: tuple[Path, Study], tmp_path: Path):
    _, found = planted
    write_study(found, tmp_path)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record == json.loads(json.dumps(found.as_record()))
    assert record["sentences"] == found.sentences()
    with (tmp_path / "study.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(found.estimates) == len(record["estimates"])
    assert float(rows[0]["value"]) == record["estimates"][0]["value"]
    page = (tmp_path / "study.md").read_text()
    assert all(sentence in page for sentence in record["sentences"])
    assert "| seen - clean | all" in page


def test_what_a_group_rests_on_is_counted_where_it_was_looked_for():
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, 9, 9], "area": 81}
        for number, (image, category) in enumerate([(1, 1), (1, 1), (2, 2), (3, 1)], 1)
    ]
    images = [
        {"id": n, "height": 9, "width": 9, "neg_category_ids": absent, "not_exhaustive_category_ids": []}
        for n, absent in ((1, []), (2, [1]), (3, [2]), (4, []))
    ]
    categories = [{"id": 1, "name": "a", "frequency": "r"}, {"id": 2, "name": "b", "frequency": "f"}]
    truth = truth_of({"images": images, "annotations": annotations, "categories": categories}, federated=True)
    groups = category_groups(truth, np.array([True, True, False, False]))
    assert {name: members.tolist() for name, members in groups.items()} == {
        "all": [True, True],
        "shared": [True, False],
        "rare": [True, False],
        "common": [False, False],
        "frequent": [False, True],
    }

    def rests_on(rows: list[int], group: str) -> tuple[int, int, int]:
        size = size_of(truth, np.array(rows), groups[group])
        return size.images, size.instances, size.categories

    assert rests_on([0, 1, 2, 3], "all") == (3, 4, 2)  # in the fourth image nothing was looked for
    assert rests_on([0, 1, 2, 3], "rare") == (3, 3, 1)
    assert rests_on([1, 2], "frequent") == (2, 1, 1)
    assert rests_on([3], "common") == (0, 0, 0)


def test_shared_categories_are_no_group_of_their_own_where_all_are_shared():
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81} for n in (1, 3)]
    images = [{"id": n, "height": 9, "width": 9} for n in (1, 2, 3)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "in no image"}]
    truth = truth_of({"images": images, "annotations": annotations, "categories": categories}, federated=False)
    assert category_groups(truth, np.array([True, False, False])).keys() == {"all"}
    assert category_groups(truth, np.array([True, False, True])).keys() == {"all", "shared"}


def test_cocos_data_sets_are_studied_by_cocos_rules(tmp_path: Path):
    with registered(tmp_path, content(federated=False), COCO_NAME):
        found = study(COCO_NAME, SEEN, write_arms(tmp_path, content(federated=False)), settings=FEW)
    assert {one.group for one in found.estimates} == {"all"}
    assert "AR100" in found.metrics["clean"]["all"]["bbox"]
    assert_like_the_benchmark(found)


def test_a_folder_of_predictions_must_be_of_all_images_and_of_the_same_limit(tmp_path: Path):
    truth = content(federated=False)
    results, everywhere = noisy_oracle(truth, seed=0), range(1, IMAGES + 1)
    with registered(tmp_path, truth, COCO_NAME):
        for folder, images in (("whole", everywhere), ("part", range(1, 41))):
            feed(CocoEvaluator(COCO_NAME, output_dir=str(tmp_path / folder)), results, images).evaluate()
        found = study(COCO_NAME, SEEN, {"a": tmp_path / "whole"}, settings=FEW)
        assert list(found.metrics["a"]["all"]) == ["bbox", "segm"]
        with pytest.raises(UserError, match=f"part was evaluated on 40 of the {IMAGES} images of {COCO_NAME}"):
            study(COCO_NAME, SEEN, {"whole": tmp_path / "whole", "part": tmp_path / "part"}, settings=FEW)
        feed(
            CocoEvaluator(COCO_NAME, output_dir=str(tmp_path / "few"), max_detections=(1, 5, 9)), results, range(1, 71)
        ).evaluate()
        arms = {"a": tmp_path / "whole", "b": tmp_path / "few"}
        with pytest.raises(UserError, match="a keeps 1, 10, 100 detections and b 1, 5, 9"):
            study(COCO_NAME, SEEN, arms, settings=FEW)
        assert study(COCO_NAME, SEEN, arms, settings=FEW, max_detections=[1, 5, 9], tasks=["bbox"]).arms.keys() == arms.keys()


def test_an_annotation_file_will_do_for_a_data_set(planted: tuple[Path, Study], tmp_path: Path):
    folder, found = planted
    arms = {name: folder / f"{name}.json" for name in ("clean", "seen")}
    by_file = study(str(folder / "truth.json"), SEEN, arms, settings=Settings(resamples=300))
    assert by_file.estimates == found.estimates
    (tmp_path / "coco.json").write_text(json.dumps(content(federated=False)))
    (tmp_path / "images").mkdir()
    write_arms(tmp_path, content(federated=False))
    by_file = study(f"{tmp_path}/coco.json@{tmp_path}/images", SEEN, {"a": tmp_path / "clean.json"}, settings=FEW)
    assert {one.group for one in by_file.estimates} == {"all"}


def test_what_cannot_be_studied_is_named(planted: tuple[Path, Study]):
    folder, _ = planted
    arms = {"a": folder / "seen.json"}
    for contaminated, predictions, sentence in (
        (set(), arms, "no image of study_test_val is contaminated"),
        (set(range(1, IMAGES + 1)), arms, f"all {IMAGES} images of study_test_val are contaminated"),
        ({1, 999}, arms, "999"),
        (SEEN, {}, "no predictions to study"),
    ):
        with pytest.raises(UserError, match=sentence):
            study(NAME, contaminated, predictions, settings=FEW)
    for evaluation, sentence in (("nowhere/", "neither a registered data set"), (str(folder / "no.json"), "does not exist")):
        with pytest.raises(UserError, match=sentence):
            study(evaluation, SEEN, arms, settings=FEW)
    for options in ({"resamples": 1}, {"confidence": 1.0}):
        with pytest.raises(UserError, match="give no interval"):
            Settings(**options)
