"""Test-time augmentation as an evaluation's config asks for it."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from eva02_det.engine.train import evaluate
from eva02_det.engine.tta import usual_scales, with_tta
from eva02_det.modeling.tta import TTA
from eva02_det.utils.errors import UserError
from tests.engine.small_run import forget, small_config, small_model, write_set
from tests.engine.tiny_detector import PIXELS, tiny_config, tiny_model, with_opinions, write_dataset


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    write_dataset(tmp_path, 2)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tiny_config()


def outputs(config: DictConfig, model: nn.Module) -> list:
    with torch.no_grad():
        return [model(batch)[0]["instances"] for batch in instantiate(config.dataloader.test)]


def test_the_test_loader_hands_over_pictures_as_decoded_and_one_scale_changes_nothing(config: DictConfig):
    model = tiny_model(config)
    plain = outputs(config, model)
    config.tta = {"scales": [PIXELS], "flip": False}
    augmented = with_tta(config, model)
    records = [record for batch in instantiate(config.dataloader.test) for record in batch]
    assert all(tuple(record["image"].shape[1:]) == (record["height"], record["width"]) for record in records)
    for one, other in zip(plain, outputs(config, augmented), strict=True):
        assert len(one) > 0
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.pred_masks, other.pred_masks)


@pytest.mark.parametrize("node", [None, {"enabled": False, "scales": [128]}])
def test_a_config_that_does_not_ask_for_it_keeps_model_and_loader(config: DictConfig, node: dict | None):
    before = copy.deepcopy(config)
    if node is not None:
        config.tta = before.tta = node
    model = nn.Identity()
    assert with_tta(config, model) is model
    assert OmegaConf.to_container(config.dataloader) == OmegaConf.to_container(before.dataloader)


def test_without_scales_the_usual_ones_are_taken_from_the_test_size(config: DictConfig):
    config.tta = {"scales": None}
    wrapped = with_tta(config, tiny_model(config))
    assert isinstance(wrapped, TTA)
    assert wrapped.scales == usual_scales(PIXELS)
    assert wrapped.flip


def test_the_usual_scales_hold_the_test_size_one_smaller_and_two_larger():
    assert usual_scales(1536) == (1280, 1536, 1792, 2048)
    assert usual_scales(1000)[1] == 1000


def test_an_unknown_key_is_refused(config: DictConfig):
    config.tta = {"scale": [128]}
    with pytest.raises(UserError, match=r"tta\.scale "):
        with_tta(config, tiny_model(config))


def test_an_evaluation_augments_raw_and_averaged_weights_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    forget("small_val")
    write_set(tmp_path, "val", 2)
    model = with_opinions(instantiate(small_model()))
    average = with_opinions(instantiate(small_model()), seed=1)
    content = {"model": model.state_dict(), "ema_state": {name: value.detach() for name, value in average.named_parameters()}}
    torch.save(content, tmp_path / "w.pth")

    def detections(name: str, node: dict | None) -> list[str]:
        config = small_config(tmp_path / name, train={"ema_decay": 0.9})
        config.train.init_checkpoint, config.train.ema.eval_only, config.tta = str(tmp_path / "w.pth"), "both", node
        assert set(evaluate(config)) == {"bbox", "segm", "ema/bbox", "ema/segm"}
        folder = tmp_path / name / "inference"
        return [(folder / part / "coco_instances_results.json").read_text() for part in ("", "ema")]

    plain = detections("plain", None)
    assert plain[0] != plain[1]
    assert detections("same", {"scales": [64], "flip": False}) == plain
    mirrored = detections("mirrored", {"scales": [64], "flip": True})
    assert all(one != other for one, other in zip(mirrored, plain))
