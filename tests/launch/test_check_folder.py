"""Whether a folder suits checkpoints, tried on a real one, on one that cannot be, and on one whose renames are none."""

import os
import time
from pathlib import Path

import pytest

from eva02_det.launch.check_folder import check_folder, write_speed


def test_a_folder_that_suits_is_left_as_it_was(tmp_path: Path):
    found = {one.topic: one for one in check_folder(tmp_path / "runs")}
    assert set(found) == {"folder", "rename", "fsync", "lock", "clock"}
    assert {one.state for name, one in found.items() if name != "folder"} == {"ok"}
    assert "GiB free" in found["folder"].text
    assert write_speed(tmp_path / "runs") > 0
    assert not list((tmp_path / "runs").iterdir())


def test_memory_that_no_other_machine_sees_is_a_warning():
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm")
    found = next(iter(check_folder("/dev/shm/doctor_test")))
    os.rmdir("/dev/shm/doctor_test")
    assert found.state == "warning"
    assert "tmpfs" in found.text
    assert "all nodes see" in found.remedy


def test_a_folder_that_cannot_be_written_to_is_a_fault(tmp_path: Path):
    (tmp_path / "file").touch()
    (found,) = check_folder(tmp_path / "file" / "runs")
    assert found.state == "fault"
    assert "cannot be written to" in found.text
    assert found.remedy


def test_files_that_are_seen_half_replaced_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def copy_over(self: Path, target: Path) -> Path:
        """A rename of a file system that has none: the content is copied bit by bit."""
        content = self.read_bytes()
        with Path(target).open("wb") as stream:
            for start in range(0, len(content), 4096):
                stream.write(content[start : start + 4096])
                stream.flush()
                time.sleep(0.0005)
        return Path(target)

    monkeypatch.setattr(Path, "replace", copy_over)
    found = {one.topic: one for one in check_folder(tmp_path)}
    assert found["rename"].state == "fault"
    assert "torn" in found["rename"].text
