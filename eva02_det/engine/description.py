"""What one has to know of a detector to use it: its architecture, classes, input size and test protocol."""

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from eva02_det.checkpoint.load import load_weights
from eva02_det.data.counts import read_categories
from eva02_det.data.registration import register_builtin, require_datasets
from eva02_det.engine.architecture import for_inference
from eva02_det.engine.images import Preprocessing
from eva02_det.engine.recipe import use_protocol
from eva02_det.modeling.protocols import PROTOCOLS, Protocol, as_record, named_protocol
from eva02_det.modeling.selectors import HardNms
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError

AUGMENTATIONS = "dataloader.test.mapper.augmentations"
CANNOT_BUILD = (ValueError, TypeError, AssertionError, ModuleNotFoundError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelDescription:
    """All of a detector but its weights."""

    architecture: DictConfig  # the model as delayed calls; what only training needs is left out
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    category_ids: tuple[int, ...] = ()  # of the classes in their data set; empty: positions, from 1
    protocol: Mapping[str, Any] = field(default_factory=dict)  # name and values of the test protocol
    dataset: str | None = None  # the test set of the config it comes from
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = OmegaConf.select(self.architecture, "roi_heads.num_classes")
        if wanted is not None and wanted != len(self.classes):
            raise UserError(f"there are {len(self.classes)} class names for a model with {wanted} classes; give names that fit")
        if self.category_ids and len(self.category_ids) != len(self.classes):
            raise UserError(f"there are {len(self.category_ids)} category ids for {len(self.classes)} classes; give one for each")

    @property
    def ids(self) -> tuple[int, ...]:
        """Category id of each class."""
        return self.category_ids or tuple(range(1, len(self.classes) + 1))

    def build(self) -> nn.Module:
        """The model with random weights, in evaluation mode, on the CPU."""
        try:
            return instantiate(self.architecture).eval()
        except CANNOT_BUILD as error:
            reason = str(error) or type(error).__name__
            raise UserError(f"the model cannot be built: {reason}; correct its architecture") from error

    def load(self, source: str | Path, *, which: str = "model", device: str | torch.device = "cpu") -> nn.Module:
        """The model with the weights of a model folder or a checkpoint, in evaluation mode; source, which: see `load_weights`.

        A file that leaves a part of the detector unset, such as a pre-trained backbone, is refused.
        """
        model = self.build()
        account = load_weights(model, source, which=which)
        if account.new:
            raise UserError(
                f"{source} ({account.layout}) is no whole detector: {len(account.new)} weights would stay random, first "
                f"{next(iter(account.new))}; give the checkpoint of a trained detector"
            )
        return model.to(device)

    def under(self, protocol: str) -> "ModelDescription":
        """The same detector, tested by a named protocol."""
        config = OmegaConf.create({"model": copy.deepcopy(self.architecture)}, flags={"allow_objects": True})
        use_protocol(config, named_protocol(protocol))
        return replace(self, architecture=config.model, protocol=as_record(named_protocol(protocol)))


def describe(config: DictConfig, *, classes: str | Path | None = None) -> ModelDescription:
    """The detector of a whole config.

    classes: file with the class names, see `read_classes`. None: those that the config states (`classes`), else those of its
    test set where the annotation file is at hand; otherwise the classes are numbered, with a warning.
    """
    if get(config, "model") is None:
        raise UserError("the config has no model, so there is nothing to build; give the config of a detector")
    names = get(config, "dataloader.test.dataset.names")
    dataset = names if isinstance(names, str) else next(iter(names or ()), None)
    known, ids = read_classes(classes) if classes else _classes_of(config, dataset)
    return ModelDescription(
        architecture=for_inference(config.model),
        classes=known,
        preprocessing=preprocessing_of(config),
        category_ids=ids,
        protocol=protocol_of(config),
        dataset=dataset,
    )


def read_classes(path: str | Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and category ids of a COCO-style JSON file, or the names in a text file, one a line, without ids."""
    path = Path(path)
    try:
        if path.suffix == ".json":
            return _named(read_categories(path) or json.loads(path.read_bytes())["categories"])
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"no class names can be read from {path} ({type(error).__name__}: {error}); "
            "give a COCO-style JSON file with categories, or a text file with one name a line"
        ) from error
    return tuple(line for line in lines if line), ()


def preprocessing_of(config: DictConfig) -> Preprocessing:
    """The size of the config's test pictures. UserError where its test loader does more than one plain resize."""
    node = get(config, AUGMENTATIONS)
    steps = list(instantiate(node)) if node is not None else []
    resize = steps[0] if len(steps) == 1 and isinstance(steps[0], T.ResizeShortestEdge) else None
    lengths = set(resize.short_edge_length) if resize is not None else set()
    if len(lengths) != 1 or resize.interp != Image.BILINEAR or get(config, "model.input_format", "RGB") != "RGB":
        raise UserError(
            f"{AUGMENTATIONS} of the config must be one bilinear ResizeShortestEdge of one length, on RGB pictures, for single "
            "pictures to be treated as in an evaluation; write it as test_augmentations(pixels=...)"
        )
    return Preprocessing(short_side_px=int(lengths.pop()), long_side_px=int(resize.max_size))


def protocol_of(config: DictConfig) -> dict[str, Any]:
    """The test protocol that the config's heads carry out, as a record; its name is that of a preset only where all agrees."""
    heads = config.model.roi_heads
    choices = {entry.name: instantiate(heads[entry.name]) for entry in fields(Protocol) if heads.get(entry.name) is not None}
    if "select_boxes" not in choices:
        last = heads.box_predictors[-1]
        choices["select_boxes"] = HardNms(last.test_nms_thresh, last.test_score_thresh, last.test_topk_per_image)
    limit = get(config, "dataloader.evaluator.max_detections")
    choices["max_detections"] = limit if isinstance(limit, int) else None
    choices["averaged_weights"] = uses_average(config)
    record = as_record(Protocol(**choices))
    name = get(config, "protocol.name", "custom")
    preset = as_record(PROTOCOLS[name]) if name in PROTOCOLS else {}
    agrees = all(preset.get(key) == record[key] for key in ("select_boxes", "rescore_masks") if record[key] is not None)
    return {**record, "name": name if preset and agrees else record["name"]}


def uses_average(config: DictConfig) -> bool:
    """Whether the config tests the moving average of the weights, and nothing beside it."""
    return get(config, "train.ema.eval_only") == "ema"


def _classes_of(config: DictConfig, dataset: str | None) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and ids; the ids are those of the annotations where these have the classes that the config states."""
    stated, file = tuple(get(config, "classes", ())), _annotation_file(config, dataset)
    if file is not None:
        known, ids = read_classes(file)
        return (known, ids) if stated in ((), known) else (stated, ())
    if stated:
        return stated, ()
    log.warning("no annotation file of %s is at hand, so the classes go by their numbers; name them with --classes FILE", dataset)
    count = int(config.model.roi_heads.num_classes)
    return tuple(f"class {number}" for number in range(1, count + 1)), ()


def _annotation_file(config: DictConfig, dataset: str | None) -> Path | None:
    """Of the user's own data, else of a data set that is known by its name."""
    own = get(config, "custom_data.val.json_file") or get(config, "custom_data.train.json_file")
    if own is not None or dataset is None:
        return Path(own) if own and Path(own).is_file() else None
    try:
        require_datasets(dataset)
    except UserError:  # perhaps only the pictures are missing, which are not needed here
        register_builtin()
    file = MetadataCatalog.get(dataset).get("json_file") if dataset in DatasetCatalog.list() else None
    return Path(file) if file and Path(file).is_file() else None


def _named(categories: list[dict[str, Any]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """In the order of the class indices, which is that of the ids."""
    by_id = {int(category["id"]): str(category["name"]) for category in categories}
    ids = tuple(sorted(by_id))
    return tuple(by_id[number] for number in ids), ids
