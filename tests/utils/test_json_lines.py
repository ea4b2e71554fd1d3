"""Files of JSON lines that a killed run left behind."""

from pathlib import Path

from eva02_det.utils.json_lines import keep_lines, read_lines


def test_a_line_that_was_cut_off_is_left_out_and_the_rest_is_kept(tmp_path: Path):
    file = tmp_path / "metrics.json"
    file.write_text('{"iteration": 1, "loss": 0.5}\n{"iteration": 2, "loss": NaN}\n7\n{"iteration": 3, "lo')
    assert [line["iteration"] for line in read_lines(file)] == [1, 2]
    keep_lines(file, lambda line: line["iteration"] < 2)
    assert file.read_text() == '{"iteration": 1, "loss": 0.5}\n'


def test_a_file_that_is_not_there_has_no_lines_and_is_not_made(tmp_path: Path):
    assert list(read_lines(tmp_path / "none")) == []
    keep_lines(tmp_path / "none", bool)
    assert not (tmp_path / "none").exists()
