"""Folders and lists of images, and the index that is built once."""

import logging
import multiprocessing
import os
import pickle
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch.distributed as dist
from torchvision.datasets import ImageFolder as LabelledFolder

from eva02_det.utils.errors import UserError
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import ImageFolder, ImageList, open_source
from eva02_det.utils.sources.packed import read_packed, write_packed
from tests.utils.image_files import encoded, write_images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(source: Source) -> list[str]:
    return [source.name(number) for number in range(len(source))]


def test_a_folder_of_classes_is_read_in_the_order_of_an_image_folder(tmp_path: Path):
    write_images(tmp_path / "images", 20)
    source = open_source(tmp_path / "images")
    expected = [path for path, _ in LabelledFolder(str(tmp_path / "images")).samples]
    assert names(source) == expected
    assert [source[number] for number in range(20)] == [Path(path).read_bytes() for path in expected]


def test_images_are_found_at_any_depth_by_their_ending_and_through_links(tmp_path: Path):
    elsewhere = write_images(tmp_path / "elsewhere", 2, classes=1)
    root = tmp_path / "images"
    (root / "b" / "deep" / "deeper").mkdir(parents=True)
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "top.PNG").write_bytes(encoded(1, "PNG"))
    (root / "b" / "deep" / "deeper" / "x.webp").write_bytes(encoded(2, "WEBP"))
    (root / "b" / "linked.jpeg").symlink_to(elsewhere[0])
    (root / "b" / "labels.txt").write_text("no image")
    found = [Path(name).relative_to(root).as_posix() for name in names(open_source(root))]
    assert found == ["top.PNG", "a/class0/0000.jpg", "a/class0/0001.jpg", "b/linked.jpeg", "b/deep/deeper/x.webp"]


def test_a_link_to_a_folder_above_is_not_followed_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = tmp_path / "images"
    write_images(root, 3, classes=1)
    (root / "class0" / "again").symlink_to(root)
    assert len(open_source(root)) == 3
    assert "is not followed" in caplog.text


def test_names_that_are_no_text_are_read_all_the_same(tmp_path: Path):
    folder = os.fsencode(tmp_path / "images")
    os.makedirs(folder + b"/c")
    Path(os.fsdecode(folder + b"/c/caf\xe9 \n.jpg")).write_bytes(encoded(3))
    assert open_source(tmp_path / "images")[0] == encoded(3)


def test_a_tree_is_walked_once_and_again_when_a_class_changes_or_on_demand(tmp_path: Path):
    root = tmp_path / "images"
    write_images(root, 4, classes=2)
    (root / "class0" / "deep").mkdir()
    assert len(open_source(root)) == 4
    (root / "class0" / "deep" / "x.jpg").write_bytes(encoded(9))
    assert len(open_source(root)) == 4  # below the direct sub-folders nothing is looked at again
    assert len(ImageFolder(root, rebuild=True)) == 5
    (root / "class1" / "new.jpg").write_bytes(encoded(9))
    assert len(open_source(root)) == 6


def test_an_index_that_was_broken_off_is_built_again(tmp_path: Path, cache: Path):
    root = tmp_path / "images"
    write_images(root, 4)
    open_source(root)
    (about,) = cache.glob("folder-*/about.json")
    about.write_text('{"count": 4')
    assert len(open_source(root)) == 4


def test_processes_that_start_together_walk_a_tree_once(tmp_path: Path):
    write_images(tmp_path / "images", 200)
    fork = multiprocessing.get_context("fork")
    together, told = fork.Barrier(3), fork.Queue()
    running = [fork.Process(target=open_and_tell, args=(tmp_path / "images", together, told)) for _ in range(3)]
    for process in running:
        process.start()
    answers = [told.get(timeout=60) for _ in running]
    for process in running:
        process.join()
    assert [found for found, _ in answers] == [200] * 3
    assert sum(walked for _, walked in answers) == 1


def open_and_tell(root: Path, together: Any, told: Any) -> None:
    """Puts (images found, whether this process walked the tree) into a queue."""
    messages: list[str] = []
    logger = logging.getLogger("eva02_det.utils.sources.files")
    logger.setLevel("INFO")
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    together.wait()
    told.put((len(open_source(root)), any("walking" in message for message in messages)))


@pytest.mark.distributed
@pytest.mark.parametrize("images", [20, 0])
def test_the_ranks_of_a_job_wait_for_one_that_walks_the_tree_and_fail_together(tmp_path: Path, images: int):
    write_images(tmp_path / "images", images)
    (tmp_path / "images").mkdir(exist_ok=True)
    fork = multiprocessing.get_context("fork")
    told = fork.Queue()
    store = tmp_path / "store"
    running = [fork.Process(target=open_in_job, args=(tmp_path / "images", rank, store, told)) for rank in range(2)]
    for process in running:
        process.start()
    answers = [told.get(timeout=120) for _ in running]
    for process in running:
        process.join()
    if images:
        assert sorted(answers) == [(20, False), (20, True)]
    else:
        assert len(set(answers)) == 1
        assert "holds no image" in answers[0]


@pytest.mark.distributed
def test_ranks_that_see_other_images_do_not_go_on(tmp_path: Path):
    """Two nodes with their own copies of the data, of which one lacks an image."""
    for rank in range(2):
        write_images(tmp_path / f"copy{rank}", 20 - rank)
    fork = multiprocessing.get_context("fork")
    told = fork.Queue()
    places = [(tmp_path / f"copy{rank}", rank, tmp_path / "store", told) for rank in range(2)]
    running = [fork.Process(target=open_in_job, args=place) for place in places]
    for process in running:
        process.start()
    answers = {str(told.get(timeout=120)) for _ in running}
    for process in running:
        process.join()
    assert "(20, True)" in answers
    assert any(answer.startswith("process 1 sees other images than process 0") for answer in answers)


