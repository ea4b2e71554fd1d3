"""On a real SLURM of one machine: runs that are queued again, signalled, preempted and cut off end as if nothing had been."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from eva02_det.launch.snapshot import PARTS
from tests.contamination.made_up import encoded, write
from tests.engine.small_run import write_set
from tests.mim.nano_run import RECIPE, ToolRun, draw_pictures
from tests.slurm.cluster import ROOT, Cluster, lacking

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.skipif(bool(lacking()), reason=lacking())]
DETECTOR, STUDENT = (Path(__file__).with_name(name) for name in ("small_detector.py", "slow_student.py"))
TWO = ("--tasks-per-node", "2", "--cpus-per-task", "1", "--time", "10", "--signal-before", "30")
SAVED = "told to stop by SIG"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    write_set(folder / "data", "train", 7)
    write_set(folder / "data", "val", 2)
    draw_pictures(folder / "data" / "pictures", count=32)
    one = Cluster(folder / "cluster", folder / "data")
    one.start()
    yield one
    one.stop()


def trace(run: Path) -> dict[int, float]:
    """Loss of every step of a run, however often it was started."""
    file = run / "losses.jsonl" if (run / "losses.jsonl").is_file() else run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.is_file() else []
    loss = {line.get("iteration", line.get("step")): line.get("total_loss", line.get("loss")) for line in lines}
    return {step: value for step, value in loss.items() if value is not None}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint, averages included."""
    content = torch.load(max(run.glob("*_final.pth"), default=None) or max(run.glob("checkpoint_*.pt")), weights_only=True)
    return content["model"] | {f"ema/{name}": value for name, value in content.get("ema_state", {}).items()}


def assert_same(run: Path, whole: Path, steps: int) -> None:
    ours, theirs = trace(run), trace(whole)
    assert len(ours) == len(theirs) == steps
    assert max(abs(ours[step] - theirs[step]) for step in theirs) <= 1e-6
    left, right = weights(run), weights(whole)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0, msg=name)


