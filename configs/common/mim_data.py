"""Sources of the pre-training images: folders, lists or shards, ImageNet-21K, and the seven sources of Merged-38M."""

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.config import LazyCall as L
from omegaconf import DictConfig

from eva02_det.data.paths import datasets_root
from eva02_det.utils.sources.files import open_source
from eva02_mim.mixture import Mixture


@dataclass(frozen=True)
class Published:
    """A source of Merged-38M: its folder in the published layout, and how many images are known to exist."""

    folder: str
    images: int


# The paper gives only the total (section 2.2); these are the public sizes. CC12M and CC3M are lists of addresses of which many
# are dead by now, so that everything below adds up to more than 38 M.
MERGED_38M = {
    "IN-21K": Published("IN-21K/IN-21K", 14_200_000),  # the winter 2021 / fall 2011 release, 21 841 classes
    "CC12M": Published("CC12M/train_image", 12_400_000),  # at most
    "CC3M": Published("CC3M/train_image", 3_300_000),  # at most
    "COCO": Published("COCO/train2017", 118_287),
    "ADE20K": Published("ADE20K/training", 20_210),
    "Objects365": Published("Object365/images", 1_820_000),  # 1.74 M of train and 80 k of val
    "OpenImages": Published("OpenImages/OpenImages_v6", 9_000_000),
}


def image_source(spec: str, *, expected: int | None = None) -> DictConfig:
    """One source: a folder, a list or shards, as `open_source` takes them; relative paths start at the data sets' folder."""
    return L(open_source)(spec=_located(spec), expected=expected)


def imagenet_21k(spec: str = "imagenet-21k") -> DictConfig:
    """ImageNet-21K (winter / fall release, 14.2 M images), the data of Ti, S and B."""
    return image_source(spec, expected=MERGED_38M["IN-21K"].images)


def merged_38m(
    root: str = "Merged-38M",
    *,
    shards: str | None = None,
    weights: Sequence[float] | None = None,
    published_weights: bool = False,
    epoch_images: int | None = None,
) -> DictConfig:
    """The seven sources of Merged-38M, the data of L.

    root: folder, or address, that holds the published folders (the name of each in MERGED_38M). shards: their layout where they
    are tar shards below those, for example `*.tar`. weights: a share for each source; None: every image once an epoch, as
    published. published_weights: shares by the public sizes, so that an incomplete copy has the published balance.
    """
    if published_weights:
        weights = [source.images for source in MERGED_38M.values()]
    return L(Mixture)(
        sources=[
            image_source("/".join(filter(None, (root, source.folder, shards))), expected=source.images)
            for source in MERGED_38M.values()
        ],
        weights=None if weights is None else list(weights),
        epoch_images=epoch_images,
    )


def _located(spec: str) -> str:
    return spec if "://" in spec or spec.startswith(("/", "~")) else str(datasets_root() / spec)
