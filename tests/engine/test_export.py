"""Model folders: they load anywhere with equal results, say where they come from, and a damaged one says what is wrong."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from safetensors import safe_open

import eva02_det
from configs.common.models import federated_loss
from eva02_det.engine.export import export_model
from eva02_det.engine.model_folder import is_model_folder, load_folder
from eva02_det.engine.predictor import Predictor
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import (
    CLASSES,
    PIXELS,
    forget_dataset,
    save_checkpoint,
    save_config,
    tiny_config,
    with_opinions,
    write_dataset,
)

FRESH = """
import importlib.util, sys
import numpy as np
from eva02_det import Predictor

assert importlib.util.find_spec("configs") is None and importlib.util.find_spec("tests") is None
predict = Predictor.from_folder(sys.argv[1], device="cpu")
found = predict(sys.argv[2])
np.savez(sys.argv[3], boxes=found.boxes, scores=found.scores, masks=found.masks, names=found.names)
"""


@dataclasses.dataclass(frozen=True)
class Exported:
    config: DictConfig
    config_file: Path
    checkpoint: Path
    folder: Path
    pictures: list[Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("export")
    pictures = write_dataset(root, 2)
    config = tiny_config()
    config_file, checkpoint = save_config(config, root), save_checkpoint(config, root / "model_final.pth", averaged_seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        export_model(config_file, checkpoint, root / "folder")
    return Exported(config, config_file, checkpoint, root / "folder", pictures)


@pytest.fixture(autouse=True)
def datasets(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_dataset()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(exported.config_file.parent))


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return Path(shutil.copytree(exported.folder, tmp_path / "copied"))


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads((folder / "config.json").read_text())
    edit(content)
    (folder / "config.json").write_text(json.dumps(content))


def test_a_fresh_process_elsewhere_finds_equal_boxes_without_configs_data_or_network(exported: Exported, tmp_path: Path):
    moved = shutil.copytree(exported.folder, tmp_path / "moved")
    script = tmp_path / "script.py"
    script.write_text(FRESH)
    root = str(Path(eva02_det.__file__).resolve().parents[1])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    if not installed():
        (tmp_path / "packages").mkdir()
        for package in ("eva02_det", "d2lite"):
            (tmp_path / "packages" / package).symlink_to(Path(root) / package)
        paths.append(str(tmp_path / "packages"))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DETECTRON2_DATASETS": "nowhere", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(script), str(moved), str(exported.pictures[0]), str(tmp_path / "found.npz")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    here = Predictor.from_config(exported.config_file, exported.checkpoint, device="cpu")(exported.pictures[0])
    with np.load(tmp_path / "found.npz") as found:
        assert len(here) > 0
        assert found["names"].tolist() == list(here.names)
        for name in ("boxes", "scores", "masks"):
            np.testing.assert_array_equal(found[name], getattr(here, name).numpy())


def installed() -> bool:
    """Whether a process that stands elsewhere finds the package."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return (
        subprocess.run([sys.executable, "-c", "import eva02_det"], cwd="/", env=env, capture_output=True, check=False).returncode
        == 0
    )


