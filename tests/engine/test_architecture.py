"""A model's config as JSON: it builds the same model, and a file that names anything but layers and models is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.modeling import Backbone
from omegaconf import DictConfig
from torch import nn

from configs.common.models import federated_loss
from eva02_det.engine.architecture import for_inference, from_plain, public_name, to_plain
from eva02_det.modeling.mask_budget import MaskBudget
from eva02_det.modeling.rescorers import Maskness
from eva02_det.modeling.selectors import SoftNms
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import tiny_config

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
MODELS = sorted(path for path in PROJECTS.glob("*/configs/**/*.py") if "model = " in path.read_text())
CONFIGS = [path for path in MODELS if path.relative_to(PROJECTS).parts[0] != "eva02_mim"]  # its classifiers are no detectors


class Outsider(Backbone):
    """A class of somebody else's package."""


def through_json(model: DictConfig) -> DictConfig:
    return from_plain(json.loads(json.dumps(to_plain(model), allow_nan=False)), "config.json")


def shapes(model: DictConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in instantiate(model).state_dict().items()}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_model_of_every_project_config_survives_as_json(path: Path):
    model = for_inference(load_config(path).model)
    assert shapes(through_json(model)) == shapes(model)


def test_objects_in_a_config_come_back_with_their_values():
    options = {"select_boxes": SoftNms(iou_threshold=0.7), "rescore_masks": L(Maskness)(threshold=0.4)}
    model = through_json(tiny_config(**options, mask_budget=L(MaskBudget)(per_class=9)).model)
    heads = instantiate(model).roi_heads
    assert (heads.select_boxes, heads.rescore_masks) == (SoftNms(iou_threshold=0.7), Maskness(0.4))
    assert heads.mask_budget == MaskBudget(per_class=9)


def test_going_through_json_twice_gives_the_same_text():
    once = to_plain(tiny_config().model)
    assert to_plain(from_plain(once, "config.json")) == once


def test_the_config_itself_is_not_changed_by_what_inference_leaves_out():
    model = tiny_config(class_loss=federated_loss("nowhere")).model
    before = copy.deepcopy(model)
    stripped = for_inference(model)
    assert model == before
    assert not any(predictor.use_fed_loss for predictor in stripped.roi_heads.box_predictors)
    assert all(predictor.use_sigmoid_ce for predictor in stripped.roi_heads.box_predictors)
    assert not [key for key in instantiate(stripped).state_dict() if "fed_loss" in key]  # built without annotations


def test_an_optional_attention_kernel_is_not_asked_of_others():
    model = tiny_config().model
    model.backbone.net.attention = "xformers"
    assert for_inference(model).backbone.net.attention == "sdpa"
    model.backbone.net.attention = "math"
    assert for_inference(model).backbone.net.attention == "math"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (nn.Linear, "torch.nn.modules.linear.Linear"),
        (Maskness, "eva02_det.modeling.rescorers.Maskness"),
        (Backbone, "detectron2.modeling.backbone.backbone.Backbone"),
    ],
)
def test_a_class_goes_by_the_name_of_the_public_module_that_defines_it(kind: type, name: str):
    assert public_name(kind) == name


def test_no_name_in_the_json_leads_through_a_private_module():
    text = json.dumps(to_plain(tiny_config().model))
    assert '"detectron2' in text
    assert "._" not in text


def test_a_class_that_the_other_detectron2_offers_elsewhere_is_found():
    tree = to_plain(tiny_config().model)
    tree["proposal_generator"]["_target_"] = "detectron2.modeling.RPN"  # exported by neither under this path
    assert shapes(from_plain(tree, "config.json")) == shapes(tiny_config().model)


@pytest.mark.parametrize("value", [float("nan"), torch.float16, print, {1, 2}, object()])
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any):
    model = tiny_config().model
    model.backbone.net.extra = {"deep": [value]}
    with pytest.raises(UserError, match=r"model\.backbone\.net\.extra\.deep\[0\]"):
        to_plain(model)


@pytest.mark.parametrize("target", [Outsider, print, "os.system", "nothing.like.it"])
def test_a_target_outside_the_allowed_packages_is_not_exported(target: Any):
    model = tiny_config().model
    model.backbone.net = L(target)()
    with pytest.raises(UserError, match=r"model\.backbone\.net of the config builds"):
        to_plain(model)


FORBIDDEN = [
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "eva02_det.utils.files.os.system",  # an allowed package that has imported it
    "eva02_det.layers.attention.importlib.import_module",
    "torch.nn.modules.module.functools.partial",
    "torch.hub.load",
    "detectron2.config.LazyConfig.load",  # runs a Python file
    "detectron2.modeling.build_model",
    "eva02_det.utils.config.load_config",
    "eva02_det.modeling.vit.TrV.forward",
    "eva02_det.modeling.sizes.spaced_global_blocks",  # a function, if a harmless one
    "torch.nn.Module.__subclasses__",
    "torch.nn.Nowhere",
    "torch.nn",
    "",
    None,
    7,
    ["torch.nn.Linear"],
    {"_target_": "os.system"},
]


@pytest.mark.parametrize("target", FORBIDDEN, ids=str)
@pytest.mark.parametrize("where", ["top", "argument", "list"])
def test_a_file_that_names_anything_but_classes_of_layers_and_models_is_refused(target: Any, where: str, tmp_path: Path):
    bomb = {"_target_": target, "command": f"touch {tmp_path / 'ran'}"}
    trees = {
        "top": bomb,
        "argument": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": bomb},
        "list": {"_target_": "torch.nn.Linear", "in_features": [[bomb]], "out_features": 1},
    }
    with pytest.raises(UserError, match=r"config\.json"):
        from_plain(trees[where], "config.json")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "x ${a.b} y"])
def test_a_reference_in_a_file_is_refused(text: str):
    with pytest.raises(UserError, match="reference"):
        from_plain({"_target_": "torch.nn.Linear", "in_features": text}, "config.json")


@pytest.mark.parametrize("tree", [{}, [], None, {"model": 1}])
def test_a_file_without_a_model_class_is_refused(tree: Any):
    with pytest.raises(UserError, match="no model class"):
        from_plain(tree, "config.json")
