"""The predictor: the same detections as an evaluation, for every form of a picture, as a small record."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from omegaconf import DictConfig
from PIL import Image

import eva02_det
from eva02_det.engine.description import describe
from eva02_det.engine.predictor import Prediction, Predictor, find_device
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import (
    CLASSES,
    drawn_picture,
    forget_dataset,
    save_checkpoint,
    save_config,
    tiny_config,
    tiny_model,
    with_opinions,
    write_dataset,
)


@dataclasses.dataclass(frozen=True)
class Setup:
    config: DictConfig
    config_file: Path
    checkpoint: Path
    pictures: list[Path]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    root = tmp_path_factory.mktemp("predictor")
    pictures = write_dataset(root)
    config = tiny_config()
    return Setup(config, save_config(config, root), save_checkpoint(config, root / "w.pth", averaged_seed=5), pictures)


@pytest.fixture(autouse=True)
def datasets(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_dataset()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(setup.config_file.parent))


def predictor(setup: Setup, **options: object) -> Predictor:
    return Predictor.from_config(setup.config_file, setup.checkpoint, device="cpu", **options)


def evaluated(config: DictConfig) -> list[Instances]:
    """The output of the model for each picture of the test loader, as an evaluation gets it."""
    model = tiny_model(config)
    with torch.no_grad():
        return [output["instances"] for batch in instantiate(config.dataloader.test) for output in model(batch)]


def assert_same(one: Prediction, other: Prediction, *, rounding: float = 0.0) -> None:
    assert len(one) == len(other) > 0
    assert one.names == other.names
    for name in ("boxes", "scores"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=rounding, rtol=0)
    assert (one.masks != other.masks).float().mean() <= rounding


@pytest.mark.parametrize("protocol", ["plain", "coco_system"])
def test_files_give_to_the_last_bit_what_the_test_loader_and_the_model_give(setup: Setup, protocol: str):
    predict = predictor(setup, protocol=protocol)
    config = setup.config.copy()
    config.model = predict.description.architecture
    for path, expected in zip(setup.pictures, evaluated(config), strict=True):
        found = predict(path)
        assert len(found) == len(expected) > 0
        assert torch.equal(found.boxes, expected.pred_boxes.tensor)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.labels, expected.pred_classes)
        assert torch.equal(found.masks, expected.pred_masks)
        if protocol == "coco_system":
            assert torch.equal(found.mask_scores, expected.mask_scores)


def test_every_form_of_a_picture_gives_the_same(setup: Setup):
    predict, path = predictor(setup), setup.pictures[0]
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    array = np.asarray(image)
    expected = predict(path)
    for form in (str(path), image, array, torch.from_numpy(array.transpose(2, 0, 1).copy())):
        assert_same(predict(form), expected)


def test_a_batch_gives_what_single_pictures_give(setup: Setup):
    singly = [predictor(setup)(path) for path in setup.pictures]
    together = predictor(setup, batch_size=3)(setup.pictures)
    assert isinstance(together, list)
    for one, other in zip(together, singly, strict=True):
        assert_same(one, other, rounding=0.01)


def test_an_empty_list_gives_an_empty_list(setup: Setup):
    assert predictor(setup)([]) == []


def test_the_result_is_a_frozen_record_in_the_pixels_of_the_picture(setup: Setup):
    width, height = 301, 187
    found = predictor(setup)(drawn_picture(width, height))
    count = len(found)
    assert count > 0
    assert found.size == (height, width)
    assert found.boxes.shape == (count, 4)
    assert found.masks.shape == (count, height, width)
    assert found.masks.dtype == torch.bool
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert found.boxes[:, 2].max() > width / 2  # not those of the resized picture, which is 128 px wide
    assert found.names == tuple(CLASSES[label] for label in found.labels.tolist())
    assert (found.scores.diff() <= 0).all()
    assert found.mask_scores is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.size = (1, 1)


def test_a_threshold_leaves_the_surest_whichever_way_it_is_given(setup: Setup):
    everything = predictor(setup)(setup.pictures[0])
    threshold = float(everything.scores.median())
    sure = predictor(setup, score_threshold=threshold)(setup.pictures[0])
    assert 0 < len(sure) < len(everything)
    assert (sure.scores >= threshold).all()
    assert_same(sure, everything.above(threshold))
    assert len(everything.above(1.1)) == 0
    assert everything.above(1.1).masks.shape == (0, *everything.size)


def test_masks_have_their_own_score_under_a_protocol_that_calibrates_them(setup: Setup):
    found = predictor(setup, protocol="coco_system")(setup.pictures[0])
    assert (found.mask_scores <= found.scores).all()
    assert (found.mask_scores < found.scores).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_pictures_of_any_size_are_taken(setup: Setup, size: tuple[int, int]):
    found = predictor(setup)(Image.new("RGB", size, "red"))
    assert found.size == size[::-1]
    assert found.boxes.isfinite().all()
    assert found.masks.shape[1:] == size[::-1]


def test_averaged_weights_are_used_where_they_are_asked_for(setup: Setup):
    averaged = with_opinions(instantiate(setup.config.model), seed=5)
    direct = Predictor(averaged, predictor(setup).description)(setup.pictures[0])
    assert_same(predictor(setup, ema=True)(setup.pictures[0]), direct)
    raw = predictor(setup, ema=False)(setup.pictures[0])
    assert len(raw) != len(direct) or not torch.equal(raw.scores, direct.scores)


def test_a_config_that_tests_the_average_gets_the_average(setup: Setup):
    averaging = ["+train.ema.eval_only=ema"]
    assert_same(predictor(setup, overrides=averaging)(setup.pictures[0]), predictor(setup, ema=True)(setup.pictures[0]))


def test_one_scale_of_augmentation_gives_what_none_gives(setup: Setup):
    plain, path = predictor(setup), setup.pictures[0]
    augmented = predictor(setup, tta=[plain.description.preprocessing.long_side_px])
    augmented.model.flip = False
    assert_same(augmented(path), plain(path))
    assert predictor(setup, tta=True).model.scales == (96, 128, 160)


def test_the_package_offers_the_predictor_without_importing_it_first():
    assert eva02_det.Predictor is Predictor
    with pytest.raises(AttributeError, match="Predictr"):
        eva02_det.Predictr  # noqa: B018
    code = "import sys, eva02_det; sys.exit(any(m.startswith('eva02_det.engine') or m == 'torch' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), r"\(4, 4, 3\) and type float32"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"\(4, 4, 3\)"),
        (7, "not int"),
        ("nowhere.jpg", r"nowhere\.jpg does not exist"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(setup: Setup, picture: object, words: str):
    with pytest.raises(UserError, match=words):
        predictor(setup)(picture)


def test_a_pre_trained_backbone_is_not_taken_for_a_detector(setup: Setup, tmp_path: Path):
    state = tiny_model(setup.config).state_dict()
    prefix = "backbone.net."
    torch.save({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="no whole detector"):
        Predictor.from_config(setup.config_file, tmp_path / "b.pth", device="cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name: str):
    with pytest.raises(UserError, match=name):
        find_device(name)


def test_senseless_options_are_refused(setup: Setup):
    description = describe(setup.config)
    for options in ({"batch_size": 0}, {"score_threshold": 2.0}):
        with pytest.raises(UserError, match=next(iter(options))):
            Predictor(torch.nn.Identity(), description, **options)
