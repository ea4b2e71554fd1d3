"""The search as a whole: what each stage finds and proves, and that the report depends on nothing but data and settings."""

import csv
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps

from eva02_det.contamination.corpus import named_specs, open_corpora
from eva02_det.contamination.evaluation_images import open_evaluation
from eva02_det.contamination.find import Search, merge, save, search
from eva02_det.contamination.pictures import Pictures
from eva02_det.contamination.record import Record
from eva02_det.contamination.settings import make_settings
from eva02_det.contamination.work import part_of
from eva02_det.utils.errors import UserError
from tests.contamination.made_up import coco_image, encoded, lvis_set, objects365_image, write

PLACES = {3: "train2017", 5: "train2017", 8: "val2017", 9: "val2017"}


@pytest.fixture
def val(root: Path) -> Path:
    """`lvis_v1_val` of four pictures."""
    lvis_set(root, PLACES)
    return root


def original(number: int, root: Path) -> bytes:
    return (root / "coco" / PLACES[number] / f"{number:012d}.jpg").read_bytes()


def stored(content: bytes, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).save(stream, kind, **options)
    return stream.getvalue()


def corpus(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def plan(work: Path, *texts: object, stages: str = "", evaluation: str = "lvis_v1_val", **options: Any) -> Search:
    settings = make_settings(stages.split(), **options)
    corpora = open_corpora(named_specs([str(text) for text in texts]), cache=work.parent / "index")
    return Search(corpora, open_evaluation(evaluation), settings, work)


def found(one: Search, processes: int = 1) -> Record:
    search(one, processes=processes)
    return merge(one)[0]


def facts(record: Record) -> dict[tuple[int, str], tuple[str, bool]]:
    """{(evaluation image, file of the corpus): (by what it was found, whether it is confirmed)}."""
    return {
        (pair["image_id"], Path(pair["corpus_image"]).name): (" ".join(pair["found_by"]), pair["confirmed"])
        for pair in record.data["pairs"]
    }


@pytest.fixture
def copies(val: Path, tmp_path: Path) -> Path:
    """A copy of each kind among pictures of other things."""
    files = {f"other{number}.jpg": encoded(100 + number) for number in range(5)}
    files |= {"equal.jpg": original(3, val), "lossless.png": stored(original(5, val), "PNG")}
    return corpus(tmp_path / "copies", files | {"again.jpg": stored(original(8, val), "JPEG", quality=60)})


def test_each_stage_finds_the_copies_that_it_can_prove_and_no_other_picture(copies: Path, tmp_path: Path):
    assert facts(found(plan(tmp_path / "all", copies))) == {
        (3, "equal.jpg"): ("bytes pixels fingerprint", True),
        (5, "lossless.png"): ("pixels fingerprint", True),
        (8, "again.jpg"): ("fingerprint", True),
    }
    assert facts(found(plan(tmp_path / "bytes", copies, stages="bytes"))) == {(3, "equal.jpg"): ("bytes", True)}
    assert facts(found(plan(tmp_path / "pixels", copies, stages="pixels bytes"))) == {
        (3, "equal.jpg"): ("bytes pixels", True),
        (5, "lossless.png"): ("pixels", True),
    }
    unproved = facts(found(plan(tmp_path / "prints", copies, stages="fingerprint")))
    assert unproved[8, "again.jpg"] == ("fingerprint", False)


def test_the_report_is_the_same_for_any_size_of_shards_and_number_of_processes(copies: Path, tmp_path: Path):
    texts = (f"a={copies}", f"b={write(tmp_path / 'ids.json', [coco_image(5), objects365_image(8)])}")
    whole = found(plan(tmp_path / "whole", *texts))
    assert [pair["corpus"] for pair in whole.data["pairs"]] == ["a", "a", "b", "a"]
    assert found(plan(tmp_path / "ones", *texts, shard_images=1)).data == whole.data
    assert found(plan(tmp_path / "two", *texts, shard_images=3), processes=2).data == whole.data


def test_parts_of_a_search_add_up_to_it_and_nothing_is_merged_before_they_are_all_there(copies: Path, tmp_path: Path):
    whole = found(plan(tmp_path / "whole", copies, shard_images=2, stages="bytes pixels"))
    parts = plan(tmp_path / "parts", copies, shard_images=2, stages="bytes pixels")
    search(parts, shard=(1, 3))
    with pytest.raises(UserError, match=r"3 of 4 shards are not searched yet \(0, 2, 3\); call again without --merge"):
        merge(parts)
    search(parts, shard=(0, 3))
    search(parts, shard=(2, 3))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*.json")}
    assert found(parts).data == whole.data
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*.json")}


def test_a_folder_a_list_and_shards_of_the_same_files_give_the_same_pairs(copies: Path, tmp_path: Path):
    names = sorted(file.name for file in copies.iterdir())
    (tmp_path / "list.txt").write_text("".join(f"copies/{name}\n" for name in names))
    for number, part in enumerate((names[:3], names[3:])):
        with tarfile.open(tmp_path / f"s-{number}.tar", "w") as tar:
            for name in part:
                tar.add(copies / name, name)
    texts = (f"folder={copies}", f"list={tmp_path / 'list.txt'}", f"shards={tmp_path}/s-{{0..1}}.tar")
    record = found(plan(tmp_path / "work", *texts))
    by_corpus = [facts(Record({**record.data, "pairs": list(record.pairs([name]))})) for name in record.corpora]
    assert len(by_corpus[0]) == 3
    assert by_corpus[0] == by_corpus[1] == by_corpus[2]
    assert record.data["affected"]["any"] == record.data["affected"]["list"]


def test_equal_file_names_prove_nothing(val: Path, tmp_path: Path):
    colliding = corpus(
        tmp_path / "numbers", {"000000000003.jpg": encoded(77), "000000000005.jpg": stored(original(5, val), "PNG")}
    )
    record = found(plan(tmp_path / "work", f"numbers={colliding}"))
    assert facts(record) == {(5, "000000000005.jpg"): ("file_name pixels fingerprint", True)}
    assert record.data["corpora"][0]["refuted"]["file_name"] == 1

    listed = write(tmp_path / "numbers.json", [{"id": 3, "file_name": "000000000003.jpg"}])
    record = found(plan(tmp_path / "names", f"listed={listed}"))
    assert facts(record) == {(3, "000000000003.jpg"): ("file_name", False)}
    assert record.data["pairs"][0]["reason"] == (
        "only the file names agree, which is no proof; the images of the corpus are not at hand"
    )
    assert record.image_ids() == set()
    assert record.data["affected"]["listed"]["unconfirmed_images"] == 1


def test_a_shared_id_is_proof_unless_the_pixels_speak_against_it(val: Path, tmp_path: Path):
    listed = write(tmp_path / "coco.json", [coco_image(3), coco_image(5), coco_image(1234)])
    record = found(plan(tmp_path / "ids", f"coco={listed}"))
    assert facts(record) == {
        (3, "000000000003.jpg"): ("id file_name url", True),
        (5, "000000000005.jpg"): ("id file_name url", True),
    }
    assert record.data["corpora"][0]["read"] == 0
    images = corpus(
        tmp_path / "train2017",
        {"000000000003.jpg": stored(original(3, val), "JPEG", quality=70), "000000000005.jpg": encoded(55)},
    )
    record = found(plan(tmp_path / "seen", f"coco={listed}@{images}", stages="id align"))
    assert facts(record) == {(3, "000000000003.jpg"): ("id", True), (5, "000000000005.jpg"): ("id", False)}
    assert record.data["pairs"][1]["reason"].startswith("the ids agree, but no way to lay the images")
    assert record.data["corpora"][0]["read"] == 2  # those that the ids name, not the third


def test_unreadable_images_are_counted_and_named_and_end_nothing(val: Path, tmp_path: Path):
    (val / "coco/val2017/000000000009.jpg").write_bytes(original(9, val)[:300])
    damaged = {"cut.jpg": encoded(50)[:400], "empty.png": b"", "page.jpg": b"<html>", "fine.jpg": original(3, val)}
    folder = corpus(tmp_path / "damaged", damaged)
    listed = write(tmp_path / "a.json", [coco_image(3), coco_image(5)])
    images = corpus(tmp_path / "images", {"000000000003.jpg": original(3, val)})
    one = plan(tmp_path / "work", f"folder={folder}", f"listed={listed}@{images}")
    search(one)
    record, unreadable = merge(one)
    save(record, unreadable, tmp_path / "out")
    named = (tmp_path / "out/unreadable.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in named] == ["evaluation lvis_v1_val", *3 * ["corpus folder"], "corpus listed"]
    assert named[0].startswith("evaluation lvis_v1_val: val2017/000000000009.jpg: ")
    assert named[4] == "corpus listed: 000000000005.jpg: No such file or directory"
    assert [(one["images"], one["unreadable"]) for one in record.data["corpora"]] == [(4, 3), (2, 1)]
    assert record.data["evaluation"]["unreadable"] == 1
    assert facts(record) == {
        (3, "fine.jpg"): ("bytes pixels fingerprint", True),
        (3, "000000000003.jpg"): ("id file_name url bytes pixels fingerprint", True),
        (5, "000000000005.jpg"): ("id file_name url", True),
    }


def test_what_a_failing_storage_made_unreadable_is_read_when_asked_again(copies: Path, tmp_path: Path):
    hidden = (copies / "equal.jpg").rename(tmp_path / "hidden.jpg")
    (copies / "equal.jpg").symlink_to(tmp_path / "away.jpg")
    one = plan(tmp_path / "work", copies, stages="bytes", shard_images=3)
    assert (facts(found(one)), merge(one)[1]) == ({}, [f"corpus copies: {copies}/equal.jpg: No such file or directory"])
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work/shards").iterdir()}
    hidden.rename(tmp_path / "away.jpg")
    assert facts(found(one)) == {}
    search(one, retry=True)
    assert facts(merge(one)[0]) == {(3, "equal.jpg"): ("bytes", True)}
    assert sum(file.stat().st_mtime_ns != before[file] for file in before) == 1


def test_names_alone_need_no_image_of_either_side(val: Path, tmp_path: Path):
    for file in (val / "coco").rglob("*.jpg"):
        file.unlink()
    listed = write(tmp_path / "coco.json", [coco_image(3)])
    assert found(plan(tmp_path / "ids", f"coco={listed}")).image_ids() == {3}
    images = corpus(tmp_path / "pics", {"a.jpg": encoded(3)})
    with pytest.raises(UserError, match="4 of 4 images of the evaluation set lvis_v1_val do not exist"):
        found(plan(tmp_path / "pixels", f"coco={images}"))
    assert found(plan(tmp_path / "names", f"coco={images}", stages="id file_name url")).image_ids() == set()


def test_a_work_folder_of_another_search_is_refused_with_what_differs(copies: Path, val: Path, tmp_path: Path):
    work = tmp_path / "work"
    search(plan(work, f"a={copies}", stages="bytes"))
    for other, what in (
        (plan(work, f"a={copies}", stages="bytes pixels"), "settings"),
        (plan(work, f"b={copies}", stages="bytes"), "corpora"),
        (plan(work, f"a={copies}", stages="bytes", shard_images=1), "shard_images"),
    ):
        with pytest.raises(UserError, match=f"belongs to another search, which differs in {what}; give another --work or --out"):
            search(other)
    (copies / "more.jpg").write_bytes(encoded(1))
    with pytest.raises(UserError, match="differs in corpora"):
        search(plan(work, f"a={copies}", stages="bytes"))
    lvis_set(val, {**PLACES, 11: "val2017"})
    (copies / "more.jpg").unlink()
    with pytest.raises(UserError, match="differs in evaluation"):
        search(plan(work, f"a={copies}", stages="bytes"))


def test_affected_images_and_instances_are_those_counted_by_hand(val: Path, tmp_path: Path):
    listed = write(tmp_path / "coco.json", [coco_image(3), coco_image(9)])
    other = write(tmp_path / "more.json", [coco_image(5), coco_image(9)])
    affected = found(plan(tmp_path / "work", f"coco={listed}", f"more={other}")).data["affected"]
    group = {"categories": 1, "of_categories": 1, "images": 2, "of_images": 4, "instances": 2, "of_instances": 4}
    assert affected["coco"] == {
        **{"images": 2, "of_images": 4, "instances": 6, "of_instances": 12, "unconfirmed_images": 0},
        "splits": {
            "train2017": {"images": 1, "of_images": 2, "instances": 3, "of_instances": 6},
            "val2017": {"images": 1, "of_images": 2, "instances": 3, "of_instances": 6},
        },
        "frequency": {"rare": group, "common": group, "frequent": group},
    }
    assert (affected["any"]["images"], affected["any"]["instances"]) == (3, 9)


def test_the_pictures_of_a_pair_are_found_again(copies: Path, val: Path, tmp_path: Path):
    one = plan(tmp_path / "work", copies, stages="bytes pixels")
    record = found(one)
    pictures = Pictures(record, one.evaluation, one.corpora)
    for pair in record.data["pairs"]:
        assert pictures.evaluation_file(pair["image_id"]).read_bytes() == original(pair["image_id"], val)
        assert pictures.corpus_bytes("copies", pair["corpus_image"]) == Path(pair["corpus_image"]).read_bytes()
    assert pictures.corpus_bytes("copies", "unknown.jpg") is None


def test_names_of_any_bytes_are_written_in_text_and_their_images_found_again(val: Path, tmp_path: Path):
    odd = {b"a\xff.jpg": original(3, val), b'b\n,"c.jpg': original(5, val), b"\xfe.jpg": b"no image"}
    (tmp_path / "odd").mkdir()
    for name, content in odd.items():
        Path(os.fsdecode(os.fsencode(tmp_path / "odd") + b"/" + name)).write_bytes(content)
    one = plan(tmp_path / "work", tmp_path / "odd", stages="bytes pixels")
    search(one)
    record, unreadable = merge(one)
    save(record, unreadable, tmp_path / "out")
    with (tmp_path / "out/pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [Path(row["corpus_image"]).name for row in rows] == ["a\\udcff.jpg", 'b\\n,"c.jpg']
    assert len((tmp_path / "out/unreadable.txt").read_text().splitlines()) == 1
    pictures = Pictures(record, one.evaluation, one.corpora)
    assert [pictures.corpus_bytes("odd", row["corpus_image"]) for row in rows] == [original(3, val), original(5, val)]


def test_more_candidates_than_are_compared_are_counted(val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eva02_det.contamination.shard.MOST", 1)
    same = write(tmp_path / "two.json", [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)])
    images = corpus(tmp_path / "images", {f"{n}.jpg": encoded(3) for n in (1, 2)})
    pics = corpus(tmp_path / "pics", {"a.jpg": encoded(3)})
    record = found(plan(tmp_path / "work", pics, evaluation=f"{same}@{images}"))
    assert len(record.data["pairs"]) == record.data["corpora"][0]["dropped"] == 1


class Thumbnail(torch.nn.Module):
    """The picture itself, small and without its mean: a network that needs no weights."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(images, 12).flatten(1)
        return small - small.mean(1, keepdim=True)


def test_embeddings_of_any_network_find_copies_and_mirrored_ones(copies: Path, val: Path, tmp_path: Path):
    torch.jit.script(Thumbnail()).save(str(tmp_path / "network.pt"))
    mirrored = ImageOps.mirror(Image.open(io.BytesIO(original(9, val))))
    mirrored.save(copies / "mirrored.jpg", quality=95)
    (val / "coco/train2017/000000000003.jpg").write_bytes(b"")  # a part without a vector
    network = {"embedder": str(tmp_path / "network.pt"), "min_similarity": 0.98, "shard_images": 4}
    alone = found(plan(tmp_path / "alone", copies, stages="embedding", **network))
    names = {(5, "lossless.png"), (8, "again.jpg"), (9, "mirrored.jpg")}
    assert facts(alone) == dict.fromkeys(names, ("embedding", False))
    assert all(pair["similarity"] >= 0.98 for pair in alone.data["pairs"])
    proved = found(plan(tmp_path / "proved", copies, stages="embedding align", **network))
    assert facts(proved) == dict.fromkeys(names, ("embedding", True))
    assert [pair["flip"] for pair in proved.data["pairs"]] == [False, False, True]


@pytest.mark.parametrize(
    ("stages", "options", "sentence"),
    [
        ("bytes colour", {}, "knows no colour; choose among id file_name url bytes"),
        ("embedding", {}, "the stage embedding needs a network; give --embedder"),
        ("bytes", {"embedder": "timm/x"}, "leaves the stage embedding out"),
        ("align", {}, "the stage align confirms what others find"),
        ("", {"min_similarity": 2.0}, "above 0 and at most 1"),
        ("", {"shard_images": 0}, "--shard-images at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(stages: str, options: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        make_settings(stages.split(), **options)


def test_stages_are_brought_into_the_order_of_their_cost():
    assert make_settings(["align", "bytes", "id"]).stages == ("id", "bytes", "align")
    assert "embedding" not in make_settings(None).stages
    assert "embedding" in make_settings(None, embedder="timm/x").stages


@pytest.mark.parametrize("text", ["3/3", "1", "a/b", "-1/2"])
def test_a_part_of_a_search_is_one_of_its_parts(text: str):
    assert part_of("0/1") == (0, 1)
    with pytest.raises(UserError, match=r"is no part of a search; write I/N with I from 0 to N - 1"):
        part_of(text)
