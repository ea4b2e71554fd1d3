"""The parts of the project one after the other, each by the tool that does it by hand; what is done is not done again.

A part counts as done by the file that it writes last, which appears whole or not at all. The tools themselves go on after
their newest checkpoint.
"""

import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import instantiate

from eva02_det.checkpoint.load import load_weights
from eva02_det.engine.recipe import load_recipe
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json
from eva02_mim.checkpoints import newest
from projects.demo.scenes import write_scenes
from projects.from_mim_to_detector.curves import ARMS, Curve, evaluations, read_curve
from projects.from_mim_to_detector.teacher import Training, train_teacher

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STUDENT, DETECTOR = HERE / "configs/student.py", HERE / "configs/detector.py"
BACKBONE = "backbone.net."
DETECTION_SCENES, STUDENT_SCENES = 0, 2000  # seeds of the generator; the teacher has its own


@dataclass(frozen=True)
class Plan:
    """How much of everything. student, detector: overrides of their configs."""

    train_scenes: int = 200
    val_scenes: int = 100
    unlabelled: int = 2000
    pixels: int = 128
    teacher_scenes: int = 3000
    teacher_steps: int = 600
    student: tuple[str, ...] = ()
    detector: tuple[str, ...] = ()


class Chain:
    """Scenes and teacher, which all seeds share, and the student and both detectors of each seed, below a folder."""

    def __init__(self, out: Path, plan: Plan, *, cores: int) -> None:
        self.out, self.plan, self.cores = out, plan, cores
        self.data, self.teacher = out / "data", out / "teacher.pt"
        self.iterations = int(load_recipe(DETECTOR, plan.detector).train.max_iter)

    def prepare(self) -> None:
        """Render the scenes and train the teacher."""
        plan, pixels = self.plan, self.plan.pixels
        with Stage("scenes"):
            self._render("scenes", plan.train_scenes, plan.val_scenes, pixels, DETECTION_SCENES)
            self._render("unlabelled", plan.unlabelled, 0, pixels, STUDENT_SCENES)
        if not self.teacher.is_file():
            with Stage("teacher") as stage:
                told = train_teacher(self.teacher, Training(scenes=plan.teacher_scenes, steps=plan.teacher_steps))
                stage.says(f"tells the class of {told:.0%} of what shows of objects in held-out scenes")

    def run(self, seed: int) -> Path:
        """Student and both detectors of a seed; their folder."""
        folder = self.out / f"seed_{seed}"
        weights = folder / "student_p14to16.pt"
        if not weights.is_file():
            with Stage(f"seed {seed}: student"):
                self._pretrain(folder / "student", seed)
                self._call("export", "export_mim.py", newest(folder / "student"), weights, "--layout", "p14to16", home=folder)
        with Stage(f"seed {seed}: weights of the student in the detector") as stage:
            stage.says(self._account(folder, weights))
        with Stage(f"seed {seed}: detectors"):
            self._detect(folder, weights, seed)
        return folder

    def _render(self, name: str, train: int, val: int, pixels: int, seed: int) -> None:
        lists = [self.data / name / f"annotations/instances_{split}.json" for split, n in (("train", train), ("val", val)) if n]
        if not all(file.is_file() for file in lists):
            write_scenes(self.data / name, train=train, val=val, pixels=pixels, seed=seed)

    def _pretrain(self, run: Path, seed: int) -> None:
        processes = min(2, self.cores)
        settings = [f"train.output_dir={run}", f"train.seed={seed}", f"teacher.weights={self.teacher}"]
        source = f"dataloader.train.source.spec={self.data / 'unlabelled/train'}"
        options = ["--config-file", STUDENT, "--resume", "--num-gpus", processes, source, *settings, *self.plan.student]
        self._call("pretrain", "pretrain.py", *options, home=run.parent, threads=self.cores // processes)

    def _account(self, folder: Path, weights: Path) -> str:
        """Load the student into a detector, as the run will, and keep the account of every weight; its summary."""
        model = instantiate(load_recipe(DETECTOR, self.plan.detector).model)
        account = load_weights(model, weights)
        inside = [key for key in account.new if key.startswith(BACKBONE)]
        unfilled = {key for key in model.state_dict() if key.startswith(BACKBONE)} - {*account.filled}
        if inside or unfilled:
            raise UserError(f"{weights} leaves {sorted({*inside, *unfilled})} of the backbone random; pre-train the same shape")
        content = {"filled": account.filled, "resized": account.resized, "dropped": account.dropped, "new": account.new}
        write_json(folder / "account.json", content, indent=1)
        parts = sorted({".".join(key.split(".")[: 1 + key.startswith("backbone.")]) for key in account.new})
        return f"{account.summary()} ({', '.join(parts)})"

    def _detect(self, folder: Path, weights: Path, seed: int) -> None:
        """Both detectors side by side, each on its share of the cores. They differ in where they start and in nothing else."""
        running = []
        for arm in ARMS:
            start = weights if arm == "pretrained" else ""
            settings = [f"train.output_dir={folder / arm}", f"train.seed={seed}", f"train.init_checkpoint={start}"]
            if not self.is_complete(folder / arm):
                options = ["--resume", *settings, *self.plan.detector]
                command = self._command("lazyconfig_train_net.py", "--config-file", DETECTOR, *options)
                running.append(Job(arm, command, folder, threads=max(1, self.cores // len(ARMS)), data=self.data))
        wait_for(*running)

    def curve(self, run: Path) -> Curve:
        """Box AP against iterations of a detector's run."""
        return read_curve(run, self.iterations)

    def is_complete(self, run: Path) -> bool:
        """Whether a detector's run ended, with its last evaluation."""
        found = evaluations(run, self.iterations)
        return (run / "model_final.pth").is_file() and bool(found) and found[-1][0] == self.iterations

    def _call(self, name: str, *words: object, home: Path, threads: int | None = None) -> None:
        wait_for(Job(name, self._command(*words), home, threads=threads or self.cores, data=self.data))

    def _command(self, tool: object, *words: object) -> list[str]:
        return [sys.executable, str(ROOT / "tools" / str(tool)), *map(str, words)]


class Job:
    """A tool that runs, its output in `<name>.log`."""

    def __init__(self, name: str, command: list[str], home: Path, *, threads: int, data: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home / f"{name}.log"
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        places = {"PYTHONPATH": path, "DETECTRON2_DATASETS": str(data), "EVA02_MIM_CACHE": str(data / "index")}
        print(f"  {shlex.join(command[1:])}", flush=True)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **places, "OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def failure(self) -> str | None:
        """Waits for the end; None where all went well."""
        status = self._process.wait()
        if not status:
            return None
        last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"a part ended with status {status}, see {self.log}: {' '.join(last)}"


def wait_for(*jobs: Job) -> None:
    """UserError where one of them failed, once all have ended."""
    failures = [failure for job in jobs if (failure := job.failure()) is not None]
    if failures:
        raise UserError("; ".join(failures))


class Stage:
    """Says what is going on and how long it took."""

    def __init__(self, name: str) -> None:
        self.name, self._said = name, ""

    def says(self, text: str) -> None:
        self._said = f": {text}"

    def __enter__(self) -> "Stage":
        self._since = time.perf_counter()
        print(f"{self.name} ...", flush=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            print(f"{self.name} done in {time.perf_counter() - self._since:.0f} s{self._said}", flush=True)
