"""Conversion of whole files: what changes, what stays, and what they then load into."""

import pickle
from pathlib import Path

import pytest
import torch

from eva02_det.checkpoint.convert import convert_checkpoint
from eva02_det.checkpoint.io import read_file, write_weights
from eva02_det.checkpoint.load import load_weights
from eva02_det.layers.patch_embed import Positions
from eva02_det.utils.errors import UserError
from tests.checkpoint.small import as_released, assert_same, randomise, small_backbone, small_detector, snapshot


def test_a_timm_file_gets_the_names_of_the_released_ones(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = randomise(timm.create_model("eva02_base_patch14_224", embed_dim=64, num_heads=1, depth=2))
    write_weights(tmp_path / "model.safetensors", theirs.state_dict())
    report = convert_checkpoint(tmp_path, tmp_path / "p14to16.pt")
    assert report[0] == f"{tmp_path} holds an EVA-02 backbone with timm's names, {len(theirs.state_dict())} tensors"
    converted = read_file(tmp_path / "p14to16.pt")["model"]
    names = {
        key.replace("fc1_g", "w1").replace("fc1_x", "w2").replace("fc2", "w3").replace("mlp.norm", "mlp.ffn_ln")
        for key in theirs.state_dict()
    }
    assert converted.keys() == {key.replace("q_proj.bias", "q_bias").replace("v_proj.bias", "v_bias") for key in names}
    assert torch.equal(converted["blocks.1.mlp.w1.weight"], theirs.blocks[1].mlp.fc1_g.weight)
    assert converted["pos_embed"].shape == (1, 197, 64)


def test_a_detector_is_freed_of_what_training_left_and_keeps_every_tensor(tmp_path: Path) -> None:
    raw, average, model = small_detector(), small_detector(), small_detector()
    content = {"model": as_released(raw), "ema_state": dict(average.named_parameters()), "trainer": {"big": torch.zeros(10**6)}}
    torch.save(content, tmp_path / "x.pth")
    convert_checkpoint(tmp_path / "x.pth", tmp_path / "raw.safetensors")
    assert read_file(tmp_path / "raw.safetensors").keys() == as_released(raw).keys()
    load_weights(model, tmp_path / "raw.safetensors")
    assert_same(model, snapshot(raw))
    convert_checkpoint(tmp_path / "x.pth", tmp_path / "ema.pth", which="ema")
    load_weights(model, tmp_path / "ema.pth")
    assert_same(model, snapshot(average))
    assert (tmp_path / "ema.pth").stat().st_size < 2e6


def test_a_model_zoo_pickle_becomes_a_file_that_loads(tmp_path: Path) -> None:
    source, model = small_detector(), small_detector()
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "zoo"}, protocol=2))
    convert_checkpoint(tmp_path / "zoo.pkl", tmp_path / "zoo.safetensors")
    load_weights(model, tmp_path / "zoo.safetensors")
    assert_same(model, snapshot(source))


def test_converting_twice_changes_nothing_more(tmp_path: Path) -> None:
    torch.save(small_backbone(patch_size=14, positions=Positions(16)).state_dict(), tmp_path / "a.pt")
    convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.pt")
    report = convert_checkpoint(tmp_path / "b.pt", tmp_path / "c.pt")
    assert len(report) == 2
    for key, value in read_file(tmp_path / "c.pt")["model"].items():
        assert torch.equal(value, read_file(tmp_path / "b.pt")["model"][key])


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("patch_embed.proj.weight", (32, 3, 14, 16), "no kernel of a square patch"),
        ("patch_embed.proj.weight", (32, 588), "no kernel of a square patch"),
        ("pos_embed", (1, 200, 32), "no table of a square of positions"),
        ("pos_embed", (197, 32), "no table of a square of positions"),
    ],
)
def test_shapes_that_cannot_be_converted_are_named(tmp_path: Path, key: str, shape: tuple[int, ...], said: str) -> None:
    torch.save({**small_backbone().state_dict(), key: torch.zeros(shape)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=said):
        convert_checkpoint(tmp_path / "x.pt", tmp_path / "y.pt")
    assert not (tmp_path / "y.pt").exists()
