"""Writes a model folder: what is needed to use a trained detector anywhere, and a page that says what it is."""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import eva02_det
from eva02_det import _provider
from eva02_det.checkpoint.hub import MODEL_FILE, find_file
from eva02_det.checkpoint.io import write_weights
from eva02_det.engine.architecture import from_plain, public_name, to_plain
from eva02_det.engine.description import ModelDescription, describe, uses_average
from eva02_det.engine.model_folder import is_model_folder, write_description
from eva02_det.engine.recipe import load_recipe
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_text

CARD_FILE = "README.md"
NAMES_SHOWN = 20

log = logging.getLogger(__name__)


def export_model(
    config_file: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    overrides: Iterable[str] = (),
    classes: str | Path | None = None,
    ema: bool | None = None,
) -> ModelDescription:
    """Write the detector of a config with the weights of a checkpoint to the folder `out`: weights, config.json, README.md.

    overrides: as for the training tool, `protocol=NAME` among them. classes: file with the class names, see `describe`.
    ema: the averaged weights; None: those that the config tests. An earlier export in `out` is replaced, any other content
    is an error. The folder is known to load: the model is built from the written description before its weights are written.
    """
    out = Path(out)
    if out.exists() and not is_model_folder(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds other files; give a new folder for the export")
    overrides = list(overrides)
    config = load_recipe(config_file, overrides)
    averaged = uses_average(config) if ema is None else ema
    given = describe(config, classes=classes)
    description = replace(
        given,
        architecture=from_plain(to_plain(given.architecture), str(config_file)),
        protocol={**given.protocol, "averaged_weights": averaged},
        provenance=_provenance(config_file, overrides, checkpoint, averaged),
    )
    model = description.load(checkpoint, which="ema" if averaged else "model")
    write_weights(out / MODEL_FILE, model.state_dict(), {"format": "pt"})
    write_description(description, out)
    write_text(out / CARD_FILE, model_card(description, model))
    log.info("%s: %d classes, %s weights of %s", out, len(description.classes), "averaged" if averaged else "raw", checkpoint)
    return description


def model_card(description: ModelDescription, model: nn.Module) -> str:
    """The README.md of a model folder."""
    facts = {
        "detector": f"`{public_name(type(model))}`, {sum(p.numel() for p in model.parameters()):,} parameters",
        "backbone": _backbone(model),
        "masks": "yes" if model.roi_heads.mask_on else "no, boxes only",
        "input": f"RGB, long side {description.preprocessing.long_side_px} px (the model normalises and pads)",
        "classes": f"{len(description.classes)}: {_some(description.classes)}",
        "test protocol": _words(description.protocol),
        "test set of its config": description.dataset or "not stated",
        **{key.replace("_", " "): _words(value) for key, value in description.provenance.items()},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# EVA-02 detector

Object detection{" and instance segmentation" if model.roi_heads.mask_on else ""} with a plain vision transformer, exported by
eva02_det {eva02_det.__version__}. The licence of the weights is that of the checkpoint they come from.

| | |
| --- | --- |
{table}

## Use

```
python tools/predict.py PICTURES --model THIS_FOLDER --out predictions
```

```python
from eva02_det import Predictor

predict = Predictor.from_folder("THIS_FOLDER")
result = predict("picture.jpg")
print(list(zip(result.names, result.scores.tolist(), result.boxes.tolist())))
```

`{MODEL_FILE}` holds the weights, `config.json` everything else; no code and no other file is needed.
"""


def sha256(path: str | Path) -> str:
    """Checksum of a file of any size."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _provenance(config_file: str | Path, overrides: list[str], checkpoint: str | Path, averaged: bool) -> dict[str, Any]:
    """Where the weights come from. Names of files only: folders of one's own machine tell others nothing."""
    return {
        "checkpoint": str(checkpoint) if "://" in str(checkpoint) else Path(checkpoint).name,
        "checkpoint_sha256": sha256(find_file(checkpoint)),
        "weights": "averaged (EMA)" if averaged else "raw",
        "config": Path(config_file).name,
        "overrides": overrides,
        "versions": {
            "eva02_det": eva02_det.__version__,
            "torch": str(torch.__version__),
            "detectron2": _provider.active(),
        },
    }


def _backbone(model: nn.Module) -> str:
    net = getattr(model.backbone, "net", model.backbone)
    blocks = getattr(net, "blocks", ())
    patch = f", {len(blocks)} blocks" if len(blocks) else ""
    return f"`{public_name(type(net))}`{patch}, {sum(p.numel() for p in net.parameters()):,} parameters"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _words(value: Any) -> str:
    """A record in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items() if item is not None) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
