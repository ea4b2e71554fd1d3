"""Finds the golden cases of a group from `index.json` and reads them; no test names a case."""

import gzip
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(os.environ.get("EVA02_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))


class GoldenCase:
    """One folder `<group>/<case>`: a specification, arrays and further JSON files."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = ROOT / name

    def __repr__(self) -> str:
        return self.name

    @cached_property
    def spec(self) -> dict[str, Any]:
        """All of `case.json`."""
        return json.loads((self.folder / "case.json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.spec["config"]

    @property
    def tolerance(self) -> dict[str, Any]:
        return self.spec["tolerance"]

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays of `tensors.npz`, empty where the case has none."""
        path = self.folder / "tensors.npz"
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(np.array(self.tensors[key]))

    def json(self, file: str) -> Any:
        """A further JSON file of the case, compressed or not."""
        path = self.folder / file
        return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_text())

    def source(self) -> "GoldenCase":
        """The case that holds the weights (and images) of this one."""
        other = self.spec.get("weights_from") or self.spec.get("weights_and_images_from")
        return GoldenCase(other) if other else self

    def weights(self) -> dict[str, torch.Tensor]:
        """State dict under the reference's own keys."""
        source = self.source()
        return {key[2:]: source.tensor(key) for key in source.tensors if key.startswith("w.")}


def golden_cases(group: str) -> list[Any]:
    """Every case of the group as a pytest parameter; one skipped parameter where the fixtures are absent."""
    index = ROOT / "index.json"
    if not index.is_file():
        reason = f"no golden fixtures at {ROOT}; set EVA02_GOLDEN"
        return [pytest.param(None, id="absent", marks=[pytest.mark.golden, pytest.mark.skip(reason=reason)])]
    names = [entry["case"] for entry in json.loads(index.read_text())]
    chosen = [name for name in names if name.split("/")[0] == group]
    return [pytest.param(GoldenCase(name), id=name, marks=pytest.mark.golden) for name in chosen]
