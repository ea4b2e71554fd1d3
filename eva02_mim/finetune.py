"""A fine-tuning run, from the config to results.json, and the evaluation of what it made."""

import logging
from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn

from eva02_det.launch import preemption
from eva02_det.utils.broken import account_of_all
from eva02_det.utils.randomness import generators_kept
from eva02_mim import build
from eva02_mim import finetune_build as parts
from eva02_mim.accuracy import score_all
from eva02_mim.average import Average
from eva02_mim.checkpoints import SUFFIX, Checkpoints, newest, options_of, require_own_folder
from eva02_mim.classifier import Classifier
from eva02_mim.evaluations import EMA, RAW, Evaluations
from eva02_mim.finetune_step import FinetuneStep, Labelled
from eva02_mim.guard import Guard
from eva02_mim.parallel import bare, distribute
from eva02_mim.progress import Reporter, Speed, counted_flops, peak_tflops
from eva02_mim.step import Outcome
from eva02_mim.watch import Watch

BEST = "best.pt"
logger = logging.getLogger(__name__)


def finetune(config: DictConfig, *, resume: bool = False) -> Evaluations:
    """Fine-tune as `config` says (see configs/common/classification.py); returns the record of its evaluations.

    With `resume` the run goes on after the newest checkpoint of `train.output_dir`, with the next images, as if it had never
    stopped; where there is none it begins. Told to stop (see `preemption`), it saves after its step and raises `Stopped`.
    """
    parts.check_settings(config)
    require_own_folder(config.train.output_dir, resume=resume)
    run = FinetuneRun(config)
    run.go(run.resume())
    return run.evaluations


