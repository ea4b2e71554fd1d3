"""What only reports may fail without ending a run, and says so."""

import logging
from pathlib import Path

import pytest

from eva02_det.utils.lenient import Lenient


def test_a_full_disk_is_said_once_until_there_is_room_again(caplog: pytest.LogCaptureFixture):
    curves = Lenient("curves")

    def write(file: str) -> None:
        Path(file).write_text("1")

    with caplog.at_level(logging.WARNING):
        for file in ("/dev/full", "/dev/full", "/dev/null", "/dev/full"):
            curves(lambda file=file: write(file))
    wanted = "curves cannot be written (No space left on device): the run goes on; make room"
    assert [record.getMessage() for record in caplog.records] == [wanted] * 2


def test_a_fault_that_is_not_the_storages_is_raised():
    with pytest.raises(ZeroDivisionError):
        Lenient("curves")(lambda: 1 / 0)
