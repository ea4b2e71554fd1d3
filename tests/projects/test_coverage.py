"""The simulation of coverage as a command: every method on every kind of images, with the widths that would be right."""

import json
import sys
from pathlib import Path

import pytest

from projects.contamination import coverage


def test_the_command_writes_a_row_for_each_kind_method_and_quantity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(
        sys, "argv", ["coverage.py", "--studies", "4", "--resamples", "20", "--json", str(tmp_path / "rows.json")]
    )
    coverage.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {(row["kind"], row["intervals"], row["quantity"]) for row in rows}
    assert len(found) == len(rows) == len(coverage.KINDS) * len(coverage.METHODS) * len(coverage.QUANTITIES)
    for row in rows:
        assert row["width"] > 0
        assert row["coverage"] + row["too low"] + row["too high"] == pytest.approx(100)
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*coverage.KINDS, *coverage.METHODS))
