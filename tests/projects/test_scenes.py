"""The demo's rendered scenes: exact masks, honest COCO files, one seed one data set."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from eva02_det.utils.errors import UserError
from projects.demo import scenes
from projects.demo.scenes import CLASSES, Shape, render_scene, write_scenes

PIXELS = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes")
    write_scenes(path, train=30, val=6, pixels=PIXELS, seed=3)
    return path


@pytest.fixture(scope="module")
def coco(folder: Path) -> COCO:
    return COCO(str(folder / "annotations" / "instances_train.json"))


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def centered(kind: str) -> Shape:
    return Shape(kind, (64.0, 64.0), 40.0, 1.0, (1.0, 0.0))


# Areas worked out by hand for circumradius 40: circle, square of half side 0.75, equilateral triangle, pentagram
# (10 triangles between radius 1 and its inner corners at 0.381966, 36 degrees apart), annulus between 1 and 0.46.
@pytest.mark.parametrize(
    ("kind", "unit_area"),
    [
        ("disc", np.pi),
        ("box", 1.5**2),
        ("triangle", 0.75 * np.sqrt(3)),
        ("star", 5 * 0.381966 * np.sin(np.pi / 5)),
        ("ring", np.pi * (1 - 0.46**2)),
    ],
)
@pytest.mark.parametrize("flatness", [1.0, 0.75])
def test_a_shape_covers_the_area_of_its_formula(kind: str, unit_area: float, flatness: float) -> None:
    _, distance = scenes.distance_to(Shape(kind, (64.3, 63.6), 40.0, flatness, (0.6, 0.8)), PIXELS)
    assert (distance <= 0).sum() == pytest.approx(unit_area * flatness * 40**2, rel=0.015)


def test_a_turned_shape_keeps_its_area_and_moves_its_corners() -> None:
    _, straight = scenes.distance_to(centered("box"), PIXELS)
    _, turned = scenes.distance_to(Shape("box", (64.0, 64.0), 40.0, 1.0, (0.6, 0.8)), PIXELS)
    assert (turned <= 0).sum() == pytest.approx((straight <= 0).sum(), rel=0.01)
    assert ((turned <= 0) != (straight <= 0)).sum() > 200


def test_visible_masks_are_disjoint_and_add_up_to_what_the_shapes_cover() -> None:
    overlapped = 0
    for index in range(20):
        placed = scenes.arrange(np.random.default_rng((0, index)), PIXELS)
        covered, shape_area = np.zeros((PIXELS, PIXELS), dtype=bool), 0
        for shape, _ in placed:
            window, distance = scenes.distance_to(shape, PIXELS)
            covered[window] |= distance <= 0
            shape_area += int((distance <= 0).sum())
        layers = np.sum([mask for _, mask in placed], axis=0)
        assert layers.max() == 1
        np.testing.assert_array_equal(layers.astype(bool), covered)
        overlapped += shape_area > covered.sum()
    assert overlapped > 5  # occlusion does happen


def test_a_later_shape_covers_an_earlier_one_and_every_object_stays_mostly_visible() -> None:
    for index in range(20):
        placed = scenes.arrange(np.random.default_rng((1, index)), PIXELS)
        above = np.zeros((PIXELS, PIXELS), dtype=bool)
        for shape, mask in reversed(placed):
            window, distance = scenes.distance_to(shape, PIXELS)
            np.testing.assert_array_equal(mask[window], (distance <= 0) & ~above[window])
            assert mask.sum() >= scenes.MIN_VISIBLE * (distance <= 0).sum()
            above[window] |= distance <= 0


def test_painting_an_object_changes_the_inside_of_its_mask_and_nothing_beyond_its_shadow() -> None:
    shape = centered("ring")
    image = np.full((PIXELS, PIXELS, 3), 128, dtype=np.float32)
    scenes._paint_shape(np.random.default_rng(0), image, shape, np.full((2, 3), 128, dtype=np.float32))
    window, distance = scenes.distance_to(shape, PIXELS)
    changed = (image != 128).any(axis=2)
    assert changed[window][distance <= -0.5].mean() > 0.9  # a texture may meet the ground's colour here and there
    assert not changed[:10].any()
    assert not changed[:, :10].any()
    assert not changed[64, 64]  # the hole of the ring


def test_scenes_hold_two_to_four_objects_of_all_classes_and_rings_keep_their_hole() -> None:
    drawn = [render_scene(0, "train", index, pixels=PIXELS) for index in range(40)]
    counts = [len(scene.kinds) for scene in drawn]
    assert min(counts) >= 2
    assert max(counts) == 4
    assert {kind for scene in drawn for kind in scene.kinds} == set(CLASSES)
    assert all(scene.image.shape == (PIXELS, PIXELS, 3) and scene.image.dtype == np.uint8 for scene in drawn)


def test_colour_does_not_tell_the_class() -> None:
    mean_colors: dict[str, list[np.ndarray]] = {kind: [] for kind in CLASSES}
    for index in range(150):
        scene = render_scene(0, "train", index, pixels=64)
        for kind, mask in zip(scene.kinds, scene.masks):
            mean_colors[kind].append(scene.image[mask].mean(axis=0))
    centers = np.stack([np.mean(colors, axis=0) for colors in mean_colors.values()])
    spread = np.std(np.concatenate(list(mean_colors.values())), axis=0)
    assert (np.ptp(centers, axis=0) < 0.6 * spread).all()


def test_the_files_load_in_pycocotools_and_name_pictures_that_exist(folder: Path, coco: COCO) -> None:
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == 30
    for record in coco.loadImgs(coco.getImgIds()):
        with Image.open(folder / "train" / record["file_name"]) as image:
            assert image.size == (record["width"], record["height"])


def test_every_annotation_rasterises_to_exactly_the_visible_mask(coco: COCO) -> None:
    forms = set()
    for image_id in coco.getImgIds():
        scene = render_scene(3, "train", image_id - 1, pixels=PIXELS)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [coco.cats[a["category_id"]]["name"] for a in annotations] == list(scene.kinds)
        for annotation, mask in zip(annotations, scene.masks):
            forms.add(type(annotation["segmentation"]))
            np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), mask)  # tolerance: no pixel
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
    assert forms == {list, dict}  # polygons and run lengths both occur


def test_a_box_is_the_bounding_box_of_its_mask(coco: COCO) -> None:
    for annotation in coco.loadAnns(coco.getAnnIds()):
        rows, cols = np.nonzero(coco.annToMask(annotation))
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (cols.min(), rows.min())
        assert (left + width, top + height) == (cols.max() + 1, rows.max() + 1)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "again", train=30, val=6, pixels=PIXELS, seed=3)
    write_scenes(tmp_path / "other", train=30, val=6, pixels=PIXELS, seed=4)
    first, again, other = digest(folder), digest(tmp_path / "again"), digest(tmp_path / "other")
    assert len(first) == 38
    assert again == first
    assert not set(other.values()) & set(first.values())


def test_held_out_scenes_share_no_picture_with_the_training_scenes(folder: Path) -> None:
    train = {value for name, value in digest(folder).items() if name.startswith("train")}
    val = {value for name, value in digest(folder).items() if name.startswith("val")}
    assert (len(train), len(val), len(train & val)) == (30, 6, 0)


def test_a_larger_set_begins_with_the_smaller_one(folder: Path, tmp_path: Path) -> None:
    written = write_scenes(tmp_path, train=2, val=0, pixels=PIXELS, seed=3)
    assert list(written) == ["train"]
    small, large = (json.loads((f / "annotations" / "instances_train.json").read_text()) for f in (tmp_path, folder))
    assert large["images"][:2] == small["images"]
    assert large["annotations"][: len(small["annotations"])] == small["annotations"]
    assert (tmp_path / "train" / "000002.jpg").read_bytes() == (folder / "train" / "000002.jpg").read_bytes()


@pytest.mark.parametrize("arguments", [{"pixels": 40}, {"train": -1}, {"seed": -5}])
def test_impossible_requests_are_refused_before_anything_is_written(arguments: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        write_scenes(tmp_path / "scenes", **arguments)
    assert not (tmp_path / "scenes").exists()


def test_the_script_writes_the_set_and_says_where(tmp_path: Path) -> None:
    script = Path(scenes.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[2]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), "--out", str(tmp_path), "--train", "2", "--val", "1", "--pixels", "64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "annotations" / "instances_val.json") in done.stdout
    assert len(list((tmp_path / "train").glob("*.jpg"))) == 2
    refused = subprocess.run([*command, "--pixels", "10"], capture_output=True, text=True, check=False, env=environment)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: scenes of 10 px")
