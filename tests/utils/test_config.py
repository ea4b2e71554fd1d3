"""Overrides change what they name or are refused."""

from pathlib import Path

import pytest

from eva02_det.utils.config import check_override, get, load_config
from eva02_det.utils.errors import UserError

CONFIG = """
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf
from torch import nn
model = L(nn.Linear)(in_features=4, out_features=2)
train = OmegaConf.create({"max_iter": 10, "amp": {"enabled": False}, "names": ["a", "b"], "missing": None})
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.py"
    path.write_text(CONFIG)
    return path


def test_overrides_follow_hydras_grammar(file: Path):
    config = load_config(file, ["train.max_iter=5", "train.amp.enabled=true", "train.names=[x,y,z]", "model.out_features=7"])
    assert (config.train.max_iter, config.train.amp.enabled, list(config.train.names)) == (5, True, ["x", "y", "z"])
    assert config.model.out_features == 7


def test_an_argument_that_the_config_leaves_at_its_default_can_be_set(file: Path):
    assert load_config(file, ["model.bias=false"]).model.bias is False


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("train.max_itr=5", "max_iter"),
        ("model.in_feature=5", "in_features"),
        ("trian.max_iter=5", "train"),
        ("train.amp.enabled.deep=1", "train.amp.enabled"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(file: Path, text: str, hint: str):
    with pytest.raises(UserError, match=hint):
        load_config(file, [text])


def test_a_plus_adds_a_key_on_purpose(file: Path):
    assert load_config(file, ["+train.note=hello"]).train.note == "hello"


@pytest.mark.parametrize("text", ["train.max_iter", "~train.max_iter=1"])
def test_what_is_no_assignment_is_refused(file: Path, text: str):
    with pytest.raises(UserError):
        check_override(load_config(file), text)


@pytest.mark.parametrize("text", ["--eval-only", "--num-gpus=2"])
def test_an_option_among_the_overrides_is_no_override(file: Path, text: str):
    with pytest.raises(UserError, match="give options first"):
        load_config(file, ["train.max_iter=5", text])


def test_a_value_outside_the_grammar_is_one_sentence(file: Path):
    with pytest.raises(UserError, match=r"cannot apply the overrides train.names=\[x"):
        load_config(file, ["train.names=[x"])


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere\.py does not exist"):
        load_config(tmp_path / "nowhere.py")


def test_get_returns_the_default_for_absent_and_null_values(file: Path):
    config = load_config(file)
    assert get(config, "train.none.deeper", 3) == 3
    assert get(config, "train.missing", 4) == 4
    assert get(config, "train.max_iter", 4) == 10
