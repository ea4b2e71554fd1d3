"""Files appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eva02_det.utils.files import atomic_path, write_json, write_text


def half_write(target: Path) -> None:
    with atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError):
        half_write(target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    code = (
        "import os, signal\nfrom eva02_det.utils.files import atomic_path\n"
        f"with atomic_path({str(target)!r}) as path:\n    path.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_folders_are_made_and_permissions_follow_the_umask(tmp_path: Path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "x" / "y.json", {"a": 1})
    finally:
        os.umask(old)
    assert json.loads((tmp_path / "x" / "y.json").read_text()) == {"a": 1}
    assert (tmp_path / "x" / "y.json").stat().st_mode & 0o777 == 0o640
