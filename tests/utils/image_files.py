"""Small images, folders and tar shards of them, and a server for the tests of what is read from afar."""

import http.server
import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eva02_det.utils.sources.base import Source
from eva02_mim.loader import Batch, MimLoader, mim_loader
from eva02_mim.masking import BlockMasks

SMALL = {"image_size": 56, "patch_size": 14}
MASKS = BlockMasks(grid=4, count=6, min_block=2)


def encoded(number: int, kind: str = "JPEG", size: tuple[int, int] | None = None) -> bytes:
    """A noisy image that differs from every other number's."""
    rng = np.random.default_rng(number)
    width, height = size or (int(rng.integers(40, 120)), int(rng.integers(40, 120)))
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def write_images(folder: Path, count: int, *, classes: int = 3, first: int = 0) -> list[Path]:
    """`count` images below `folder`, spread over `classes` sub-folders; returned in sorted order."""
    paths = []
    for number in range(first, first + count):
        path = folder / f"class{number % classes}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
        paths.append(path)
    return sorted(paths)


def small_loader(source: Source, *, batch_size: int = 4, seed: int = 5, **options: object) -> MimLoader:
    return mim_loader(source, batch_size=batch_size, masks=MASKS, seed=seed, **SMALL, **options)


def take(loader: MimLoader, count: int) -> list[Batch]:
    """The next batches; the loader stands after the last of them."""
    batches: list[Batch] = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == count:
            break
    return batches


def same(one: list[Batch], other: list[Batch]) -> bool:
    """Whether batches are equal to the last bit."""
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, other)
    )


def joined(parts: list[Batch]) -> Batch:
    """The batches of several ranks as one."""
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves files and parts of files, as object stores do; the standard handler knows no parts."""

    def do_HEAD(self) -> None:
        if not self._fails():
            super().do_HEAD()

    def _fails(self) -> bool:
        """Whether this answer is one of those that are to fail, as those of busy storage do; it is given then."""
        with self.server.lock:
            self.server.busy -= 1
            fails = self.server.busy >= 0
        if fails:
            self.send_error(503)
        return fails

    def do_GET(self) -> None:
        if self._fails():
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if span is None or not path.is_file():
            super().do_GET()
            return
        self._count(1)
        time.sleep(0.005)  # the latency of remote storage, in small
        content = path.read_bytes()
        first, last = int(span[1]), min(int(span[2] or len(content) - 1), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        self._count(-1)

    def _count(self, change: int) -> None:
        server = self.server
        with server.lock:
            server.running += change
            server.at_once = max(server.at_once, server.running)
            server.parts += change == 1

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, http.server.ThreadingHTTPServer]]:
    """(address, server) of a folder.

    Of the server: `parts` answers with a part of a file, at most `at_once` of them together; the next `busy` ones fail.
    """

    def handler(*arguments: object) -> _Files:
        return _Files(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.parts = server.running = server.at_once = server.busy = 0
        server.lock = threading.Lock()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server
        finally:
            server.shutdown()
            thread.join()
