"""A model's config as plain JSON and back, so that a model folder needs neither configs nor trust.

What is read back is data: it can name classes of layers and models and our functions that build a module, nothing else.
"""

import copy
import dataclasses
import inspect
import math
import sys
from collections.abc import Mapping
from pydoc import ErrorDuringImport, locate
from types import FunctionType
from typing import Any, get_type_hints

from detectron2 import modeling  # noqa: F401  its classes must be there to be found by name
from omegaconf import DictConfig, OmegaConf, SCMode
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from eva02_det.utils.errors import UserError

# packages whose classes a model folder may name; of functions (some run files) only those of BUILDERS that return a module
ALLOWED = ("detectron2.layers", "detectron2.modeling", "eva02_det.layers", "eva02_det.modeling", "torch.nn")
BUILDERS = "eva02_det.modeling."
FOREIGN = ("MMDetBackbone", "MMDetDetector")  # of the official detectron2: they build what another library's registry names
FEDERATED = ("get_fed_loss_cls_weights", "fed_loss_num_classes")

Tree = dict[str, Any]


def to_plain(model: DictConfig) -> Tree:
    """The tree of a model node in JSON's types, classes by name, references resolved. UserError where that cannot be."""
    try:
        resolved = OmegaConf.to_container(model, resolve=True, structured_config_mode=SCMode.INSTANTIATE)
    except OmegaConfBaseException as error:
        raise UserError(f"the config's model cannot be resolved: {str(error).splitlines()[0]}; correct model.*") from error
    return _plain(resolved, "model")


def from_plain(tree: Any, origin: str) -> DictConfig:
    """The model node of a plain tree, every class it names looked up and found to be allowed. origin: for errors."""
    if not isinstance(tree, Mapping) or "_target_" not in tree:
        raise UserError(f"{origin}: the architecture names no model class; export the model again")
    return OmegaConf.create(_checked(tree, origin), flags={"allow_objects": True})


def for_inference(model: DictConfig) -> DictConfig:
    """A copy that is built anywhere: no federated loss, whose weights come from an annotation file, no optional package."""
    stripped = copy.deepcopy(model)
    for predictor in stripped.get("roi_heads", {}).get("box_predictors", ()):
        if "use_fed_loss" in predictor:
            predictor.use_fed_loss = False
        for key in FEDERATED:
            predictor.pop(key, None)
    if OmegaConf.select(stripped, "backbone.net.attention") == "xformers":
        stripped.backbone.net.attention = "sdpa"  # the same numbers to the last digits
    return stripped


def public_name(kind: type | FunctionType) -> str:
    """The dotted name of a class or function in the module that defines it, or in the nearest package above that is not private.

    The official detectron2 and d2lite define the classes in modules of the same names, as far as these are public.
    """
    parts = kind.__module__.split(".")
    depths = [depth for depth in range(len(parts), 0, -1) if not any(part.startswith("_") for part in parts[:depth])]
    names = [".".join([*parts[:depth], kind.__qualname__]) for depth in depths]
    return next((name for name in names if _find(name) is kind), f"{kind.__module__}.{kind.__qualname__}")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        rest = {str(key): _plain(item, f"{where}.{key}") for key, item in value.items() if key != "_target_"}
        return {"_target_": _target(value["_target_"], where), **rest} if "_target_" in value else rest
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value) if entry.init}
        return _plain({"_target_": type(value), **fields}, where)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UserError(f"{where} of the config is {value!r}, which JSON cannot hold; use numbers, texts, lists and LazyCalls")


def _target(target: Any, where: str) -> str:
    kind = _find(target) if isinstance(target, str) else target
    if not _is_allowed(kind):
        raise UserError(
            f"{where} of the config builds {target!r}, but a model folder may name classes of {', '.join(ALLOWED)} only; "
            "use the model from its config and checkpoint instead"
        )
    return public_name(kind)


def _checked(value: Any, origin: str) -> Any:
    if isinstance(value, list):
        return [_checked(item, origin) for item in value]
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{origin}: {value!r} is a reference, which a model folder may not hold; export the model again")
    if not isinstance(value, Mapping):
        return value
    tree = {key: _checked(item, origin) for key, item in value.items() if key != "_target_"}
    return {"_target_": _allowed_class(value["_target_"], origin), **tree} if "_target_" in value else tree


def _allowed_class(name: Any, origin: str) -> Any:
    """The class of that name. Dataclasses stay names: a config would take the class itself for a schema."""
    kind = _find(name) or _find_elsewhere(name) if isinstance(name, str) and _below_allowed(name) else None
    if not _is_allowed(kind):
        raise UserError(
            f"{origin} names {name!r}, which is no class of {', '.join(ALLOWED)}: a model folder must not run other code; "
            "if you trust it, use its weights with a config of yours: --config-file FILE --checkpoint DIR/model.safetensors"
        )
    return public_name(kind) if dataclasses.is_dataclass(kind) else kind


def _is_allowed(thing: Any) -> bool:
    """Whether it is a class, or a builder of ours, defined where it may be; what a module merely imports is not its own."""
    if isinstance(thing, type):
        return _below_allowed(f"{thing.__module__}.") and thing.__name__ not in FOREIGN
    if not inspect.isfunction(thing) or not thing.__module__.startswith(BUILDERS):
        return False
    result = get_type_hints(thing).get("return")
    return isinstance(result, type) and issubclass(result, nn.Module)


def _below_allowed(name: str) -> bool:
    return any(name.startswith(f"{package}.") for package in ALLOWED)


def _find(name: str) -> Any:
    try:
        return locate(name)
    except ErrorDuringImport:
        return None


def _find_elsewhere(name: str) -> Any:
    """A class of detectron2 by its last name: official package and d2lite do not offer all under the same paths."""
    if not name.startswith("detectron2."):
        return None
    last = name.rpartition(".")[2]
    modules = [module for key, module in list(sys.modules.items()) if _below_allowed(f"{key}.") and key.startswith("detectron2.")]
    return next((vars(module)[last] for module in modules if isinstance(vars(module).get(last), type)), None)
