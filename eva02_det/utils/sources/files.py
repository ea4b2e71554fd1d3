"""Image files: folders walked once, flat lists, and the function that opens any kind of source."""

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from eva02_det.utils.errors import UserError
from eva02_det.utils.randomness import key_of
from eva02_det.utils.sources import remote, shards
from eva02_det.utils.sources.base import EXTENSIONS, Source, index_folder, made_once
from eva02_det.utils.sources.packed import PackedNames, read_packed, write_packed

log = logging.getLogger(__name__)

SCANS_AHEAD = 16  # folders that are listed while the one before them is written: hides the latency of network disks
PROGRESS_EVERY = 1_000_000


def open_source(spec: str | Path | Source, *, cache: str | Path | None = None, expected: int | None = None) -> Source:
    """The images that `spec` names.

    A folder of images (walked with its sub-folders), a folder of .tar shards, a list (.txt or .parquet: one path, address or
    shard a line), or shards: `data-{000..127}.tar`, `data-*.tar`, with any address that fsspec reads (s3://, gs://, https://,
    `filecache::s3://` to keep local copies).
    cache: folder for the index (default: $EVA02_MIM_CACHE, else ~/.cache/eva02_mim). expected: the published number of images,
    compared in the log with what is there. Raises UserError where there is nothing to read.
    """
    if isinstance(spec, Source):
        return spec
    source = _open(str(spec), cache)
    if expected is not None and abs(len(source) - expected) > expected / 1000:
        log.warning("%s holds %d images, published are %d", spec, len(source), expected)
    return source


def _open(spec: str, cache: str | Path | None) -> Source:
    path = Path(spec).expanduser()
    if path.suffix in (".txt", ".parquet"):
        return _open_list(spec, cache)
    if shards.names_shards(spec):
        return shards.TarShards.open(shards.expand(spec), cache)
    if remote.is_remote(spec):
        raise UserError(f"{spec} names no .tar shards and no list; folders of single images are read from local disks only")
    if path.is_dir():
        tars = sorted(str(tar) for tar in path.glob("*.tar"))
        return shards.TarShards.open(tars, cache) if tars else ImageFolder(path, cache=cache)
    if path.exists():
        raise UserError(f"{path} is no folder, no .txt or .parquet list and no .tar shard; give one of these as source of images")
    raise UserError(f"{path} does not exist; give the folder, list or shards of the images")


def _open_list(spec: str, cache: str | Path | None) -> Source:
    first = next(iter(_lines(spec)), b"")
    if not first:
        raise UserError(f"the list {spec} is empty; it needs one path a line")
    if first.endswith(b".tar"):
        folder = spec.rpartition("/")[0]
        return shards.TarShards.open([_below(folder, line.decode()) for line in _lines(spec)], cache)
    return ImageList(spec, cache=cache)


class _Files(Source):
    """Files below a root, whose names are packed."""

    def __init__(self, root: str, names: PackedNames) -> None:
        self.root, self.names = root, names
        self.digest = names.digest

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> bytes:
        return remote.read(self.name(number))

    def name(self, number: int) -> str:
        return _below(self.root, os.fsdecode(self.names[number]))


class ImageFolder(_Files):
    """Every image below a folder, symbolic links followed, in sorted order: a folder's files, then its folders.

    The tree is walked once; the index is used until the folder or one of its direct sub-folders changes (`rebuild` walks again).
    """

    def __init__(self, root: str | Path, *, cache: str | Path | None = None, rebuild: bool = False) -> None:
        root = Path(root).expanduser().absolute()
        if not root.is_dir():
            raise UserError(f"the image folder {root} does not exist; check its path")
        folder = index_folder(cache, f"folder-{key_of(str(root)):016x}")
        made_of = {"root": str(root), "extensions": list(EXTENSIONS), "state": _state(root)}
        if rebuild:
            (folder / "about.json").unlink(missing_ok=True)
        names = made_once(folder, lambda: read_packed(folder, made_of), lambda: _write_folder(folder, root, made_of))
        super().__init__(str(root), names)


class ImageList(_Files):
    """The images of a list: a text file with a path or address a line, or a parquet file with a column `path`.

    Relative paths start at `root`, by default the list's own folder.
    """

    def __init__(self, file: str | Path, *, root: str | Path | None = None, cache: str | Path | None = None) -> None:
        file = str(file)
        root = str(root) if root is not None else file.rpartition("/")[0]
        made_of = {"file": file, "state": remote.state(file)}
        folder = index_folder(cache, f"list-{key_of(str(Path(file).absolute())):016x}")
        names = made_once(folder, lambda: read_packed(folder, made_of), lambda: _write_list(folder, file, made_of))
        super().__init__(root, names)


