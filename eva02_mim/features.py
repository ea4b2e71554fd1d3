"""Features of every image of a set, computed once, kept in a folder and used again only where nothing has changed.

Axes: V visits of an image, M images, B of them in a batch, W width of the features, S pixels of a side.

A folder holds `features.npy` [V * M, W] in fp32, visit by visit, and `about.json`, which is written last: what the features
depend on. 1.28 million images in 768 numbers take 3.9 GB.
"""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_det.utils.processes import in_all, on_main
from eva02_mim.crops import Crop
from eva02_mim.labelled import ClassFolder, CroppedImages, batches_of, my_share
from eva02_mim.order import Ints
from eva02_mim.precision import autocast
from eva02_mim.readout import Readout
from eva02_mim.teacher import fingerprint

logger = logging.getLogger(__name__)

FILE, ABOUT, VERSION = "features.npy", "about.json", 1
REPORT_EVERY_S = 60.0
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Extraction:
    """How images are shown to the network. visits: crops of each image, drawn anew; 1 with a crop that draws nothing."""

    crop: Crop
    device: torch.device
    visits: int = 1
    seed: int = 0
    precision: str = "fp32"
    batch_size: int = 64
    workers: int = 0


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of a set, in the same order; `rows` past the number of images are further visits of them."""

    values: Floats  # [V * M, W], mapped from disk
    labels: Ints  # [V * M]
    images: int  # M


def features_of(readout: Readout, folder: ClassFolder, kept: str | Path, how: Extraction) -> FeatureSet:
    """The features of all images of `folder`, from `kept` or computed and kept there. Every process of a job must call it.

    They are used again where weights, network, pooling, list of images, crop, size, visits, seed and precision are the same.
    An image that was changed under the same name is not noticed: remove `kept` then.

    Raises:
        UserError: naming an image that cannot be read, or where features are not finite.
    """
    kept, about = Path(kept), description(readout, folder, how)
    before = on_main(lambda: _read(kept))
    if before == about:
        logger.info("features of %s images are kept in %s", f"{about['images']:,}", kept)
    else:
        if before:
            changed = [key for key in about if before.get(key) != about[key]]
            logger.warning("features in %s are of another %s: they are computed anew", kept, ", ".join(changed))
        on_main(lambda: _begin(kept, (how.visits * len(folder.labels), readout.width)))
        in_all(lambda: _fill(readout, folder, kept, how))
        on_main(lambda: write_json(kept / ABOUT, about, indent=1))
    values = np.load(kept / FILE, mmap_mode="c")  # torch asks for memory that it might write to
    return FeatureSet(values, np.tile(folder.labels, how.visits), len(folder.labels))


def description(readout: Readout, folder: ClassFolder, how: Extraction) -> dict[str, Any]:
    """What features depend on, as JSON gives it back."""
    about = {
        "version": VERSION,
        "weights": fingerprint(readout),
        "network": readout.about,
        "size": readout.image_size,
        "list of images": folder.source.digest,
        "images": len(folder.labels),
        "crop": repr(how.crop),
        "visits": how.visits,
        "seed": how.seed,
        "precision": how.precision,
    }
    return json.loads(json.dumps(about))


def _begin(kept: Path, shape: tuple[int, int]) -> None:
    """An empty file for all processes to write to; no description until it is full."""
    try:
        kept.mkdir(parents=True, exist_ok=True)
        (kept / ABOUT).unlink(missing_ok=True)
        np.lib.format.open_memmap(kept / FILE, mode="w+", dtype=np.float32, shape=shape).flush()
    except OSError as error:
        gib = 4 * shape[0] * shape[1] / 2**30
        raise UserError(f"cannot write {gib:.1f} GiB of features to {kept}: {error.strerror}; free room there") from error


def _fill(readout: Readout, folder: ClassFolder, kept: Path, how: Extraction) -> None:
    """This process's share of the rows."""
    values = np.load(kept / FILE, mmap_mode="r+")
    share, images = my_share(len(folder.labels)), len(folder.labels)
    begun = said = time.monotonic()
    done = 0
    for visit in range(how.visits):
        crops = CroppedImages(
            folder.source, share, how.crop, side=readout.image_size, batch_size=how.batch_size, seed=how.seed, visit=visit
        )
        for pixels, places in batches_of(crops, workers=how.workers, device=how.device):
            with autocast(how.precision, how.device):
                found = readout(pixels).cpu().numpy()
            numbers = share[places.numpy()]
            if not np.isfinite(found).all():
                raise UserError(
                    f"features of a batch that begins with {folder.source.name(int(numbers[0]))} are not finite; set "
                    f"train.precision=fp32, or look for values that are not finite in the weights"
                )
            values[visit * images + numbers] = found
            done += len(numbers)
            if time.monotonic() - said > REPORT_EVERY_S:
                said = time.monotonic()
                rate = done / (said - begun)
                logger.info("%s: %d of %d crops, %.0f a second", folder.root, done, how.visits * len(share), rate)
    values.flush()
    logger.info("%s: features of %d crops, %.0f a second", folder.root, done, done / max(time.monotonic() - begun, 1e-9))


def _read(kept: Path) -> dict[str, Any]:
    """The description of kept features; empty where there is none, or none that can be read."""
    try:
        content = json.loads((kept / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and (kept / FILE).is_file() else {}