class FinetuneRun:
    """Everything a run is made of. `resume` says where it starts, `go` trains from there. Data are opened before the model."""

    def __init__(self, config: DictConfig) -> None:
        self.settings, self.device = config.train, build.device_of(config)
        self.loader = parts.open_train_data(config, rank=comm.get_rank(), world=comm.get_world_size())
        classes = self.loader.dataset.folder
        self.questions = parts.open_validation(config, classes)
        self.steps, self.schedule = build.plan(config, self.loader.steps_per_epoch)
        self.found = newest(self.settings.output_dir)
        model = parts.build_classifier(config, self.device, len(classes.classes))
        if self.found is None:  # else what the run started from may be gone
            parts.begin(config, model)
        normalise = instantiate(config.normalise).to(self.device)
        self.reading = None if self.questions is None else parts.reading_of(config, normalise, self.device)
        flops = counted_flops(model, partial(_sum_of_logits, model, normalise))
        peak = peak_tflops(self.device, self.settings.peak_tflops)
        speed = Speed(self.settings.batch, flops, None if peak is None else peak * comm.get_world_size())
        self.average = None if self.settings.ema.decay is None else Average(model, self.settings.ema.decay)
        if self.settings.compile:
            build.compile_blocks(model)
        torch.manual_seed(self.settings.seed + 1 + comm.get_rank())  # drop path differs from rank to rank
        self.model = distribute(model, "ddp", self.device)
        self.step = FinetuneStep(
            self.model,
            build.build_optimizer(config, model),
            normalise,
            self.device,
            precision=self.settings.precision,
            label_smoothing=self.settings.label_smoothing,
            average=self.average,
            shrinking=parts.shrinking_weights(config, model),
            clip_norm=self.settings.clip_grad_norm,
            accumulate=self.settings.accumulate,
        )
        guard = Guard(self.settings.max_faults, self.loader.dataset.source.name)
        self.watch = Watch(self.loader, guard, speed, self.schedule)
        beside = {} if self.average is None else {"model_ema": self.average}
        folder, options = self.settings.output_dir, options_of(self.settings)
        self.checkpoints = Checkpoints(folder, self.model, self.step.optimizer, beside=beside, **options)
        self.parts = {"scale": self.step.scale, "guard": guard, "data": self.loader}
        self.evaluations = Evaluations(folder)

    def resume(self) -> int:
        """The number of steps done before, with everything as it was after them; 0 where the folder holds no checkpoint."""
        if comm.is_main_process():
            self.checkpoints.remove_leftovers()
        start = 0 if self.found is None else self.checkpoints.load(self.found, self.parts)
        self.evaluations.load(start)
        return start

    def go(self, start: int) -> None:
        """Steps from `start` to the end, with all that happens between them, and the results."""
        reporter = Reporter(self.settings.output_dir, self.steps, start=start, wandb=self.settings.get("wandb"))
        if start and self._evaluates_after(start) and not self._was_evaluated(start):
            self._evaluate(start, reporter)  # the run was stopped between its checkpoint and its evaluation
        window = list[Outcome]()
        self.model.train()
        self.watch.speed.restart()
        with preemption.watch():
            batches = iter(self.loader)  # its workers are forked when signals are watched
            for done in range(start + 1, self.steps + 1):
                batch = Labelled.of(self.watch.next_of(batches), self.device)
                window.append(self.step(batch, self.schedule(done - 1)))
                self.checkpoints.check()
                notice = preemption.stop_agreed()
                ends = notice is not None or done == self.steps
                saves = ends or self._is_due(done, self.settings.checkpoints.period)
                evaluates = self._evaluates_after(done)
                if saves or evaluates or self._is_due(done, self.settings.log_period):
                    reporter.train(done, self.watch.look(done, window))
                if saves:
                    self.checkpoints.save(done, self.parts, required=ends)
                if notice is not None:
                    reporter.close()
                    preemption.stop(notice)
                if evaluates:
                    self._evaluate(done, reporter)
                if saves or evaluates:
                    self.watch.speed.restart()
        reporter.close()
        logger.info("in this run %s", account_of_all(self.loader.broken).summary())
        if comm.is_main_process():
            logger.info("results:\n%s", self.evaluations.finish())

    def _is_due(self, done: int, period: int | None) -> bool:
        """Whether a period of steps ends (None: an epoch does), or the run."""
        return done % (period or self.loader.steps_per_epoch) == 0 or done == self.steps

    def _evaluates_after(self, done: int) -> bool:
        return self.questions is not None and self._is_due(done, self.settings.eval_period)

    def _was_evaluated(self, done: int) -> bool:
        """As the first process knows it."""
        return bool(comm.all_gather(self.evaluations.has(done))[0])

    def _evaluate(self, done: int, reporter: Reporter) -> None:
        """Score the weights and their average on all validation images; every rank must call this.

        The training goes on with the random numbers that it would have drawn without.
        """
        if self.questions is None or self.reading is None:
            return
        models = {RAW: bare(self.model)} | ({} if self.average is None else {EMA: self.average.model})
        with generators_kept():
            scores = score_all(models, self.questions, self.reading)
        numbers = {f"{name}/{key}": value for name, found in scores.items() for key, value in found.items()}
        reporter.validation(done, numbers)
        is_best = self.evaluations.add(done, done / self.loader.steps_per_epoch, scores)
        if comm.is_main_process():
            if is_best:
                self._save_best(done, scores)
            self.evaluations.write()
        comm.synchronize()

    def _save_best(self, done: int, scores: dict[str, Any]) -> None:
        """Weights and average in the layout of the released fine-tuned files."""
        content: dict[str, Any] = {"model": bare(self.model).state_dict(), "step": done, "scores": scores}
        if self.average is not None:
            content["model_ema"] = self.average.state_dict()
        self.checkpoints.store.write(BEST.removesuffix(SUFFIX), content)
        self.checkpoints.finish()  # before the record says that it is there


def _sum_of_logits(model: Classifier, normalise: nn.Module, image: Tensor) -> Tensor:
    """Stands for a loss where operations are counted."""
    return model(normalise(image)).sum()