def open_in_job(root: Path, rank: int, store: Path, told: Any) -> None:
    """`open_and_tell` as one of two ranks; puts the sentence of a failure instead."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        open_and_tell(root, threading.Barrier(1), told)
    except UserError as error:
        told.put(str(error))
    finally:
        dist.destroy_process_group()


def test_names_are_written_and_read_without_being_held_in_memory(tmp_path: Path):
    count = 60_000
    tracemalloc.start()
    try:
        write_packed(tmp_path / "index", (b"n%08d/n%08d_1.JPEG" % (i // 700, i) for i in range(count)), {})
        packed = read_packed(tmp_path / "index", {})
        assert packed is not None
        picked = [packed[i] for i in range(0, count, 3001)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert picked == [b"n%08d/n%08d_1.JPEG" % (i // 700, i) for i in range(0, count, 3001)]
    assert peak < 4 * count  # bytes: a name alone has 28


def test_what_a_worker_gets_of_a_source_does_not_grow_with_it(tmp_path: Path):
    write_images(tmp_path / "few", 2)
    write_images(tmp_path / "more", 60)
    few, more = open_source(tmp_path / "few"), open_source(tmp_path / "more")
    assert few[0]
    assert more[0]  # both mapped
    assert abs(len(pickle.dumps(more)) - len(pickle.dumps(few))) < 20
    assert pickle.loads(pickle.dumps(more))[59] == more[59]


def test_the_digest_tells_other_images_and_the_same_ones_elsewhere_apart(tmp_path: Path):
    for folder in ("one", "two", "three"):
        write_images(tmp_path / folder, 6)
    (tmp_path / "three" / "class0" / "0000.jpg").rename(tmp_path / "three" / "class0" / "0100.jpg")
    one, two, three = (open_source(tmp_path / folder).digest for folder in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_a_list_names_images_relative_to_itself_or_absolutely(tmp_path: Path, kind: str):
    paths = write_images(tmp_path / "images", 5)
    entries = [path.relative_to(tmp_path).as_posix() for path in paths[:3]] + [str(path) for path in paths[3:]]
    write_list(tmp_path / f"list.{kind}", entries)
    source = open_source(tmp_path / f"list.{kind}")
    assert [source[number] for number in range(len(source))] == [path.read_bytes() for path in paths]


def write_list(file: Path, entries: list[str]) -> None:
    if file.suffix == ".txt":
        file.write_text("\n".join(entries[:2]) + "\n\n" + "\n".join(entries[2:]))
        return
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": entries, "label": list(range(len(entries)))}), file)


def test_a_list_may_start_elsewhere_and_is_read_anew_when_it_changes(tmp_path: Path):
    paths = write_images(tmp_path / "images", 3, classes=1)
    file = tmp_path / "list.txt"
    file.write_text("\n".join(path.name for path in paths))
    assert ImageList(file, root=tmp_path / "images" / "class0")[2] == paths[2].read_bytes()
    file.write_text(paths[1].name)
    assert len(ImageList(file, root=tmp_path / "images" / "class0")) == 1


def test_lists_and_what_they_name_may_lie_on_remote_storage():
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/a.jpg", encoded(1))
    memory.pipe("/set/list.txt", b"a.jpg\nmemory://set/b.jpg\n")
    memory.pipe("/set/b.jpg", encoded(2))
    source = open_source("memory://set/list.txt")
    assert [source[0], source[1]] == [encoded(1), encoded(2)]


def test_a_published_number_that_is_not_reached_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write_images(tmp_path / "images", 5)
    open_source(tmp_path / "images", expected=5)
    assert "published" not in caplog.text
    open_source(tmp_path / "images", expected=118_287)
    assert "holds 5 images, published are 118287" in caplog.text


def bad_folder(root: Path, case: str) -> str:
    (root / "empty" / "below").mkdir(parents=True)
    (root / "empty" / "below" / "notes.doc").write_text("x")
    (root / "empty.txt").write_text("\n \n")
    (root / "image.jpg").write_bytes(encoded(1))
    if case == "column":
        write_list(root / "labels.parquet", ["a"])
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"file": ["a"]}), root / "labels.parquet")
    return {
        "empty": str(root / "empty"),
        "missing": str(root / "nowhere"),
        "empty list": str(root / "empty.txt"),
        "missing list": str(root / "none.txt"),
        "file": str(root / "image.jpg"),
        "column": str(root / "labels.parquet"),
        "remote folder": "memory://set/images",
        "protocol": "nosuch://set/list.txt",
    }[case]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("empty", "holds no image; files with the endings .jpg"),
        ("missing", "does not exist; give the folder, list or shards"),
        ("empty list", "is empty; it needs one path a line"),
        ("missing list", "No such file or directory; check that it exists"),
        ("file", "is no folder, no .txt or .parquet list and no .tar shard"),
        ("column", "has no column `path`; it has file"),
        ("remote folder", "names no .tar shards and no list"),
        ("protocol", "cannot read nosuch://set/list.txt"),
    ],
)
def test_a_source_without_images_is_one_sentence(tmp_path: Path, case: str, said: str):
    spec = bad_folder(tmp_path, case)
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        open_source(spec)
    assert said in str(caught.value)
    with pytest.raises(UserError):
        open_source(spec)  # nothing half-made is left that would be taken for an index


def test_a_cache_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    write_images(tmp_path / "images", 1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="set EVA02_MIM_CACHE to a folder that can be written"):
        open_source(tmp_path / "images", cache=tmp_path / "file" / "cache")
