"""What a command line says about data and model, written into a config: custom data sets and exported model folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.evaluation import DatasetEvaluator
from omegaconf import DictConfig, OmegaConf

from eva02_det.data.custom import CustomDataset, custom_dataset
from eva02_det.data.mapper import CheckedMapper
from eva02_det.data.registration import load_dataset, register_builtin
from eva02_det.engine.description import ModelDescription
from eva02_det.engine.recipe import counts_as_lvis, has_masks, use_protocol
from eva02_det.evaluation.coco import CocoEvaluator
from eva02_det.evaluation.lvis import LvisEvaluator
from eva02_det.modeling.protocols import named_protocol
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError

# layers with one row or channel a class: what they learnt means nothing for other classes
CLASS_LAYERS = (r"\.cls_score\.", r"\.mask_head\.predictor\.")
# for a set in COCO's format, what takes the place of a protocol that counts as LVIS does
COCO_PROTOCOLS = {"lvis_plain": "plain", "lvis_system": "coco_system", "lvis_system_o365": "coco_system"}

ANYTHING = {"allow_objects": True}

Files = tuple[str | Path, str | Path]  # annotation file and folder of images


def use_custom_data(config: DictConfig, train: Files, val: Files | None = None, *, training: bool = True) -> list[str]:
    """Train and evaluate `config` on annotation files in COCO's format; returns what that changed, a sentence each.

    The files are validated and registered first. Class count and names become those of the data; layers with one row a class
    start anew. Data without masks train boxes only. val: None evaluates on the training images, and says so.
    training=False: the model has its classes, and the data must have the same.
    """
    sets = {"train": train, **({"val": val} if val else {})}
    config.custom_data = {
        split: {"json_file": str(Path(file).resolve()), "image_root": str(Path(images).resolve())}
        for split, (file, images) in sets.items()
    }
    known = register_custom(config)
    learnt, tested = known["train"], known.get("val", known["train"])
    if tested.classes != learnt.classes:
        raise UserError(f"{sets['val'][0]} names other classes than {train[0]} ({_difference(tested, learnt)}); make them agree")
    said = [f"{len(learnt.classes)} classes from {train[0]}: {_listed(learnt.classes)}"]
    if training:
        if val is None:
            said.append(f"there is no --val-data: AP is that on {train[0]} itself, and says nothing about new images")
        said += _learn_classes(config, learnt)
        if has_masks(config) and not learnt.has_masks:
            said.append(_without_masks(config))
    else:
        _require_same(get(config, "classes"), learnt.classes, str(train[0]))
        config.model.roi_heads.num_classes = len(learnt.classes)
    for split, chosen in (("train", learnt), ("test", tested)):
        if get(config, f"dataloader.{split}.dataset") is not None:
            config.dataloader[split].dataset.names = chosen.name
    return said + _evaluate_as_coco(config)


def register_custom(config: DictConfig) -> dict[str, CustomDataset]:
    """Validate and register the sets in a config's `custom_data`, by "train" and "val"; none where it has none."""
    stated = get(config, "custom_data", {})
    return {split: custom_dataset(one.json_file, one.image_root) for split, one in stated.items()}


def use_model_folder(config: DictConfig, description: ModelDescription) -> None:
    """Evaluate an exported model by its own test protocol: its architecture and the detections that the evaluation counts."""
    config.model = description.architecture
    config.classes = list(description.classes)
    limit = description.protocol.get("max_detections")
    if limit is not None and counts_as_lvis(config):
        config.dataloader.evaluator.max_detections = limit
    if name := description.protocol.get("name"):
        config.protocol = {"name": name}


