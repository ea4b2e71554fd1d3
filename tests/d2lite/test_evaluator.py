"""The evaluation loop: modes, callbacks, several evaluators, the lines for a spreadsheet."""

import logging
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset, print_csv_format
from torch import nn


class Recorder(DatasetEvaluator):
    """Keeps what it is shown."""

    def __init__(self, task: str = "task") -> None:
        self.task = task
        self.seen: list = ["not reset"]

    def reset(self) -> None:
        self.seen = []

    def process(self, inputs, outputs) -> None:
        self.seen.append((inputs, outputs))

    def evaluate(self) -> dict:
        return {self.task: {"batches": len(self.seen)}}


class Doubler(nn.Module):
    def forward(self, inputs: torch.Tensor) -> tuple:
        return inputs * 2, self.training, torch.is_grad_enabled()


LOADER = [torch.tensor([float(n)]) for n in range(8)]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_runs_in_evaluation_mode_without_gradients_and_is_put_back(training):
    model, recorder = Doubler().train(training), Recorder()
    assert inference_on_dataset(model, LOADER, recorder) == {"task": {"batches": 8}}
    assert model.training is training
    assert [output[0].item() for _, output in recorder.seen] == [2.0 * n for n in range(8)]
    assert not any(mode or gradients for _, (_, mode, gradients) in recorder.seen)


@pytest.mark.skipif("d2lite" not in Path(detectron2.__file__).parts, reason="the official detectron2 leaves it changed")
def test_the_mode_is_put_back_when_the_model_fails():
    class Fails(nn.Module):
        def forward(self, inputs: torch.Tensor) -> None:
            raise RuntimeError("no")

    model = Fails().train()
    with pytest.raises(RuntimeError, match="no"):
        inference_on_dataset(model, LOADER, Recorder())
    assert model.training


def test_several_evaluators_see_the_same_pass_and_their_results_are_joined():
    evaluators = [Recorder("a"), Recorder("b")]
    assert inference_on_dataset(Doubler(), LOADER, evaluators) == {"a": {"batches": 8}, "b": {"batches": 8}}
    assert inference_on_dataset(Doubler(), LOADER, DatasetEvaluators(evaluators)).keys() == {"a", "b"}
    with pytest.raises(AssertionError):
        inference_on_dataset(Doubler(), LOADER, [Recorder("a"), Recorder("a")])


def test_a_pass_without_evaluator_gives_no_results():
    assert inference_on_dataset(Doubler(), LOADER, None) == {}


def test_callbacks_are_called_at_their_stages():
    called = []
    stages = ("on_start", "before_inference", "after_inference", "on_end")
    inference_on_dataset(Doubler(), LOADER[:2], None, {name: (lambda name=name: called.append(name)) for name in stages})
    assert called == ["on_start", *["before_inference", "after_inference"] * 2, "on_end"]


def test_a_function_can_be_evaluated_too():
    assert inference_on_dataset(torch.square, LOADER, Recorder()) == {"task": {"batches": 8}}


def test_results_are_logged_as_comma_separated_lines(caplog):
    with caplog.at_level(logging.INFO):
        print_csv_format({"bbox": {"AP": 12.34567, "AP50": float("nan"), "AP-cat": 1.0}})
    text = caplog.text
    assert "Task: bbox" in text
    assert "AP,AP50" in text
    assert "12.3457,nan" in text
    assert "cat" not in text
