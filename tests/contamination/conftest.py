"""The data set root of its own that the tests of data use, and indexes that are kept apart from the user's."""

from pathlib import Path

import pytest

from tests.data.conftest import root  # noqa: F401  a fixture


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
