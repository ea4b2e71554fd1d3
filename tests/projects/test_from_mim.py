"""From masked image modelling to a detector: the whole command on a tiny scale, and the rule that compares the curves."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from eva02_det.checkpoint.io import read_file, state_dict_of
from eva02_det.checkpoint.resize import resize_patch_kernel, resize_position_table
from eva02_det.engine.train import train
from eva02_det.utils.config import load_config
from eva02_det.utils.errors import UserError
from eva02_mim.checkpoints import files_of
from projects.from_mim_to_detector.chain import Chain, Plan
from projects.from_mim_to_detector.curves import Comparison, first_reaching, read_curve, table
from projects.from_mim_to_detector.run import main
from projects.from_mim_to_detector.teacher import PatchClassifier, Training, cell_labels, labelled_scenes, scene_teacher

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "projects/from_mim_to_detector/run.py"
SMALL = ["student.depth=2", "train.batch=8", "train.max_steps=3", "train.log_period=1"]
SHORT = ["model.backbone.net.depth=2", "model.backbone.net.global_block_indexes=[1]", "dataloader.train.total_batch_size=2"]
STEPS = 3
SHORT += [f"train.max_iter={STEPS}", f"train.eval_period={STEPS}", f"train.checkpointer.period={STEPS}", "train.log_period=1"]


@dataclass(frozen=True)
class Done:
    """A finished run of the command: its folder, what it printed, and its arguments."""

    folder: Path
    printed: str
    arguments: list[str]


def on_one_core() -> None:
    """Of the process that is about to start: the student is then trained in one process, which starts sooner than two."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("from_mim") / "out"
    sizes = ["--train-scenes", "8", "--val-scenes", "2", "--unlabelled", "16", "--teacher-scenes", "8", "--teacher-steps", "2"]
    arguments = ["--out", str(folder), *sizes, "--student", *SMALL, "--detector", *SHORT]
    command = [sys.executable, str(SCRIPT), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=on_one_core)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Done(folder, ran.stdout, arguments)


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]


def student_of(done: Done) -> dict[str, torch.Tensor]:
    file = files_of(done.folder / "seed_0/student")[-1]
    return state_dict_of(read_file(file), file)


@pytest.mark.slow
def test_the_command_makes_curves_of_both_detectors(done: Done) -> None:
    (seed,) = json.loads((done.folder / "curves.json").read_text())["seeds"]
    for arm in ("scratch", "pretrained"):
        assert [iterations for iterations, _ in seed[arm]] == [STEPS]
    assert (done.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "seed 0: box AP after iterations" in (done.folder / "index.html").read_text()
    assert (done.folder / "curves.txt").read_text() in done.printed


@pytest.mark.slow
def test_the_pretrained_detector_starts_from_exactly_the_weights_of_the_student(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step at a learning rate of 0, with the saved config of the run, leaves the weights that it started from."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(done.folder / "data"))
    config = load_config(done.folder / "seed_0/pretrained/config.yaml")
    config.train.max_iter, config.train.output_dir, config.optimizer.lr = 1, str(tmp_path), 0.0
    config.dataloader.evaluator = None
    train(config)
    started = read_file(tmp_path / "model_final.pth")["model"]
    student = student_of(done)
    for name in ("blocks.0.attn.q_bias", "blocks.1.mlp.w3.weight", "blocks.1.mlp.ffn_ln.bias", "blocks.0.attn.k_proj.weight"):
        assert torch.equal(started[f"backbone.net.{name}"], student[name])
    kernel, places = student["patch_embed.proj.weight"], student["pos_embed"]
    assert torch.equal(started["backbone.net.patch_embed.proj.weight"], resize_patch_kernel(kernel, 16))
    assert torch.equal(started["backbone.net.pos_embed"], resize_position_table(places, 197))
    backbone = {key.removeprefix("backbone.net.") for key in started if key.startswith("backbone.net.")}
    assert {*student} - backbone == {"cls_token", "mask_token", "norm.weight", "norm.bias", "lm_head.weight", "lm_head.bias"}
    assert backbone <= {*student}


@pytest.mark.slow
def test_the_account_names_the_detectors_own_parts_as_new_and_nothing_else(done: Done) -> None:
    account = json.loads((done.folder / "seed_0/account.json").read_text())
    parts = {".".join(key.split(".")[: 1 + key.startswith("backbone.")]) for key in account["new"]}
    assert parts >= {"proposal_generator", "roi_heads", "backbone.simfp_2"}
    assert all(part.startswith(("proposal_generator", "roi_heads", "backbone.simfp_")) for part in parts)
    assert len(account["filled"]) == len([key for key in student_of(done) if key.startswith(("blocks", "pos", "patch"))])


@pytest.mark.slow
def test_both_detectors_see_the_same_pictures_in_the_same_order(done: Done) -> None:
    scratch, pretrained = (rows(done.folder / "seed_0" / arm) for arm in ("scratch", "pretrained"))
    # how many anchors lie on objects follows from the pictures alone, their crops and flips included
    counts = [[row["rpn/num_pos_anchors"] for row in run if "rpn/num_pos_anchors" in row] for run in (scratch, pretrained)]
    assert counts[0] == counts[1]
    assert len(counts[0]) == STEPS
    assert len(set(counts[0])) > 1
    assert scratch[0]["total_loss"] != pretrained[0]["total_loss"]


@pytest.mark.slow
def test_the_configs_of_both_detectors_differ_in_where_they_start_and_where_they_write(done: Done) -> None:
    scratch, pretrained = (
        OmegaConf.to_container(OmegaConf.load(done.folder / "seed_0" / arm / "config.yaml")) for arm in ("scratch", "pretrained")
    )
    differing = {key for key in scratch["train"] if scratch["train"][key] != pretrained["train"][key]}
    assert differing == {"init_checkpoint", "output_dir"}
    assert {**scratch, "train": 0, "dataloader": 0} == {**pretrained, "train": 0, "dataloader": 0}


@pytest.mark.slow
def test_what_is_done_is_not_done_again(done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def weights() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in done.folder.rglob("*.pt*") if file.is_file()}

    before = weights()
    monkeypatch.setattr(sys, "argv", ["run.py", *done.arguments])
    main()
    printed = capsys.readouterr().out
    assert "tools/" not in printed  # no tool was started
    assert (done.folder / "curves.txt").read_text() in printed
    assert weights() == before


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *done.arguments, "train.clip_grad_norm=2"])
    with pytest.raises(UserError, match="holds a run with other settings"):
        main()


