"""What decontaminating writes is read again as the same kind of corpus or data set, without what was found and with all else."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from eva02_det.contamination.corpus import named_specs, open_corpora
from eva02_det.contamination.decontaminate import clean_corpus, clean_evaluation
from eva02_det.contamination.evaluation_images import open_evaluation
from eva02_det.contamination.find import Search, merge, search
from eva02_det.contamination.record import Record
from eva02_det.contamination.settings import make_settings
from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.files import open_source
from tests.contamination.made_up import coco_image, encoded, lvis_set, objects, write

PLACES = {3: "train2017", 5: "train2017", 8: "val2017"}


@pytest.fixture
def val(root: Path) -> Path:
    """`lvis_v1_val` of three pictures."""
    lvis_set(root, PLACES)
    return root


def found(work: Path, *texts: object, stages: str = "id file_name bytes") -> Record:
    corpora = open_corpora(named_specs([str(text) for text in texts]), cache=work / "index")
    plan = Search(corpora, open_evaluation("lvis_v1_val"), make_settings(stages.split()), work)
    search(plan)
    return merge(plan)[0]


def images_of(spec: str | Path) -> list[bytes]:
    source = open_source(spec)
    return [source[number] for number in range(len(source))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 0 to 9, of which 3, 5 and 8 are evaluation images."""
    (tmp_path / "pics/deep").mkdir(parents=True)
    for number in range(10):
        (tmp_path / "pics" / ("deep" if number % 2 else ".") / f"p{number}.jpg").write_bytes(encoded(number))
    return tmp_path / "pics"


CLEAN = [encoded(number) for number in (0, 1, 2, 4, 6, 7, 9)]


def test_a_folder_and_a_list_become_lists_that_pre_training_reads(val: Path, folder: Path, tmp_path: Path):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{file.relative_to(tmp_path)}\n" for file in sorted(folder.rglob("*.jpg"))))
    record = found(tmp_path / "work", folder, listed)
    for name in ("pics", "list"):
        done = clean_corpus(record, name, tmp_path / f"elsewhere/{name}-clean.txt")
        assert (done.kept, done.removed) == (7, 3)
        assert sorted(images_of(done.file)) == sorted(CLEAN)


def test_only_shards_that_change_are_written_anew_and_samples_lose_their_captions_too(val: Path, folder: Path, tmp_path: Path):
    parts = {"s-0.tar": (0, 1, 2), "s-1.tar": (3, 4, 6), "s-2.tar": (5, 8), "s-3.tar": (7, 9)}
    for shard, numbers in parts.items():
        with tarfile.open(tmp_path / shard, "w") as tar:
            for number in numbers:
                (tmp_path / f"p{number}.txt").write_text(f"caption {number}")
                tar.add(next(folder.rglob(f"p{number}.jpg")), f"p{number}.jpg")
                tar.add(tmp_path / f"p{number}.txt", f"p{number}.txt")
    record = found(tmp_path / "work", f"web={tmp_path}/s-{{0..3}}.tar")
    done = clean_corpus(record, "web", tmp_path / "web.txt")
    assert str(done) == f"{tmp_path}/web.txt: 7 images, 3 left out"
    assert images_of(done.file) == [encoded(number) for number in (0, 1, 2, 4, 6, 7, 9)]
    assert done.file.read_text().splitlines() == [str(tmp_path / name) for name in ("s-0.tar", "web/00001-s-1.tar", "s-3.tar")]
    with tarfile.open(tmp_path / "web/00001-s-1.tar") as tar:
        assert tar.getnames() == ["p4.jpg", "p4.txt", "p6.jpg", "p6.txt"]
        assert tar.extractfile("p6.txt").read() == b"caption 6"


def test_an_annotation_file_keeps_everything_but_the_images_and_their_annotations(val: Path, tmp_path: Path):
    annotations = [one for number in (2, 3, 4) for one in objects(number, [1, 2])]
    file = write(
        tmp_path / "coco.json", [coco_image(number) for number in (2, 3, 4)], annotations, licenses=[{"id": 1}], note=None
    )
    done = clean_corpus(found(tmp_path / "work", file), "coco", tmp_path / "clean.json")
    assert (done.kept, done.removed) == (2, 1)
    assert json.loads(done.file.read_text()) == {
        **json.loads(file.read_text()),
        "images": [coco_image(2), coco_image(4)],
        "annotations": [one for one in annotations if one["image_id"] != 3],
    }


