"""Who a rank is: its machine and its process, and what another process of the same machine sees of it."""

import json
import os
import signal
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Member:
    """One rank. machine: equal for processes that see each other's pids. born: when its process began, in ticks since boot."""

    rank: int
    host: str
    pid: int
    machine: str
    born: int

    @classmethod
    def here(cls, rank: int) -> "Member":
        """This process."""
        return cls(rank, socket.gethostname(), os.getpid(), _machine(), _state_and_birth(os.getpid())[1])

    @classmethod
    def from_text(cls, text: str) -> "Member":
        return cls(**json.loads(text))

    def as_text(self) -> str:
        """JSON."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"

    @property
    def is_near(self) -> bool:
        """Whether this process can look at it."""
        return bool(self.machine) and self.machine == _machine()

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended, waited for or not; never known of another machine's."""
        if not self.is_near:
            return False
        state, born = _state_and_birth(self.pid)
        return state in "ZX" or born != self.born

    def kill(self) -> None:
        """End it, if it is a process of this machine."""
        if self.is_near and not self.is_gone:
            os.kill(self.pid, signal.SIGKILL)


def _machine() -> str:
    """Of this kernel and this space of pids; empty where that cannot be told."""
    try:
        return f"{BOOT_ID.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state_and_birth(pid: int) -> tuple[str, int]:
    """The letter of the process's state, X for none, and its start in ticks (proc(5), fields 3 and 22 of stat)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", -1
    return fields[0], int(fields[19])
