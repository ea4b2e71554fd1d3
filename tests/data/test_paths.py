"""The folder of the data sets."""

from pathlib import Path

from eva02_det.data.paths import datasets_root


def test_the_environment_names_the_root_and_home_is_expanded(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    assert datasets_root() == Path.home() / "sets"


def test_without_the_variable_the_root_is_datasets_here(monkeypatch):
    for value in (None, ""):
        monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
        if value is not None:
            monkeypatch.setenv("DETECTRON2_DATASETS", value)
        assert datasets_root() == Path("datasets")
