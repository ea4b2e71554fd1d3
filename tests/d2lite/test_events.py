"""EventStorage and the writers."""

import json
import logging
import re

import pytest
import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def run(writer: EventWriter, losses: list[float], start: int = 0, every: int = 1) -> None:
    """Store one loss an iteration, write each `every` iterations."""
    with EventStorage(start) as storage:
        for loss in losses:
            storage.put_scalars(total_loss=loss, time=0.5, data_time=0.25)
            storage.put_scalar("lr", 0.1, smoothing_hint=False)
            if (storage.iter + 1) % every == 0:
                writer.write()
            storage.step()
    writer.close()


def test_the_innermost_storage_is_the_current_one():
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    with pytest.raises(AssertionError):
        get_event_storage()


def test_a_storage_is_left_when_its_block_fails():
    with pytest.raises(KeyError), EventStorage():
        raise KeyError
    with pytest.raises(AssertionError):
        get_event_storage()


def test_scalars_carry_their_iteration_and_may_be_tensors():
    with EventStorage(5) as storage:
        storage.put_scalar("a", torch.tensor(2.0))
        storage.step()
        storage.put_scalar("b", 3, cur_iter=2)
        storage.put_scalar("c", 4)
    assert storage.latest() == {"a": (2.0, 5), "b": (3.0, 2), "c": (4.0, 6)}


def test_smoothing_is_a_median_over_recent_iterations():
    with EventStorage() as storage:
        for value in (100.0, 1.0, 9.0, 2.0):
            storage.put_scalar("loss", value)
            storage.put_scalar("ap", value, smoothing_hint=False)
            storage.step()
    latest = storage.latest_with_smoothing_hint(3)
    assert latest == {"loss": (2.0, 3), "ap": (2.0, 3)}
    assert storage.latest_with_smoothing_hint(2)["loss"] == (5.5, 3)
    assert storage.history("loss").avg(4) == 28


def test_the_window_counts_iterations_and_not_values():
    with EventStorage() as storage:
        for iteration in (0, 10, 20, 30):
            storage.put_scalar("rare", iteration, cur_iter=iteration)
    assert storage.latest_with_smoothing_hint(20)["rare"] == (25.0, 30)
    assert storage.latest_with_smoothing_hint(1)["rare"] == (30.0, 30)


def test_a_scalar_cannot_change_its_smoothing():
    with EventStorage() as storage:
        storage.put_scalar("a", 1)
        with pytest.raises(AssertionError):
            storage.put_scalar("a", 1, smoothing_hint=False)


def test_a_name_scope_prefixes_names_inside_its_block():
    with EventStorage() as storage:
        with storage.name_scope("rpn"):
            storage.put_scalar("loss", 1)
        storage.put_scalar("loss", 2)
    assert set(storage.latest()) == {"rpn/loss", "loss"}


def test_an_unknown_history_is_an_error():
    with EventStorage() as storage, pytest.raises(KeyError):
        storage.history("absent")


def test_json_lines_hold_each_iteration_once(tmp_path):
    file = tmp_path / "metrics.json"
    run(JSONWriter(str(file), window_size=1), [3.0, 2.0, 1.0, 0.5], every=2)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["iteration"], line["total_loss"]) for line in lines] == [(1, 2.0), (3, 0.5)]
    assert lines[0].keys() == {"iteration", "total_loss", "time", "data_time", "lr"}


def test_writing_twice_adds_only_what_is_new(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    with EventStorage() as storage:
        storage.put_scalar("a", 1)
        writer.write()
        writer.write()
        storage.put_scalar("b", 1, cur_iter=4)
        writer.write()
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [{"a": 1.0, "iteration": 0}, {"b": 1.0, "iteration": 4}]


def test_a_resumed_run_appends_to_its_json_lines(tmp_path):
    file = tmp_path / "metrics.json"
    run(JSONWriter(str(file)), [3.0])
    run(JSONWriter(str(file)), [1.0], start=1)
    assert [json.loads(line)["iteration"] for line in file.read_text().splitlines()] == [0, 1]


def test_tensorboard_files_hold_the_scalars(tmp_path):
    run(TensorboardXWriter(str(tmp_path), window_size=1), [3.0, 2.0])
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("total_loss")] == [(0, 3.0), (1, 2.0)]


def test_pictures_go_to_tensorboard_once(tmp_path):
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        storage.put_image("seen", torch.zeros(3, 4, 4))
        writer.write()
        writer.write()
    writer.close()
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert len(read.Images("seen")) == 1


def printed(caplog: pytest.LogCaptureFixture, losses: list[float], max_iter: int | None) -> list[str]:
    printer = CommonMetricPrinter(max_iter)
    printer.logger.parent.propagate = True
    with caplog.at_level(logging.INFO, logger=printer.logger.name):
        run(printer, losses)
    return [record.getMessage() for record in caplog.records]


def test_the_printed_line_holds_what_a_user_watches(caplog):
    line = printed(caplog, [4.0, 2.0], max_iter=10)[-1]
    assert "iter: 1" in line
    assert "total_loss: 3" in line, "the median of 4 and 2"
    assert "eta: 0:00:04" in line, "eight iterations of half a second"
    assert "lr: 0.1" in line
    assert re.search(r"time: 0\.50.* data_time: 0\.25", line)


def test_the_printed_memory_is_that_of_the_process_where_there_is_no_gpu(caplog):
    from eva02_det._provider import active

    [memory] = re.findall(r"max_mem: (\d+)M", printed(caplog, [1.0], None)[-1]) or ["0"]
    if active() == "d2lite":
        assert 50 < int(memory) < 50_000


def test_nothing_is_printed_after_the_last_iteration(caplog):
    assert len(printed(caplog, [1.0, 1.0], max_iter=1)) == 1