def test_a_seed_that_draws_other_numbers_each_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "out"), "--seeds", "0", "-1"])
    with pytest.raises(UserError, match="--seeds -1"):
        main()
    assert not (tmp_path / "out").exists()


def test_reaching_is_the_first_evaluation_at_or_above_the_final_ap_from_scratch() -> None:
    assert first_reaching([(100, 1.0), (200, 30.0), (300, 29.0), (400, 50.0)], 30.0) == 200
    assert first_reaching([(100, 1.0), (200, 29.9)], 30.0) is None


def test_the_bar_is_half_of_the_iterations_from_scratch() -> None:
    scratch = [(100, 1.0), (200, 40.0), (400, 30.0)]  # the final AP counts, not the best
    half = Comparison.of(0, scratch, [(100, 5.0), (200, 30.0), (400, 60.0)])
    late = Comparison.of(1, scratch, [(200, 29.0), (201, 31.0)])
    never = Comparison.of(2, scratch, [(400, 29.0)])
    assert [(one.reached, one.share, one.passes) for one in (half, late, never)] == [
        (200, 0.5, True),
        (201, 201 / 400, False),
        (None, None, False),
    ]
    assert "1 of 3 seeds" in table([half, late, never])


def evaluated(*rows: tuple[int, float]) -> str:
    return "\n".join(json.dumps({"evaluated_iteration": float(iteration), "bbox/AP": ap}) for iteration, ap in rows)


def test_a_resumed_run_counts_each_evaluation_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    # the last evaluation goes by the count of iterations, the others by the number of the iteration from 0
    (tmp_path / "metrics.json").write_text(evaluated((1, 3.0), (4, 4.0), (1, 3.5)) + '\n{"bbox/AP": 9')
    assert read_curve(tmp_path, 4) == [(2, 3.5), (4, 4.0)]


def test_a_run_without_its_last_weights_or_its_last_evaluation_is_not_taken_for_complete(tmp_path: Path) -> None:
    chain = Chain(tmp_path, Plan(detector=("train.max_iter=4",)), cores=1)
    assert not chain.is_complete(tmp_path / "nowhere")
    (tmp_path / "metrics.json").write_text(evaluated((1, 3.0), (4, 4.0)))
    assert not chain.is_complete(tmp_path)
    (tmp_path / "model_final.pth").write_bytes(b"")
    assert chain.is_complete(tmp_path)
    (tmp_path / "metrics.json").write_text(evaluated((1, 3.0)))
    assert not chain.is_complete(tmp_path)
    with pytest.raises(UserError, match="no bbox/AP after its last iteration"):
        chain.curve(tmp_path)


def test_a_cell_has_the_class_that_covers_most_of_it() -> None:
    classes = torch.zeros(1, 16, 16, dtype=torch.uint8)
    classes[:, :2, :3], classes[:, 8:10, 15:], classes[:, 15:, 8:] = 2, 3, 4  # cells are 2 x 2 px, a tie goes to the first
    labels = cell_labels(classes)
    assert labels.shape == (1, 4, 16)
    assert labels[0, 0].tolist() == [2, *[0] * 15]
    assert not labels[0, 1:].any()
    classes[:, 14:, 8:] = 4
    assert cell_labels(classes)[0, 3].tolist() == [*[0] * 12, 4, 4, 4, 4]


def test_the_teacher_gives_features_of_every_patch_of_crops_of_another_size(tmp_path: Path) -> None:
    torch.save(PatchClassifier().state_dict(), tmp_path / "teacher.pt")
    teacher = scene_teacher(tmp_path / "teacher.pt")
    images = torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8)
    features = teacher(images)
    assert features.shape == (2, 64, teacher.dim)
    assert not features.requires_grad
    images[0, :, :20, :20] = 0  # a change in one corner reaches the features there, not those of the other image
    changed = (teacher(images) != features).any(2)
    assert changed[0, 0]
    assert not changed[1].any()


def test_scenes_of_the_teacher_name_the_class_of_every_visible_pixel() -> None:
    images, classes = labelled_scenes(Training(scenes_seed=5), "val", 2)
    assert images.shape == (2, 3, 64, 64)
    assert {*classes.unique().tolist()} <= {0, 1, 2, 3, 4, 5}
    assert (classes > 0).any()
    assert (classes == 0).any()
