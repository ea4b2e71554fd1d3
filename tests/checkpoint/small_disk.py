"""A real file system with little room."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk_of(folder: Path, *, mib: float) -> Iterator[Path]:
    """An empty disk of so many MiB, mounted at `folder`; the test is skipped where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={int(mib * 1024)}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small one, and the right to mount it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
