"""Custom data and exported models in a config: classes, heads, loss, evaluator and protocol follow; contradictions are said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

from configs.common import protocols
from configs.common.models import federated_loss, softmax_loss
from eva02_det.engine.description import ModelDescription
from eva02_det.engine.images import Preprocessing
from eva02_det.engine.inputs import folder_config, register_custom, require_classes, use_custom_data, use_model_folder
from eva02_det.engine.setup import argument_parser, configure
from eva02_det.engine.train import evaluate, train
from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.utils.errors import UserError
from tests.engine.small_run import CLASSES, small_config, write_annotations, write_set

FRUIT = ("apple", "pear", "plum", "fig", "lime")


def files(root: Path, split: str = "train") -> tuple[str, str]:
    return str(root / "fruit" / "annotations" / f"instances_{split}.json"), str(root / "fruit" / split)


@pytest.fixture
def fruit(tmp_path: Path) -> Path:
    """A data set of its own classes, as many as the model has."""
    write_set(tmp_path, "train", classes=FRUIT, name="fruit")
    write_set(tmp_path, "val", 2, classes=FRUIT, name="fruit")
    return tmp_path


def lvis_like(run: Path) -> DictConfig:
    """A recipe of LVIS: federated loss, its evaluator and its protocol."""
    config = small_config(run, 1, data="lvis_v1", num_classes=7, class_loss=federated_loss("lvis_v1_train", num_classes=3))
    config.protocol = protocols.tested_as(
        "lvis_system_o365", model=config.model, dataloader=config.dataloader, train=config.train
    )
    return config


def without_masks(root: Path, split: str) -> None:
    file = Path(files(root, split)[0])
    content = json.loads(file.read_text())
    for one in content["annotations"]:
        del one["segmentation"]
    write_annotations(root, split, content, name="fruit")


def test_class_count_names_and_data_sets_are_those_of_the_files(fruit: Path) -> None:
    config = small_config(fruit / "run", num_classes=91)
    said = use_custom_data(config, files(fruit), files(fruit, "val"))
    heads = config.model.roi_heads
    assert heads.num_classes == heads.mask_head.num_classes == heads.box_predictors[2].num_classes == 5
    assert list(config.classes) == list(FRUIT)
    assert config.dataloader.train.dataset.names != config.dataloader.test.dataset.names
    assert "5 classes" in said[0]
    assert "apple, pear, plum, fig, lime" in said[0]
    assert len(said) == 1, "nothing else had to change"


def test_evaluation_on_the_training_images_is_said_plainly(fruit: Path) -> None:
    config = small_config(fruit / "run")
    said = " ".join(use_custom_data(config, files(fruit)))
    assert "no --val-data" in said
    assert "nothing about new images" in said
    assert config.dataloader.train.dataset.names == config.dataloader.test.dataset.names


def test_class_layers_start_anew_though_they_would_fit_and_all_else_is_taken_over(fruit: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = small_config(tmp_path / "first", 1)
    use_custom_data(first, files(fruit))
    first.dataloader.evaluator = None
    train(first)
    start = torch.load(tmp_path / "first" / "model_final.pth", weights_only=True)["model"]
    config = small_config(tmp_path / "second", 1, train={"init_checkpoint": str(tmp_path / "first" / "model_final.pth")})
    use_custom_data(config, files(fruit))
    config.dataloader.evaluator, config.optimizer.params.base_lr, config.optimizer.lr, config.train.seed = None, 0.0, 0.0, 1
    train(config)
    after = torch.load(tmp_path / "second" / "model_final.pth", weights_only=True)["model"]
    anew = {name for name in after if not torch.equal(after[name], start[name])}
    layers = {name for name in after if ".cls_score." in name or ".mask_head.predictor." in name}
    assert anew == layers
    assert len(layers) == 8


def test_a_run_on_custom_data_is_evaluated_again_from_its_folder_alone(fruit: Path, tmp_path: Path) -> None:
    config = small_config(tmp_path / "run", 1)
    use_custom_data(config, files(fruit), files(fruit, "val"))
    LazyConfig.save(config, str(tmp_path / "run.yaml"))
    results = train(config)
    (tmp_path / "run.yaml").rename(tmp_path / "run" / "config.yaml")
    options = argument_parser().parse_args(["--eval-only", "--model", str(tmp_path / "run" / "model_final.pth")])
    again, _ = configure(options)
    assert list(register_custom(again)) == ["train", "val"]
    assert evaluate(again)["bbox"].keys() == results["bbox"].keys() >= {f"AP-{name}" for name in FRUIT if name != "lime"}


def test_data_without_masks_train_a_detector_without_mask_head(fruit: Path, tmp_path: Path) -> None:
    without_masks(fruit, "train")
    config = small_config(tmp_path / "run", 1)
    config.protocol = protocols.tested_as("coco_system", model=config.model, dataloader=config.dataloader, train=config.train)
    said = use_custom_data(config, files(fruit))
    assert "no masks" in said[-1]
    assert set(train(config)) == {"bbox"}
    weights = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert not [name for name in weights if "mask_head" in name]


def test_a_recipe_of_lvis_is_evaluated_by_the_rules_of_coco(fruit: Path) -> None:
    config = lvis_like(fruit / "run")
    said = " ".join(use_custom_data(config, files(fruit), files(fruit, "val")))
    assert config.dataloader.evaluator._target_ is CocoEvaluator
    assert config.protocol.name == "coco_system"
    assert config.model.roi_heads.rescore_masks.applies_to == "masks"
    assert not any(one.use_fed_loss for one in config.model.roi_heads.box_predictors)
    for word in ("federated", "COCO's metrics", "coco_system"):
        assert word in said


def test_an_evaluation_keeps_the_model_and_wants_its_classes(fruit: Path) -> None:
    config = small_config(fruit / "run")
    config.classes = list(FRUIT)
    use_custom_data(config, files(fruit, "val"), training=False)
    assert not config.train.new_weights
    config.classes = list(CLASSES)
    with pytest.raises(UserError, match="differ from number 1 on"):
        use_custom_data(config, files(fruit, "val"), training=False)


def test_training_and_test_data_of_other_classes_are_refused(fruit: Path) -> None:
    write_set(fruit, "other", classes=(*FRUIT[:4], "lemon"), name="fruit")
    with pytest.raises(UserError, match="lemon, lime"):
        use_custom_data(small_config(fruit / "run"), files(fruit), files(fruit, "other"))


def test_a_broken_file_is_refused_before_anything_is_built(fruit: Path) -> None:
    (fruit / "fruit" / "train" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"2\.jpg"):
        use_custom_data(small_config(fruit / "run"), files(fruit))


def test_classes_of_model_and_test_set_are_compared_when_the_set_is_open(fruit: Path) -> None:
    config = small_config(fruit / "run")
    use_custom_data(config, files(fruit), files(fruit, "val"))
    instantiate(config.dataloader.test)
    require_classes(config)
    config.classes = [*FRUIT[:3], "lime", "fig"]
    with pytest.raises(UserError, match="differ from number 4 on"):
        require_classes(config)


def described(run: Path, **changes: Any) -> ModelDescription:
    options = {
        "architecture": small_config(run, class_loss=softmax_loss()).model,
        "classes": CLASSES,
        "preprocessing": Preprocessing(short_side_px=64, long_side_px=96),
        "protocol": {"name": "lvis_system_o365", "max_detections": 1000},
    }
    return ModelDescription(**{**options, **changes})


def test_an_exported_model_is_evaluated_as_its_protocol_says(tmp_path: Path) -> None:
    config = folder_config(described(tmp_path, dataset="lvis_v1_val"))
    assert config.dataloader.evaluator._target_ is LvisEvaluator
    assert config.dataloader.evaluator.max_detections == 1000
    assert config.dataloader.test.mapper.augmentations[0].max_size == 96
    assert config.protocol.name == "lvis_system_o365"
    assert folder_config(described(tmp_path, dataset="coco_2017_val")).dataloader.evaluator._target_ is CocoEvaluator


def test_a_model_folder_replaces_the_model_of_a_config_and_not_its_data(tmp_path: Path) -> None:
    config = lvis_like(tmp_path)
    use_model_folder(config, described(tmp_path))
    assert config.model.roi_heads.num_classes == 5
    assert list(config.classes) == list(CLASSES)
    assert config.dataloader.test.dataset.names == "lvis_v1_val"
    assert config.dataloader.evaluator.max_detections == 1000
