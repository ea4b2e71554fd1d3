"""The store of a run's checkpoints: whole or not there, checked, kept by two rules, written beside the training."""

import logging
import random
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from eva02_det.checkpoint.host import HostCopies
from eva02_det.checkpoint.integrity import damage
from eva02_det.checkpoint.io import read_file
from eva02_det.checkpoint.store import CheckpointStore, check_retention, first_of_each
from eva02_det.utils.errors import UserError
from tests.checkpoint.small_disk import disk_of

ROOM_MIB = 12  # of the small disk


def store_of(folder: Path, **options: Any) -> CheckpointStore:
    return CheckpointStore(folder, **{"prefix": "model_", "suffix": ".pth", "pointer": "last_checkpoint", **options})


def state(number: int, mib: float = 0.1) -> dict[str, Any]:
    return {"model": {"weight": torch.full((int(mib * 2**18),), float(number)), "bias": torch.arange(7.0)}, "iteration": number}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content_of(path: Path) -> dict[str, Any] | None:
    """What a damaged file gives: None where it cannot be read at all."""
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # noqa: BLE001  whatever the damage leads to
        return None


def equal(one: Any, other: Any) -> bool:
    try:
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    except (AssertionError, ValueError, TypeError):
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "disk", mib=ROOM_MIB) as folder:
        yield folder


def test_a_checkpoint_is_agreed_on_by_its_own_checksums_and_by_unzip(tmp_path: Path):
    store = store_of(tmp_path)
    store.write(4, state(4))
    path = store.newest()
    assert path == tmp_path / "model_0000004.pth"
    assert damage(path) is None
    assert zipfile.ZipFile(path).testzip() is None
    assert equal(read_file(path), state(4))


@pytest.mark.parametrize("seed", range(2))
def test_no_changed_byte_and_no_cut_changes_what_is_loaded_without_being_noticed(seed: int, tmp_path: Path):
    store = store_of(tmp_path)
    store.write(1, state(1, mib=0.01))
    path, rng = store.files()[0], random.Random(seed)
    whole, content = path.read_bytes(), state(1, mib=0.01)
    noticed = 0
    for trial in range(60):
        changed = bytearray(whole)
        if trial % 10 == 0:
            del changed[rng.randrange(len(whole)) :]
        else:
            # half of the changes hit the table of contents at the end, where a byte may mean anything
            place = rng.randrange(len(whole)) if trial % 2 else rng.randrange(len(whole) - 600, len(whole))
            changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        found = damage(path)
        noticed += found is not None
        assert found is not None or equal(content_of(path), content), f"change {trial} is not noticed"
    assert noticed > 30, "most bytes matter"


def test_damaged_ones_are_named_set_aside_and_the_newest_whole_one_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = store_of(tmp_path)
    for number in (1, 2, 3, 4):
        store.write(number, state(number))
    two, three, four = store.files()[1:]
    four.write_bytes(four.read_bytes()[:-5000])
    with three.open("r+b") as file:
        file.seek(50_000)
        file.write(b"other")
    with caplog.at_level(logging.WARNING):
        assert store.newest() == two
    first, second = caplog.messages
    assert f"{four} is damaged (it was cut short or changed" in first
    assert f"{three} is damaged (the checksum of " in second
    assert all(message.endswith(f"{two} is used instead") for message in caplog.messages)
    assert [name for name in names(tmp_path) if "damaged" in name] == [three.name + ".damaged", four.name + ".damaged"]
    store.write(3, state(3))
    assert store.newest() == three, "what the run writes from there on is newest again"


def test_where_none_is_whole_the_run_ends_and_nothing_is_touched(tmp_path: Path):
    store = store_of(tmp_path)
    for number in (1, 2):
        store.write(number, state(number))
    for path in store.files():
        path.write_bytes(b"")
    before = names(tmp_path)
    for _ in range(2):  # a run that is queued again must not begin from nothing
        with pytest.raises(UserError, match=r"no checkpoint in .* is whole \(model_0000002.pth: it is empty; model_0000001"):
            store.newest()
    assert names(tmp_path) == before
    assert store_of(tmp_path / "empty").newest() is None


def test_the_pointer_can_go_back_by_hand_and_later_files_stay_and_do_not_count(tmp_path: Path):
    store = store_of(tmp_path, keep=2)
    for number in (7, 8, 9):
        store.write(number, state(number))
    (tmp_path / "last_checkpoint").write_text("model_0000008.pth")
    assert store.newest() == tmp_path / "model_0000008.pth"
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    for number in (3, 4, 5):
        torch.save(state(number), store.path_of(number))
    store.write(6, state(6))
    assert [path.stem[-1] for path in store.files()] == ["5", "6", "8", "9"]
    assert store.newest() == store.path_of(6)


def test_a_run_killed_between_the_pointer_and_the_file_goes_on_from_the_file_before(tmp_path: Path, caplog):
    store = store_of(tmp_path)
    store.write(1, state(1))
    store.write(2, state(2))
    (tmp_path / "model_0000002.pth").unlink()
    (tmp_path / ".model_0000002.pth.x1.part").write_bytes(b"half")
    (tmp_path / ".last_checkpoint.x2.part").write_bytes(b"half")
    assert store.newest() == store.path_of(1)
    assert "model_0000002.pth is not there" in caplog.text
    (tmp_path / "last_checkpoint").unlink()
    assert store.newest() == store.path_of(1), "without the pointer as well"
    store.remove_leftovers()
    assert names(tmp_path) == ["model_0000001.pth"]


