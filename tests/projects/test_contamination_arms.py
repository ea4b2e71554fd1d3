"""The arms of Table 20: each pair differs in its start alone, and each arm is the recipe that it names."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, ListConfig

from eva02_det.engine.recipe import load_recipe
from tests.configs.recipes import published

PROJECT = Path(__file__).resolve().parents[2] / "projects" / "contamination"
CONFIGS = PROJECT / "configs"
RECIPES = PROJECT.parent / "eva02" / "configs" / "lvis"
ARMS = {  # name: its recipe, where it starts, box and mask AP of Table 20
    "lvis_in21k": ("eva02_l_1024", "pt/eva02_L_pt_in21k_p14to16.pt", "55.2866", "48.5964"),
    "lvis_m38m": ("eva02_l_1024_m38m", "pt/eva02_L_pt_m38m_p14to16.pt", "55.34", "48.74"),
    "o365_in21k": ("eva02_l_1536_from_o365", "det/eva02_L_in21k_to_o365.pth", "65.2244", "57.3209"),
    "o365_m38m": ("eva02_l_1536_from_o365_m38m", "det/eva02_L_m38m_to_o365.pth", "65.42", "57.42"),
}


@cache
def values(path: Path) -> dict[str, Any]:
    """Every value of a config by its dotted place."""
    return dict(_leaves(load_recipe(path)))


def _leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(node, DictConfig | ListConfig):
        return [(path, node)]
    keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
    return [leaf for key in keys for leaf in _leaves(node[key], f"{path}.{key}".lstrip("."))]


def different(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    assert one.keys() == other.keys()
    return {key for key in one if one[key] != other[key]}


def test_there_are_two_pairs():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(ARMS)


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_is_its_recipe_but_for_where_it_writes(name: str):
    recipe, start, *_ = ARMS[name]
    mine = values(CONFIGS / f"{name}.py")
    assert different(mine, values(RECIPES / f"{recipe}.py")) == {"train.output_dir"}
    assert mine["train.output_dir"] == f"output/contamination/{name}"
    assert mine["train.init_checkpoint"] == f"hf://Yuxin-CV/EVA-02/eva02/{start}"


@pytest.mark.parametrize("pair", ["lvis", "o365"])
def test_the_arms_of_a_pair_differ_in_what_their_pre_training_has_seen_alone(pair: str):
    arms = [values(CONFIGS / f"{pair}_{data}.py") for data in ("in21k", "m38m")]
    assert different(*arms) == {"train.init_checkpoint", "train.output_dir"}
    for arm in arms:
        assert {arm["dataloader.test.dataset.names"], arm["dataloader.evaluator.dataset_name"]} == {"lvis_v1_val"}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_tells_its_command_and_the_numbers_of_the_paper(name: str):
    recipe, _, box, mask = ARMS[name]
    told = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert f"--config-file projects/contamination/configs/{name}.py" in told
    assert f"box AP {box}, mask AP {mask}" in told
    row = next(line for line in (PROJECT / "README.md").read_text().splitlines() if line.startswith(f"| `{name}`"))
    assert re.findall(r"\d+\.\d+", row)[:2] == [box, mask]
    if entry := published().get(f"lvis/{recipe}"):
        assert (f"{entry['expected_box_ap']:.4f}", f"{entry['expected_mask_ap']:.4f}") == (box, mask)
