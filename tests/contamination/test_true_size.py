"""LVIS val at its true size: how many of its images COCO's lists hold follows from ids alone, as appendix A.3 counts them."""

import random
from pathlib import Path

from eva02_det.contamination.corpus import open_corpora
from eva02_det.contamination.evaluation_images import open_evaluation
from eva02_det.contamination.find import Search, merge, search
from eva02_det.contamination.settings import make_settings
from tests.contamination.made_up import CATEGORIES, coco_image, lvis_image, objects, objects365_image, write

TRAIN_2017, VAL_2017 = 118_287, 5_000  # images of COCO
TRAIN_2014 = 82_783  # of train2017, the others were in val2014
LVIS_OF_TRAIN, LVIS_OF_VAL = 15_000, 4_809  # images of LVIS v1 val, 19 809 together


def test_fifteen_of_twenty_thousand_and_ten_where_the_corpus_is_the_train_of_2014(root: Path, tmp_path: Path):
    draw = random.Random(20)
    ids = draw.sample(range(1, 581_930), TRAIN_2017 + VAL_2017)
    train, val = ids[:TRAIN_2017], ids[TRAIN_2017:]
    chosen = dict.fromkeys(draw.sample(train, LVIS_OF_TRAIN), "train2017")
    chosen |= dict.fromkeys(draw.sample(val, LVIS_OF_VAL), "val2017")
    kinds = {number: draw.sample((1, 2, 3), draw.randrange(4)) for number in chosen}
    annotations = [one for number, categories in kinds.items() for one in objects(number, categories)]
    write(root / "lvis/lvis_v1_val.json", [lvis_image(number, folder) for number, folder in chosen.items()], annotations)
    files = {
        "coco": write(root / "coco/annotations/instances_train2017.json", [coco_image(number) for number in train]),
        "coco14": write(tmp_path / "train2014.json", [coco_image(number, "train2014") for number in train[:TRAIN_2014]]),
        "o365": write(tmp_path / "o365.json", [objects365_image(number) for number in ids[::5]]),
    }
    specs = {"coco": "coco_2017_train"} | {name: str(file) for name, file in files.items() if name != "coco"}
    plan = Search(
        open_corpora(specs, cache=tmp_path / "index"), open_evaluation("lvis_v1_val"), make_settings(None), tmp_path / "work"
    )
    search(plan)
    affected = merge(plan)[0].data["affected"]

    coco = affected["coco"]
    assert (coco["images"], coco["of_images"]) == (LVIS_OF_TRAIN, LVIS_OF_TRAIN + LVIS_OF_VAL)
    assert {split: (part["images"], part["of_images"]) for split, part in coco["splits"].items()} == {
        "train2017": (LVIS_OF_TRAIN, LVIS_OF_TRAIN),
        "val2017": (0, LVIS_OF_VAL),
    }
    held = [number for number, folder in chosen.items() if folder == "train2017"]
    assert coco["instances"] == sum(len(kinds[number]) for number in held)
    for category, (group, numbers) in zip(CATEGORIES, coco["frequency"].items()):
        assert group[0] == category["frequency"]
        assert numbers["images"] == sum(category["id"] in kinds[number] for number in held)

    of_2014 = len(set(held) & set(train[:TRAIN_2014]))
    assert affected["coco14"]["images"] == of_2014
    assert 10_000 < of_2014 < 11_000  # 15 000 * 82 783 / 118 287 = 10 498
    assert affected["o365"]["images"] == affected["o365"]["unconfirmed_images"] == 0
    assert affected["any"] == coco
