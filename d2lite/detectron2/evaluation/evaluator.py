"""What an evaluator is, and the loop that feeds it."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

WARM_UP_BATCHES = 5  # not timed: kernels are being chosen, caches filled
LOG_EVERY_S = 5.0

log = logging.getLogger(__name__)


class DatasetEvaluator:
    """Looks at inputs and outputs batch by batch and scores them at the end."""

    def reset(self) -> None:
        """Forget everything; called before a pass."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take in one batch: what the model was given and what it returned."""

    def evaluate(self) -> dict | None:
        """{task: {metric: value}} on the main process; the others may return None."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators over one pass; their results are put together."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        """Reset each."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        """Show the batch to each."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict:
        """Results of all; two of the same name are an error."""
        together: OrderedDict = OrderedDict()
        for part in [evaluator.evaluate() for evaluator in self._evaluators]:
            if not part or not comm.is_main_process():
                continue
            if twice := together.keys() & part.keys():
                raise AssertionError(f"more than one evaluator reports {', '.join(sorted(twice))}")
            together.update(part)
        return together


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode inside, and as it was before afterwards."""
    was_training = model.training
    try:
        yield model.eval()
    finally:
        model.train(was_training)


class _Pace:
    """Seconds spent on data, model and evaluator per batch, without the warm-up."""

    def __init__(self, batches: int) -> None:
        self.batches, self.done = batches, 0
        self.start = self.last_log = time.perf_counter()
        self.spent = dict.fromkeys(("data", "model", "evaluation"), 0.0)

    def add(self, seconds: dict[str, float]) -> None:
        """Note one batch, and say now and then how far we are."""
        self.done += 1
        if self.done == min(WARM_UP_BATCHES, self.batches - 1):
            self.start, self.spent = time.perf_counter(), dict.fromkeys(self.spent, 0.0)
            return
        self.spent = {part: total + seconds[part] for part, total in self.spent.items()}
        if time.perf_counter() - self.last_log > LOG_EVERY_S:
            self.last_log = time.perf_counter()
            left = datetime.timedelta(seconds=int(self.per_batch() * (self.batches - self.done)))
            log.info("evaluated %d of %d batches, %s, %s left", self.done, self.batches, self.parts(), left)

    @property
    def timed(self) -> int:
        """Batches after the warm-up."""
        return max(1, self.done - min(WARM_UP_BATCHES, self.batches - 1))

    def per_batch(self) -> float:
        """Seconds, everything counted."""
        return (time.perf_counter() - self.start) / self.timed

    def parts(self) -> str:
        """The parts of a batch in words."""
        return ", ".join(f"{part} {total / self.timed:.4f} s" for part, total in self.spent.items())


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Iterable[Any],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], None]] | None = None,
) -> dict:
    """Run the model over all batches of a loader that has a length, and evaluate. -> results, {} on other ranks.

    evaluator: one, several, or None to run only. callbacks: functions without arguments by stage: on_start,
    before_inference and after_inference (around the call of the model), on_end.
    """
    batches = len(data_loader)  # type: ignore[arg-type]
    log.info("evaluating %d batches on each of %d processes", batches, comm.get_world_size())
    if not isinstance(evaluator, DatasetEvaluator):
        evaluator = DatasetEvaluators(list(evaluator or ()))
    evaluator.reset()
    pace = _Pace(batches)
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        _run_all(model, data_loader, evaluator, callbacks or {}, pace)
    took = datetime.timedelta(seconds=int(time.perf_counter() - pace.start))
    log.info("inference took %s (%.4f s a batch: %s)", took, pace.per_batch(), pace.parts())
    results = evaluator.evaluate()
    return {} if results is None else results


def _run_all(
    model: Callable[[Any], Any],
    data_loader: Iterable[Any],
    evaluator: DatasetEvaluator,
    callbacks: dict[str, Callable[[], None]],
    pace: _Pace,
) -> None:
    """The loop itself."""

    def stage(name: str) -> None:
        if name in callbacks:
            callbacks[name]()

    stage("on_start")
    arrived = time.perf_counter()
    for inputs in data_loader:
        waited, started = time.perf_counter() - arrived, time.perf_counter()
        stage("before_inference")
        outputs = model(inputs)
        stage("after_inference")
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        answered = time.perf_counter()
        evaluator.process(inputs, outputs)
        arrived = time.perf_counter()
        pace.add({"data": waited, "model": answered - started, "evaluation": arrived - answered})
    stage("on_end")
