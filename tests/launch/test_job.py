"""A job that has done its work."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# what is left over is dropped as the interpreter ends, after it has given the signals back
PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[3])
from eva02_det.launch.job import Job

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=int(sys.argv[2])):
        kill(me, number)

sys.last = Last()
Job("pretrain", (), code=sys.argv[1], home=sys.argv[1])()
"""


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_as_the_process_ends_makes_no_failure_of_a_finished_job(number: signal.Signals, tmp_path: Path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/pretrain.py").write_text("from eva02_det.launch import preemption\nwith preemption.watch():\n    pass\n")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), str(int(number)), str(ROOT)], check=False)
    assert done.returncode == 0


def test_a_job_whose_tool_fails_ends_with_its_status(tmp_path: Path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/pretrain.py").write_text("import sys\nsys.exit(2)\n")
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), "0", str(ROOT)], check=False)
    assert done.returncode == 2
