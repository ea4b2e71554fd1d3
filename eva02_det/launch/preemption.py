"""Being told to stop: the signal is remembered, all ranks agree at a step boundary, save, and end together.

A loop of training reads

    with preemption.watch():
        for step in ...:
            ...
            if notice := preemption.stop_agreed():
                save()
                preemption.stop(notice)

SLURM sends USR2 some time before the time limit and on preemption (`sbatch --signal`, `preempt_send_user_signal`); TERM, and
KILL soon after it, on `scontrol requeue`, `scancel` and at the time limit.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from eva02_det.launch import watchdog

STATUS = 75  # sysexits' EX_TEMPFAIL: saved, to be run again with --resume
# numbers that grow with what is asked: USR2 asks for what TERM does, and to be queued again
_LEVELS = {signal.SIGTERM: 1, signal.SIGUSR2: 2}
_NAMES = {1: "TERM", 2: "USR2"}
logger = logging.getLogger(__name__)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Stopped(SystemExit):
    """The run was told to stop and has saved. Unhandled, it ends the process with `STATUS`; `signal` is "USR2" or "TERM"."""

    def __init__(self, notice: str) -> None:
        super().__init__(STATUS)
        self.signal = notice


class StopRequest:
    """What this process, and with it all ranks, was told. Made by `watch`, which knows the one that is in force.

    As a context it gives the signals back at the end. What came in too late for the loop is then delivered to whom it was meant
    for; after `Stopped` signals go on changing nothing, as the process is ending.
    """

    def __init__(self) -> None:
        self._level = 0
        self._before: dict[signal.Signals, Handler] = {}
        self._world: Any = None
        self._group: Any = None

    @property
    def noticed(self) -> str | None:
        """What this process was told or has agreed to: "USR2", "TERM" or None. No other process is asked."""
        return _NAMES.get(self._level)

    def before(self, number: signal.Signals) -> Handler:
        """Who handled this signal before the watch began."""
        return self._before.get(number)

    def install(self) -> None:
        """Take over the signals, once, and connect with the other ranks: all call it."""
        if not self._before and threading.current_thread() is threading.main_thread():
            for number in _LEVELS:
                self._before[number] = signal.signal(number, self._remember)
                signal.siginterrupt(number, False)  # libraries in the middle of a system call need not know
        elif not self._before:
            logger.warning("signals to stop are not watched, as the run is not in the main thread of its process")
        if dist.is_initialized() and self._world is not dist.group.WORLD:
            self._world, self._group = dist.group.WORLD, dist.new_group(backend="gloo")

    def agreed(self) -> str | None:
        """What the loudest notice of any rank asks, the same in all; every rank calls it at the same step boundary."""
        if self._connected():
            told = torch.tensor(self._level)
            dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._group)
            self._level = max(self._level, int(told))  # one that came meanwhile is for the next boundary
            return _NAMES.get(int(told))
        return self.noticed

    def together(self) -> None:
        """Wait until all ranks have come here."""
        if self._connected():
            dist.barrier(group=self._group)

    def release(self) -> None:
        """Give the signals back to who handled them before."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def __enter__(self) -> "StopRequest":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Stopped):
            return
        self.release()
        late, self._level = self._level, 0
        if error is None and late:
            signal.raise_signal(next(number for number, level in _LEVELS.items() if level == late))

    def _remember(self, number: int, _: FrameType | None) -> None:
        self._level = max(self._level, _LEVELS[signal.Signals(number)])

    def _connected(self) -> bool:
        return dist.is_initialized() and self._world is dist.group.WORLD and dist.get_world_size() > 1


_request = StopRequest()


def watch() -> StopRequest:
    """Remember USR2 and TERM instead of dying of them. All ranks call it, in the main thread, before their loop."""
    _request.install()
    _shield_workers()
    return _request


def stop_agreed() -> str | None:
    """Whether to stop: "USR2" or "TERM", in all ranks at the same step, once any of them was told; else None.

    Costs one number between the processors' memories (gloo, never NCCL); nothing in a process that is alone.
    """
    watchdog.step()
    return _request.agreed()


def ignore() -> None:
    """All is done: USR2 and TERM change nothing any more, not even while the interpreter ends, when handlers are gone."""
    if threading.current_thread() is threading.main_thread():
        for number in _LEVELS:
            signal.signal(number, signal.SIG_IGN)


def noticed() -> str | None:
    """What this process alone was told, for places where the ranks are not in step."""
    return _request.noticed


def previous(number: signal.Signals) -> Handler:
    """The handler that the watch replaced."""
    return _request.before(number)


def stop(notice: str) -> NoReturn:
    """End as agreed, after saving: waits for all ranks, as the end of one may end the others, and raises `Stopped`."""
    _request.together()
    watchdog.stop()
    logger.warning("told to stop by SIG%s: everything is saved, --resume goes on from here", notice)
    raise Stopped(notice)


_shielded = False


def _shield_workers() -> None:
    """Let loader workers, forked from here on, live until this process has saved.

    A batch system signals every process of a job. A worker that dies of it breaks the loader, and with it the step in which
    this process would have come to its boundary.
    """
    global _shielded  # noqa: PLW0603  hooks of a process cannot be taken back
    if not _shielded:
        os.register_at_fork(after_in_child=shield_worker)
        _shielded = True


def shield_worker() -> None:
    """In a worker process: heed a TERM of the parent alone. Workers that are not forked call it as they begin."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _LEVELS)
    threading.Thread(target=_heed_parent, name="heed_parent", daemon=True).start()


def _heed_parent() -> None:
    while True:
        told = signal.sigwaitinfo(_LEVELS)
        if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
            os._exit(0)  # as torch's own workers do
