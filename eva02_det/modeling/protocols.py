"""The test protocols behind the published numbers, by name: which boxes, which scores, how many detections, which weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a detector is tested. Everything here changes numbers, nothing here changes weights.

    max_detections: of an image, over all classes, that the LVIS evaluation counts; None where the evaluation has a limit of
    its own (COCO: 100 per image and class). averaged_weights: test the moving average where the training keeps one.
    """

    select_boxes: HardNms | SoftNms = field(default_factory=HardNms)
    rescore_masks: Maskness | None = None
    max_detections: int | None = None
    averaged_weights: bool = False


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        # head-to-head comparison: Tables 28 and 29
        "plain": Protocol(HardNms(iou_threshold=0.5, score_threshold=0.05, max_detections=100)),
        "lvis_plain": Protocol(HardNms(iou_threshold=0.5, score_threshold=0.02, max_detections=300), max_detections=300),
        # system-level comparison: Tables 30 and 32; box AP from plain scores, mask AP from calibrated ones
        "coco_system": Protocol(SoftNms(score_threshold=0.0), Maskness(0.5, "masks"), averaged_weights=True),
        # Table 31, and Table 33 after Objects365; box and mask AP from calibrated scores
        "lvis_system": Protocol(
            SoftNms(score_threshold=0.02), Maskness(0.5, "boxes_and_masks"), max_detections=300, averaged_weights=True
        ),
        "lvis_system_o365": Protocol(
            SoftNms(score_threshold=0.02), Maskness(0.5, "boxes_and_masks"), max_detections=1000, averaged_weights=True
        ),
    }
)


def named_protocol(name: str) -> Protocol:
    """The preset of that name."""
    if name not in PROTOCOLS:
        raise UserError(f"protocol={name!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def name_of(protocol: Protocol) -> str:
    """The name of the preset that is equal to it, else "custom"."""
    return next((name for name, preset in PROTOCOLS.items() if preset == protocol), "custom")


def as_record(protocol: Protocol) -> dict[str, Any]:
    """Plain numbers and texts under the name of the protocol, for a model card or a JSON file."""
    record = asdict(protocol)
    record["select_boxes"]["kind"] = type(protocol.select_boxes).__name__
    return {"name": name_of(protocol), **record}
