"""Protocols and the released override keys on the command line: the same objects, whichever way they are asked for."""

from typing import Any

import pytest
from detectron2.config import instantiate
from omegaconf import DictConfig

from eva02_det.engine.recipe import load_recipe, use_protocol
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.protocols import PROTOCOLS, named_protocol
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.errors import UserError
from tests.configs.recipes import CONFIGS, load

HEADS = "model.roi_heads."
# as the authors' README gives them for the system-level results
SOFT = [HEADS + "use_soft_nms=True", HEADS + "class_wise=True", HEADS + "method=linear", HEADS + "iou_threshold=0.6"]
COCO_BOX = [*SOFT, HEADS + "override_score_thresh=0.0"]
COCO_MASK = [*COCO_BOX, HEADS + "maskness_thresh=0.5"]
LVIS = [*SOFT, HEADS + "maskness_thresh=0.5"]
AVERAGE = ["train.model_ema.use_ema_weights_for_eval_only=True"]


def choices(config: DictConfig) -> tuple[Any, ...]:
    """All that a protocol decides, as the objects that would be built."""
    heads = config.model.roi_heads
    built = [
        None if heads.get(key) is None else instantiate(heads[key]) for key in ("select_boxes", "rescore_masks", "mask_budget")
    ]
    return (*built, config.dataloader.evaluator.get("max_detections"), config.train.ema.eval_only)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("coco/eva02_b_1536_win32", COCO_MASK),
        ("coco/eva02_l_1536_win32", COCO_MASK),
        ("coco/eva02_l_1536_from_o365", [*AVERAGE, *COCO_MASK]),
        ("lvis/eva02_l_1536_win32", LVIS),
        ("lvis/eva02_l_1536_from_o365", [*AVERAGE, *LVIS, "dataloader.evaluator.max_dets_per_image=1000"]),
    ],
)
def test_a_released_command_gives_what_the_recipe_does_without_any_flag(name: str, command: list[str]):
    assert choices(load(name, *command)) == choices(load(name))


@pytest.mark.parametrize("name", ["coco/eva02_b_1024", "coco/eva02_l_1024", "lvis/eva02_b_1024", "lvis/eva02_l_1024"])
def test_released_commands_without_keys_are_hard_nms_with_the_thresholds_of_the_predictors(name: str):
    config = load(name)
    last = config.model.roi_heads.box_predictors[-1]
    released = HardNms(last.test_nms_thresh, last.test_score_thresh, last.test_topk_per_image)
    assert choices(config)[:3] == (released, None, None)


def test_the_released_command_for_boxes_has_the_same_boxes_and_leaves_masks_uncalibrated():
    config = load("coco/eva02_l_1536_win32", *COCO_BOX)
    assert choices(config)[:2] == (choices(load("coco/eva02_l_1536_win32"))[0], None)


def test_keys_that_are_not_given_have_the_released_defaults():
    soft = load("lvis/eva02_l_1536_win32", HEADS + "use_soft_nms=True")
    assert choices(soft)[0] == SoftNms("linear", 0.3, 0.5, score_threshold=0.02, per_class=False)
    assert choices(soft)[1] is None
    calibrated = load("coco/eva02_l_1536_win32", HEADS + "maskness_thresh=0.4")
    assert choices(calibrated)[:2] == (HardNms(0.5, 0.05, 100), Maskness(0.4, "masks"))


def test_gaussian_with_a_sigma_is_passed_on():
    config = load("coco/eva02_b_1024", HEADS + "use_soft_nms=true", HEADS + "method=gaussian", HEADS + "sigma=0.4")
    assert (choices(config)[0].method, choices(config)[0].sigma) == ("gaussian", 0.4)


def test_a_key_without_effect_is_refused():
    with pytest.raises(UserError, match=r"iou_threshold has no effect.*use_soft_nms=True"):
        load("coco/eva02_b_1024", HEADS + "iou_threshold=0.6")
    with pytest.raises(UserError, match=r"max_dets_per_image.*LVIS"):
        load("coco/eva02_b_1024", "dataloader.evaluator.max_dets_per_image=1000")


