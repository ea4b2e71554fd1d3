"""What is known of a detector from its config: classes, input size, test protocol."""

import json
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig
from PIL import Image

from eva02_det.engine.description import ModelDescription, describe, preprocessing_of, protocol_of, read_classes
from eva02_det.engine.images import Preprocessing
from eva02_det.engine.recipe import use_protocol
from eva02_det.modeling.protocols import PROTOCOLS, as_record, named_protocol
from eva02_det.modeling.selectors import SoftNms
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import CLASSES, PIXELS, forget_dataset, tiny_config, write_dataset


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Its data set is not there."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    forget_dataset()
    return tiny_config()


def test_classes_and_their_ids_come_from_the_annotations_of_the_test_set(config: DictConfig, tmp_path: Path):
    write_dataset(tmp_path, 1)
    described = describe(config)
    assert described.classes == CLASSES
    assert described.ids == described.category_ids == (10, 20, 30, 40, 50)
    assert described.dataset == "tiny_val"


def test_the_annotations_are_enough_without_the_pictures_where_the_set_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    config = tiny_config()
    config.dataloader.test.dataset.names = "coco_2017_val"
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    categories = [{"id": 3 * number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    file = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories[::-1]}))
    assert describe(config).classes == CLASSES


def test_without_annotations_the_classes_are_numbered_with_a_warning(config: DictConfig, caplog: pytest.LogCaptureFixture):
    described = describe(config)
    assert described.classes == tuple(f"class {number}" for number in range(1, 6))
    assert described.ids == (1, 2, 3, 4, 5)
    assert "--classes" in caplog.text


def test_the_classes_of_a_training_on_own_data_are_those_that_its_config_states(config: DictConfig, tmp_path: Path):
    config.classes = ["v", "w", "x", "y", "z"]
    config.custom_data = {"train": {"json_file": str(tmp_path / "mine.json"), "image_root": "."}}
    assert describe(config).classes == ("v", "w", "x", "y", "z")  # the file has gone
    assert describe(config).category_ids == ()
    mine = [{"id": number * number, "name": name} for number, name in enumerate("vwxyz", start=2)]
    (tmp_path / "mine.json").write_text(json.dumps({"categories": mine}))
    assert describe(config).category_ids == (4, 9, 16, 25, 36)
    (tmp_path / "mine.json").write_text(json.dumps({"categories": mine[:2]}))  # another one in its place
    assert describe(config).classes == ("v", "w", "x", "y", "z")


def test_names_are_read_from_a_text_file_and_from_a_coco_file(config: DictConfig, tmp_path: Path):
    (tmp_path / "names.txt").write_text("one\n\n two words \nthree\nfour\nfive\n")
    assert describe(config, classes=tmp_path / "names.txt").classes == ("one", "two words", "three", "four", "five")
    (tmp_path / "names.json").write_text(json.dumps({"categories": [{"id": 9, "name": "b"}, {"id": 2, "name": "a"}]}))
    assert read_classes(tmp_path / "names.json") == (("a", "b"), (2, 9))


@pytest.mark.parametrize(
    ("name", "content"), [("x.json", "{"), ("x.json", "[]"), ("x.json", '{"images": []}'), ("absent.txt", None)]
)
def test_a_file_without_names_is_refused(name: str, content: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"no class names can be read from .*{name}"):
        read_classes(tmp_path / name)


def test_names_that_do_not_fit_the_heads_are_refused(config: DictConfig, tmp_path: Path):
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="2 class names for a model with 5 classes"):
        describe(config, classes=tmp_path / "names.txt")
    with pytest.raises(UserError, match="1 category ids for 5 classes"):
        ModelDescription(config.model, CLASSES, Preprocessing(1, 1), category_ids=(1,))


def test_the_input_size_is_that_of_the_test_loader(config: DictConfig):
    assert preprocessing_of(config) == Preprocessing(PIXELS, PIXELS)
    config.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)]
    assert preprocessing_of(config) == Preprocessing(800, 1333)


@pytest.mark.parametrize(
    "augmentations",
    [
        [],
        [L(T.RandomFlip)(prob=1.0)],
        [L(T.ResizeShortestEdge)(short_edge_length=8, max_size=9), L(T.RandomFlip)(prob=0.5)],
        [L(T.ResizeShortestEdge)(short_edge_length=[8, 16], max_size=99)],
        [L(T.ResizeShortestEdge)(short_edge_length=8, max_size=9, interp=int(Image.Resampling.NEAREST))],
    ],
)
def test_a_test_loader_that_does_more_than_one_resize_is_refused(config: DictConfig, augmentations: list):
    config.dataloader.test.mapper.augmentations = augmentations
    with pytest.raises(UserError, match=r"dataloader\.test\.mapper\.augmentations"):
        preprocessing_of(config)


def test_pictures_in_another_order_of_colours_are_refused(config: DictConfig):
    config.model.input_format = "BGR"
    with pytest.raises(UserError, match="RGB"):
        preprocessing_of(config)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_named_protocol_is_known_by_its_name_and_its_values(config: DictConfig, name: str):
    use_protocol(config, named_protocol(name))
    record, preset = protocol_of(config), as_record(named_protocol(name))
    assert record["name"] == name
    assert (record["select_boxes"], record["rescore_masks"]) == (preset["select_boxes"], preset["rescore_masks"])


def test_a_changed_value_takes_the_name_away(config: DictConfig):
    use_protocol(config, named_protocol("coco_system"))
    config.model.roi_heads.select_boxes.iou_threshold = 0.55
    record = protocol_of(config)
    assert record["name"] == "custom"
    assert record["select_boxes"]["iou_threshold"] == 0.55


def test_without_a_protocol_the_record_tells_the_thresholds_of_the_last_predictor(config: DictConfig):
    config.model.roi_heads.box_predictors[-1].test_score_thresh = 0.123
    record = protocol_of(config)
    assert record["select_boxes"] == {"iou_threshold": 0.5, "score_threshold": 0.123, "max_detections": 100, "kind": "HardNms"}
    assert record["name"] == "custom"


def test_a_description_under_another_protocol_is_another_description(config: DictConfig):
    described = describe(config)
    other = described.under("coco_system")
    assert isinstance(instantiate(other.architecture).roi_heads.select_boxes, SoftNms)
    assert other.protocol["name"] == "coco_system"
    assert described.architecture.roi_heads.select_boxes is None
    with pytest.raises(UserError, match="nonsense"):
        described.under("nonsense")


def test_a_config_without_a_model_is_refused(config: DictConfig):
    del config.model
    with pytest.raises(UserError, match="no model"):
        describe(config)
