"""From a command line to jobs: which runs, in which folders, from which code."""

import shlex
import sys
from pathlib import Path

import pytest

from eva02_det.launch.job import ENTRIES, Entry
from eva02_det.launch.plan import Plan, make_plan, parser, split
from eva02_det.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "projects/eva02_mim/configs/nano.py"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin" if not Path("/usr/bin/sinfo").exists() else str(_only_git(tmp_path)))


def _only_git(folder: Path) -> Path:
    """A path of programs without SLURM's."""
    (folder / "programs").mkdir()
    (folder / "programs/git").symlink_to("/usr/bin/git")
    return folder / "programs"


def plan(*arguments: str) -> Plan:
    own, passed = split(arguments)
    return make_plan(parser().parse_args([*own, "--dry-run"]), passed, ROOT)


def test_options_of_the_submission_end_at_two_dashes():
    assert split(["train", "--nodes", "2", "--", "a=1", "--", "b"]) == (["train", "--nodes", "2"], ["a=1", "--", "b"])
    assert split(["train"]) == (["train"], [])


def test_a_training_goes_on_where_it_was_whenever_it_starts_from_the_copied_config(tmp_path: Path):
    (job,) = plan("pretrain", "--", "--config-file", str(ROOT / RECIPE), "train.output_dir=runs/a", "train.seed=3").jobs
    root = Path(job.code)
    assert root.parent == tmp_path / "runs/a/code"
    options = ["--resume", "--config-file", str(root / RECIPE), "train.seed=3", f"train.output_dir={tmp_path}/runs/a"]
    assert job.argv() == [str(root / "tools/pretrain.py"), *options]
    assert job.home == str(tmp_path)
    assert job.checkpoint().function == job


def test_an_evaluation_does_not_resume():
    (job,) = plan("eval", "--", "--model", "exported", "train.output_dir=runs/a").jobs
    assert job.argv()[1:4] == ["--eval-only", "--model", "exported"]


def test_a_run_without_a_folder_gets_one_of_its_own(tmp_path: Path):
    folder = plan("pretrain", "--", "--config-file", str(ROOT / RECIPE)).folder
    assert folder.parent == tmp_path / "output"
    assert folder.name.startswith("pretrain-nano-")


def test_runs_of_an_array_differ_by_their_overrides_and_folders(tmp_path: Path):
    lines = tmp_path / "runs.txt"
    lines.write_text("# learning rates\noptimizer.lr=1e-3 train.seed=1\n\noptimizer.lr=2e-3 'train.name=a b'\n")
    made = plan("train", "--array", str(lines), "--", "--config-file", "c.py", "train.output_dir=all")
    tails = [job.arguments[2:] for job in made.jobs]
    assert tails == [
        ("optimizer.lr=1e-3", "train.seed=1", f"train.output_dir={tmp_path}/all/000"),
        ("optimizer.lr=2e-3", "train.name=a b", f"train.output_dir={tmp_path}/all/001"),
    ]
    assert "--array=0-1%2" in made.script()


def test_the_batch_script_says_what_was_asked(tmp_path: Path):
    asked = ["--nodes", "4", "--gpus-per-node", "8", "--cpus-per-task", "12", "--partition", "main", "--account", "lab"]
    asked += ["--qos", "long", "--time", "1-12:00:00", "--memory", "480G", "--constraint", "a100", "--signal-before", "300"]
    script = plan("train", *asked, "--setup", "module load cuda", "--", "--config-file", "c.py", "train.output_dir=r").script()
    wanted = ["nodes=4", "gpus-per-node=8", "ntasks-per-node=8", "cpus-per-task=12", "partition=main", "account=lab", "qos=long"]
    wanted += ["time=2160", "mem=491520M", "constraint=a100", "signal=USR2@300", "requeue", "open-mode=append"]
    lines = script.splitlines()
    assert {f"#SBATCH --{one}" for one in wanted} <= set(lines)
    command = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1 --wait=60 --cpu-bind=none" in command
    assert lines.index("module load cuda") < lines.index(f"cd {tmp_path}/r/launch") < lines.index(command)
    assert any(line.startswith(f"export PYTHONPATH={tmp_path}/r/code/") for line in lines)


def test_every_rank_is_told():
    lines = plan("train", "--nodes", "2", "--gpus-per-node", "2", "--", "--config-file", "c.py").ranks().splitlines()
    assert len(lines) == 5
    assert lines[4] == "rank 3: node 1, process 1 of 2, GPU 1; RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2"


def test_a_dry_run_writes_nothing(tmp_path: Path):
    plan("train", "--", "--config-file", "c.py", "train.output_dir=r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("trace", ["last_checkpoint", "model_final.pth", "checkpoint_0000100.pt"])
def test_the_folder_of_an_earlier_run_is_gone_on_with_only_if_asked(trace: str, tmp_path: Path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / trace).write_text("")
    with pytest.raises(UserError, match=r"r holds an earlier run; pass -- --resume \.\.\. to go on with it, or another"):
        plan("train", "--", "--config-file", "c.py", "train.output_dir=r")
    (job,) = plan("train", "--", "--resume", "--config-file", "c.py", "train.output_dir=r").jobs
    assert job.argv().count("--resume") == 1
    plan("eval", "--", "--config-file", "c.py", "train.output_dir=r")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--array", "train.seed"], "--array: 'train.seed' is no override a.b.c=value, nor is it a file"),
        (["--array", "train.output_dir=x"], "each run of an array has its own, below the one after --"),
        (["--nodes", "0"], "must be at least 1"),
        (["--time", "soon"], "--time soon is no time"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(arguments: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        plan("train", *arguments, "--", "--config-file", "c.py")


def test_the_parts_of_a_search_share_a_folder_and_one_command_puts_them_together(tmp_path: Path):
    search = ["--evaluation", "lvis_v1_val", "--corpus", "coco=a.json", "--out", "found"]
    made = plan("find_duplicates", "--array", "3", "--", *search)
    assert made.folder == tmp_path / "found"
    assert [job.arguments for job in made.jobs] == [(*search, "--shard", f"{number}/3") for number in range(3)]
    assert "--array=0-2%3" in made.script()
    assert made.afterwards() == shlex.join([sys.executable, str(ROOT / "tools/find_duplicates.py"), *search, "--merge"])
    (whole,) = plan("find_duplicates", "--", *search[:-2], "--out=found").jobs
    assert whole.arguments == (*search[:-2], "--out=found")
    assert plan("find_duplicates", "--", *search[:-2], "--out=found").folder == tmp_path / "found"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--array", "a=1"], "--array a=1: of this entry point it is a number"),
        (["--array", "0"], "--array 0: of this entry point it is a number"),
        (["--nodes", "2"], "find_duplicates is one process, which starts others on its node; give --array N in place of --nodes"),
    ],
)
def test_a_search_is_parted_by_a_number_alone(arguments: list[str], sentence: str):
    with pytest.raises(UserError, match=sentence):
        plan("find_duplicates", *arguments, "--", "--out", "found")


def test_an_entry_point_that_this_version_lacks_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ENTRIES, "later", Entry("later.py"))
    with pytest.raises(UserError, match=r"later needs tools/later.py, which this version does not have"):
        plan("later")
