"""Whether a folder keeps what checkpoints rely on: files appear whole by a rename, and what was synced stays."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from eva02_det.launch.finding import FAULT, OK, WARNING, Finding

MIB, GIB = 2**20, 2**30
RENAMES = 60
WRITTEN_MIB = 64
CLOCK_S = 5.0  # how far the clock of a file server may be from ours
PRIVATE = ("tmpfs", "overlay", "ramfs", "squashfs")  # kinds that no other machine sees
# Reads a file again and again while it is replaced: every time it must hold one letter alone.
READER = """
import pathlib, sys
file, stop, seen = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 0
while not stop.exists():
    content = file.read_bytes()
    assert len(content) == 65536 and len(set(content)) == 1, "torn"
    seen += 1
    print(seen, flush=True) if seen == 1 else None
print(seen)
"""
LOCKER = """
import fcntl, sys
stream = open(sys.argv[1], "a")
try:
    fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


def check_folder(folder: str | Path) -> Iterator[Finding]:
    """Findings on a folder, which is made where it is missing; what was written there for the test is removed."""
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".doctor_", dir=root))
    except OSError as error:
        yield Finding("folder", FAULT, f"{root} cannot be written to: {error}", "choose another folder, or ask for the right to")
        return
    try:
        yield _kind(root)
        for test in (_rename, _sync, _lock, _clock):
            try:
                yield test(place)
            except OSError as error:
                name = test.__name__.strip("_")
                yield Finding(name, FAULT, f"{root}: {error}", "keep train.output_dir on another file system")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_speed(folder: str | Path) -> float:
    """MiB a second of a file that is written and synced there."""
    content = os.urandom(MIB)
    with tempfile.NamedTemporaryFile(prefix=".doctor_", dir=folder) as stream:
        began = time.perf_counter()
        for _ in range(WRITTEN_MIB):
            stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
        return WRITTEN_MIB / max(time.perf_counter() - began, 1e-6)


def _kind(root: Path) -> Finding:
    """Its file system, and the space there is."""
    kind, where = _mount(root.resolve())
    text = f"{root} is on {kind} ({where}), {shutil.disk_usage(root).free / GIB:.0f} GiB free"
    if kind in PRIVATE:
        remedy = "for jobs, choose a folder that all nodes see: a requeued job may find itself on another one"
        return Finding("folder", WARNING, f"{text}; other machines do not see it", remedy)
    return Finding("folder", OK, text)


def _rename(place: Path) -> Finding:
    """A reader in another process never sees a file that is being replaced torn or missing."""
    target, stop = place / "replaced", place / "stop"
    target.write_bytes(b"a" * 65536)
    reader = subprocess.Popen(
        [sys.executable, "-S", "-c", READER, str(target), str(stop)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    reader.stdout.readline()  # it has begun
    for number in range(RENAMES):
        beside = place / "beside"
        beside.write_bytes(bytes([97 + number % 26]) * 65536)
        beside.replace(target)
    stop.touch()
    said, complaint = reader.communicate(timeout=60)
    if reader.returncode:
        reason = (complaint.strip().splitlines() or ["?"])[-1]
        remedy = "keep train.output_dir on a file system whose rename is atomic (NFS, Lustre, GPFS, XFS, ext4 are)"
        return Finding("rename", FAULT, f"a file that was replaced was seen torn or missing ({reason})", remedy)
    return Finding(
        "rename", OK, f"a file replaced {RENAMES} times was whole each of {said.split()[-1]} times another process read it"
    )


def _sync(place: Path) -> Finding:
    """fsync of a file and of its folder."""
    with (place / "synced").open("wb") as stream:
        stream.write(b"x" * MIB)
        stream.flush()
        os.fsync(stream.fileno())
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return Finding("fsync", OK, "of a file and of its folder")


def _lock(place: Path) -> Finding:
    """A second process does not get a lock that this one holds."""
    file = place / "lock"
    with file.open("a") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            remedy = "nothing of ours needs it; keep HF_HOME, whose downloads lock files, on another file system"
            return Finding("lock", WARNING, f"files cannot be locked there: {error}", remedy)
        other = subprocess.run([sys.executable, "-S", "-c", LOCKER, str(file)], check=False, timeout=60, capture_output=True)
    if other.returncode != 3:
        return Finding("lock", WARNING, "two processes hold one lock", "keep HF_HOME, whose downloads rely on it, elsewhere")
    return Finding("lock", OK, "a second process does not get a lock that is held")


def _clock(place: Path) -> Finding:
    """The file server's clock agrees with ours, about which `make` and caches decide."""
    (place / "now").touch()
    apart = abs((place / "now").stat().st_mtime - time.time())
    if apart > CLOCK_S:
        return Finding("clock", WARNING, f"the file server's clock is {apart:.0f} s from this machine's", "report it: NTP is off")
    return Finding("clock", OK, "agrees with the file server's")


def _mount(path: Path) -> tuple[str, str]:
    """Kind and place of the file system that a path is on (proc(5), mountinfo)."""
    found, longest = ("unknown", "?"), -1
    file = Path("/proc/self/mountinfo")
    for line in file.read_text().splitlines() if file.is_file() else ():
        before, _, after = line.partition(" - ")
        where = before.split()[4].replace("\\040", " ")
        if path.is_relative_to(where) and len(where) >= longest:
            found, longest = (after.split()[0], where), len(where)
    return found
