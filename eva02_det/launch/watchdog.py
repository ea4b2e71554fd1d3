"""Notices a rank that died or no longer answers, names it, and ends the others, whatever they wait for.

Every process beats through a connection of its own to the store in which the ranks met, from a thread, every few seconds. The
first rank judges the beats of all; every rank judges the first one's, and looks whether the processes of its own machine still
exist. The first verdict holds for all: each says it, with the place where it was, and ends with status 70. A rank that does not
answer is killed by those of its machine.

EVA02_RANK_TIMEOUT: seconds that a rank may stay without an answer (60; 0: no watch). Until its first step (`step`) ten times
that, as reading annotations of gigabytes lets no other thread of a process run. A process that has ended is noticed within one
beat on its own machine, and from other machines as one that does not answer.
EVA02_STALL_TIMEOUT: seconds without a step after which the stacks of a process are dumped (600; 0: never). Nothing else happens.
"""

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store
from torch.multiprocessing import ProcessExitedException

from eva02_det.launch.beats import Beats, Verdict
from eva02_det.launch.member import Member
from eva02_det.utils.errors import UserError

STATUS = 70  # sysexits' EX_SOFTWARE
RANK_TIMEOUT, STALL_TIMEOUT = ("EVA02_RANK_TIMEOUT", 60.0), ("EVA02_STALL_TIMEOUT", 600.0)
STARTING = 10  # times the patience, until a rank's first step
GRACE_S = 5.0  # for a rank to come by itself to the error that another one has reported
SHOWN = 4  # frames of the place where a process was
logger = logging.getLogger(__name__)


class Watchdog:
    """The watch of one process: a thread that beats (`Beats`), and one that judges and never waits for the network."""

    def __init__(self, beats: Beats | None, patience_s: float, stall_s: float) -> None:
        self.beats, self.patience_s, self.stall_s = beats, patience_s, stall_s
        self.interval_s = beats.interval_s if beats is not None else 1.0
        self._marked: float | None = None  # the last step
        self._waits = False  # the main thread, for a verdict
        self._over = threading.Event()
        self._judge = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        if self.beats is not None:
            self.beats.start()
        self._judge.start()

    def step(self) -> None:
        self._marked = time.monotonic()
        if self.beats is not None:
            self.beats.is_running = True

    def stop(self, error: str = "", *, is_agreed: bool = False) -> None:
        """Leave, with an error that the other ranks are told, or without one.

        is_agreed: the others may come to the same error by themselves. The first rank waits a little for them, as the store
        ends with it.
        """
        self._over.set()
        if self.beats is not None:
            self.beats.leave(error, is_agreed=is_agreed)

    def wait_for_verdict(self) -> None:
        """Of the judge, which then ends this process; comes back when there is none in the time that one takes."""
        self._waits = True
        self._judge.join(2 * self.patience_s + 4 * self.interval_s + GRACE_S)

    def _watch(self) -> None:
        dumped = last = time.monotonic()
        while not self._over.wait(self.interval_s):
            now = time.monotonic()
            if self.beats is not None:
                if now - last > 4 * self.interval_s + 1:  # this process was suspended: it can judge nobody by that time
                    self.beats.forgive(now)
                verdict = self.beats.judge(now, self.patience_s, self.patience_s * STARTING)
                verdict = None if verdict is None else self.beats.agreed(verdict)
                if verdict is not None:
                    self._end(verdict)
            if self._marked is not None and self.stall_s and now - max(self._marked, dumped) > self.stall_s:
                dumped = now
                _say(f"no step in {now - self._marked:.0f} s; the stacks of this process, pid {os.getpid()}:")
                faulthandler.dump_traceback(file=2, all_threads=True)
            last = time.monotonic()

    def _end(self, verdict: Verdict) -> None:
        """Say what happened, end what does not answer on this machine, and this process."""
        if verdict.is_agreed and self._over.wait(GRACE_S):
            return
        assert self.beats is not None
        me = self.beats.me
        _say(f"error: {verdict.text}; {me} ends with status {STATUS}{'' if self._waits else _place()}")
        if verdict.is_silent and verdict.rank != me.rank:
            self.beats.members[verdict.rank].kill()
        logged = threading.Thread(target=logger.error, args=("%s", verdict.text), daemon=True)
        logged.start()
        logged.join(1)  # the handlers may be held by what hangs
        os._exit(STATUS)  # the main thread may hang where no exception reaches it


