"""Loads a recipe for a run: first its test protocol is chosen, then single values are overridden.

The override keys that the authors of EVA-02 document for their own tool are translated here, and nowhere else.
"""

import logging
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall as L
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from eva02_det.modeling.protocols import Protocol, name_of, named_protocol
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.config import accepts, apply_overrides, get, load_config
from eva02_det.utils.errors import UserError

HEADS = "model.roi_heads"
SOFT_NMS_KEYS = ("class_wise", "method", "iou_threshold", "sigma", "override_score_thresh")
HEAD_KEYS = {f"{HEADS}.{name}": name for name in ("use_soft_nms", *SOFT_NMS_KEYS, "maskness_thresh")}
EMA_KEYS = {f"train.model_ema.{name}": name for name in ("enabled", "decay", "use_ema_weights_for_eval_only", "device")}
RENAMED = {"dataloader.evaluator.max_dets_per_image": "dataloader.evaluator.max_detections"}
RELEASED_DECAY = 0.9999

log = logging.getLogger(__name__)


def load_recipe(file: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The config of `file` with `a.b.c=value` overrides, `protocol=NAME` and the authors' keys among them, in any order.

    The protocol comes first, so that a more specific override changes a value of it.
    """
    config = load_config(file)
    return apply_overrides(config, translate_overrides(config, overrides))


def translate_overrides(config: DictConfig, overrides: Iterable[str]) -> list[str]:
    """Carry out `protocol=NAME` and the authors' documented keys on `config`; returns the other overrides, renamed where need be.

    A released command starts from the released config file, which tests with hard NMS: where one of the keys of the heads
    is given, the others take the released defaults (per class off, linear, IoU 0.3, sigma 0.5), not those of the recipe.
    """
    given: dict[str, Any] = {}
    rest: list[str] = []
    for text in overrides:
        key, _, value = text.partition("=")
        key = key.lstrip("+")
        if key == "protocol" or key in HEAD_KEYS or key in EMA_KEYS:
            given[key] = _value(text)
        else:
            rest.append(f"{RENAMED[key]}={value}" if key in RENAMED else text)
    if "protocol" in given:
        use_protocol(config, named_protocol(str(given["protocol"])))
    heads = {name: given[key] for key, name in HEAD_KEYS.items() if key in given}
    if heads:
        use_heads(config, *_released_heads(config, heads))
    _released_average(config, {name: given[key] for key, name in EMA_KEYS.items() if key in given})
    return rest


def use_protocol(config: DictConfig, protocol: Protocol) -> None:
    """Write the choices of a protocol into the model, the evaluator and the training settings of a config, and its name."""
    use_heads(config, protocol.select_boxes, protocol.rescore_masks if has_masks(config) else None)
    evaluator = get(config, "dataloader.evaluator")
    if protocol.max_detections is not None and evaluator is not None and accepts(evaluator, "max_detections"):
        evaluator.max_detections = protocol.max_detections
    if get(config, "train.ema") is not None:
        averaged = protocol.averaged_weights and get(config, "train.ema.decay") is not None
        config.train.ema.eval_only = "ema" if averaged else "raw"
    config.protocol = {"name": name_of(protocol)}


def use_heads(config: DictConfig, select_boxes: HardNms | SoftNms, rescore_masks: Maskness | None) -> None:
    """Give the heads of a config their selector and their rescorer; the protocol then goes by the name "custom"."""
    heads = get(config, HEADS)
    if heads is None or not accepts(heads, "select_boxes"):
        raise UserError(f"the config's {HEADS} take no select_boxes, so a test protocol cannot be set; use Eva02CascadeROIHeads")
    heads.select_boxes = as_node(select_boxes)
    heads.rescore_masks = as_node(rescore_masks)
    config.protocol = {"name": "custom"}


def as_node(thing: Any) -> DictConfig | None:
    """A frozen record as the delayed call that makes it, all its values written out."""
    if thing is None:
        return None
    return L(type(thing))(**{entry.name: getattr(thing, entry.name) for entry in fields(thing)})


def has_masks(config: DictConfig) -> bool:
    """Whether the config's model predicts masks."""
    return get(config, f"{HEADS}.mask_head") is not None


def _value(text: str) -> Any:
    """The value of one override, by Hydra's grammar."""
    return OverridesParser.create().parse_override(text).value()


def _released_heads(config: DictConfig, given: dict[str, Any]) -> tuple[HardNms | SoftNms, Maskness | None]:
    predictor = config.model.roi_heads.box_predictors[-1]
    if given.get("use_soft_nms", False):
        threshold = given.get("override_score_thresh")
        selector: HardNms | SoftNms = SoftNms(
            method=str(given.get("method", "linear")),
            iou_threshold=given.get("iou_threshold", 0.3),
            sigma=given.get("sigma", 0.5),
            score_threshold=predictor.test_score_thresh if threshold is None else threshold,
            per_class=given.get("class_wise", False),
        )
    else:
        idle = [name for name in SOFT_NMS_KEYS if name in given]
        if idle:
            raise UserError(
                f"{HEADS}.{idle[0]} has no effect without soft-NMS; add {HEADS}.use_soft_nms=True, or leave the key out"
            )
        selector = HardNms(predictor.test_nms_thresh, predictor.test_score_thresh, predictor.test_topk_per_image)
    threshold = given.get("maskness_thresh")
    rescorer = None if threshold is None else Maskness(threshold, "boxes_and_masks" if _counts_lvis(config) else "masks")
    return selector, rescorer


def _counts_lvis(config: DictConfig) -> bool:
    """Whether the config is evaluated as LVIS is, where one run with calibrated scores gives box and mask AP."""
    evaluator = get(config, "dataloader.evaluator")
    return evaluator is not None and accepts(evaluator, "max_detections")


def _released_average(config: DictConfig, given: dict[str, Any]) -> None:
    if not given:
        return
    if "device" in given:
        log.warning("train.model_ema.device is not used: the average lies on the device of the model")
    enabled = given.get("enabled", get(config, "train.ema.decay") is not None)
    decay = given.get("decay", get(config, "train.ema.decay", RELEASED_DECAY))
    config.train.ema.decay = decay if enabled else None
    averaged = enabled and given.get("use_ema_weights_for_eval_only", False)
    config.train.ema.eval_only = "ema" if averaged else "raw"
