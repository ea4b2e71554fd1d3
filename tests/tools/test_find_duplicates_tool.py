"""tools/find_duplicates.py and tools/decontaminate.py as a user calls them, killed in the middle too."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.contamination.made_up import coco_image, encoded, lvis_set, write

ROOT = Path(__file__).resolve().parents[2]
PLACES = {3: "train2017", 5: "train2017", 8: "val2017"}
FILES = ("report.json", "pairs.csv", "affected.csv", "unreadable.txt", "index.html", "leak_card.json", "leak_card.md")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set root, and a folder of pictures with copies and a damaged one among them."""
    folder = tmp_path_factory.mktemp("find")
    lvis_set(folder / "data", PLACES)
    (folder / "pics").mkdir()
    for number in range(60):
        content = encoded(number, "PNG") if number in (5, 8) else encoded(number)
        (folder / f"pics/{number:012d}.png").write_bytes(content[:200] if number == 20 else content)
    write(folder / "ids.json", [coco_image(number) for number in range(1, 7)])
    return folder


def started(tool: str, place: Path, *arguments: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "DETECTRON2_DATASETS": str(place / "data"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tools" / tool), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=place, env=env, start_new_session=True, **pipes)


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    out, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    return out, error


def find(place: Path, out: str, *more: str) -> "subprocess.Popen[str]":
    corpora = ["--corpus", "pics=pics", "coco=ids.json"]
    return started(
        "find_duplicates.py", place, "--evaluation", "lvis_v1_val", *corpora, "--out", out, "--shard-images", "1", *more
    )


def test_a_search_killed_at_a_random_shard_goes_on_and_gives_the_identical_report(place: Path):
    done, stop_at = place / "killed" / "work" / "shards", random.randrange(1, 25)
    killed = find(place, "killed", "--processes", "2")
    while len(list(done.glob("*.json"))) < stop_at:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGSTOP)  # it hands out no more shards while its children are looked up
    children = _children(killed.pid)
    killed.kill()  # SIGKILL, of the parent alone: its children must not outlive it
    killed.communicate()
    _wait_until_gone(children)
    kept = {file: file.stat().st_mtime_ns for file in done.glob("*.json")}
    assert stop_at <= len(kept)
    assert not (place / "killed/report.json").exists()

    _, said = ended(find(place, "killed", "--processes", "1"))
    out, _ = ended(find(place, "whole", "--processes", "1"))
    for name in FILES:
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes(), name
    assert kept == {file: file.stat().st_mtime_ns for file in kept}  # none was searched again
    missing = 60 + 6 - len(kept)
    assert f"searched: {missing} of {missing} images" in said
    assert out.splitlines() == [
        "pics: 3 of 3 images of lvis_v1_val (train2017 2 of 2, val2017 1 of 1), 9 of 9 instances",
        "coco: 2 of 3 images of lvis_v1_val (train2017 2 of 2, val2017 0 of 1), 6 of 9 instances",
        "all corpora: 3 of 3 images of lvis_v1_val (train2017 2 of 2, val2017 1 of 1), 9 of 9 instances",
        "pics: 1 of 60 images are unreadable, see unreadable.txt",
        "report: whole",
    ]
    report = json.loads((place / "whole/report.json").read_text())
    assert [(one["name"], one["read"], one["unreadable"]) for one in report["corpora"]] == [("pics", 59, 1), ("coco", 0, 0)]
    assert "000000000020.png" in (place / "whole/unreadable.txt").read_text()

    out, _ = ended(started("decontaminate.py", place, "whole", "--evaluation", "--from", "coco", "--out", "clean.json"))
    assert out == "clean.json: 1 images, 2 left out\n"


def _children(pid: int) -> list[int]:
    """Of a process and of its children, as they are named in /proc."""
    found = [int(text) for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()]
    return found + [one for child in found for one in _children(child)]


def _wait_until_gone(pids: list[int], patience_s: float = 60.0) -> None:
    assert pids, "the search was to have children"
    until = time.monotonic() + patience_s
    while left := [pid for pid in pids if _alive(pid)]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"{len(left)} of {len(pids)} children outlived the search")
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_bad_input_ends_in_one_sentence_and_status_2(place: Path):
    process = started("find_duplicates.py", place, "--evaluation", "nothing", "--corpus", "pics", "--out", "o")
    _, error = process.communicate(timeout=600)
    assert process.returncode == 2
    assert error.startswith("error: data set 'nothing' is not known")
    assert len(error.splitlines()) == 1
