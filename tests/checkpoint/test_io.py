"""Files are read as tensors only, without a second copy in memory, and written whole."""

import argparse
import collections
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eva02_det.checkpoint.io import read_file, state_dict_of, write_weights
from eva02_det.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


@pytest.mark.parametrize("nesting", ["model", "module", "state_dict", ""])
def test_weights_are_found_in_every_nesting_and_without_the_prefix_of_data_parallel(tmp_path: Path, nesting: str) -> None:
    prefixed = {f"module.{key}": value for key, value in WEIGHTS.items()}
    for weights in (WEIGHTS, prefixed):
        content = {nesting: weights, "epoch": 3} if nesting else {**weights, "epoch": 3}
        torch.save(content, tmp_path / "x.pt")
        assert_equal(state_dict_of(read_file(tmp_path / "x.pt"), "x.pt"), WEIGHTS)


def test_a_prefix_that_not_all_keys_have_is_part_of_their_names() -> None:
    weights = {"module.a": torch.zeros(1), "a": torch.ones(1)}
    assert_equal(state_dict_of(weights, "x"), weights)


def test_averages_are_found_in_detectors_and_in_fine_tuned_classifiers() -> None:
    for key in ("ema_state", "model_ema"):
        assert_equal(state_dict_of({"model": {"x": torch.zeros(1)}, key: WEIGHTS}, "x", "ema"), WEIGHTS)
    with pytest.raises(UserError, match=r"y\.pth holds no averaged weights \(no ema_state or model_ema, only model, iteration\)"):
        state_dict_of({"model": WEIGHTS, "iteration": 3}, "y.pth", "ema")


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
def test_what_is_written_is_read_back_equal(tmp_path: Path, name: str) -> None:
    shared = {**WEIGHTS, "alias": WEIGHTS["a.weight"], "part": WEIGHTS["a.weight"][1:], "turned": WEIGHTS["a.weight"].T}
    write_weights(tmp_path / name, shared)
    assert_equal(state_dict_of(read_file(tmp_path / name), name), shared)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_metadata_travels_in_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_weights(tmp_path / "w.safetensors", WEIGHTS, {"format": "pt", "origin": "here"})
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "origin": "here"}


def test_files_of_before_torch_1_6_are_read(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_equal(state_dict_of(read_file(tmp_path / "old.pth"), "old.pth"), WEIGHTS)


def test_what_training_leaves_in_a_file_is_plain_and_read(tmp_path: Path) -> None:
    rest = {"sparse": {"a"}, "shape": torch.Size([2]), "order": collections.OrderedDict(lr=1e-4), "none": None, "rng": b"bytes"}
    torch.save({"module": WEIGHTS, **rest}, tmp_path / "x.pt")
    content = read_file(tmp_path / "x.pt")
    assert {key: content[key] for key in rest} == rest


class Marker:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_by_the_name_of_what_it_wants_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "extra": Marker(tmp_path / "ran")}, tmp_path / "evil.pth")
    for allow in (False, True):
        with pytest.raises(
            UserError, match=r"evil\.pth holds objects other than tensors \(posix\.mkdir\).*re-save its state dict"
        ):
            read_file(tmp_path / "evil.pth", allow_namespace=allow)
    assert not (tmp_path / "ran").exists()


def test_options_of_a_training_script_are_refused_with_the_tool_that_lets_them_through(tmp_path: Path) -> None:
    torch.save({"module": WEIGHTS, "args": argparse.Namespace(lr=1e-4, opt=["adamw"])}, tmp_path / "ds.pt")
    with pytest.raises(UserError, match=r"\(argparse\.Namespace\).*run tools/convert_checkpoint\.py on it"):
        read_file(tmp_path / "ds.pt")
    content = read_file(tmp_path / "ds.pt", allow_namespace=True)
    assert content["args"] == argparse.Namespace(lr=1e-4, opt=["adamw"])
    with pytest.raises(UserError, match="argparse"):  # the permission ends with the call
        read_file(tmp_path / "ds.pt")


def test_a_namespace_beside_another_object_opens_no_door(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(hook=Marker(tmp_path / "ran"))}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"posix\.mkdir"):
        read_file(tmp_path / "evil.pt", allow_namespace=True)
    assert not (tmp_path / "ran").exists()


def test_a_model_zoo_pickle_is_refused_with_the_tool_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(UserError, match=r"model_final\.pkl is a pickle.*tools/convert_checkpoint\.py"):
        read_file(tmp_path / "model_final.pkl")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 60, -8])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, name: str, keep: int) -> None:
    write_weights(tmp_path / name, WEIGHTS)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:keep])
    with pytest.raises(UserError, match=rf"{name} is truncated or not a"):
        read_file(tmp_path / name)


@pytest.mark.parametrize("content", [b"<html>404</html>" * 9, pickle.dumps([1, 2], protocol=2), b"PK\x03\x04 no archive"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_file(tmp_path / name)


def test_a_list_and_a_dict_without_weights_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds a list, not a state dict"):
        read_file(tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"y\.pth holds no weights"):
        state_dict_of({"epoch": 3}, "y.pth")


MEASURE = """
import re, sys, torch
from torch import nn
from eva02_det.checkpoint.load import load_weights

def own_memory_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

model = nn.Linear(4096, 2048)
load_weights(nn.Linear(2, 2), sys.argv[1])
for path in sys.argv[2:]:
    before = own_memory_mib()
    load_weights(model, path)
    sys.stdout.write(f"{own_memory_mib() - before}\\n")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_needs_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    """32 MiB of weights, beside 64 MiB of optimiser state where the file can hold it."""
    files = [tmp_path / name for name in ("warm.pth", "w.pth", "w.safetensors")]
    weights = {"weight": torch.ones(2048, 4096), "bias": torch.ones(2048)}
    torch.save(torch.nn.Linear(2, 2).state_dict(), files[0])
    torch.save({"model": weights, "optimizer": [torch.ones(2, 2048, 4096)]}, files[1])
    write_weights(files[2], weights)
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120)
    growth_mib = [float(line) for line in done.stdout.split()]
    assert len(growth_mib) == 2
    assert max(growth_mib) < 8