def test_the_last_ones_stay_and_the_first_after_each_so_many_steps(tmp_path: Path):
    store = store_of(tmp_path, keep=2, every=10, offset=1)
    for done in (4, 8, 10, 12, 16, 20, 23, 24, 28, 31, 32, 36, 40, 44):
        store.write(done - 1, state(done))
    store.write("model_final", state(44))
    assert [int(path.stem[6:]) + 1 for path in store.files()] == [10, 20, 31, 40, 44]
    assert store.path_of("model_final").is_file()
    assert first_of_each([4, 9, 13, 17, 35, 36, 41], 10) == {13, 35, 41}
    assert first_of_each([4, 9], None) == set()


@pytest.mark.parametrize(("keep", "every", "named"), [(0, None, "train.x.keep=0 keeps nothing"), (1, 0, "train.x.every=0 must")])
def test_numbers_that_keep_nothing_are_refused(keep: int, every: int | None, named: str):
    with pytest.raises(UserError, match=named):
        check_retention("train.x", keep, every)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_leaves_the_old_ones_whole_says_so_and_goes_on(asynchronous: bool, small_disk: Path, caplog):
    store = store_of(small_disk, asynchronous=asynchronous, keep=3)
    store.write(1, state(1, mib=5))
    store.wait()
    whole = store.path_of(1).read_bytes()
    with caplog.at_level(logging.WARNING):
        store.write(2, state(2, mib=8))
        store.wait()
    (said,) = caplog.messages
    assert "model_0000002.pth could not be written: No space left on device (7 MiB are free there, 8 MiB are needed)" in said
    assert f"the newest checkpoint is still {store.path_of(1)}; training goes on" in said
    assert names(small_disk) == ["last_checkpoint", "model_0000001.pth"]
    assert store.path_of(1).read_bytes() == whole
    assert store.newest() == store.path_of(1)
    with pytest.raises(UserError, match=r"No space left on device .*; make room and pass --resume"):
        store.write("model_final", state(2, mib=8), required=True)
    store.path_of(1).unlink()
    store.write(3, state(3, mib=8))
    store.wait()
    assert store.newest() == store.path_of(3), "once there is room again"


class SlowDisk(threading.Event):
    """Makes each torch.save wait until it is set, and counts those under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.running, self.most = 0, 0
        self._save = torch.save
        monkeypatch.setattr(torch, "save", self.save)

    def save(self, content: Any, stream: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.wait(30)
        self._save(content, stream)
        self.running -= 1


def test_what_the_training_changes_meanwhile_is_not_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk, store = SlowDisk(monkeypatch), store_of(tmp_path, asynchronous=True)
    content = state(1)
    content["notes"] = [1, {"count": 2}]
    store.write(1, content)  # comes back before it is written
    assert names(tmp_path) != ["last_checkpoint", "model_0000001.pth"]
    content["model"]["weight"].fill_(-1)
    content["notes"][1]["count"] = 3
    disk.set()
    store.wait()
    assert equal(read_file(store.path_of(1)), {**state(1), "notes": [1, {"count": 2}]})


def test_one_write_is_in_flight_and_the_next_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    disk, store = SlowDisk(monkeypatch), store_of(tmp_path, asynchronous=True)
    store.write(1, state(1))
    timer = threading.Timer(0.3, disk.set)
    timer.start()
    since = time.monotonic()
    store.write(2, state(2))
    assert time.monotonic() - since > 0.2, "the second began when the first was written"
    store.write(3, state(3), required=True)
    assert disk.most == 1
    for number in (1, 2, 3):
        assert equal(read_file(store.path_of(number)), state(number))


def test_an_error_of_the_thread_is_raised_at_the_next_step(tmp_path: Path):
    store = store_of(tmp_path, asynchronous=True)
    store.write(1, {"model": {}, "broken": (lambda: None,).__iter__})

    def steps() -> None:
        for _ in range(3000):
            store.check()
            time.sleep(0.01)

    with pytest.raises((AttributeError, TypeError)):
        steps()
    assert names(tmp_path) == []
    store.write(2, state(2), required=True)


def test_copies_keep_classes_attributes_and_what_is_one_tensor():
    weight = torch.arange(6.0).view(2, 3)
    original = OrderedDict(a=weight, b=weight, c=weight.t(), d=torch.zeros(0))
    original._metadata = {"": {"version": 2}}
    copies = HostCopies()
    taken = copies.take({"model": original, "list": [1, (weight, "x")], "none": None})
    assert equal(taken["model"]["c"], weight.t())
    assert taken["model"]._metadata == {"": {"version": 2}}
    assert taken["model"]["a"] is taken["model"]["b"]
    assert taken["model"]["a"].data_ptr() != weight.data_ptr()
    assert taken["list"][1][1] == "x"
    again = copies.take({"model": OrderedDict(a=weight + 1)})["model"]["a"]
    assert again.data_ptr() == taken["model"]["a"].data_ptr(), "the memory is used again"
    assert equal(again, weight + 1)
