"""What a classifier begins from: a pre-trained encoder, or a classifier of other classes; every key is accounted for."""

import logging
import re
from pathlib import Path

from torch import Tensor

from eva02_det.checkpoint.account import Account
from eva02_det.checkpoint.hub import find_file
from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.load import Choice, load_content
from eva02_det.checkpoint.tables import PATCH_KERNEL, POSITIONS
from eva02_det.utils.errors import UserError
from eva02_mim.classifier import Classifier

HEAD = r"^head\."
POOLED_NORM = r"^fc_norm\."
# keys of a pre-trained file that a classifier has no use for, with the reason
OF_PRETRAINING = (
    (r"^mask_token$", "the token of hidden patches"),
    (r"^lm_head\.(weight|bias)$", "the prediction layer of pre-training"),
    (r"^norm\.(weight|bias)$", "the norm of pre-training; the mean of the patches gets a new one"),
)
# timm's models that average the patches keep the norm of pre-training under this name
RENAMED_NORM = (r"^fc_norm\.(weight|bias)$", "the norm of pre-training under timm's name; the mean of the patches gets a new one")
logger = logging.getLogger(__name__)


def begin_from(model: Classifier, source: str | Path, *, which: str = "model", new_head: bool | None = None) -> Account:
    """Fill `model` from a checkpoint and return the account of all keys; nothing changes where something does not fit.

    From a pre-trained student norm and head of the classifier stay new. From a classifier the norm is kept, and the head where
    it has as many classes. Positions are stretched to the grid of the model: bicubic, corners not aligned, not antialiased, fp32.

    Args:
        source: a checkpoint of a run, a released file, a model folder, `hf://owner/name/file`, `timm/<name>`, see `find_file`.
        which: "model", or "ema" for averaged weights.
        new_head: True: the head starts anew though it would fit (as many classes, but others). False: every weight must come
            from the file, as for an evaluation.

    Raises:
        UserError: with what does not fit.
    """
    weights = dict(state_dict_of(read_file(find_file(source)), source, which))
    _require_kind(model, weights, source)
    rules = [rule for rule in OF_PRETRAINING if not (model.use_cls and rule[0].startswith("^norm"))]
    new: list[str] = []
    if "head.weight" not in weights:
        if new_head is False:
            raise UserError(f"checkpoint {source} is no classifier, it has no head; fine-tune it first, or pass a fine-tuned one")
        rules.append(RENAMED_NORM)
        new = [HEAD, POOLED_NORM]
    elif new_head or (new_head is None and len(weights["head.weight"]) != model.num_classes):
        new = [HEAD]
    dropped = _taken_out(weights, rules)
    if POSITIONS in weights:
        weights[POSITIONS] = weights[POSITIONS].float()  # a half-precision table would be rounded again after the resize
    choice = Choice(new_weights=tuple(new), remedy="pass the config of that model, or another file")
    account = load_content(model, {"model": weights}, str(source), choice)
    account.dropped.update(dropped)
    for title, what in (("dropped", account.dropped), ("new", account.new), ("resized", account.resized)):
        if what:
            logger.info("%s: %s: %s", source, title, ", ".join(what))
    return account


def _taken_out(weights: dict[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, str]:
    """Removes what the rules name from `weights`; key -> reason."""
    found = {key: reason for key in weights for rule, reason in rules if re.search(rule, key)}
    for key in found:
        del weights[key]
    return found


def _require_kind(model: Classifier, weights: dict[str, Tensor], source: str | Path) -> None:
    """UserError where a file is of another kind of model, width or patch: one sentence instead of a list of all keys."""
    if POSITIONS not in weights or PATCH_KERNEL not in weights:
        raise UserError(
            f"checkpoint {source} is no EVA-02 encoder, it has no {POSITIONS} or no {PATCH_KERNEL}; pass a "
            f"pre-trained student or a fine-tuned classifier"
        )
    width, patch = weights[POSITIONS].shape[-1], weights[PATCH_KERNEL].shape[-1]
    if width != model.embed_dim:
        raise UserError(
            f"checkpoint {source} has a width of {width} and the classifier {model.embed_dim}; pass the config of that size, "
            f"or another checkpoint"
        )
    if patch != model.patch_embed.patch_size:
        raise UserError(
            f"checkpoint {source} has patches of {patch} px and the classifier {model.patch_embed.patch_size} px; pass the "
            f"checkpoint as pre-trained rather than one converted for detection, or set model.patch_size={patch}"
        )
