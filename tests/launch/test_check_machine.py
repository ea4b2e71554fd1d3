"""What is said of this machine: packages that do not suit, ranges of cores, limits of memory."""

import os

import pytest
import torch

from eva02_det.launch.check_machine import check_devices, memory_gib, ranges, unmet


def test_packages_that_are_missing_or_too_old_are_named_and_those_of_extras_are_left_aside():
    asked = ["torch>=2.0", "numpy>=999", "no-such-package-anywhere>=1", 'also-not-there; extra == "dev"']
    found = list(unmet(asked))
    assert len(found) == 2
    assert found[0].startswith("numpy is ")
    assert found[0].endswith("not >=999")
    assert found[1] == "no-such-package-anywhere is missing"


@pytest.mark.parametrize(
    ("numbers", "text"), [([0, 1, 2, 5], "0-2,5"), ([3], "3"), ([1, 3, 4, 8, 9, 10], "1,3-4,8-10"), ([], "")]
)
def test_masks_with_gaps_are_written_as_taskset_writes_them(numbers: list[int], text: str):
    assert ranges(numbers) == text


def test_the_memory_that_slurm_grants_is_what_there_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    whole = memory_gib()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
    assert memory_gib() == 0.5
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    assert memory_gib() == whole <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def test_every_gpu_computes_or_its_absence_is_said():
    found = list(check_devices())
    assert len(found) == max(1, torch.cuda.device_count())
    assert all(one.state in ("ok", "note") for one in found)
