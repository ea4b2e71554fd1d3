"""The mapper of detectron2, with errors that name the image and say what to do."""

import copy
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError
from PIL import Image

from eva02_det.data.image_files import is_deep_image
from eva02_det.utils.errors import UserError


class ImageError(UserError):
    """An image that cannot be used. Keeps its one sentence when a loader's worker hands it over wrapped in a traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(text.rsplit("ImageError: ", 1)[-1].strip())


class UnreadableImageError(ImageError):
    """An image that is missing, damaged or another than stated: training can do with the next one in its place."""


def deep_image(name: str) -> ImageError:
    """The error for pixels of 16 or 32 bits, which would silently become white."""
    return ImageError(f"image {name} has more than 8 bits a pixel; convert it to 8 bits")


class CheckedMapper(DatasetMapper):
    """Turns a missing or undecodable image, one of another size than stated, or of 16 bits, into an ImageError.

    An image with run-length masks gets bitmaps even where the mapper is set to polygons; the heads take either.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As DatasetMapper."""
        name = dataset_dict["file_name"]
        try:
            return self._for_masks_of(dataset_dict)._map(dataset_dict)
        except FileNotFoundError as error:
            raise UnreadableImageError(
                f"image {name} does not exist; complete the data set, or take it out of the annotations"
            ) from error
        except SizeMismatchError as error:
            stated = f"{dataset_dict.get('width')} x {dataset_dict.get('height')}"
            raise UnreadableImageError(
                f"image {name} has not the size that its annotation file states (width x height {stated}); "
                "put the right image there, or correct the annotations"
            ) from error
        # Pillow reports a damaged PNG as a SyntaxError
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnreadableImageError(f"image {name} cannot be decoded ({error}); download it again") from error

    def _map(self, record: dict[str, Any]) -> dict[str, Any]:
        if is_deep_image(record["file_name"]):
            raise deep_image(record["file_name"])
        return DatasetMapper.__call__(self, record)

    def _for_masks_of(self, dataset_dict: dict[str, Any]) -> "CheckedMapper":
        """This mapper, or one of bitmaps where an object that is not a crowd is stored as run lengths."""
        objects = dataset_dict.get("annotations", ()) if self.use_instance_mask else ()
        run_lengths = any(isinstance(one.get("segmentation"), dict) and not one.get("iscrowd") for one in objects)
        if not run_lengths or self.instance_mask_format == "bitmask":
            return self
        other = copy.copy(self)
        other.instance_mask_format = "bitmask"
        return other
