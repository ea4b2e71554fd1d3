"""A run in wandb, offline, with the real package: one id over resumes, and each step once."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eva02_det.utils.errors import UserError
from eva02_det.utils.wandb_run import forget_run, open_run, wants_wandb


def stored_records(content: bytes) -> Iterator[bytes]:
    """What a .wandb file holds: LevelDB's log format after a header of 7 bytes."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:  # the rest of a block is filled up
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def offline_records(file: Path) -> list[Any]:
    """All records of a file; wandb writes it in a process of its own, which may still be at it."""
    from wandb.proto import wandb_internal_pb2

    until = time.monotonic() + 30
    while time.monotonic() < until:
        records = [wandb_internal_pb2.Record.FromString(content) for content in stored_records(file.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{file} has no end")


def offline_points(folder: Path, name: str = "loss") -> list[tuple[str, int, float]]:
    """(run id, step, value) of all points that wandb keeps below a folder, in the order of its files."""
    points = []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for record in offline_records(file):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            if name in items:
                points.append((file.stem.removeprefix("run-"), int(items["_step"]), float(items[name])))
    return points


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


def test_a_resumed_run_keeps_its_id_and_hands_over_each_step_once(tmp_path: Path):
    pytest.importorskip("wandb", reason="wandb is an extra: pip install wandb")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("train: {max_iter: 6}\n")
    settings = {"project": "detectors"}
    first = open_run(folder, settings)
    assert first is not None
    for step in range(4):
        first.log(step, {"loss": 10.0 + step})
    first.close()
    second = open_run(folder, settings)  # the checkpoint was that after step 1
    assert second is not None
    for step in range(2, 6):
        second.log(step, {"loss": 10.0 + step})
        second.log(step, {"accuracy": step / 10})  # a part that the first attempt had not come to
    second.close()
    assert [(step, value) for _, step, value in offline_points(folder, "accuracy")] == [(3, 0.3), (4, 0.4), (5, 0.5)]
    points = offline_points(folder)
    assert [(step, loss) for _, step, loss in points] == [(step, 10.0 + step) for step in range(6)]
    assert {name for name, _, _ in points} == {json.loads((folder / "wandb_run.json").read_text())["id"]}

    forget_run(folder)
    assert not (folder / "wandb_run.json").exists(), "a run that begins anew is another one"


def test_no_project_means_no_run(tmp_path: Path):
    assert open_run(tmp_path, None) is None
    assert open_run(tmp_path, {"project": None}) is None
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_had_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"train\.wandb\.mode=sometimes is not one of online"):
        wants_wandb({"project": "p", "mode": "sometimes"})
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    with pytest.raises(UserError, match="wandb is not installed"):
        wants_wandb({"project": "p", "mode": None})
