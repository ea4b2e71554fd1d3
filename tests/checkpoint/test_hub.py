"""Names of checkpoints become files: from the hub's own cache without a network, or one sentence."""

import http.server
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from eva02_det.checkpoint.hub import find_file
from eva02_det.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
REVISION = "0123456789abcdef0123456789abcdef01234567"


def cache(folder: Path, repository: str, file: str, content: bytes = b"weights") -> Path:
    """Lay a file down as a download does: the blob, a link to it below its revision, and what `main` is."""
    home = folder / f"models--{repository.replace('/', '--')}"
    blob, link, main = home / "blobs" / file.replace("/", "-"), home / "snapshots" / REVISION / file, home / "refs" / "main"
    for path in (blob, link, main):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    main.write_text(REVISION)
    return link


def outcomes(cache_folder: Path, *names: str, offline: str = "1") -> dict[str, str]:
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    env = {**os.environ, "HF_HUB_CACHE": str(cache_folder), "HF_HUB_OFFLINE": offline, "PYTHONPATH": path}
    command = [sys.executable, str(Path(__file__).with_name("find_in_cache.py")), *names]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_hub_files_are_taken_from_the_cache_and_what_is_not_there_is_one_sentence_with_place_and_command(tmp_path: Path) -> None:
    mim = cache(tmp_path, "Yuxin-CV/EVA-02", "eva02/pt/eva02_B_pt_in21k_p14to16.pt")
    timm = cache(tmp_path, "timm/eva02_base_patch14_224.mim_in22k", "model.safetensors")
    absent = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L.pt"
    names = ("hf://Yuxin-CV/EVA-02/eva02/pt/eva02_B_pt_in21k_p14to16.pt", "timm/eva02_base_patch14_224.mim_in22k")
    pinned = f"hf://Yuxin-CV/EVA-02@{REVISION}/eva02/pt/eva02_B_pt_in21k_p14to16.pt"
    found = outcomes(tmp_path, *names, pinned, absent, "timm/eva02_giant", "hf://Yuxin-CV/EVA-02@v2/eva02/pt/eva02_L.pt")

    assert [found[name] for name in names] == [str(mim), str(timm)]
    assert found[pinned] == str(mim)
    place = tmp_path / "models--Yuxin-CV--EVA-02/snapshots/<revision of main>/eva02/pt/eva02_L.pt"
    assert found[absent].startswith(f"error: {absent} is not in the cache (looked for {place})")
    assert "run `hf download Yuxin-CV/EVA-02 eva02/pt/eva02_L.pt` where there is a network" in found[absent]
    assert f"with HF_HUB_CACHE={tmp_path}" in found[absent]
    assert "hf download timm/eva02_giant model.safetensors" in found["timm/eva02_giant"]
    assert "snapshots/v2/" in found["hf://Yuxin-CV/EVA-02@v2/eva02/pt/eva02_L.pt"]
    assert "--revision v2" in found["hf://Yuxin-CV/EVA-02@v2/eva02/pt/eva02_L.pt"]
    assert "\n" not in "".join(found.values())


def test_what_is_cached_asks_no_network(tmp_path: Path) -> None:
    """Without HF_HUB_OFFLINE a request would be made, and on a node without a network be tried for half a minute."""
    file = cache(tmp_path, "owner/name", "weights.pth")
    assert outcomes(tmp_path, "hf://owner/name/weights.pth", offline="0") == {"hf://owner/name/weights.pth": str(file)}


@pytest.mark.parametrize("name", ["hf://owner", "hf://owner/name", "hf://owner/name/", "hf:///name/file"])
def test_a_hub_name_without_owner_name_and_file_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="write hf://owner/name/file"):
        find_file(name)


def test_a_name_that_the_hub_cannot_have_is_refused_without_asking_it() -> None:
    with pytest.raises(UserError, match=r"timm/no such name cannot be downloaded: Repo id must use"):
        find_file("timm/no such name")


def test_a_local_path_wins_over_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "mine").write_bytes(b"")
    assert find_file("timm/mine") == Path("timm/mine")


def test_files_and_model_folders_are_themselves_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_file(tmp_path) == find_file(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"folder .*empty holds no model\.safetensors"):
        find_file(tmp_path / "empty")
    with pytest.raises(UserError, match=r"absent\.pth does not exist; correct train\.init_checkpoint"):
        find_file(tmp_path / "absent.pth")


def test_a_url_of_a_scheme_that_nothing_reads_is_refused() -> None:
    with pytest.raises(UserError, match=r"ftps3://bucket/x\.pth"):
        find_file("ftps3://bucket/x.pth")


def test_the_file_of_a_url_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "weights.pth").write_bytes(b"weights")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        assert find_file(url).read_bytes() == b"weights"
        (tmp_path / "www" / "weights.pth").unlink()
        assert find_file(url).read_bytes() == b"weights"
        with pytest.raises(UserError, match=r"other\.pth cannot be downloaded: .*404"):
            find_file(url.replace("weights", "other"))
        server.shutdown()
