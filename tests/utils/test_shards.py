"""Tar shards: the library's own reading as reference, remote storage, and what is said of damaged ones."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path

import braceexpand
import fsspec
import pytest
import webdataset

from eva02_det.utils.errors import UserError
from eva02_det.utils.sources import remote
from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source
from eva02_det.utils.sources.shards import expand
from tests.utils.image_files import encoded, same, served, small_loader, take

PER_SHARD = 7


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards as webdataset writes them, with captions and labels between the images, and long names."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(3):
        with webdataset.TarWriter(str(folder / f"data-{shard:03d}.tar")) as writer:
            for i in range(PER_SHARD):
                number = shard * PER_SHARD + i
                key = f"{'long/' * 30 if i == 3 else ''}{number:05d}"
                writer.write({"__key__": key, "jpg": encoded(number), "txt": f"caption {number}", "cls": 3})
    return folder


def contents(source: Source) -> list[bytes]:
    return [source[number] for number in range(len(source))]


def as_webdataset_reads(folder: Path) -> list[bytes]:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return [sample["jpg"] for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)]


def test_images_and_their_order_are_those_that_webdataset_reads(folder: Path):
    expected = as_webdataset_reads(folder)
    assert len(expected) == 3 * PER_SHARD
    assert contents(open_source(folder)) == expected


@pytest.mark.parametrize("spec", ["{folder}", "{folder}/data-{{000..002}}.tar", "{folder}/data-*.tar", "{folder}/list.txt"])
def test_shards_are_named_by_folder_braces_pattern_or_list(folder: Path, spec: str):
    (folder / "list.txt").write_text("data-000.tar\ndata-001.tar\ndata-002.tar\n")
    assert contents(open_source(spec.format(folder=folder))) == [encoded(number) for number in range(21)]


@pytest.mark.parametrize("spec", ["a-{000..012}.tar", "s3://b/{x,yy}/c-{8..11}.tar", "plain.tar", "{a,b}{1..2}.tar"])
def test_braces_mean_what_they_mean_to_webdataset(spec: str):
    assert expand(spec) == list(braceexpand.braceexpand(spec))


def test_a_name_leads_to_the_image(folder: Path):
    source = open_source(folder)
    assert source.name(8) == f"{folder}/data-001.tar/00008.jpg"
    assert source.name(3).startswith(f"{folder}/data-000.tar/long/long/")


def test_hidden_files_and_folders_called_like_images_are_no_images(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("._a.jpg", "a.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(encoded(1))
            archive.addfile(member, io.BytesIO(encoded(1)))
    assert contents(open_source(tmp_path / "x.tar")) == [encoded(1)]


def test_shards_are_indexed_once_and_again_when_one_changes(folder: Path, cache: Path):
    open_source(folder)
    (index,) = cache.glob("shards-*/spans.bin")
    written = index.stat().st_mtime_ns
    assert len(open_source(folder)) == 21
    assert index.stat().st_mtime_ns == written
    with webdataset.TarWriter(str(folder / "data-001.tar")) as writer:
        writer.write({"__key__": "only", "jpg": encoded(99)})
    source = open_source(folder)
    assert len(source) == 15
    assert source[7] == encoded(99)


def test_shards_that_were_moved_are_the_same_images_and_changed_ones_are_not(folder: Path):
    before = open_source(folder).digest
    moved = folder.rename(folder.parent / "moved")
    assert open_source(moved).digest == before
    with webdataset.TarWriter(str(moved / "data-001.tar")) as writer:
        for number in range(PER_SHARD):
            writer.write({"__key__": f"{number}", "jpg": encoded(number)})
    assert open_source(moved).digest != before


def test_a_pickled_source_reads_on(folder: Path):
    source = open_source(folder)
    assert source[20] == pickle.loads(pickle.dumps(source))[20] == encoded(20)


def test_more_shards_than_a_process_keeps_open_are_read(tmp_path: Path):
    for shard in range(70):
        with webdataset.TarWriter(str(tmp_path / f"{shard:02d}.tar")) as writer:
            writer.write({"__key__": "x", "jpg": encoded(shard)})
    source = open_source(tmp_path)
    assert [source[number] for number in (*range(70), 0)] == [encoded(number) for number in (*range(70), 0)]


def test_shards_in_another_process_memory_are_read_in_parts(folder: Path):
    memory = fsspec.filesystem("memory")
    for path in folder.glob("*.tar"):
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    for spec in ("memory://bucket/data-{000..002}.tar", "memory://bucket/data-*.tar"):
        source = open_source(spec)
        assert contents(source) == contents(open_source(folder))
        assert source.name(0).endswith("data-000.tar/00000.jpg")


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_from_a_server_give_the_batches_of_local_ones(folder: Path, workers: int):
    with served(folder) as (address, server):
        afar = open_source(address + "/data-{000..002}.tar")
        parts = server.parts
        batches = take(small_loader(afar, workers=workers), 8)
        assert server.parts - parts >= 8 * 4  # one part of a file for each image, not whole files
        assert server.at_once > 1  # which are read while others are decoded
    assert same(batches, take(small_loader(open_source(folder)), 8))


def test_storage_that_is_busy_for_a_moment_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    with served(folder) as (address, server):
        server.busy = 3
        source = open_source(address + "/data-000.tar")
        server.busy = 3
        assert source[2] == encoded(2)
        server.busy = 1000
        loader = small_loader(source, max_broken=1.0)
        with pytest.raises(UserError, match=r"^more than 100 images in a row cannot be read, the last .*503"):
            take(loader, 1)


def test_storage_that_stays_busy_while_shards_are_indexed_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    with served(folder) as (address, server):
        server.busy = 1000
        with pytest.raises(UserError, match=r"^cannot read http://[^\n]*503[^\n]*check that it exists and may be read$"):
            open_source(address + "/data-000.tar")


def test_shards_from_a_server_may_be_kept_in_a_local_folder(folder: Path, tmp_path: Path):
    with served(folder) as (address, _):
        source = open_source(f"simplecache::{address}/data-000.tar")
        assert contents(source) == [encoded(number) for number in range(PER_SHARD)]


def test_a_shard_that_disappears_is_counted_image_by_image_and_names_them(folder: Path):
    source = open_source(folder)
    (folder / "data-001.tar").unlink()
    loader = small_loader(source)
    batches = take(loader, 5)
    asked = [sample for batch in batches for sample in batch["sample"].tolist() if 7 <= sample < 14]
    assert loader.broken.count == len(asked) > 0
    assert f"{folder}/data-001.tar/byte " in loader.broken.first[0]
    assert "No such file" in loader.broken.first[0]


def damaged(folder: Path, case: str) -> str:
    shard = folder / "data-001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        member = archive.getmembers()[4]
    content = {
        "in a member": whole[: member.offset_data + 100],
        "between members": whole[: member.offset],
        "in a header": whole[: member.offset + 100],
        "overwritten": whole[: member.offset] + b"\xff" * 512 + whole[member.offset + 512 :],
        "compressed": gzip.compress(whole),
        "no archive": b"<html>not found</html>" * 100,
        "empty": b"",
    }
    if case == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[case])
    return str(folder / "data-{000..002}.tar")


@pytest.mark.parametrize(
    "case",
    ["in a member", "between members", "in a header", "overwritten", "compressed", "no archive", "empty", "missing"],
)
def test_an_unreadable_shard_is_one_sentence_that_names_it(folder: Path, case: str):
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        open_source(damaged(folder, case))
    assert f"{folder}/data-001.tar" in str(caught.value)
    assert ("check that it exists" if case == "missing" else "fetch or write it again") in str(caught.value)


def test_a_shard_that_a_server_does_not_have_is_one_sentence(folder: Path):
    with served(folder) as (address, _), pytest.raises(UserError, match="data-007") as caught:
        open_source(address + "/data-007.tar")
    assert "\n" not in str(caught.value)


def test_shards_without_images_and_patterns_without_shards_are_one_sentence(tmp_path: Path):
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        writer.write({"__key__": "x", "txt": "caption"})
    with pytest.raises(UserError, match="hold no image"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="no shard matches"):
        open_source(str(tmp_path / "y-*.tar"))