def _write_folder(folder: Path, root: Path, made_of: dict[str, Any]) -> None:
    log.info("walking %s, once; the index goes to %s", root, folder)
    if not write_packed(folder, _counted(_walk(root), str(root)), made_of):
        (folder / "about.json").unlink()
        raise UserError(f"{root} holds no image; files with the endings {', '.join(EXTENSIONS)} are looked for at any depth")


def _write_list(folder: Path, file: str, made_of: dict[str, Any]) -> None:
    if not write_packed(folder, _counted(_lines(file), file), made_of):
        raise UserError(f"the list {file} is empty; it needs one path a line")


def _counted(names: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The same names; says now and then how many they are."""
    count = 0
    for count, name in enumerate(names, start=1):
        if count % PROGRESS_EVERY == 0:
            log.info("%s: %d million images so far", where, count // PROGRESS_EVERY)
        yield name
    log.info("%s: %d images", where, count)


def _walk(root: Path) -> Iterator[bytes]:
    """Paths of the images below `root`, relative to it, with `/` between the parts."""
    with ThreadPoolExecutor(SCANS_AHEAD) as pool:
        yield from _walk_one(str(root), "", frozenset([os.path.realpath(root)]), pool)


def _walk_one(folder: str, prefix: str, above: frozenset[str], pool: ThreadPoolExecutor) -> Iterator[bytes]:
    files, folders = _scan(folder)
    yield from (os.fsencode(prefix + name) for name in files)
    yield from _walk_below(folder, prefix, folders, above, pool)


def _walk_below(folder: str, prefix: str, names: list[str], above: frozenset[str], pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """What lies in the sub-folders `names`; the next ones are listed meanwhile."""
    coming = iter(names)
    ahead = [(name, pool.submit(_scan, f"{folder}/{name}")) for name in islice(coming, SCANS_AHEAD)]
    while ahead:
        name, listing = ahead.pop(0)
        ahead += [(more, pool.submit(_scan, f"{folder}/{more}")) for more in islice(coming, 1)]
        path = f"{folder}/{name}"
        real = os.path.realpath(path)
        if real in above:
            log.warning("%s is a link to a folder above it and is not followed", path)
            continue
        files, folders = listing.result()
        yield from (os.fsencode(f"{prefix}{name}/{file}") for file in files)
        yield from _walk_below(path, f"{prefix}{name}/", folders, above | {real}, pool)


def _scan(folder: str) -> tuple[list[str], list[str]]:
    """Sorted names of the images and of the folders in a folder; a link that leads nowhere is an image that will be missed."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.name.lower().endswith(EXTENSIONS):
                    files.append(entry.name)
    except OSError as error:
        raise UserError(f"cannot list the image folder {folder}: {error.strerror}; check its permissions and its disk") from error
    return sorted(files), sorted(folders)


def _state(root: Path) -> int:
    """A number that changes when an entry is added to or removed from the folder or a direct sub-folder."""
    try:
        below = [f"{f}:{(root / f).stat().st_mtime_ns}" for f in _scan(str(root))[1]]
        return key_of(root.stat().st_mtime_ns, *below)
    except OSError as error:
        raise UserError(f"cannot read the image folder {root}: {error.strerror}; check its permissions and its disk") from error


def _lines(file: str) -> Iterator[bytes]:
    """The entries of a list, without empty lines."""
    if file.endswith(".parquet"):
        yield from _parquet_paths(file)
        return
    with remote.opened(file) as stream:
        yield from (line.strip() for line in stream if line.strip())


def _parquet_paths(file: str) -> Iterator[bytes]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise UserError("a list in a .parquet file needs `pip install pyarrow`; a .txt file needs nothing") from error
    with remote.opened(file) as stream:
        table = parquet.ParquetFile(stream)
        if "path" not in table.schema_arrow.names:
            raise UserError(f"{file} has no column `path`; it has {', '.join(table.schema_arrow.names)}")
        for batch in table.iter_batches(columns=["path"]):
            yield from (str(path).encode() for path in batch.column(0).to_pylist())


def _below(root: str, name: str) -> str:
    return name if not root or name.startswith("/") or remote.is_remote(name) else f"{root}/{name}"