def test_the_folder_holds_weights_a_strict_json_and_a_card(exported: Exported):
    assert sorted(path.name for path in exported.folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads((exported.folder / "config.json").read_text(), parse_constant=refuse)
    assert content["format"] == 1
    assert content["classes"] == list(CLASSES)
    assert content["preprocessing"]["long_side_px"] == PIXELS
    assert content["protocol"]["name"] == "plain"
    assert content["evaluation"] == {"dataset": "tiny_val"}
    assert content["provenance"]["checkpoint_sha256"] == hashlib.sha256(exported.checkpoint.read_bytes()).hexdigest()
    assert content["provenance"]["versions"]["torch"] == torch.__version__
    card = (exported.folder / "README.md").read_text()
    assert all(text in card for text in ("ant, bee", "plain", "model_final.pth", "Predictor.from_folder", f"{PIXELS} px"))
    assert str(exported.config_file.parent) not in card + json.dumps(content)  # nobody's folders


def test_the_weights_are_those_of_the_checkpoint(exported: Exported):
    state = torch.load(exported.checkpoint, weights_only=True)["model"]
    with safe_open(exported.folder / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == state.keys()
        assert all(torch.equal(stored.get_tensor(name), value) for name, value in state.items())


def test_the_averaged_weights_are_exported_where_they_are_asked_for_or_tested(exported: Exported, tmp_path: Path):
    averaged = with_opinions(instantiate(exported.config.model), seed=3).state_dict()
    export_model(exported.config_file, exported.checkpoint, tmp_path / "asked", ema=True)
    export_model(exported.config_file, exported.checkpoint, tmp_path / "tested", overrides=["+train.ema.eval_only=ema"])
    export_model(exported.config_file, exported.checkpoint, tmp_path / "not", overrides=["+train.ema.eval_only=ema"], ema=False)
    for name, is_averaged in (("asked", True), ("tested", True), ("not", False)):
        description = load_folder(tmp_path / name)
        state = description.load(tmp_path / name).state_dict()
        assert all(torch.equal(state[key], averaged[key]) for key in averaged) == is_averaged
        assert description.protocol["averaged_weights"] == is_averaged
        assert description.provenance["weights"].startswith("averaged") == is_averaged


def test_a_federated_detector_is_exported_without_its_annotations_and_loads_without_them(tmp_path: Path):
    counts = [{"id": number, "image_count": number} for number in range(1, 6)]
    MetadataCatalog.get("tiny_counts").set(class_image_count=counts)
    config = tiny_config(class_loss=federated_loss("tiny_counts"))
    checkpoint = save_checkpoint(config, tmp_path / "w.pth")
    MetadataCatalog.remove("tiny_counts")
    assert any("fed_loss" in key for key in torch.load(checkpoint, weights_only=True)["model"])
    export_model(save_config(config, tmp_path), checkpoint, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as stored:
        assert not [key for key in stored.keys() if "fed_loss" in key]  # noqa: SIM118  not a mapping
    model = load_folder(tmp_path / "out").load(tmp_path / "out")
    assert all(predictor.use_sigmoid_ce for predictor in model.roi_heads.box_predictor)


def test_the_protocol_of_the_command_line_travels_with_the_folder(exported: Exported, tmp_path: Path):
    export_model(exported.config_file, exported.checkpoint, tmp_path / "out", overrides=["protocol=coco_system"])
    assert load_folder(tmp_path / "out").protocol["name"] == "coco_system"
    assert Predictor.from_folder(tmp_path / "out", device="cpu")(exported.pictures[0]).mask_scores is not None


def test_an_earlier_export_is_replaced_and_other_files_are_not(exported: Exported, copied: Path, tmp_path: Path):
    (copied / "config.json").write_text("{}")
    export_model(exported.config_file, exported.checkpoint, copied)
    assert load_folder(copied).classes == CLASSES
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for target in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(UserError, match="other files"):
            export_model(exported.config_file, exported.checkpoint, target)


def test_a_checkpoint_of_another_model_leaves_no_folder(exported: Exported, tmp_path: Path):
    torch.save({"model": {"roi_heads.other": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"roi_heads\.other"):
        export_model(exported.config_file, tmp_path / "other.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_truncated_weights_are_named(copied: Path):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated"):
        Predictor.from_folder(copied, device="cpu")


def test_absent_weights_are_named(copied: Path):
    (copied / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        Predictor.from_folder(copied, device="cpu")


def test_weights_of_another_size_than_the_architecture_says_are_named(copied: Path):
    change(copied, lambda content: content["architecture"]["roi_heads"]["box_heads"][0].update(fc_dims=[16]))
    with pytest.raises(UserError, match=r"box_head\.0\.fc1"):
        Predictor.from_folder(copied, device="cpu")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(format=2), r"format 2, .* reads up to 1; update"),
        (lambda c: c.pop("format"), "states no format"),
        (lambda c: c.pop("architecture"), "no architecture"),
        (lambda c: c.update(classes="ant"), "no classes"),
        (lambda c: c.update(classes=[1, 2, 3, 4, 5]), "list of names"),
        (lambda c: c["classes"].pop(), "names 4 classes for a model with 5"),
        (lambda c: c["category_ids"].pop(), "4 category ids for 5 classes"),
        (lambda c: c["preprocessing"].pop("long_side_px"), "long_side_px"),
        (lambda c: c["preprocessing"].update(short_side_px=0), "short_side_px"),
        (lambda c: c["preprocessing"].update(image_format="BGR"), "'BGR'"),
        (lambda c: c["architecture"].update(_target_="os.system"), "must not run other code"),
        (lambda c: c["architecture"]["backbone"].update(colour=1), "cannot be built"),
    ],
)
def test_a_config_json_that_cannot_be_used_says_why_in_one_sentence(copied: Path, edit: Callable[[dict], object], words: str):
    change(copied, edit)
    with pytest.raises(UserError, match=words) as raised:
        Predictor.from_folder(copied, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_none_is_named(copied: Path, tmp_path: Path):
    (copied / "config.json").write_text('{"format": 1,')
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_folder(copied)
    (copied / "config.json").unlink()
    for folder in (copied, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no model folder"):
            load_folder(folder)


def test_a_model_folder_is_told_from_other_paths(exported: Exported, tmp_path: Path):
    assert is_model_folder(exported.folder)
    assert not is_model_folder(tmp_path)
    assert not is_model_folder(exported.checkpoint)
    assert not is_model_folder("hf://somebody/something/model.safetensors")
