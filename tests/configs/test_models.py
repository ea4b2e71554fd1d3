"""The detector trees: released sizes, writable as YAML, small on request."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, OmegaConf

from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn, federated_loss, sigmoid_loss, trv
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import SoftNms
from eva02_det.utils.errors import UserError

# specification 1.11: backbone, pyramid, proposals, heads, all
COUNTS = {
    ("B", 80, True): (85_848_576, 5_560_000, 1_184_015, 48_527_951, 141_120_542),
    ("L", 80, True): (303_388_608, 7_805_184, 1_184_015, 48_527_951, 360_905_758),
    ("L", 1203, True): (303_388_608, 7_805_184, 1_184_015, 52_269_787, 364_647_594),
    ("L", 365, False): (303_388_608, 7_805_184, 1_184_015, 46_760_022, 359_137_829),
}


def count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def nano(**options: object) -> DictConfig:
    return cascade_mask_rcnn(
        nano_net(),
        image_size=64,
        channels=16,
        heads=HeadSizes(box_convs=1, box_width=24, mask_convs=1),
        proposals=Proposals(anchor_sizes_px=(8, 16, 32, 48, 64), pre_nms_topk=(50, 20), post_nms_topk=(30, 8)),
        **options,
    )


def nano_net() -> DictConfig:
    net = trv("Ti", window_size=2, num_global=2, drop_path_rate=0.0)
    net.update(embed_dim=24, depth=2, num_heads=2, global_block_indexes=[1])
    return net


def through_yaml(tree: DictConfig, path: Path) -> DictConfig:
    """The tree as it comes back from a file."""
    LazyConfig.save(OmegaConf.create({"model": tree}, flags={"allow_objects": True}), str(path))
    return LazyConfig.load(str(path)).model


@pytest.fixture
def counted_data_set() -> str:
    MetadataCatalog.get("five_counted_classes").set(class_image_count=[{"id": i, "image_count": i * i} for i in (1, 2, 3, 4, 5)])
    return "five_counted_classes"


@pytest.mark.parametrize(("size", "num_classes", "masks"), COUNTS)
def test_released_detectors_have_their_published_number_of_parameters(size: str, num_classes: int, masks: bool) -> None:
    with torch.device("meta"):
        model = instantiate(cascade_mask_rcnn(trv(size), num_classes=num_classes, masks=masks))
    net = count(model.backbone.net)
    parts = (net, count(model.backbone) - net, count(model.proposal_generator), count(model.roi_heads), count(model))
    assert parts == COUNTS[size, num_classes, masks]


@pytest.mark.parametrize("masks", [True, False])
def test_a_tree_that_went_through_yaml_builds_the_same_model(tmp_path: Path, masks: bool) -> None:
    rescore = L(Maskness)(applies_to="boxes_and_masks") if masks else None
    select = L(SoftNms)(max_per_class=7)
    tree = nano(num_classes=3, masks=masks, class_loss=sigmoid_loss(), select_boxes=select, rescore_masks=rescore)
    direct, reloaded = instantiate(tree), instantiate(through_yaml(tree, tmp_path / "config.yaml"))
    assert str(reloaded) == str(direct)
    assert reloaded.roi_heads.select_boxes == SoftNms(max_per_class=7)
    assert reloaded.roi_heads.rescore_masks == (Maskness(applies_to="boxes_and_masks") if masks else None)
    reloaded.load_state_dict(direct.state_dict())
    images = [{"image": torch.arange(3 * 40 * 64).reshape(3, 40, 64) % 256}]
    with torch.no_grad():
        ours, theirs = (model.eval()(images)[0]["instances"] for model in (direct, reloaded))
    assert torch.equal(ours.scores, theirs.scores)
    assert ours.has("pred_masks") == masks


def test_federated_class_weights_survive_yaml(tmp_path: Path, counted_data_set: str) -> None:
    tree = nano(num_classes=5, class_loss=federated_loss(counted_data_set, num_classes=3))
    for predictor in instantiate(through_yaml(tree, tmp_path / "config.yaml")).roi_heads.box_predictor:
        assert predictor.use_fed_loss
        assert predictor.fed_loss_num_classes == 3
        torch.testing.assert_close(predictor.fed_loss_cls_weights, torch.tensor([1.0, 2, 3, 4, 5]))


def test_a_detector_without_masks_has_no_mask_weights_and_takes_no_rescorer() -> None:
    assert not [key for key in instantiate(nano(masks=False)).state_dict() if "mask" in key]
    with pytest.raises(UserError, match="no mask head"):
        instantiate(nano(masks=False, rescore_masks=L(Maskness)()))


def test_stages_ask_for_more_overlap_and_code_boxes_more_finely() -> None:
    heads = cascade_mask_rcnn(trv()).roi_heads
    assert [matcher.thresholds[0] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    assert [tuple(predictor.box2box_transform.weights) for predictor in heads.box_predictors] == [
        (10, 10, 5, 5),
        (20, 20, 10, 10),
        (30, 30, 15, 15),
    ]


def test_global_blocks_are_those_of_the_released_table() -> None:
    table = {("B", 4): [2, 5, 8, 11], ("B", 6): [1, 3, 5, 7, 9, 11], ("L", 4): [5, 11, 17, 23], ("L", 8): list(range(2, 24, 3))}
    for (size, number), indexes in table.items():
        assert list(trv(size, num_global=number).global_block_indexes) == indexes


def test_each_pyramid_level_has_anchors_of_one_size_at_its_stride() -> None:
    generator = instantiate(cascade_mask_rcnn(trv()).proposal_generator.anchor_generator)
    anchors = generator([torch.zeros(1, 1, 1, 2)] * 5)
    for level, side in zip(anchors, (32, 64, 128, 256, 512), strict=True):
        torch.testing.assert_close(level.area(), torch.full((6,), float(side**2)))
        step = level.tensor[3:] - level.tensor[:3]  # stride is one eighth of the side
        torch.testing.assert_close(step, torch.tensor([side / 8, 0, side / 8, 0]).expand(3, 4))


def test_overriding_the_number_of_classes_once_changes_every_layer() -> None:
    tree = nano(num_classes=80)
    tree.roi_heads.num_classes = 3
    heads = instantiate(tree).roi_heads
    assert [predictor.cls_score.out_features for predictor in heads.box_predictor] == [4, 4, 4]
    assert heads.mask_head.predictor.out_channels == 3


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"'XL'.*Ti, S, B, L"):
        trv("XL")


def test_a_nano_detector_trains_on_one_image() -> None:
    square = torch.zeros(1, 64, 64, dtype=torch.bool)
    square[:, 10:40, 20:50] = True
    box = Boxes(torch.tensor([[20.0, 10, 50, 40]]))
    objects = Instances((64, 64), gt_boxes=box, gt_classes=torch.tensor([2]), gt_masks=BitMasks(square))
    model = instantiate(nano(num_classes=4)).train()
    with EventStorage(0):
        losses = model([{"image": torch.rand(3, 64, 64) * 255, "instances": objects}])
    assert {"loss_cls_stage2", "loss_box_reg_stage0", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(weight.grad is not None for weight in model.parameters())