def test_the_average_is_switched_by_the_released_keys():
    name = "coco/eva02_l_1536_from_o365"
    assert load(name).train.ema.eval_only == "ema"
    assert load(name, "train.model_ema.use_ema_weights_for_eval_only=False").train.ema.eval_only == "raw"
    off = load(name, "train.model_ema.enabled=False").train.ema
    assert (off.decay, off.eval_only) == (None, "raw")
    on = load("coco/eva02_b_1024", "train.model_ema.enabled=True", "train.model_ema.decay=0.999", *AVERAGE).train.ema
    assert (on.decay, on.eval_only) == (0.999, "ema")


def test_detectron2s_own_keys_mean_what_they_mean_there():
    config = load("coco/eva02_b_1024", "dataloader.train.total_batch_size=32", "train.init_checkpoint=a.pth", "optimizer.lr=1e-3")
    assert config.dataloader.train.total_batch_size == 32
    assert config.train.init_checkpoint == "a.pth"
    assert config.optimizer.params.base_lr == 1e-3


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["coco/eva02_b_1024", "lvis/eva02_b_1024", "objects365/eva02_l_1536"])
def test_a_protocol_can_be_set_on_any_config(name: str, protocol: str):
    config = load(name, f"protocol={protocol}")
    wanted = named_protocol(protocol)
    if name.startswith("objects365"):
        wanted = wanted.without_masks()
    assert choices(config)[:2] == (wanted.select_boxes, wanted.rescore_masks)
    assert config.protocol.name == protocol
    assert config.train.ema.eval_only == "raw"  # no average is kept in these
    if name.startswith("lvis") and wanted.max_detections:
        assert config.dataloader.evaluator.max_detections == wanted.max_detections


def test_a_value_given_beside_the_protocol_wins_whatever_the_order():
    given = ["model.roi_heads.select_boxes.iou_threshold=0.55", "protocol=coco_system"]
    for overrides in (given, given[::-1]):
        config = load("coco/eva02_b_1024", *overrides)
        assert choices(config)[0] == SoftNms(iou_threshold=0.55)
        assert config.protocol.name == "custom"


def test_other_overrides_leave_the_protocol_its_name():
    config = load("coco/eva02_l_1536_win32", "train.max_iter=10", "model.roi_heads.num_classes=3", "optimizer.lr=1e-5")
    assert config.protocol.name == "coco_system"


def test_a_recipe_is_loaded_from_its_file_with_overrides():
    config = load_recipe(CONFIGS / "coco/eva02_b_1024.py", ["protocol=coco_system", "train.max_iter=7"])
    assert (config.protocol.name, config.train.max_iter) == ("coco_system", 7)


def test_changing_the_protocol_leaves_nothing_of_the_one_before():
    config = load("lvis/eva02_l_1536_from_o365", "protocol=lvis_plain")
    assert choices(config) == choices(load("lvis/eva02_l_1024"))
    use_protocol(config, named_protocol("lvis_system_o365"))
    assert choices(config) == choices(load("lvis/eva02_l_1536_from_o365"))


@pytest.mark.parametrize(
    ("name", "override", "budget"),
    [
        ("lvis/eva02_l_1536_win32", "dataloader.evaluator.max_detections=1000", MaskBudget(per_image=1000)),
        ("lvis/eva02_l_1536_win32", "dataloader.evaluator.max_detections=100", MaskBudget(per_image=300)),
        ("coco/eva02_l_1536_win32", "dataloader.evaluator.max_detections=[1,10,500]", MaskBudget(per_class=500)),
        ("lvis/eva02_l_1536_win32", "protocol=coco_system", MaskBudget(per_image=300)),
    ],
)
def test_the_budget_of_masks_never_falls_below_what_is_counted(name: str, override: str, budget: MaskBudget):
    assert choices(load(name, override))[2] == budget


def test_heads_that_take_no_selector_are_refused():
    config = load("coco/eva02_b_1024")
    config.model.roi_heads._target_ = "detectron2.modeling.roi_heads.CascadeROIHeads"
    del config.model.roi_heads["select_boxes"]
    with pytest.raises(UserError, match="take no select_boxes"):
        use_protocol(config, named_protocol("plain"))


@pytest.mark.parametrize("text", ["protocol=best", "model.roi_heads.use_soft_nms=[", "model.roi_heads.use_soft_mns=True"])
def test_a_wrong_name_value_or_key_is_refused(text: str):
    with pytest.raises(UserError):
        load("coco/eva02_b_1024", text)
