#!/usr/bin/env python3
"""The study on a small scale: two nano detectors on rendered scenes, one of which has trained on half of the evaluation scenes.

python projects/contamination/demo.py --out output/contamination_demo      some fourteen minutes of two cores

Unlike Merged-38M, the second detector has seen the annotations too: the effect is to be large, so that the study must find it.
Both train on as many scenes, for as long, from the same random numbers.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from eva02_det.utils.errors import run_tool
from eva02_det.utils.files import write_json
from projects.demo.scenes import write_scenes

CONFIG = ROOT / "projects" / "from_mim_to_detector" / "configs" / "detector.py"
PIXELS = 128  # of that config
ARMS = ("clean", "seen")


def write_splits(home: Path, train: int, val: int) -> list[int]:
    """Scenes `train` and `val`, and the splits of the arms: `clean` is train, in `seen` half of val stands in for as many of it.

    Returns the ids of that half.
    """
    files = write_scenes(home, train=train, val=val, pixels=PIXELS)
    known, evaluated = (json.loads(files[split].read_text()) for split in ("train", "val"))
    half = len(evaluated["images"]) // 2
    shares = {
        "clean": [("train", known, known["images"])],
        "seen": [("train", known, known["images"][half:]), ("val", evaluated, evaluated["images"][:half])],
    }
    for split, parts in shares.items():
        (home / split).mkdir(exist_ok=True)
        content = {**known, "images": [], "annotations": []}
        for source, whole, images in parts:
            _add(content, whole, images, home / source, home / split)
        write_json(home / "annotations" / f"instances_{split}.json", content)
    return [image["id"] for image in evaluated["images"][:half]]


def _add(content: dict, whole: dict, images: list[dict], source: Path, target: Path) -> None:
    """Images with their annotations, under new ids and names, since those of train and val are the same."""
    for image in images:
        new = {**image, "id": len(content["images"]) + 1, "file_name": f"{source.name}_{image['file_name']}"}
        shutil.copyfile(source / image["file_name"], target / new["file_name"])
        content["images"].append(new)
        for one in whole["annotations"]:
            if one["image_id"] == image["id"]:
                content["annotations"].append({**one, "id": len(content["annotations"]) + 1, "image_id": new["id"]})


def call(tool: str, data: Path, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, arguments)]
    print(*command, flush=True)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env={**os.environ, "DETECTRON2_DATASETS": str(data), "PYTHONPATH": paths}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("output/contamination_demo"))
    parser.add_argument("--train-scenes", type=int, default=200, help="for each detector")
    parser.add_argument("--val-scenes", type=int, default=200, help="half of which the second detector trains on")
    parser.add_argument("overrides", nargs="*", help="a.b.c=value of the detectors' config")
    chosen = parser.parse_args()
    data, study = chosen.out / "data", chosen.out / "study"
    seen = write_splits(data / "scenes", chosen.train_scenes, chosen.val_scenes)
    write_json(chosen.out / "seen.json", seen)
    for arm in ARMS:
        sets = [f"dataloader.train.dataset.names=scenes_{arm}", f"train.output_dir={chosen.out / arm}"]
        call("lazyconfig_train_net.py", data, "--config-file", CONFIG, *sets, "train.eval_period=0", *chosen.overrides)
    arms = [chosen.out / arm / "inference" for arm in ARMS]
    where = ["--image-ids", chosen.out / "seen.json", "--evaluation", "scenes_val", "--out", study]
    call("study_contamination.py", data, *where, "--names", *ARMS, "--predictions", *arms)


if __name__ == "__main__":
    run_tool(main)
