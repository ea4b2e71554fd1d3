"""A data set root of its own for each test, and catalogs that forget what the test registered."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An empty folder as DETECTRON2_DATASETS."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    functions, facts = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield tmp_path
    for table, before in ((DatasetCatalog, functions), (MetadataCatalog, facts)):
        table.data.clear()
        table.data.update(before)