_dog: Watchdog | None = None
_started = 0  # times, the same in all ranks


def start() -> None:
    """Watch over the ranks of the process group; all call it once they are connected. Of a process that is alone, its steps."""
    global _dog, _started  # noqa: PLW0603  one watch for a process
    stop()
    patience_s, stall_s = seconds(*RANK_TIMEOUT), seconds(*STALL_TIMEOUT)
    beats = None
    if patience_s and dist.is_initialized() and dist.get_world_size() > 1:
        beats = _connect(patience_s, f"eva02_watchdog_{_started}")
        _started += 1
    if beats is not None or stall_s:
        _dog = Watchdog(beats, patience_s, stall_s)
        _dog.start()


def stop() -> None:
    """End the watch, in all ranks: from here on nobody asks after this process."""
    global _dog
    dog, _dog = _dog, None
    if dog is not None:
        dog.stop()


def step() -> None:
    """A step was done: from now on this process is expected to answer in time, and to do the next one."""
    if _dog is not None:
        _dog.step()


def last_word(error: BaseException) -> None:
    """Before an error ends this process: tell the other ranks.

    An error of the connection between ranks is mostly the echo of another one's end. Then this waits for the verdict, which ends
    the process with the name of that rank.
    """
    global _dog  # noqa: PLW0603
    dog = _dog
    if dog is not None and dog.beats is not None and is_of_connection(error):
        _say("".join(traceback.format_exception(error)))
        dog.wait_for_verdict()
    _dog = None
    if dog is not None:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        dog.stop(f"ended: {' '.join(text.split())[:500]}", is_agreed=True)


@contextmanager
def watching() -> Iterator[None]:
    """Around what a rank does: `start`, then `stop` or the `last_word`. Exceptions pass through.

    What all ranks end by together, such as a stop that they agreed on, calls `stop` before it is raised.
    """
    start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            stop()
        else:
            last_word(error)
        raise
    stop()


def report_lost(ended: ProcessExitedException) -> int:
    """For who started processes of this machine and sees one end: names one that a signal ended; the status to end with."""
    if ended.signal_name is None:
        return ended.exit_code
    hint = "; was memory short? `dmesg` and `free -g` tell" if ended.signal_name == "SIGKILL" else ""
    _say(f"error: process {ended.error_index} of this machine (pid {ended.error_pid}) was ended by {ended.signal_name}{hint}")
    return STATUS


def is_of_connection(error: BaseException) -> bool:
    """Whether an exception tells of other ranks rather than of this one."""
    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def seconds(variable: str, default: float) -> float:
    """Of an environment variable; UserError where it holds no time."""
    text = os.environ.get(variable, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if value < 0:
        raise UserError(f"{variable}={text!r} is no number of seconds; set for example {variable}={default:g}, or 0 for never")
    return value


def _connect(patience_s: float, name: str) -> Beats | None:
    """The beats of this process over a connection of its own: one that is shared waits while another thread does."""
    store: Any = _get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):
        logger.warning("the ranks met in a %s, which cannot be watched: a lost rank is not named", type(store).__name__)
        return None
    token = f"{os.getpid()}_{time.time_ns()}"  # under torchrun the store outlives the processes: another start, another name
    mine, key = Member.here(dist.get_rank()), f"{name}_token"
    common = _get_default_store()
    if mine.rank == 0:
        common.set(key, token)
    name = f"{name}_{common.get(key).decode()}"
    host, port = store.host, store.port
    held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def connect(timeout_s: float) -> Any:
        opened = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))
        return dist.PrefixStore(name, opened)

    return Beats(connect, mine, dist.get_world_size(), patience_s, first_holds_store=held)


def _place() -> str:
    """Where the main thread is, as lines to follow a sentence."""
    main = threading.main_thread().ident
    frame = sys._current_frames().get(main) if main is not None else None
    return "" if frame is None else f"; it was in\n{''.join(traceback.format_stack(frame)[-SHOWN:]).rstrip()}"


def _say(text: str) -> None:
    """On the standard error, not by way of objects that the main thread may hold."""
    os.write(2, f"{text.rstrip()}\n".encode(errors="replace"))
