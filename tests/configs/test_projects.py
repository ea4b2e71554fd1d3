"""Every config of the projects loads, survives YAML, and builds what it describes."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from eva02_det.utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("projects/*/configs/**/*.py"))


def schedule(config: OmegaConf) -> list[float]:
    """Learning-rate factors at twenty points of the run."""
    factor = instantiate(config.lr_multiplier)
    return [factor(step / 20) for step in range(20)]


def test_there_are_configs():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_reloaded_from_yaml_builds_the_same_model_optimiser_and_schedule(name: str, tmp_path: Path):
    config = load_config(ROOT / name)
    LazyConfig.save(config, str(tmp_path / "saved.yaml"))
    again = load_config(tmp_path / "saved.yaml")
    with torch.device("meta"):
        models = [instantiate(one.model) for one in (config, again)]
    shapes = [{key: tuple(value.shape) for key, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]
    groups = []
    for one, model in zip((config, again), models):
        one.optimizer.params.model = model
        groups.append([(g["lr"], g["weight_decay"], len(g["params"])) for g in instantiate(one.optimizer).param_groups])
    assert groups[0] == groups[1]
    assert schedule(config) == schedule(again)
    assert OmegaConf.to_container(config.train) == OmegaConf.to_container(again.train)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_how_it_is_run(name: str):
    text = (ROOT / name).read_text()
    assert "Command:" in text
    assert name in text or "--config-file" in text
