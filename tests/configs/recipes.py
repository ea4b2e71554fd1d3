"""Where the published recipes are, and the table that states all their values."""

import copy
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from eva02_det.engine.recipe import load_recipe, override_recipe

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "projects" / "eva02" / "configs"
TABLE = Path(os.environ.get("EVA02_SPECS", ROOT.parent / "shared" / "specs")) / "recipes.json"


def published() -> dict[str, dict[str, Any]]:
    """Values of every published recipe by its name, such as coco/eva02_b_1024; empty where the table is not at hand."""
    return json.loads(TABLE.read_text())["recipes"] if TABLE.is_file() else {}


def published_recipes() -> list[Any]:
    """(name, values) for parametrize; one skipped entry where the table is not at hand."""
    recipes = published()
    if not recipes:
        return [pytest.param("", {}, marks=pytest.mark.skip(reason=f"no table of the published recipes at {TABLE}"), id="absent")]
    return [pytest.param(name, values, id=name) for name, values in recipes.items()]


def own_recipes() -> list[str]:
    """Every config of the project, published or not, such as coco/eva02_b_1024."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.glob("*/*.py"))


def load(name: str, *overrides: str) -> DictConfig:
    """A recipe with overrides. Its file is read once for all tests."""
    return override_recipe(copy.deepcopy(_as_it_stands(name)), overrides)


@lru_cache
def _as_it_stands(name: str) -> DictConfig:
    return load_recipe(CONFIGS / f"{name}.py")
