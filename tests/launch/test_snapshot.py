"""A snapshot is what the checkout was when it was taken: tracked, changed and new files, and what they were changed from."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from eva02_det.launch.snapshot import LARGEST, take
from eva02_det.utils.errors import UserError


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=one", "-c", "user.email=one@example.org")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, a change, a new file, a large one and an ignored one."""
    root = tmp_path / "checkout"
    (root / "eva02_det").mkdir(parents=True)
    (root / "tools").mkdir()
    files = {"eva02_det/__init__.py": "committed = 1\n", "tools/a.py": "a\n", "gone.py": "", ".gitignore": "output/\n"}
    for name, text in files.items():
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "eva02_det/__init__.py").write_text("changed = 2\n")
    (root / "gone.py").unlink()
    (root / "new config.py").write_text("new = 3\n")
    (root / "weights.bin").write_bytes(bytes(LARGEST + 1))
    (root / "output").mkdir()
    (root / "output/log").write_text("no code")
    return root


def files(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_it_holds_the_code_as_it_is_and_says_how_it_differs_from_the_commit(checkout: Path, tmp_path: Path):
    taken = take(checkout, tmp_path / "code")
    assert files(taken.root) == {"eva02_det/__init__.py", "tools/a.py", ".gitignore", "new config.py"}
    assert (taken.root / "eva02_det/__init__.py").read_text() == "changed = 2\n"
    diff = taken.root.with_suffix(".diff").read_text()
    assert "-committed = 1" in diff
    assert "+changed = 2" in diff
    record = json.loads(taken.root.with_suffix(".json").read_text())
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert record["commit"] == head.stdout.strip()
    assert record["left_out"] == ["weights.bin"]
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "left out, as they are large and unknown to git: weights.bin" in taken.describe()


def test_editing_the_checkout_later_changes_nothing_and_gives_another_snapshot(checkout: Path, tmp_path: Path):
    first = take(checkout, tmp_path / "code")
    (checkout / "tools/a.py").write_text("b\n")
    second = take(checkout, tmp_path / "code")
    assert first.root != second.root
    assert [(one.root / "tools/a.py").read_text() for one in (first, second)] == ["a\n", "b\n"]


def test_code_that_has_not_changed_is_not_copied_again(checkout: Path, tmp_path: Path):
    root = take(checkout, tmp_path / "code").root
    (root / "mark").write_text("")
    assert take(checkout, tmp_path / "code").root == root
    assert (root / "mark").exists()


def test_where_nothing_is_to_be_written_it_says_what_would_be(checkout: Path, tmp_path: Path):
    would = take(checkout, tmp_path / "code", write=False)
    assert not (tmp_path / "code").exists()
    assert take(checkout, tmp_path / "code") == would


def test_files_of_the_checkout_are_found_in_the_copy(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    taken = take(checkout, tmp_path / "code")
    monkeypatch.chdir(checkout / "tools")
    own = [taken.path_of(text) for text in ("a.py", "../new config.py", str(checkout / "tools/a.py"))]
    assert own == [str(taken.root / name) for name in ("tools/a.py", "new config.py", "tools/a.py")]
    others = ["../weights.bin", "train.seed=1", "/etc/passwd", "tools", "absent.py"]
    assert [taken.path_of(text) for text in others] == others


def test_an_unpacked_archive_is_copied_by_its_parts(tmp_path: Path):
    root = tmp_path / "archive"
    for name in ("eva02_det/__init__.py", "tools/a.py", "output/log", "eva02_det/__pycache__/a.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    taken = take(root, tmp_path / "code")
    assert files(taken.root) == {"eva02_det/__init__.py", "tools/a.py"}
    assert taken.commit is None


def test_a_folder_without_the_code_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is no checkout of this project"):
        take(tmp_path, tmp_path / "code")
