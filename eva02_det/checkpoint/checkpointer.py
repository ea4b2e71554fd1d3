"""The checkpointer of a detector: whole files, tensors only, and an error where weights do not fit."""

import re
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.remap import Account, is_backbone, load_account, remap
from eva02_det.checkpoint.tables import BACKBONE_PREFIX
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_text


class DetectorCheckpointer(DetectionCheckpointer):
    """Saves atomically; loads a whole detector, or a bare backbone into a new detector.

    `new_weights` are regular expressions of model keys that a file need not hold, or may hold in another shape:
    what is new when the classes change. For a bare backbone everything outside the backbone is new.
    Anything else that does not fit raises UserError and leaves nothing half-loaded.
    """

    def __init__(
        self, model: torch.nn.Module, save_dir: str = "", *, new_weights: tuple[str, ...] = (), **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.new_weights = tuple(re.compile(rule) for rule in new_weights)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` beside and move it into place, then point `last_checkpoint` at it."""
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        content.update(kwargs)
        target = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", target)
        with atomic_path(target) as path:
            torch.save(content, path)
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint of the folder."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def _load_file(self, f: str) -> dict[str, Any]:
        content = read_file(f)
        weights = state_dict_of(content, f)
        extra = {key: value for key, value in content.items() if key in self.checkpointables or key == "iteration"}
        return {"model": weights, "origin": f, **extra}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        weights, origin = checkpoint.pop("model"), checkpoint.pop("origin")
        account = remap(weights, self.model.state_dict())
        problems = self._problems(account, backbone=is_backbone(weights))
        if problems:
            raise UserError(
                f"checkpoint {origin} is not one of this model: {problems}; pass the config it was trained with, "
                f"or name what shall start anew in train.new_weights"
            )
        load_account(self.model, account)
        self.logger.info("%s: %s; dropped by rule: %d", origin, account.summary(), len(account.dropped))

    def _problems(self, account: Account, *, backbone: bool) -> str:
        """What does not fit and may not start anew, in words; empty where all is well."""

        def is_new(key: str) -> bool:
            return (backbone and not key.startswith(BACKBONE_PREFIX)) or any(rule.search(key) for rule in self.new_weights)

        rest = Account(
            weights=account.weights,
            unexpected=[key for key in account.unexpected if not any(rule.search(key) for rule in self.new_weights)],
            mismatched={key: shapes for key, shapes in account.mismatched.items() if not is_new(key)},
            absent=[key for key in account.absent if not is_new(key)],
        )
        return "" if rest.complete else rest.summary()