def test_the_clean_and_the_contaminated_split_share_the_set_between_them_with_all_of_lviss_fields(val: Path, tmp_path: Path):
    whole: dict[str, Any] = json.loads((val / "lvis/lvis_v1_val.json").read_text())
    listed = [write(tmp_path / f"{name}.json", [coco_image(n) for n in ids]) for name, ids in (("a", (3, 4)), ("b", (3, 8)))]
    record = found(tmp_path / "work", *listed)
    clean = clean_evaluation(record, tmp_path / "clean.json")
    dirty = clean_evaluation(record, tmp_path / "dirty.json", contaminated=True)
    only_a = clean_evaluation(record, tmp_path / "only_a.json", corpora=["a"])
    assert [(part.kept, part.removed) for part in (clean, dirty, only_a)] == [(1, 2), (2, 1), (2, 1)]
    ids = clean_evaluation(record, tmp_path / "ids.json", ids_only=True)
    assert ((ids.kept, ids.removed), json.loads(ids.file.read_text())) == ((1, 2), [5])
    parts = [json.loads(part.file.read_text()) for part in (clean, dirty)]
    assert [[image["id"] for image in part["images"]] for part in parts] == [[5], [3, 8]]
    for part in parts:
        assert {key: value for key, value in part.items() if key not in ("images", "annotations")} == {
            key: value for key, value in whole.items() if key not in ("images", "annotations")
        }
    for key in ("images", "annotations"):
        assert sorted(parts[0][key] + parts[1][key], key=lambda one: one["id"]) == sorted(whole[key], key=lambda one: one["id"])


def test_an_evaluation_file_with_its_folder_is_found_again_though_its_name_is_short(folder: Path, tmp_path: Path):
    file = write(tmp_path / "mine.json", [{"id": n, "file_name": f"p{n}.jpg"} for n in (0, 2)], objects(2, [1]))
    (tmp_path / "one").mkdir()
    (tmp_path / "one/x.jpg").write_bytes(encoded(0))
    plan = Search(
        *(open_corpora({"one": str(tmp_path / "one")}), open_evaluation(f"{file}@{folder}")),
        *(make_settings(["bytes"]), tmp_path / "work"),
    )
    search(plan)
    record = merge(plan)[0]
    assert record.evaluation == "mine"
    assert [one["id"] for one in json.loads(clean_evaluation(record, tmp_path / "c.json").file.read_text())["images"]] == [2]


def test_unconfirmed_pairs_count_where_asked(val: Path, tmp_path: Path):
    listed = write(tmp_path / "names.json", [{"id": 1, "file_name": "000000000003.jpg"}, {"id": 2, "file_name": "b.jpg"}])
    record = found(tmp_path / "work", listed)
    assert clean_corpus(record, "names", tmp_path / "a.json").removed == 0
    assert clean_corpus(record, "names", tmp_path / "b.json", unconfirmed=True).removed == 1
    assert clean_evaluation(record, tmp_path / "c.json", unconfirmed=True).removed == 1


def test_a_corpus_that_moved_is_taken_from_its_new_place_and_a_changed_one_is_refused(val: Path, folder: Path, tmp_path: Path):
    record = found(tmp_path / "work", folder)
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"corpus pics: .*pics does not exist; .*--spec says where it lies now"):
        clean_corpus(record, "pics", tmp_path / "a.txt")
    assert clean_corpus(record, "pics", tmp_path / "a.txt", spec=str(moved)).removed == 3
    (moved / "new.jpg").write_bytes(encoded(50))
    with pytest.raises(UserError, match="has other images than when it was searched; search again"):
        clean_corpus(record, "pics", tmp_path / "a.txt", spec=str(moved))
    lvis_set(val, {3: "train2017"})
    with pytest.raises(UserError, match="lvis_v1_val is another one than when it was searched"):
        clean_evaluation(record, tmp_path / "c.json")


def test_what_would_leave_nothing_or_has_the_wrong_ending_is_refused(val: Path, folder: Path, tmp_path: Path):
    everything = write(tmp_path / "everything.json", [coco_image(number) for number in PLACES])
    record = found(tmp_path / "work", folder, everything)
    for name, out, sentence in (
        ("everything", "a.json", "every image of corpus everything shows one of lvis_v1_val"),
        ("pics", "a.json", r"of which a list is written; give --out a name that ends in .txt"),
        ("nothing", "a.txt", "the report knows no corpus nothing; it has pics, everything"),
    ):
        with pytest.raises(UserError, match=sentence):
            clean_corpus(record, name, tmp_path / out)
    with pytest.raises(UserError, match="no image of lvis_v1_val would be left"):
        clean_evaluation(record, tmp_path / "a.json")
    with pytest.raises(UserError, match=r"ends in \.json"):
        clean_evaluation(record, tmp_path / "a.txt")
