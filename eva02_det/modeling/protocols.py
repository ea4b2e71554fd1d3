"""The test protocols behind the published numbers, by name: which boxes, which scores, how many detections, which weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a detector is tested. Everything here but the budget, which only saves time, changes numbers.

    max_detections: of an image, over all classes, that the LVIS evaluation counts; None where the evaluation has a limit of
    its own (COCO: 100 per image and class). averaged_weights: test the moving average where the training keeps one.
    """

    select_boxes: HardNms | SoftNms = field(default_factory=HardNms)
    rescore_masks: Maskness | None = None
    mask_budget: MaskBudget | None = None
    max_detections: int | None = None
    averaged_weights: bool = False

    def without_masks(self) -> "Protocol":
        """The same for a model that has no masks: there the limit of the budget can cut the list of boxes itself."""
        if self.mask_budget is None:
            return replace(self, rescore_masks=None)
        limits = {"max_per_class": self.mask_budget.per_class, "max_detections": self.mask_budget.per_image}
        return replace(self, select_boxes=replace(self.select_boxes, **limits), rescore_masks=None, mask_budget=None)


LVIS_SOFT_NMS = SoftNms(method="linear", iou_threshold=0.6, score_threshold=0.02)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        # head-to-head comparison: Tables 28 and 29
        "plain": Protocol(HardNms(iou_threshold=0.5, score_threshold=0.05, max_detections=100)),
        "lvis_plain": Protocol(HardNms(iou_threshold=0.5, score_threshold=0.02, max_detections=300), max_detections=300),
        # system-level comparison: Tables 30 and 32; box AP from plain scores, mask AP from calibrated ones
        "coco_system": Protocol(
            SoftNms(method="linear", iou_threshold=0.6, score_threshold=0.0),
            Maskness(0.5, "masks"),
            MaskBudget(per_class=100),
            averaged_weights=True,
        ),
        # Table 31, and Table 33 after Objects365; box and mask AP from calibrated scores
        "lvis_system": Protocol(LVIS_SOFT_NMS, Maskness(0.5, "boxes_and_masks"), MaskBudget(per_image=300), 300, True),
        "lvis_system_o365": Protocol(LVIS_SOFT_NMS, Maskness(0.5, "boxes_and_masks"), MaskBudget(per_image=1000), 1000, True),
    }
)


def named_protocol(name: str) -> Protocol:
    """The preset of that name."""
    if name not in PROTOCOLS:
        raise UserError(f"protocol={name} is not known; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def name_of(protocol: Protocol) -> str:
    """The name of the preset that is equal to it, else "custom"."""
    return next((name for name, preset in PROTOCOLS.items() if preset == protocol), "custom")


def as_record(protocol: Protocol) -> dict[str, Any]:
    """Plain numbers and texts under the name of the protocol, for a model card or a JSON file."""
    record = asdict(protocol)
    record["select_boxes"]["kind"] = type(protocol.select_boxes).__name__
    return {"name": name_of(protocol), **record}
