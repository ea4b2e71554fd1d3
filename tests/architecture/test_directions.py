"""Imports point down: the levels of the packages, and what lies outside them."""

from pathlib import PurePosixPath

import pytest

from tests.architecture.source import Source, sources

LEVELS = {
    "utils": 0,
    "layers": 1,
    "checkpoint": 1,
    "modeling": 2,
    "data": 2,
    "evaluation": 2,
    "launch": 2,
    "engine": 3,
    "contamination": 3,
    "report": 3,
}
# down is always allowed; these are the listed exceptions inside a level or across packages
SIDEWAYS = {("contamination", "evaluation")}
COMPANION = {"launch", "layers", "checkpoint", "utils"}  # what eva02_mim may use
TOP = ("tools", "projects", "configs", "tests", "benchmarks")


def package_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("source", sources("eva02_det"), ids=lambda s: s.name)
def test_a_package_imports_only_from_levels_below_its_own(source: Source):
    own = package_of(source.module)
    for module, name in source.imports():
        assert module.split(".")[0] not in TOP, f"{source.name} imports {module}"
        assert module.split(".")[0] != "eva02_mim", f"{source.name} imports {module}"
        if not module.startswith("eva02_det") or not own:
            continue
        other = package_of(module) or (name if name in LEVELS else "")
        if other in LEVELS and own in LEVELS and other != own:
            assert LEVELS[other] < LEVELS[own] or (own, other) in SIDEWAYS, f"{source.name} imports {module}"


@pytest.mark.parametrize("source", sources("eva02_mim"), ids=lambda s: s.name)
def test_the_companion_package_uses_only_the_low_levels(source: Source):
    for module, _ in source.imports():
        if module.startswith("eva02_det."):
            assert package_of(module) in COMPANION, f"{source.name} imports {module}"


@pytest.mark.parametrize("source", sources("d2lite"), ids=lambda s: s.name)
def test_the_provider_knows_nothing_of_the_project(source: Source):
    for module, _ in source.imports():
        assert module.split(".")[0] not in ("eva02_det", "eva02_mim", *TOP), f"{source.name} imports {module}"


@pytest.mark.parametrize("source", sources("eva02_det", "eva02_mim", "tools"), ids=lambda s: s.name)
def test_configs_and_tests_are_imported_by_no_package(source: Source):
    for module, _ in source.imports():
        assert module.split(".")[0] not in ("configs", "tests"), f"{source.name} imports {module}"


def test_the_levels_name_every_folder_of_the_package():
    folders = {PurePosixPath(s.name).parts[1] for s in sources("eva02_det") if len(PurePosixPath(s.name).parts) > 2}
    assert folders <= set(LEVELS)
