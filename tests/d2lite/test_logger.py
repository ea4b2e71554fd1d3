"""Loggers, messages that are not repeated, tables, and seeds."""

import logging
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

NAMES = iter(range(1000))


@pytest.fixture
def name() -> Iterator[str]:
    """A logger nobody has set up."""
    name = f"fresh{next(NAMES)}"
    yield name
    logging.getLogger(name).handlers.clear()


def test_the_first_process_speaks_and_writes_and_others_only_write_to_a_file_of_their_own(tmp_path, name, capsys):
    setup_logger(str(tmp_path), name=f"{name}a").info("from the first")
    setup_logger(str(tmp_path), distributed_rank=2, name=f"{name}b").info("from the third")
    assert "from the first" in (tmp_path / "log.txt").read_text()
    assert "from the third" in (tmp_path / "log.txt.rank2").read_text()
    spoken = capsys.readouterr().out
    assert "from the first" in spoken
    assert "from the third" not in spoken


def test_setting_a_logger_up_twice_does_not_double_its_lines(tmp_path, name):
    for _ in range(2):
        logger = setup_logger(str(tmp_path / "run.log"), name=name)
    logger.info("once")
    assert (tmp_path / "run.log").read_text().count("once") == 1


def test_modules_of_a_package_speak_through_its_logger_under_its_short_name(tmp_path, name, capsys):
    setup_logger(str(tmp_path), name=name, abbrev_name="short")
    logging.getLogger(f"{name}.part").warning("beware")
    assert "part WARNING: beware" in (tmp_path / "log.txt").read_text()
    spoken = capsys.readouterr().out
    assert "short.part" in spoken
    assert "WARNING" in spoken
    assert "beware" in spoken


def test_two_loggers_may_write_to_one_file(tmp_path, name):
    setup_logger(str(tmp_path), name=f"{name}a").info("one")
    setup_logger(str(tmp_path), name=f"{name}b").info("two")
    text = (tmp_path / "log.txt").read_text()
    assert text.index("one") < text.index("two")


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(()).item()


def test_one_seed_gives_one_sequence_in_every_generator():
    seed_all_rng(7)
    first = draw()
    seed_all_rng(7)
    assert draw() == first
    seed_all_rng(8)
    assert all(a != b for a, b in zip(draw(), first))


def test_no_seed_gives_another_sequence_each_time():
    seed_all_rng()
    first = draw()
    seed_all_rng()
    assert draw() != first
