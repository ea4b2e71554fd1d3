"""Training from a cache: the loader's workers read the teacher's features beside the crop, and no teacher runs.

Axes: B images, K places for hidden patches, D width of the features.
"""

from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.batches import Asked, CropBatches, Made
from eva02_mim.teacher_cache import CachedTeacher


class CachedBatches(CropBatches):
    """Crops and masks as `CropBatches` makes them, and as `targets` the features of the hidden patches, fp16 [B, K, D].

    Every crop is compared with the digest of the one that the cache is of.
    """

    def __init__(self, batches: CropBatches, cache: CachedTeacher) -> None:
        require_same_crops(cache, batches)
        super().__init__(
            batches.source,
            crop=batches.crop,
            masks=batches.masks,
            image_size=batches.image_size,
            seed=batches.seed,
            fixed_crops=True,
            replace=True,
        )
        self.cache = cache

    def __getitem__(self, asked: Asked) -> Made:
        made = super().__getitem__(asked)
        if made.batch:
            made.batch["targets"] = self._targets(made.batch)
        return made

    def _targets(self, batch: dict[str, Tensor]) -> Tensor:
        return self.cache.features_at(batch["sample"].tolist(), batch["images"], batch["index"])


def require_same_crops(cache: CachedTeacher, batches: CropBatches) -> None:
    """UserError where the cache was filled with other images, another seed or other crops."""
    check_fixed(batches)
    d = cache.description
    comparisons = {
        "images": (d.count, len(batches.source)),
        "list of images": (d.data, batches.source.digest),
        "seed": (d.seed, batches.seed),
        "crop": (d.crop, crop_words(batches)),
    }
    for what, (there, here) in comparisons.items():
        if there != here:
            raise UserError(
                f"feature cache {cache.folder} is of other crops: its {what} is {there} and the run's {here}; train with the "
                f"settings that the cache was filled with, or fill another one"
            )


def crop_words(batches: CropBatches) -> str:
    """How the crops are cut."""
    return f"{batches.crop!r} to {batches.image_size} px"


def check_fixed(batches: CropBatches) -> None:
    """UserError for crops that a cache cannot follow."""
    if not batches.fixed_crops:
        raise UserError("the crops of these batches change from epoch to epoch, which no cache can follow; set fixed_crops=True")
    if not batches.replace:
        raise UserError("these batches leave unreadable images out, and a cache has a place for each; set replace=True")
