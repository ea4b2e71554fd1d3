"""Which detectron2 a process gets, asked of real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eva02_det import _provider

ROOT = Path(__file__).resolve().parents[2]
WHERE = "import eva02_det, detectron2; print(detectron2.__file__)"


def run(code: str, *, path: tuple[Path, ...] = (), provider: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with folders on its path and a provider asked for or not."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", _provider.VARIABLE)}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, *path)))
    if provider is not None:
        env[_provider.VARIABLE] = provider
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds another package of the name, as an official install would."""
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("__version__ = 'another'\n")
    return tmp_path


def test_d2lite_serves_when_it_is_asked_for():
    done = run(WHERE, provider="d2lite")
    assert str(ROOT / "d2lite") in done.stdout, done.stderr


def test_an_installed_detectron2_wins(installed: Path):
    done = run(WHERE, path=(installed,))
    assert str(installed) in done.stdout, done.stderr


def test_d2lite_can_be_forced_beside_an_installed_detectron2(installed: Path):
    done = run(WHERE, path=(installed,), provider="d2lite")
    assert str(ROOT / "d2lite") in done.stdout, done.stderr


def test_an_installed_detectron2_can_be_forced_where_the_parent_process_used_d2lite(installed: Path):
    done = run(WHERE, path=(_provider.D2LITE, installed), provider="official")
    assert str(installed) in done.stdout, done.stderr


@pytest.mark.skipif(_provider.active() == "official", reason="an official detectron2 is installed")
def test_asking_for_an_absent_official_package_says_what_to_do():
    done = run(WHERE, provider="official")
    assert done.returncode != 0
    assert "installation page" in done.stderr


def test_an_unknown_provider_is_refused():
    done = run(WHERE, provider="other")
    assert done.returncode != 0
    assert "is not a provider" in done.stderr


def test_importing_detectron2_first_does_not_change_the_choice_silently(installed: Path):
    done = run("import detectron2, eva02_det", path=(installed,), provider="d2lite")
    assert done.returncode != 0
    assert "came too late" in done.stderr


def test_a_child_process_that_never_imports_us_sees_the_same_detectron2():
    child = "import detectron2; print(detectron2.__file__)"
    parent = "import subprocess, sys, eva02_det; print(subprocess.check_output([sys.executable, '-c', {!r}], text=True))"
    done = run(parent.format(child), provider="d2lite")
    assert str(ROOT / "d2lite") in done.stdout, done.stderr


def test_a_spawned_worker_unpickles_objects_of_detectron2():
    code = (
        "import eva02_det, torch.multiprocessing as mp\n"
        "from detectron2.structures import Boxes\n"
        "import torch\n"
        "if __name__ == '__main__':\n"
        "    with mp.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.apply(len, (Boxes(torch.zeros(3, 4)),)))\n"
    )
    done = run(code, provider=_provider.active(), path=tuple(Path(p) for p in sys.path if "site-packages" in p))
    assert done.stdout.strip() == "3", done.stderr


def test_the_description_names_provider_version_and_place():
    text = _provider.describe()
    assert _provider.active() in text
    assert "detectron2" in text
