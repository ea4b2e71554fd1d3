"""A pre-training run, from the config to the last checkpoint."""

import logging

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig

from eva02_det.launch import preemption
from eva02_det.utils.broken import account_of_all
from eva02_det.utils.randomness import generators_kept
from eva02_mim import build
from eva02_mim.checkpoints import Checkpoints, newest, options_of, require_own_folder
from eva02_mim.guard import Guard
from eva02_mim.parallel import bare, distribute
from eva02_mim.progress import Reporter, Speed, flops_per_image, peak_tflops, was_reported
from eva02_mim.step import Batch, Outcome, PretrainStep
from eva02_mim.validation import validation_loss
from eva02_mim.watch import Watch

VALIDATION = "validation_loss"
logger = logging.getLogger(__name__)


def train(config: DictConfig, *, resume: bool = False) -> dict[str, float]:
    """Pre-train as `config` says (see configs/common/mim.py); returns what was reported last.

    With `resume` the run goes on after the newest checkpoint of `train.output_dir`, with the next images, as if it had never
    stopped; where there is none it begins. Told to stop (see `preemption`), it saves after its step and raises `Stopped`.
    """
    build.check_settings(config)
    require_own_folder(config.train.output_dir, resume=resume)
    run = Run(config)
    start = run.resume()
    if start >= run.steps and not run.owes_validation(start):
        logger.info("the run has taken all its %d steps", run.steps)
        return {}
    return run.go(start)


class Run:
    """Everything a run is made of. `resume` says where it starts, `go` trains from there.

    Data are opened before student and teacher are built: what is missing is found before a GPU is used.
    """

    def __init__(self, config: DictConfig) -> None:
        self.settings, self.device = config.train, build.device_of(config)
        self.loader, self.validation = build.open_data(config, rank=comm.get_rank(), world=comm.get_world_size())
        self.steps, self.schedule = build.plan(config, self.loader.steps_per_epoch)
        features, teacher = build.use_cache(config, self.loader, self.device, alive=self.validation is not None)
        self.found = newest(self.settings.output_dir)
        student = build.build_student(config, self.device, anew=self.found is None)  # else what it started from may be gone
        build.require_match(student, self.loader, features)
        normalise = instantiate(config.normalise).to(self.device)
        flops = flops_per_image(features, student, normalise, hidden=self.loader.dataset.masks.count)
        peak = peak_tflops(self.device, self.settings.peak_tflops)
        speed = Speed(self.settings.batch, flops, None if peak is None else peak * comm.get_world_size())
        if self.settings.compile:
            build.compile_blocks(student)
        torch.manual_seed(self.settings.seed + 1 + comm.get_rank())  # drop path differs from rank to rank
        self.student = distribute(student, self.settings.parallel, self.device)
        self.step = PretrainStep(
            self.student,
            teacher,
            build.build_optimizer(config, bare(self.student)),
            normalise,
            self.device,
            precision=self.settings.precision,
            clip_norm=self.settings.clip_grad_norm,
            accumulate=self.settings.accumulate,
            average=self.settings.average,
        )
        guard = Guard(self.settings.max_faults, self.loader.dataset.source.name)
        self.watch = Watch(self.loader, guard, speed, self.schedule)
        options = options_of(self.settings)
        self.checkpoints = Checkpoints(self.settings.output_dir, self.student, self.step.optimizer, **options)
        self.parts = {"scale": self.step.scale, "guard": guard, "data": self.loader}
        self.eval_period = self.settings.eval_period or self.loader.steps_per_epoch

    def resume(self) -> int:
        """The number of steps done before, with everything as it was after them; 0 where the folder holds no checkpoint."""
        if comm.is_main_process():
            self.checkpoints.remove_leftovers()
        return 0 if self.found is None else self.checkpoints.load(self.found, self.parts)

    def go(self, start: int) -> dict[str, float]:
        """Steps from `start` to the end, with all that happens between them; the last report."""
        reporter = Reporter(self.settings.output_dir, self.steps, start=start, wandb=self.settings.get("wandb"))
        last = self._validate(start, reporter) if self.owes_validation(start) else {}
        window = list[Outcome]()
        self.student.train()
        self.watch.speed.restart()
        with preemption.watch():
            batches = iter(self.loader)  # its workers are forked when signals are watched
            for done in range(start + 1, self.steps + 1):
                window.append(self.step(Batch.of(self.watch.next_of(batches), self.device), self.schedule(done - 1)))
                self.checkpoints.check()
                notice = preemption.stop_agreed()
                ends = notice is not None or done == self.steps
                saves = ends or self._is_due(done, self.settings.checkpoints.period)
                validates = self._validates_after(done)
                if saves or validates or self._is_due(done, self.settings.log_period):
                    numbers = self.watch.look(done, window)
                    reporter.train(done, numbers)
                    last |= numbers
                if saves:
                    self.checkpoints.save(done, self.parts, required=ends)
                if notice is not None:
                    reporter.close()
                    preemption.stop(notice)
                if validates:
                    last |= self._validate(done, reporter)
                if saves or validates:
                    self.watch.speed.restart()
        reporter.close()
        logger.info("in this run %s", account_of_all(self.loader.broken).summary())
        return last

    def owes_validation(self, start: int) -> bool:
        """Whether the run was stopped between a checkpoint and the validation that follows it, as the first process knows."""
        if not start or not self._validates_after(start):
            return False
        return not comm.all_gather(was_reported(self.settings.output_dir, start, VALIDATION))[0]

    def _validate(self, done: int, reporter: Reporter) -> dict[str, float]:
        with generators_kept():  # the training draws what it would have drawn without
            found = {} if self.validation is None else {VALIDATION: validation_loss(self.step, self.validation)}
        reporter.validation(done, found)
        return found

    def _validates_after(self, done: int) -> bool:
        return self.validation is not None and self._is_due(done, self.eval_period)

    def _is_due(self, done: int, period: int) -> bool:
        return done % period == 0 or done == self.steps
