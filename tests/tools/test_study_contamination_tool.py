"""tools/study_contamination.py as a user calls it: the files, the table and the sentences, or one sentence and status 2."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contamination.made_up_study import SEEN, content, write_arms

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "study_contamination.py"
PAIR = {
    "file_name": "a.jpg",
    "corpus": "web",
    "corpus_image": "b.jpg",
    "found_by": ["fingerprint"],
    "bits": 3,
    "similarity": 0.9,
    "coverage": 1.0,
    "flip": False,
    "quarter_turns": 0,
    "window": None,
    "reason": "the pixels agree",
}


def report(pairs: list[dict]) -> dict:
    """What tools/find_duplicates.py writes."""
    return {
        "format": 1,
        "evaluation": {"name": "made_up_val", "images": 70, "instances": 1, "digest": "0"},
        "corpora": [{"name": "web", "spec": "web/", "images": 9, "read": 9, "unreadable": 0}],
        "settings": {},
        "pairs": pairs,
        "affected": {},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set made_up_val below a root, two arms, a report in which the images of SEEN are confirmed, and a list of them."""
    root = tmp_path_factory.mktemp("root")
    (root / "made_up" / "annotations").mkdir(parents=True)
    (root / "made_up" / "val").mkdir()
    (root / "made_up" / "annotations" / "instances_val.json").write_text(json.dumps(content(federated=False)))
    write_arms(root, content(federated=False))
    pairs = [{**PAIR, "image_id": image, "confirmed": True} for image in sorted(SEEN)]
    pairs.append({**PAIR, "image_id": 70, "confirmed": False, "corpus_image": "c.jpg"})
    (root / "report.json").write_text(json.dumps(report(pairs)))
    (root / "none.json").write_text(json.dumps(report(pairs[-1:])))
    (root / "ids.json").write_text(json.dumps(sorted(SEEN)))
    return root


def call(home: Path, *arguments: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "DETECTRON2_DATASETS": str(home)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=home)


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the files, with the data set within reach."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(home))


def test_two_arms_and_a_report_become_files_a_table_and_sentences(home: Path, tmp_path: Path):
    arms = ["--predictions", "clean.json", "seen.json", "--resamples", 200]
    done = call(home, "--record", "report.json", *arms, "--names", "in21k", "m38m", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "study.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"study.json", "study.csv", "study.md"}
    assert (record["evaluation"], list(record["arms"])) == ("made_up_val", ["in21k", "m38m"])
    assert record["subsets"]["contaminated"]["all"]["images"] == len(SEEN)
    assert done.stdout.splitlines()[0] == "bbox"
    assert "m38m - in21k  all           AP" in done.stdout
    assert done.stdout.splitlines()[-len(record["sentences"]) :] == record["sentences"]
    assert "higher on contaminated images than on clean ones: beyond noise." in done.stdout


def test_one_detector_and_a_list_of_images_will_do(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    given = ["--image-ids", "ids.json", "--evaluation", "made_up_val", "--predictions", "seen.json", "--resamples", "50"]
    monkeypatch.setattr(sys, "argv", ["study", *given, "--out", str(tmp_path)])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert list(json.loads((tmp_path / "study.json").read_text())["arms"]) == ["seen"]
    assert "One detector cannot tell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--record", "absent.json"], "there is no report absent.json"),
        (["--record", "ids.json"], "it is no JSON object"),
        (["--record", "report.json", "--evaluation", "lvis_v1_val"], "is about made_up_val, not lvis_v1_val"),
        (["--record", "report.json", "--corpora", "books"], "knows no corpus books"),
        (["--record", "report.json", "--names", "a", "b"], "must give 1 different names"),
        (["--record", "none.json"], "no image of made_up_val is contaminated"),
        (["--image-ids", "ids.json"], "also needs --evaluation"),
        (["--image-ids", "ids.json", "--evaluation", "nowhere_val"], "'nowhere_val' is not known"),
        (["--record", "report.json", "--resamples", "1"], "1 resamples"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_status_two(
    here: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    arguments: list[str],
    sentence: str,
):
    out = str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["study", *arguments, "--predictions", "seen.json", "--out", out])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert sentence in said
    assert not Path(out).exists()


def test_pairs_that_were_not_confirmed_count_where_that_is_asked_for(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    given = ["--predictions", "seen.json", "--resamples", "50", "--out", str(tmp_path), "--unconfirmed"]
    monkeypatch.setattr(sys, "argv", ["study", "--record", "report.json", *given])
    runpy.run_path(str(TOOL), run_name="__main__")
    subsets = json.loads((tmp_path / "study.json").read_text())["subsets"]
    assert subsets["contaminated"]["all"]["images"] == len(SEEN) + 1
