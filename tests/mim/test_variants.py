"""Scores on the variants of ImageNet are those that others count."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform
from timm.data.real_labels import RealLabelsImagenet
from timm.utils import accuracy
from torch import Tensor

from eva02_det.utils.errors import UserError
from eva02_mim.crops import decode
from eva02_mim.imagenet import rows_of_subset
from eva02_mim.labelled import EvaluationCrop
from eva02_mim.variants import VARIANTS, average_and_gap, evaluate_variant, summary
from tests.mim.known_answers import PIXELS, KnownLogits, noisy_logits, write_classes, write_numbered
from tests.utils.image_files import encoded

IDS = ImageNetInfo().label_names()


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "index"))


def evaluate(table: Tensor, name: str, folder: Path, **options: object) -> dict[str, float]:
    return evaluate_variant(KnownLogits(table), name, folder, **{"image_size": PIXELS, "batch_size": 64, **options})


def near(found: dict[str, float], **expected: float) -> None:
    assert found == pytest.approx(expected, abs=1e-4)
    assert 0 < found["top1"] < found["top5"] < 100, "a score that any classifier gets proves nothing"


@pytest.mark.parametrize("name", ["imagenet", "sketch", "v2"])
def test_folders_of_a_thousand_classes_are_scored_as_timm_does(name: str, tmp_path: Path):
    order = random.Random(1).sample(range(1000), 1000)
    owners = write_classes(tmp_path / "set", [str(row) if name == "v2" else IDS[row] for row in order])
    right = torch.tensor([int(owner) if name == "v2" else IDS.index(owner) for owner in owners])
    table = noisy_logits(right)
    top1, top5 = accuracy(table, right, topk=(1, 5))
    near(evaluate(table, name, tmp_path / "set", batch_size=300), top1=float(top1), top5=float(top5), images=1000)


@pytest.mark.parametrize("name", ["a", "r"])
def test_only_the_200_rows_of_a_subset_compete_in_the_order_of_their_ids(name: str, tmp_path: Path):
    """Counted the published way: a head of 200 rows, cut out of the 1000 by a mask in the order of sorted ids."""
    ids = sorted(rows_of_subset(name))
    owners = write_classes(tmp_path / "set", ids[::-1], each=2)
    table = noisy_logits([IDS.index(owner) for owner in owners]).numpy()
    mask = np.array([one in ids for one in sorted(IDS)])
    best = np.argsort(-table[:, mask], axis=1)[:, :5]
    solved = best == np.array([ids.index(owner) for owner in owners])[:, None]
    near(
        evaluate(torch.from_numpy(table), name, tmp_path / "set"),
        top1=100 * solved[:, 0].mean(),
        top5=100 * solved.any(1).mean(),
        images=400,
    )
    assert solved[:, 0].mean() > (table.argmax(1) == [IDS.index(owner) for owner in owners]).mean(), "other rows do compete"


def test_real_labels_are_found_by_file_name_whatever_the_folders_and_counted_as_timm_does(tmp_path: Path):
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (*range(1, 40), 50_000)]
    order = random.Random(0).sample(range(len(names)), len(names))
    for number, place in enumerate(order):
        write_numbered(tmp_path / "flat" / names[place], number)
        write_numbered(tmp_path / "sorted" / f"n{place % 7}" / names[place], number)
    shown = [names[place] for place in order]
    reference = RealLabelsImagenet(shown + names[:1] * (50_000 - len(shown)))
    table = noisy_logits([(reference.real_labels[name] or [0])[-1] for name in shown])
    reference.add_result(table)
    empty = sum(not reference.real_labels[name] for name in shown)
    assert empty > 1
    expected = {"images": len(names) - empty, "skipped": empty}
    for folder in ("flat", "sorted"):
        found = evaluate(table, "real", tmp_path / folder, batch_size=7)
        near(found, top1=reference.get_accuracy(1), top5=reference.get_accuracy(5), **expected)


def write_objectnet(root: Path, *, border: int = 0) -> dict[str, tuple[int, ...]]:
    """Pictures of four classes, three of which ImageNet has under one or two of six names; folder -> rows, by hand."""
    ids_of_2012 = {0: 4, 1: 2, 2: 0, 3: 1, 4: 5, 5: 3}  # row -> line of the names
    names = ["bench", "park bench", "fan", "chair, seat", "lamp", "table lamp, lamp"]
    mappings = {
        "folder_to_objectnet_label.json": {"a_bench": "Bench", "b_fan": "Fan", "c_lamp": "Desk lamp", "d_none": "Bandage"},
        "objectnet_to_imagenet_1k.json": {"Bench": "park bench; bench", "Fan": "fan", "Desk lamp": "table lamp, lamp; lamp"},
        "pytorch_to_imagenet_2012_id.json": {str(row): line for row, line in ids_of_2012.items()},
    }
    (root / "mappings").mkdir(parents=True)
    for name, content in mappings.items():
        (root / "mappings" / name).write_text(json.dumps(content))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(names) + "\n")
    for number in range(40):
        folder = ("a_bench", "b_fan", "c_lamp", "d_none")[number % 4]
        write_numbered(root / "images" / folder / f"{number:03d}.png", number, side=8, border=border)
    return {"a_bench": (3, 2), "b_fan": (1,), "c_lamp": (4, 0)}  # park bench is line 1, which is row 3, and so on


@pytest.mark.parametrize(("name", "ids"), [("objectnet", 1), ("objectnet_all_ids", 2)])
@pytest.mark.parametrize("given", [".", "images"])
def test_objectnet_counts_the_first_imagenet_id_of_a_class_or_on_request_each(name: str, ids: int, given: str, tmp_path: Path):
    rows = write_objectnet(tmp_path / "objectnet-1.0", border=2 if ids == 2 else 0)
    classes = [*rows, "d_none"]
    asked = [number for number in range(40) if number % 4 != 3]  # the last folder is no class of ImageNet
    table = noisy_logits([rows.get(classes[number % 4], (0,))[-1] for number in range(40)])
    best = table.topk(5, 1).indices.tolist()
    right = {number: rows[classes[number % 4]][:ids] for number in asked}
    top1 = np.mean([best[number][0] in right[number] for number in asked])
    top5 = np.mean([any(row in right[number] for row in best[number]) for number in asked])
    found = evaluate(table, name, tmp_path / "objectnet-1.0" / given, image_size=8)
    assert found == pytest.approx({"top1": 100 * top1, "top5": 100 * top5, "images": 30}, abs=1e-4)
    assert 0 < found["top1"] < 100


def test_the_published_score_on_objectnet_is_with_the_red_border_in_the_picture(tmp_path: Path):
    write_objectnet(tmp_path, border=2)
    with pytest.raises(AssertionError, match="in a border"):
        evaluate(torch.zeros(40, 1000), "objectnet", tmp_path, image_size=12)


def test_each_image_is_seen_once_and_the_model_stays_in_its_mode(tmp_path: Path):
    owners = write_classes(tmp_path / "set", rows_of_subset("a"))
    model = KnownLogits(noisy_logits([IDS.index(owner) for owner in owners])).train()
    evaluate_variant(model, "a", tmp_path / "set", image_size=PIXELS, batch_size=33)
    assert sorted(model.seen) == list(range(200))
    assert model.training


@pytest.mark.parametrize(("side", "ratio"), [(224, 224 / 256), (336, 1.0), (448, 0.9), (37, 0.95)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_the_crop_has_the_pixels_of_timm_s_evaluation(side: int, ratio: float, interpolation: str):
    theirs = create_transform(side, is_training=False, interpolation=interpolation, crop_pct=ratio, mean=(0, 0, 0), std=(1, 1, 1))
    for number, size in enumerate([(500, 375), (333, 480), (64, 64), (901, 97)]):
        image = Image.effect_noise(size, 80).convert("RGB") if number % 2 else decode(encoded(number, size=size))
        expected = (theirs(image) * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(EvaluationCrop(ratio, interpolation)(image, side, random.Random()), expected)


def test_the_average_is_over_six_columns_without_objectnet():
    # the published row of L from Merged-38M with the ImageNet-21K stage
    row = {"imagenet": 89.974, "v2": 82.430, "real": 91.075, "a": 87.720, "r": 89.907, "sketch": 70.131, "objectnet": 62.801}
    results = {name: {"top1": top1, "top5": 99.0, "images": VARIANTS[name].images} for name, top1 in row.items()}
    average, gap = average_and_gap(results)
    assert average == pytest.approx((89.974 + 82.430 + 91.075 + 87.720 + 89.907 + 70.131) / 6)
    assert average + gap == pytest.approx(89.974)
    assert summary(results).endswith("85.206, 4.768 below ImageNet-1K")
    del results["sketch"], results["v2"]
    assert summary(results).endswith("no average: it needs v2, sketch as well")


def ready(root: Path, case: str) -> tuple[str, Path]:
    """A folder in which something is wrong: (variant, folder)."""
    ids = sorted(rows_of_subset("a"))
    if case == "missing":
        write_classes(root, ids[4:])
    elif case == "unknown":
        write_classes(root, [*ids, "cat"])
    elif case == "broken":
        write_classes(root, ids)
        (root / ids[7] / "00007.png").write_bytes(b"no image")
    elif case == "loose":
        write_numbered(root / "0.png", 0)
    elif case in {"name", "number"}:
        write_numbered(root / ("cat.png" if case == "name" else "ILSVRC2012_val_00050001.JPEG"), 0)
        return "real", root
    elif case == "unlabelled":
        write_numbered(root / "ILSVRC2012_val_00000001.JPEG", 0)
        return "real", root
    elif case.startswith("objectnet"):
        write_objectnet(root)
        (root / "mappings" / "objectnet_to_imagenet_1k.json").write_text(
            {"objectnet no JSON": "{", "objectnet other names": '{"Bench": "sofa"}'}.get(case, '{"Bench": "bench"}')
        )
        if case == "objectnet without mappings":
            (root / "mappings").rename(root / "mapping")
        if case == "objectnet without a file":
            (root / "mappings" / "imagenet_to_label_2012_v2").unlink()
        if case == "objectnet without a folder":
            (root / "images" / "a_bench").rename(root / "images" / "bench")
        return "objectnet", root
    return "a", root


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("missing", r"is not ImageNet-A: 4 of its 200 class folders are missing or empty \(n\d+, n\d+, n\d+, ...\); give"),
        ("unknown", r"is not ImageNet-A: 1 of its 201 class folders are unknown to it \(cat\); give"),
        ("broken", r"00007.png cannot be read \(UnidentifiedImageError.*\); repair or remove it"),
        ("loose", r"0.png lies in no class folder; .* must hold one folder of images a class"),
        ("absent", r"does not exist; check its path"),
        ("name", r"cat.png is no validation image of ImageNet-1K, whose names are"),
        ("number", r"ILSVRC2012_val_00050001.JPEG is no validation image"),
        ("unlabelled", r"no image below .* has a label of ImageNet-ReaL"),
        ("objectnet no JSON", r"objectnet_to_imagenet_1k.json of ObjectNet is no JSON"),
        ("objectnet other names", r"do not fit together \(KeyError: 'sofa'\)"),
        ("objectnet without mappings", r"has no folder mappings, so .* is no ObjectNet"),
        ("objectnet without a file", r"imagenet_to_label_2012_v2 of ObjectNet cannot be read"),
        ("objectnet without a folder", r"is not ObjectNet: 1 of its 1 class folders are missing or empty \(a_bench\)"),
    ],
)
def test_a_folder_that_is_no_such_variant_is_named_in_a_sentence(case: str, sentence: str, tmp_path: Path):
    name, folder = ready(tmp_path / "set", case)
    with pytest.raises(UserError, match=sentence):
        evaluate(torch.zeros(300, 1000), name, folder)


@pytest.mark.parametrize(
    ("table", "options", "sentence"),
    [
        (torch.zeros(200, 10), {}, "the model tells 10 classes apart and these images have the labels of 1000"),
        (torch.full((200, 1000), torch.nan), {}, r"logits are not finite in the batch that begins with .*00000.png"),
        (torch.zeros(200, 1000), {"crop_ratio": 1.2}, "crop_ratio=1.2 is no share"),
        (torch.zeros(200, 1000), {"interpolation": "nearest"}, "interpolation='nearest' is unknown"),
        (torch.zeros(200, 1000), {"name": "c"}, "c is no variant .* choose one of imagenet, v2, real, a, r, sketch, objectnet"),
    ],
)
def test_a_model_or_an_option_that_does_not_fit_is_named(
    table: Tensor, options: dict[str, object], sentence: str, tmp_path: Path
):
    write_classes(tmp_path / "set", sorted(rows_of_subset("a")))
    name = str(options.pop("name", "a"))
    with pytest.raises(UserError, match=sentence):
        evaluate(table, name, tmp_path / "set", **options)
