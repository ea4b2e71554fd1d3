"""The named protocols hold the values of the tables, and can be stored."""

import json

import pytest

from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.protocols import PROTOCOLS, Protocol, as_record, name_of, named_protocol
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import HardNms, SoftNms
from eva02_det.utils.errors import UserError


def test_head_to_head_results_are_those_of_hard_nms():
    assert named_protocol("plain") == Protocol(HardNms(0.5, 0.05, 100))
    assert named_protocol("lvis_plain") == Protocol(HardNms(0.5, 0.02, 300), max_detections=300)


def test_on_coco_only_masks_are_calibrated_and_every_candidate_takes_part():
    system = named_protocol("coco_system")
    assert system.select_boxes == SoftNms("linear", 0.6, score_threshold=0.0, min_score=1e-3, per_class=True)
    assert system.rescore_masks == Maskness(0.5, "masks")
    assert system.mask_budget == MaskBudget(per_class=100)
    assert system.max_detections is None


@pytest.mark.parametrize(("name", "counted"), [("lvis_system", 300), ("lvis_system_o365", 1000)])
def test_on_lvis_boxes_are_calibrated_too_and_the_budget_is_what_is_counted(name: str, counted: int):
    system = named_protocol(name)
    assert system.select_boxes == SoftNms("linear", 0.6, score_threshold=0.02)
    assert system.rescore_masks == Maskness(0.5, "boxes_and_masks")
    assert (system.max_detections, system.mask_budget) == (counted, MaskBudget(per_image=counted))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_cap_of_boxes_stands_before_the_calibration(name: str):
    """It would drop detections that the calibration lifts above others."""
    protocol = named_protocol(name)
    if protocol.rescore_masks is not None:
        assert protocol.select_boxes.max_per_class is None
        assert protocol.select_boxes.max_detections is None


def test_without_masks_the_budget_becomes_a_limit_of_the_boxes():
    boxes = named_protocol("coco_system").without_masks()
    assert (boxes.rescore_masks, boxes.mask_budget) == (None, None)
    assert boxes.select_boxes == SoftNms(score_threshold=0.0, max_per_class=100)
    assert named_protocol("lvis_system_o365").without_masks().select_boxes.max_detections == 1000
    assert named_protocol("plain").without_masks() == named_protocol("plain")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_record_goes_through_json_and_keeps_its_name(name: str):
    record = as_record(named_protocol(name))
    assert json.loads(json.dumps(record)) == record
    assert record["name"] == name
    assert record["select_boxes"]["kind"] in ("HardNms", "SoftNms")


def test_a_protocol_that_is_no_preset_is_called_custom():
    assert name_of(Protocol(SoftNms(iou_threshold=0.55))) == "custom"


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"protocol=coco_sistem.*coco_system"):
        named_protocol("coco_sistem")