def interrupt(cluster: Cluster, job: str, run: Path, logs: Path, steps: int) -> None:
    """`scontrol requeue` twice and USR2 once, in any order, at random steps, each start making some way; then to the end."""
    ways = [("scontrol", "requeue"), ("scontrol", "requeue"), ("scancel", "--signal=USR2")]
    random.shuffle(ways)
    for number, command in enumerate(ways):
        at = random.randrange(2 + number * steps // 5, (number + 1) * steps // 5)
        cluster.wait(job, logs, lambda at=at: len(trace(run)) >= at)
        queued_again = partial(cluster.wait, job, logs, lambda number=number: cluster.restarts(job) == number + 1)
        cluster.tell(*command, job, until=queued_again)
    assert len(trace(run)) < steps
    cluster.finish(job, logs)
    said = (logs / f"{job}_0_log.out").read_text()
    assert said.count(SAVED) == 3, said


def test_detection_queued_again_twice_and_signalled_once_ends_as_it_would_have(cluster: Cluster, tmp_path: Path):
    steps = 60
    common = ("train", *TWO, "--", "--config-file", str(DETECTOR))
    (whole,) = cluster.submit(*common, f"train.output_dir={tmp_path / 'whole'}")
    (job,) = cluster.submit(*common, f"train.output_dir={tmp_path / 'run'}")
    interrupt(cluster, job, tmp_path / "run", tmp_path / "run/launch", steps)
    cluster.finish(whole, tmp_path / "whole/launch")
    assert_same(tmp_path / "run", tmp_path / "whole", steps)


def test_pretraining_in_an_array_of_which_one_run_is_interrupted(cluster: Cluster, tmp_path: Path):
    steps = 300
    slow = "dataloader.train.source.pause_s=0.02"  # 16 images, 8 at a time: 12 s at least
    settings = [f"train.output_dir={tmp_path}", f"train.max_steps={steps}", *pictures(cluster), slow]
    runs = ("--array", "train.seed=3 train.checkpoints.keep=2", "train.seed=3 train.checkpoints.keep=4")
    first, second = cluster.submit("pretrain", *TWO, *runs, "--", "--config-file", str(STUDENT), *settings)
    assert second.endswith("_1")
    interrupt(cluster, second, tmp_path / "001", tmp_path / "launch", steps)
    cluster.finish(first, tmp_path / "launch")
    assert_same(tmp_path / "001", tmp_path / "000", steps)
    kept = [
        yaml.safe_load((tmp_path / run / "config.yaml").read_text())["train"]["checkpoints"]["keep"] for run in ("000", "001")
    ]
    assert kept == [2, 4]


def test_a_time_limit_and_an_urgent_job_only_delay_a_run(cluster: Cluster, tmp_path: Path):
    """A run of one task, first signalled as its time ends, then preempted by a job that needs the whole node."""
    steps = 500
    slow = "dataloader.train.source.pause_s=0.05"  # 50 s at least: SLURM looks for times that are over every 30 s
    settings = [f"train.max_steps={steps}", *pictures(cluster)]
    whole = ToolRun(cluster.folder.parent / "data/pictures", tmp_path / "whole", *settings)
    small = ("--cpus-per-task", "1", "--time", "60", "--signal-before", "60", "--partition", "main")
    run, logs = tmp_path / "run", tmp_path / "run/launch"
    asked = ("--config-file", str(STUDENT), *settings, slow, f"train.output_dir={run}")
    (job,) = cluster.submit("pretrain", *small, "--", *asked)
    cluster.wait(job, logs, lambda: len(trace(run)) >= 5)
    cluster.end_within_a_minute(job)
    cluster.wait(job, logs, lambda: cluster.restarts(job) == 1)
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    done = len(trace(run))
    cluster.wait(job, logs, lambda: len(trace(run)) > done)
    urgent = cluster.call(
        "sbatch", "--parsable", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"
    ).strip()
    cluster.wait(job, logs, lambda: cluster.restarts(job) == 2)
    cluster.finish(urgent, logs)
    cluster.finish(job, logs)
    whole.finish()
    said = (logs / f"{job}_0_log.out").read_text()
    assert said.count(f"{SAVED}USR2") == said.count("Requeued job") == 2, said  # preemption sends USR2 too, and grants time
    assert_same(run, tmp_path / "whole", steps)


def test_a_search_for_duplicates_in_parts_of_which_one_is_queued_again_gives_the_report_of_one_in_one_piece(
    cluster: Cluster, tmp_path: Path
):
    (tmp_path / "pics").mkdir()
    for number in range(12):
        (tmp_path / f"pics/{number:012d}.jpg").write_bytes(encoded(number))
    listed = write(tmp_path / "val.json", [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (3, 7, 11)])
    asked = ["--evaluation", f"{listed}@{tmp_path / 'pics'}", "--corpus", f"web={tmp_path / 'pics'}", "--shard-images", "2"]
    run, small = tmp_path / "run", ("--cpus-per-task", "1", "--time", "10", "--signal-before", "30")
    jobs = cluster.submit("find_duplicates", *small, "--array", "2", "--", *asked, "--processes", "1", "--out", str(run))
    assert jobs[1].endswith("_1")
    cluster.wait(jobs[1], run / "launch", lambda: cluster.field(jobs[1], "JobState") == "RUNNING")
    queued_again = partial(cluster.wait, jobs[1], run / "launch", lambda: cluster.restarts(jobs[1]) == 1)
    cluster.tell("scontrol", "requeue", jobs[1], until=queued_again)
    for job in jobs:
        cluster.finish(job, run / "launch")
    assert len(list((run / "work/shards").iterdir())) == 6
    for out, way in ((run, ["--merge"]), (tmp_path / "whole", ["--processes", "1"])):
        subprocess.run([sys.executable, str(ROOT / "tools/find_duplicates.py"), *asked, "--out", str(out), *way], check=True)
    assert (run / "report.json").read_bytes() == (tmp_path / "whole/report.json").read_bytes()
    assert [pair["image_id"] for pair in json.loads((run / "report.json").read_text())["pairs"]] == [3, 7, 11]


def pictures(cluster: Cluster) -> list[str]:
    """Overrides for a short pre-training on the CPU."""
    source = f"dataloader.train.source.spec={cluster.env['DETECTRON2_DATASETS']}/pictures"
    return [source, "train.batch=16", "train.device=cpu", "train.log_period=1", "train.checkpoints.period=100000"]


def test_a_job_runs_from_its_snapshot_when_the_checkout_is_gone(cluster: Cluster, tmp_path: Path):
    checkout, run = tmp_path / "checkout", tmp_path / "run"
    for part in PARTS:
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    with (checkout / "eva02_mim/__init__.py").open("a") as stream:
        stream.write("import sys\nsys.stderr.write(f'this code is {__file__}\\n')\n")
    recipe = checkout / RECIPE.relative_to(ROOT)
    settings = ["--config-file", str(recipe), "train.max_steps=40", *pictures(cluster), f"train.output_dir={run}"]
    waits = f"while [ -e {checkout} ]; do sleep 0.1; done"
    (job,) = cluster.submit("pretrain", "--time", "5", "--setup", waits, "--", *settings, checkout=checkout)
    shutil.rmtree(checkout)
    cluster.finish(job, run / "launch")
    assert f"this code is {run}/code/" in (run / "launch" / f"{job}_0_log.out").read_text()
    assert len(trace(run)) == 40
