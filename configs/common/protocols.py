"""Test protocols for recipes: one line sets how the detector is tested, so that evaluating it needs no flags.

Named protocols are in `eva02_det/modeling/protocols.py`; `protocol=NAME` on the command line and the override keys of the
released tool are carried out by `eva02_det/engine/recipe.py`.
"""

from omegaconf import DictConfig, OmegaConf

from eva02_det.engine.recipe import use_protocol
from eva02_det.modeling.protocols import named_protocol


def tested_as(name: str, *, model: DictConfig, dataloader: DictConfig, train: DictConfig) -> DictConfig:
    """Write the named protocol into the parts of a recipe; returns the recipe's `protocol` node."""
    recipe = OmegaConf.create({}, flags={"allow_objects": True})
    recipe.model, recipe.dataloader, recipe.train = model, dataloader, train
    use_protocol(recipe, named_protocol(name))
    model.roi_heads = recipe.model.roi_heads
    dataloader.evaluator = recipe.dataloader.evaluator
    train.ema = recipe.train.ema
    return recipe.protocol