def folder_config(description: ModelDescription) -> DictConfig:
    """A config that evaluates an exported model on the test set that it names."""
    size, dataset = description.preprocessing, description.dataset or ""
    config = OmegaConf.create({"train": {"output_dir": "output", "init_checkpoint": "", "device": "auto"}}, flags=ANYTHING)
    config.dataloader = OmegaConf.create({}, flags=ANYTHING)
    config.dataloader.test = L(build_detection_test_loader)(
        dataset=L(load_dataset)(names=dataset, filter_empty=False),
        mapper=L(CheckedMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=size.short_side_px, max_size=size.long_side_px)],
            image_format="RGB",
        ),
        num_workers=min(4, len(os.sched_getaffinity(0))),
    )
    config.dataloader.evaluator = L(_evaluator_of(dataset))(dataset_name="${..test.dataset.names}")
    use_model_folder(config, description)
    return config


def require_classes(config: DictConfig) -> None:
    """UserError where the model's class names (`config.classes`) are not those of the test set, which has been opened."""
    names = get(config, "dataloader.test.dataset.names", "")
    name = names if isinstance(names, str) else names[0]
    _require_same(get(config, "classes"), MetadataCatalog.get(name).get("thing_classes"), name)


def _require_same(model: Sequence[str] | None, data: Sequence[str] | None, name: str) -> None:
    known, of_data = tuple(model or ()), tuple(data or ())
    if known and of_data and known != of_data:
        where = next((i for i, (mine, its) in enumerate(zip(known, of_data)) if mine != its), min(len(known), len(of_data)))
        raise UserError(
            f"the model knows {len(known)} classes and {name} has {len(of_data)}, which differ from number {where + 1} on "
            f"({_listed(known[where:], 1)} and {_listed(of_data[where:], 1)}); evaluate it on data of its own classes"
        )


def _learn_classes(config: DictConfig, data: CustomDataset) -> list[str]:
    """Class count, names and what starts anew; the federated loss, which is for sets that are annotated in part, goes."""
    said = []
    heads = config.model.roi_heads
    heads.num_classes = len(data.classes)
    config.classes = list(data.classes)
    federated = [one for one in heads.get("box_predictors", ()) if one.get("use_fed_loss")]
    for predictor in federated:
        predictor.use_fed_loss, predictor.get_fed_loss_cls_weights = False, None
    if federated:
        said.append("all classes count in the loss of every image: the federated loss is for LVIS, whose annotations are partial")
    rules = list(get(config, "train.new_weights", []))
    if get(config, "train.init_checkpoint") is not None:
        config.train.new_weights = [*rules, *(rule for rule in CLASS_LAYERS if rule not in rules)]
    return said


def _evaluate_as_coco(config: DictConfig) -> list[str]:
    """COCO's metrics in the place of LVIS's, which need its lists of verified classes."""
    if not counts_as_lvis(config):
        return []
    config.dataloader.evaluator = L(CocoEvaluator)(dataset_name="${..test.dataset.names}")
    said = ["COCO's metrics are computed, as LVIS's need its lists of verified classes"]
    protocol = COCO_PROTOCOLS.get(get(config, "protocol.name", ""))
    if protocol:
        use_protocol(config, named_protocol(protocol))
        said.append(f"the test protocol is {protocol}")
    return said


def _without_masks(config: DictConfig) -> str:
    heads = config.model.roi_heads
    for key in ("mask_in_features", "mask_pooler", "mask_head", "rescore_masks", "mask_budget"):
        if key in heads:
            heads[key] = None
    mapper = get(config, "dataloader.train.mapper")
    if mapper is not None:
        mapper.use_instance_mask = mapper.recompute_boxes = False
    return "the data have no masks: the model is trained without its mask head"


def _evaluator_of(dataset: str) -> type[DatasetEvaluator]:
    """LVIS's for LVIS, otherwise COCO's."""
    register_builtin()
    lvis = dataset in DatasetCatalog.list() and MetadataCatalog.get(dataset).get("evaluator_type") == "lvis"
    return LvisEvaluator if lvis else CocoEvaluator


def _difference(one: CustomDataset, other: CustomDataset) -> str:
    """Names that only one of two sets has."""
    apart = set(one.classes) ^ set(other.classes)
    return _listed(sorted(apart)) if apart else "the same in another order"


def _listed(names: Sequence[Any], count: int = 5) -> str:
    return ", ".join(map(str, names[:count])) + (", ..." if len(names) > count else "") if names else "none"
