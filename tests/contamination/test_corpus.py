"""Corpora of every kind by their specifications, and the sentences for what is none."""

import json
import pickle
import tarfile
from pathlib import Path

import pytest

from eva02_det.contamination.corpus import Corpus, named_specs, open_corpora
from eva02_det.contamination.listing import stream, top_level_keys
from eva02_det.utils.errors import UserError
from tests.contamination.made_up import coco_image, encoded, lvis_image, lvis_set, write
from tests.data.tiny_sets import objects365


def opened(spec: str | Path) -> Corpus:
    return open_corpora({"c": str(spec)})[0]


def pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(number))
    return folder


def test_names_are_given_or_taken_from_the_specification():
    assert named_specs(
        ["a=x/{0..9}.tar", "data/coco.json", "/x/my images/", "s3://b/web-{00..10}.tar", "q=r=s", "x/mine.json@my pics"]
    ) == {
        "a": "x/{0..9}.tar",
        "coco": "data/coco.json",
        "my_images": "/x/my images/",
        "web": "s3://b/web-{00..10}.tar",
        "q": "r=s",
        "mine": "x/mine.json@my pics",
    }
    with pytest.raises(UserError, match="two corpora are called a"):
        named_specs(["a=x", "a=y"])
    with pytest.raises(UserError, match="'any' stands for all corpora"):
        named_specs(["any=x"])


def test_folders_lists_and_shards_give_the_same_images(tmp_path: Path):
    folder = pictures(tmp_path / "pics", ["000000000001.jpg", "b.jpg"])
    (tmp_path / "list.txt").write_text("pics/000000000001.jpg\npics/b.jpg\n")
    with tarfile.open(tmp_path / "s-0.tar", "w") as tar:
        tar.add(folder, "x")
    for spec in (folder, tmp_path / "list.txt", tmp_path / "s-{0..0}.tar", tmp_path / "s-*.tar"):
        corpus = opened(spec)
        assert corpus.has_images
        assert [corpus.source[number] for number in range(len(corpus))] == [encoded(0), encoded(1)]
        assert corpus.entry(0).identity is None
        assert corpus.entry(0).file.endswith("000000000001.jpg")


def test_an_annotation_file_needs_no_images_and_reads_them_where_told(tmp_path: Path):
    file = write(tmp_path / "a.json", [coco_image(7), coco_image(5)])
    corpus = opened(file)
    assert (len(corpus), corpus.has_images, corpus.entry(1).identity) == (2, False, "coco/5")
    with pytest.raises(OSError, match="folder of the images was not given"):
        corpus.source[0]
    pictures(tmp_path / "train2017", ["000000000007.jpg"])
    with_images = pickle.loads(pickle.dumps(opened(f"{file}@{tmp_path / 'train2017'}")))
    assert with_images.has_images
    assert with_images.source[0] == encoded(0)
    with pytest.raises(FileNotFoundError):
        with_images.source[1]


def test_lvis_by_name_finds_its_images_in_both_folders_of_coco(root: Path):
    lvis_set(root, {3: "train2017", 8: "val2017"})
    corpus = opened("lvis_v1_val")
    assert [corpus.entry(number).file for number in range(2)] == ["train2017/000000000003.jpg", "val2017/000000000008.jpg"]
    assert [corpus.source[number] for number in range(2)] == [encoded(3), encoded(8)]


def test_objects365_by_name_finds_its_images_where_its_archives_put_them(root: Path):
    objects365(root, "val", ["objects365_v1_00000004.jpg"], folder="objects365", images="patch0")
    corpus = opened("objects365_val")
    assert corpus.entry(0).identity == "objects365/objects365_v1_00000004"
    assert corpus.source[0][:2] == b"\xff\xd8"


def test_cocos_own_sets_are_known_by_name_to_have_cocos_ids(root: Path):
    write(
        root / "coco/annotations/image_info_test-dev2017.json",
        [{"id": 9, "file_name": "000000000009.jpg", "height": 4, "width": 4}],
    )
    assert opened("coco_2017_test-dev").entry(0).identity == "coco/9"
    assert opened(root / "coco/annotations/image_info_test-dev2017.json").entry(0).identity is None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"images": []}, "has no list 'images', or an empty one"),
        ({"pictures": [{}]}, "has no list 'images', or an empty one"),
        ({"images": [{"file_name": "a.jpg"}]}, "entry 0 of 'images' has no 'id'"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1}]}, "entry 1 of 'images' has no 'id', or neither"),
        ({"images": [3]}, "entry 0 of 'images'"),
        (None, "not valid JSON"),
    ],
)
def test_what_is_no_annotation_file_is_said_in_a_sentence(tmp_path: Path, content: object, sentence: str):
    file = tmp_path / "a.json"
    file.write_text('{"images": [{"id": 1,' if content is None else json.dumps(content))
    for _ in range(2):  # an index of the failed attempt must not be taken for a whole one
        with pytest.raises(UserError, match=sentence):
            opened(file)


def test_what_does_not_exist_is_said_in_a_sentence(tmp_path: Path, root: Path):
    (tmp_path / "empty").mkdir()
    for spec, sentence in (
        ("no_such_set", "data set 'no_such_set' is not known"),
        (str(tmp_path / "none"), "none does not exist; give the folder, list or shards"),
        (str(tmp_path / "none.json"), r"cannot read .*none.json"),
        (str(tmp_path / "empty"), "holds no image"),
        ("objects365_trainval", "give objects365_train and objects365_val"),
        ("coco_2017_train", "lacks its annotation file"),
        (f"a.json@{tmp_path}/none", "the image folder .*none of .* does not exist"),
    ):
        with pytest.raises(UserError, match=sentence):
            opened(spec)
    with pytest.raises(UserError, match="no corpus was given"):
        open_corpora({})
    with pytest.raises(UserError, match="--coco-ids names b, which is no corpus"):
        open_corpora({"a": str(tmp_path)}, coco_ids=["b"])


def test_an_annotation_file_is_streamed_with_every_value_as_json_reads_it(tmp_path: Path):
    file = write(tmp_path / "a.json", [lvis_image(1)], [{"id": 1, "bbox": [0.1, 2, 1e-7, 3.0], "ok": True, "no": None}])
    content = json.loads(file.read_text())
    assert top_level_keys(str(file)) == list(content)
    for key, value in content.items():
        assert next(stream(str(file), key, whole=True)) == value
        if isinstance(value, list):
            assert json.dumps(list(stream(str(file), key))) == json.dumps(value)
