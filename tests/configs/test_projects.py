"""Every config of the projects loads, survives YAML, and builds what it describes."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from eva02_det.utils.config import arguments, load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("projects/*/configs/**/*.py"))
DETECTORS = [  # the others pre-train a student, or classify, and have no detector to build
    name for name in CONFIGS if not name.startswith("projects/eva02_mim/") and not name.endswith("/student.py")
]


def schedule(config: OmegaConf) -> list[float]:
    """Learning-rate factors at twenty points of the run."""
    factor = instantiate(config.lr_multiplier)
    return [factor(step / 20) for step in range(20)]


def values(config: DictConfig) -> Any:
    """The whole tree, loaders included, with every name of a function or class replaced by the thing itself."""

    def plain(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: target(value) if key == "_target_" else plain(value) for key, value in node.items()}
        return [plain(value) for value in node] if isinstance(node, list | tuple) else node

    def target(named: Any) -> Any:
        return locate(named) if isinstance(named, str) else named

    return plain(OmegaConf.to_container(config))


def calls(node: Any, place: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every delayed call of a tree and where it is."""
    if isinstance(node, DictConfig) and "_target_" in node:
        yield place, node
    if isinstance(node, DictConfig | ListConfig):
        for key in node.keys() if isinstance(node, DictConfig) else range(len(node)):
            if not OmegaConf.is_missing(node, key):
                yield from calls(node[key], f"{place}.{key}".lstrip("."))


def takes_anything(node: DictConfig) -> bool:
    """Whether the call hands unknown arguments on, as subclasses of the heads and of the pyramid do."""
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(locate(node._target_)).parameters.values())


def test_there_are_configs():
    assert len(CONFIGS) >= 3


@pytest.mark.parametrize("name", DETECTORS)
def test_a_config_reloaded_from_yaml_builds_the_same_model_optimiser_and_schedule(name: str, tmp_path: Path):
    config = load_config(ROOT / name)
    LazyConfig.save(config, str(tmp_path / "saved.yaml"))
    again = load_config(tmp_path / "saved.yaml")
    assert values(config) == values(again)
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


@pytest.mark.parametrize("name", CONFIGS)
def test_every_call_of_a_reloaded_config_exists_and_takes_what_it_is_given(name: str, tmp_path: Path):
    LazyConfig.save(load_config(ROOT / name), str(tmp_path / "saved.yaml"))
    found = 0
    for place, node in calls(load_config(tmp_path / "saved.yaml")):
        assert callable(locate(node._target_)), place
        unknown = set(node) - {"_target_"} - set(arguments(node))
        assert not unknown or takes_anything(node), f"{place}: {node._target_} takes no {', '.join(unknown)}"
        found += 1
    assert found > (20 if name in DETECTORS else 5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_says_how_it_is_run(name: str):
    text = (ROOT / name).read_text()
    assert "Command:" in text
    assert name in text or "--config-file" in text
