"""Model zoo pickles: arrays come out as tensors, anything that could run is refused before it is looked up."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eva02_det.checkpoint.zoo import read_zoo_pickle
from eva02_det.utils.errors import UserError

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "half": np.ones(3, np.float16),
    "count": np.array(7, np.int64),
    "big": np.arange(4, dtype=">f4"),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_pickle_protocol_become_equal_tensors(tmp_path: Path, protocol: int) -> None:
    content = {"model": ARRAYS, "__author__": "somebody", "matching_heuristics": True, "scale": np.float32(0.5)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_zoo_pickle(tmp_path / "x.pkl")
    assert (found["__author__"], found["matching_heuristics"], found["scale"]) == ("somebody", True, 0.5)
    assert found["model"].keys() == ARRAYS.keys()
    for key, value in ARRAYS.items():
        assert torch.equal(found["model"][key], torch.from_numpy(value.astype(value.dtype.newbyteorder("="))))


class Runs:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        (Path.mkdir, (Path("ran"),), "getattr|pathlib"),
        (eval, ("1 + 1",), r"builtins\.eval"),
        (np.load, ("x.npy",), "numpy"),
        (torch.zeros, (3,), "torch|getattr"),
    ],
)
def test_any_other_object_is_refused_by_its_name(tmp_path: Path, call: Any, arguments: tuple, named: str) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": ARRAYS, "extra": Runs(call, *arguments)}))
    with pytest.raises(UserError, match=rf"x\.pkl holds objects other than arrays \(.*({named}).*since unpickling runs code"):
        read_zoo_pickle(tmp_path / "x.pkl")
    assert not Path("ran").exists()


def test_objects_inside_an_array_are_refused_too(tmp_path: Path) -> None:
    array = np.array([Runs(eval, "1 + 1")], dtype=object)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"a": array}}))
    with pytest.raises(UserError, match=r"builtins\.eval"):
        read_zoo_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("content", [b"", b"<html>", pickle.dumps({"model": ARRAYS})[:-40], pickle.dumps([1])])
def test_what_is_no_model_zoo_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pkl"):
        read_zoo_pickle(tmp_path / "x.pkl")
