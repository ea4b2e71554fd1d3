"""Large-scale jitter gives the recorded images, boxes and masks when the recorded random numbers are drawn again."""

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.structures.masks import polygons_to_bitmask
from PIL import Image

from eva02_det.data.jitter_mapper import JitterMapper
from tests.golden.cases import GoldenCase, golden_cases


def augmentations(config: dict) -> list[T.Augmentation]:
    side = config["target"]
    made = {
        "flip": T.RandomFlip(horizontal=True),
        "resize": T.ResizeScale(config["min_scale"], config["max_scale"], side, side),
        "crop": T.FixedSizeCrop((side, side), pad=config["pad"]),
    }
    return [made[step] for step in config["order"]]


def replay(case: GoldenCase, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make NumPy draw the recorded numbers; the list returned empties as they are used."""
    key = {"flip": "flip_uniform", "resize": "scale", "crop": "crop_uniform"}
    left = [case.spec["draws"][key[step]] for step in case.config["order"]]

    def drawn(low: float = 0.0, high: float = 1.0, size: object = None) -> np.float64:
        number = left.pop(0)
        assert low <= number < high
        return np.float64(number)

    monkeypatch.setattr(np.random, "uniform", drawn)
    return left


def masks_of(instances: object, mask_format: str) -> np.ndarray:
    """[N, H, W] bool."""
    if mask_format == "bitmask":
        return instances.gt_masks.tensor.numpy()
    height, width = instances.image_size
    polygons = instances.gt_masks.polygons
    return np.array([polygons_to_bitmask(one, height, width) if one else np.zeros((height, width)) for one in polygons], bool)


@pytest.mark.parametrize("kind", [DatasetMapper, JitterMapper])
@pytest.mark.parametrize("case", golden_cases("lsj"))
def test_jitter_agrees_with_the_recorded_pipeline(case: GoldenCase, kind: type[DatasetMapper], tmp_path, monkeypatch):
    config, limits = case.config, case.tolerance
    Image.fromarray(case.tensors["in.image"]).save(tmp_path / "image.png")
    annotations = [
        {**{key: a[key] for key in ("bbox", "category_id", "iscrowd", "segmentation")}, "bbox_mode": BoxMode(a["bbox_mode"])}
        for a in case.json("annotations.json")
    ]
    mapper = kind(
        True,
        augmentations=augmentations(config),
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format=config["mask_format"],
        recompute_boxes=config["recompute_boxes"],
    )
    assert kind is DatasetMapper or mapper.is_fast
    left = replay(case, monkeypatch)
    result = mapper({"file_name": str(tmp_path / "image.png"), "annotations": annotations})
    assert not left, "a recorded number was not drawn"
    instances = result["instances"]

    image = result["image"].numpy()
    assert image.shape == case.tensors["out.image"].shape
    assert np.abs(image.astype(int) - case.tensors["out.image"]).max() <= limits["image_max_abs"]
    np.testing.assert_array_equal(instances.gt_classes, case.tensors["out.classes"])
    np.testing.assert_allclose(instances.gt_boxes.tensor, case.tensors["out.boxes"], rtol=0, atol=limits["boxes_atol"])
    expected = case.tensors.get("out.bitmasks", case.tensors.get("out.rasterised_polygons")).astype(bool)
    masks = masks_of(instances, config["mask_format"])
    different = (masks != expected).sum((1, 2))
    assert (different <= np.maximum(3, 0.005 * expected.sum((1, 2)))).all(), different
