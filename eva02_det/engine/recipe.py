"""Loads a recipe for a run: first its test protocol is chosen, then single values are overridden.

The override keys that the authors of EVA-02 document for their own tool are translated here, and nowhere else.
"""

import copy
import logging
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall as L
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.protocols import Protocol, name_of, named_protocol
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.config import accepts, apply_overrides, get, load_config
from eva02_det.utils.errors import UserError

HEADS = "model.roi_heads"
DETECTIONS = "dataloader.evaluator.max_detections"
SOFT_NMS_KEYS = ("class_wise", "method", "iou_threshold", "sigma", "override_score_thresh")
HEAD_KEYS = {f"{HEADS}.{name}": name for name in ("use_soft_nms", *SOFT_NMS_KEYS, "maskness_thresh")}
EMA_KEYS = {f"train.model_ema.{name}": name for name in ("enabled", "decay", "use_ema_weights_for_eval_only", "device")}
RELEASED_DETECTIONS = "dataloader.evaluator.max_dets_per_image"
RELEASED_DECAY = 0.9999
COCO_DETECTIONS = 100  # of an image and class, that the COCO evaluation counts

log = logging.getLogger(__name__)


def load_recipe(file: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The config of `file` with overrides, see `override_recipe`."""
    return override_recipe(load_config(file), overrides)


def override_recipe(config: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Set `a.b.c=value` overrides, `protocol=NAME` and the authors' keys among them, in any order; `config` is returned.

    The protocol comes first, so that a more specific override changes a value of it. The budget of masks is raised to what
    the evaluation counts in the end, so that it never costs accuracy.
    """
    rest = translate_overrides(config, overrides)
    chosen = _choices(config)
    apply_overrides(config, rest)
    if _choices(config) != chosen:
        config.protocol = {"name": "custom"}
    cover_evaluation(config)
    return config


def translate_overrides(config: DictConfig, overrides: Iterable[str]) -> list[str]:
    """Carry out `protocol=NAME` and the authors' documented keys on `config`; returns the other overrides.

    A released command starts from the released config file, which tests with hard NMS: where one of the keys of the heads
    is given, the others take the released defaults (per class off, linear, IoU 0.3, sigma 0.5), not those of the recipe.
    """
    given: dict[str, Any] = {}
    rest: list[str] = []
    for text in overrides:
        key = text.partition("=")[0].lstrip("+")
        if key in ("protocol", "protocol.name", RELEASED_DETECTIONS) or key in HEAD_KEYS or key in EMA_KEYS:
            given[key] = _value(text)
        else:
            rest.append(text)
    name = given.get("protocol", given.get("protocol.name"))
    if name is not None:
        use_protocol(config, named_protocol(str(name)))
    if RELEASED_DETECTIONS in given:
        _count_detections(config, given[RELEASED_DETECTIONS])
    heads = {name: given[key] for key, name in HEAD_KEYS.items() if key in given}
    if heads:
        _use_heads(config, _released_heads(config, heads))
    average = {name: given[key] for key, name in EMA_KEYS.items() if key in given}
    if average:
        _use_released_average(config, average)
    return rest


def use_protocol(config: DictConfig, protocol: Protocol) -> None:
    """Write the choices of a protocol into the model, the evaluator and the training settings of a config, and its name."""
    _use_heads(config, protocol if has_masks(config) else protocol.without_masks())
    if protocol.max_detections is not None and counts_as_lvis(config):
        config.dataloader.evaluator.max_detections = protocol.max_detections
    if get(config, "train.ema") is not None:
        averaged = protocol.averaged_weights and get(config, "train.ema.decay") is not None
        config.train.ema.eval_only = "ema" if averaged else "raw"
    config.protocol = {"name": name_of(protocol)}


def cover_evaluation(config: DictConfig) -> None:
    """Make sure that a budget of masks leaves all that the evaluation counts, whatever was overridden: it must only save time."""
    budget = get(config, f"{HEADS}.mask_budget")
    if budget is None or get(config, "dataloader.evaluator") is None:
        return
    needed = _budget_of(config)
    if (budget.get("per_image") or 0) < (needed.per_image or 0) or (budget.get("per_class") or 0) < (needed.per_class or 0):
        log.info("the evaluation counts more detections than the budget of masks leaves; it is now %s", needed)
        config.model.roi_heads.mask_budget = _as_node(needed)


def has_masks(config: DictConfig) -> bool:
    """Whether the config's model predicts masks."""
    return get(config, f"{HEADS}.mask_head") is not None


def counts_as_lvis(config: DictConfig) -> bool:
    """Whether the config's evaluation counts detections over all classes of an image, as LVIS does, not class by class."""
    target = get(config, "dataloader.evaluator._target_", "")
    return str(getattr(target, "__name__", target)).endswith("LvisEvaluator")


def _choices(config: DictConfig) -> list[Any]:
    """What a protocol decides, as it stands in the config."""
    places = [f"{HEADS}.{key}" for key in ("select_boxes", "rescore_masks", "mask_budget")]
    return [copy.deepcopy(get(config, place)) for place in (*places, DETECTIONS, "train.ema.eval_only")]


def _use_heads(config: DictConfig, protocol: Protocol) -> None:
    """Give the heads their three choices; the config's protocol then goes by the name "custom"."""
    heads = get(config, HEADS)
    if heads is None or not accepts(heads, "select_boxes"):
        raise UserError(f"the config's {HEADS} take no select_boxes, so no test protocol can be set; use Eva02CascadeROIHeads")
    heads.select_boxes = _as_node(protocol.select_boxes)
    heads.rescore_masks = _as_node(protocol.rescore_masks)
    heads.mask_budget = _as_node(protocol.mask_budget)
    config.protocol = {"name": "custom"}


def _as_node(thing: Any) -> DictConfig | None:
    """A frozen record as the delayed call that makes it, all its values written out."""
    if thing is None:
        return None
    return L(type(thing))(**{entry.name: getattr(thing, entry.name) for entry in fields(thing)})


def _value(text: str) -> Any:
    """The value of one override, by Hydra's grammar."""
    try:
        return OverridesParser.create().parse_override(text).value()
    except HydraException as error:
        raise UserError(f"cannot read the override {text!r}: {str(error).splitlines()[0]}") from error


def _released_heads(config: DictConfig, given: dict[str, Any]) -> Protocol:
    """What the released heads do with their keys. Maskness applies to what was published from such a run: on COCO the mask AP."""
    predictor = config.model.roi_heads.box_predictors[-1]
    threshold = given.get("maskness_thresh")
    rescorer = None if threshold is None else Maskness(threshold, "boxes_and_masks" if counts_as_lvis(config) else "masks")
    if not given.get("use_soft_nms", False):
        idle = [name for name in SOFT_NMS_KEYS if name in given]
        if idle:
            raise UserError(f"{HEADS}.{idle[0]} has no effect without soft-NMS; add {HEADS}.use_soft_nms=True, or leave it out")
        return Protocol(HardNms(predictor.test_nms_thresh, predictor.test_score_thresh, predictor.test_topk_per_image), rescorer)
    least = given.get("override_score_thresh")
    selector = SoftNms(
        method=given.get("method", "linear"),
        iou_threshold=given.get("iou_threshold", 0.3),
        sigma=given.get("sigma", 0.5),
        score_threshold=predictor.test_score_thresh if least is None else least,
        per_class=given.get("class_wise", False),
    )
    released = Protocol(selector, rescorer, _budget_of(config))
    return released if has_masks(config) else released.without_masks()


def _use_released_average(config: DictConfig, given: dict[str, Any]) -> None:
    if "device" in given:
        log.warning("train.model_ema.device is not used: the average lies where the model is")
    enabled = given.get("enabled", get(config, "train.ema.decay") is not None)
    decay = given.get("decay", get(config, "train.ema.decay", RELEASED_DECAY))
    config.train.ema.decay = decay if enabled else None
    config.train.ema.eval_only = "ema" if enabled and given.get("use_ema_weights_for_eval_only", False) else "raw"


def _count_detections(config: DictConfig, number: int) -> None:
    if not counts_as_lvis(config):
        raise UserError(f"{RELEASED_DETECTIONS} is an option of the LVIS evaluation; leave it out for this data set")
    config.dataloader.evaluator.max_detections = number


def _counted(config: DictConfig) -> int:
    """How many detections the config's evaluation counts, of an image (LVIS) or of an image and class."""
    limit = get(config, DETECTIONS)
    if limit is None:
        return COCO_DETECTIONS
    return limit if isinstance(limit, int) else max(limit)


def _budget_of(config: DictConfig) -> MaskBudget:
    """The budget that loses nothing that the config's evaluation counts."""
    counted = _counted(config)
    return MaskBudget(per_image=counted) if counts_as_lvis(config) else MaskBudget(per_class=counted)
