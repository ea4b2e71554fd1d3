"""The work folder of a search: parts that are done, written whole or not at all, so that a run killed anywhere goes on."""

import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from eva02_det.launch.cores import share_cores
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json

log = logging.getLogger(__name__)

FORMAT = 1
REPORT_EVERY_S = 10.0
Item = TypeVar("Item")


class Work:
    """A folder that belongs to one search: the same data, stages and thresholds."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def claim(self, search: dict[str, Any]) -> None:
        """Make it for a search described by plain JSON. UserError where it holds another one, with what differs."""
        folder, about = self.folder, self.folder / "about.json"
        wanted = json.loads(json.dumps({"format": FORMAT, **search}))
        try:
            present = json.loads(about.read_text(encoding="utf-8"))
        except FileNotFoundError:
            write_json(about, wanted, indent=1)
            return
        except (OSError, ValueError) as error:
            raise UserError(f"the work folder {folder} cannot be used ({error}); remove it, or give another --work") from error
        if differing := [key for key in wanted if wanted[key] != present.get(key)]:
            raise UserError(
                f"the work folder {folder} belongs to another search, which differs in {', '.join(differing)}; "
                "give another --work or --out, or remove the folder"
            )

    def part(self, number: int) -> Path:
        """File of a part of the evaluation set's index."""
        return self.folder / "evaluation" / f"{number:05d}.npz"

    def shard(self, corpus: int, start: int) -> Path:
        """File of a shard's result."""
        return self.folder / "shards" / f"{corpus:03d}-{start:010d}.json"


def part_of(text: str) -> tuple[int, int]:
    """ "I/N" -> (I, N); UserError unless I is one of 0 .. N - 1."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(f"--shard {text} is no part of a search; write I/N with I from 0 to N - 1, such as 0/8")
    return int(found[1]), int(found[2])


class Progress:
    """Says now and then how far it is, how fast, and how long it will take."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._begun = self._told = time.monotonic()

    def add(self, images: int) -> None:
        """Account for images that are done."""
        self.done += images
        now = time.monotonic()
        if now - self._told >= REPORT_EVERY_S or self.done == self.total:
            self._told = now
            rate = self.done / max(now - self._begun, 1e-9)
            left = (self.total - self.done) / rate
            log.info("%s: %d of %d images, %.1f images/s, %s left", self.what, self.done, self.total, rate, _duration(left))


def in_processes(
    items: Sequence[Item], processes: int, begin: Callable[..., None], arguments: tuple[Any, ...], do: Callable[[Item], int]
) -> Iterator[int]:
    """What `do` gives for each item, in the order in which they get ready. begin(*arguments) comes first in each process.

    `do` keeps its result itself; what is yielded is the number of images done.
    """
    if min(processes, len(items)) < 2:
        begin(*arguments)
        yield from map(do, items)
        return
    context = get_context("forkserver")  # children forked from here would inherit the locks of whatever threads run
    context.set_forkserver_preload([begin.__module__])  # torch and all else is imported once, not in every child
    pool = ProcessPoolExecutor(min(processes, len(items)), context, _begin_child, (processes, begin, arguments))
    before = set(active_children())
    try:
        for future in as_completed([pool.submit(do, item) for item in items]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process of the search ended abruptly, as it does where memory runs out; call again with fewer --processes, "
            "the finished shards are kept"
        ) from error
    except BaseException:
        for child in set(active_children()) - before:
            child.terminate()  # in the middle of a shard, which is done again when the search goes on
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_child(processes: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    share_cores(processes)
    for told in (signal.SIGUSR1, signal.SIGUSR2):  # SLURM tells every process; the parent has the job queued again
        signal.signal(told, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """A child of a killed process would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
