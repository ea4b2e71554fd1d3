"""tools/index_images.py: the index that a training run then finds, and images that cannot be read."""

import os
import subprocess
import sys
from pathlib import Path

from tests.utils.image_files import write_images

ROOT = Path(__file__).resolve().parents[2]


def index(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "EVA02_MIM_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tools/index_images.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)


def test_the_index_is_built_and_broken_images_among_those_tried_are_named(tmp_path: Path):
    paths = write_images(tmp_path / "images", 9)
    paths[4].write_bytes(b"")
    done = index(tmp_path, str(tmp_path / "images"), "--try", "9")
    assert f"{tmp_path / 'images'}: 9 images" in done.stdout
    assert f"unreadable: {paths[4]}: UnidentifiedImageError" in done.stdout
    assert "8 of 9 tried images are readable" in done.stdout
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: 1 of the tried images are unreadable; repair or remove them"
    assert len(list((tmp_path / "cache").glob("folder-*/about.json"))) == 1


def test_what_holds_no_image_ends_in_one_sentence(tmp_path: Path):
    done = index(tmp_path, str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'none'} does not exist; give the folder, list or shards of the images\n"
