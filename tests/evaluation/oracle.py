"""A detector that knows the truth and tells it with noise: predictions of any quality for any annotation file."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def noisy_oracle(content: dict[str, Any], seed: int, *, blur: float = 0.1, masks: bool = True) -> list[dict[str, Any]]:
    """COCO results. blur: how far boxes are off, as a share of their sides; the higher, the more is also missed and mistaken."""
    generator = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    classes = [category["id"] for category in content["categories"]]
    found = []
    for one in content["annotations"]:
        height, width = sizes[one["image_id"]]
        for _ in range(int(generator.binomial(2, 0.9 - blur))):
            category = one["category_id"] if generator.random() > blur else int(generator.choice(classes))
            shift = generator.normal(0, blur, 4) * np.array(one["bbox"])[[2, 3, 2, 3]]
            box = np.maximum(np.array(one["bbox"]) + shift, [0, 0, 1, 1])
            result = {"image_id": one["image_id"], "category_id": category, "bbox": box.round(3).tolist()}
            result["score"] = float(generator.beta(5, 2))
            if masks:
                result["segmentation"] = _moved(one["segmentation"], height, width, shift[:2].round().astype(int))
                result["mask_score"] = result["score"] * float(generator.random())
            found.append(result)
    for image, (height, width) in sizes.items():
        for _ in range(5):
            x, y, right, below = (generator.random(4) * [width * 0.7, height * 0.7, width * 0.3, height * 0.3]).tolist()
            result = {"image_id": image, "category_id": int(generator.choice(classes)), "bbox": [x, y, right + 1, below + 1]}
            result["score"] = float(generator.beta(2, 4))
            if masks:
                corners = [x, y, x + right + 1, y, x + right + 1, y + below + 1, x, y + below + 1]
                result["segmentation"] = _text(coco_mask.frPyObjects([corners], height, width)[0])
                result["mask_score"] = result["score"]
            found.append(result)
    return [found[place] for place in generator.permutation(len(found))]


def part_of(content: dict[str, Any], images: set[int]) -> dict[str, Any]:
    """The annotation file of some images alone."""
    kept = [image for image in content["images"] if image["id"] in images]
    return {**content, "images": kept, "annotations": [one for one in content["annotations"] if one["image_id"] in images]}


def _moved(stored: Any, height: int, width: int, shift: np.ndarray) -> dict[str, Any]:
    if isinstance(stored, dict):
        runs = coco_mask.frPyObjects(stored, height, width) if isinstance(stored["counts"], list) else stored
    else:
        runs = coco_mask.merge(coco_mask.frPyObjects(stored, height, width))
    return _text(coco_mask.encode(np.asfortranarray(np.roll(coco_mask.decode(runs), shift[::-1], axis=(0, 1)))))


def _text(runs: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode()}
