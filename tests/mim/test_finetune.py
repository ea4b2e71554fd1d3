"""Fine-tuning runs: what a step does, what is averaged, what is counted, and that a stopped run goes on."""

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.engine import launch
from timm.loss import LabelSmoothingCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from eva02_det.utils.errors import UserError
from eva02_mim import finetune as finetuning
from eva02_mim.average import Average
from eva02_mim.checkpoints import files_of, newest
from eva02_mim.classifier import Classifier
from eva02_mim.evaluations import Evaluations
from eva02_mim.finetune import FinetuneRun, finetune
from eva02_mim.finetune_eval import evaluate_checkpoint
from eva02_mim.finetune_step import FinetuneStep, Labelled
from eva02_mim.groups import frozen_decay, layer_decay_groups
from eva02_mim.normalise import Normalise
from eva02_mim.progress import Reporter
from tests.mim.class_pictures import CLASSES, TOOL, arguments, draw_classes, finetune_all, nano_config, record
from tests.mim.nano_run import ToolRun, lines, losses

CPU = torch.device("cpu")
# small batches and drop path: random state, place in the data, moments and averages must all be right
RUN = {
    "train__batch": 10,  # 48 images are 4 steps: the run crosses epochs in which images are left out
    "train__epochs": 9,
    "train__log_period": 1,
    "train__checkpoints__period": 3,
    "train__ema__decay": 0.9,
    "model__drop_path_rate": 0.3,
    "dataloader__train__crop__augment": "rand-m9-mstd0.5-inc1",
}
TWO = {**RUN, "train__epochs": 3, "model__drop_path_rate": 0.0, "train__checkpoints__period": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """16 + 7 pictures of each of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVA02_MIM_CACHE", str(folder / "cache"))
        yield draw_classes(folder / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    output = tmp_path_factory.mktemp("run") / "whole"
    finetune(nano_config(data, output, **RUN))
    return output


def small(**options: Any) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(32, 2, 2, num_classes=3, image_size=28, **options)
    nn.init.normal_(model.head.weight)
    return model


def step_of(model: nn.Module, **options: Any) -> FinetuneStep:
    optimizer = AdamW(layer_decay_groups(model, layer_decay=0.5, weight_decay=0.05), lr=1.0)
    return FinetuneStep(model, optimizer, Normalise(), CPU, **{"precision": "fp32", **options})


def draw(count: int = 6, seed: int = 1) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 255, (count, 3, 28, 28), generator=generator, dtype=torch.uint8)
    return Labelled(images, torch.randint(0, 3, (count,), generator=generator), torch.arange(count))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_loss_is_timm_s_with_label_smoothing():
    model, batch = small(), draw()
    loss, wrong = step_of(model, label_smoothing=0.2).loss(batch)
    logits = model(Normalise()(batch.images))
    torch.testing.assert_close(loss, LabelSmoothingCrossEntropy(0.2)(logits, batch.labels))
    assert not bool(wrong.any())


def test_a_step_is_the_plain_one_with_each_layer_s_part_of_the_rate():
    model, batch = small(), draw()
    plain, step = copy.deepcopy(model), step_of(model, label_smoothing=0.1)
    by_hand = AdamW(layer_decay_groups(plain, layer_decay=0.5, weight_decay=0.05), lr=1.0)
    for rate in (0.0, 1e-2, 5e-3):
        step(batch, rate)
        by_hand.zero_grad()
        nn.functional.cross_entropy(plain(Normalise()(batch.images)), batch.labels, label_smoothing=0.1).backward()
        for group in by_hand.param_groups:
            group["lr"] = rate * group["lr_scale"]
        by_hand.step()
    torch.testing.assert_close(state(model), state(plain))
    assert {group["lr_scale"] for group in step.optimizer.param_groups} == {0.125, 0.25, 0.5, 1.0}


@pytest.mark.parametrize("finite", [True, False])
def test_a_frozen_kernel_shrinks_as_under_adamw_with_gradients_of_zero(finite: bool):
    model, batch = small(), draw()
    kernel, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    twin = nn.Parameter(kernel.detach().clone())
    by_hand = AdamW([twin], lr=0.01 * 0.125, weight_decay=0.05)
    twin.grad = torch.zeros_like(twin)
    if finite:
        by_hand.step()
    else:
        model.head.bias.data[0] = torch.inf
    unchanged = bias.clone()
    step_of(model, shrinking=frozen_decay(model, layer_decay=0.5, weight_decay=0.05))(batch, 0.01)
    torch.testing.assert_close(kernel.data, twin.data, rtol=1e-7, atol=0)
    assert torch.equal(bias, unchanged)
    assert kernel.grad is None


def test_accumulated_parts_are_one_batch():
    one, parts, batch = small(), small(), draw()
    first = step_of(one)(batch, 1e-2)
    second = step_of(parts, accumulate=3)(batch, 1e-2)
    torch.testing.assert_close(first.loss, second.loss)
    torch.testing.assert_close(first.norm, second.norm)
    torch.testing.assert_close(state(one), state(parts))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_steps_lower_the_loss_too(precision: str):
    model = small()
    step, batch = step_of(model, precision=precision), draw()
    losses = [float(step(batch, 3e-3).loss) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_step_that_is_not_finite_changes_no_weight():
    model = small()
    with torch.no_grad():
        model.head.bias[0] = torch.inf
    before = state(model)
    outcome = step_of(model)(draw(), 1e-2)
    assert bool(outcome.skipped)
    assert bool(outcome.fault)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_average_takes_in_every_step_from_the_first_on():
    model = small()
    average, theirs = Average(model, 0.9999), ModelEmaV3(model, decay=0.9999)
    wanted = {name: tensor.double() for name, tensor in state(model).items()}
    optimizer = SGD(model.parameters(), lr=10.0)
    step = FinetuneStep(model, optimizer, Normalise(), CPU, precision="fp32", average=average)
    for number in range(5):
        step(draw(seed=number), 10.0)
        theirs.update(model)
        wanted = {name: 0.9999 * wanted[name] + 0.0001 * tensor.double() for name, tensor in state(model).items()}
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(tensor, theirs.module.state_dict()[name], rtol=0, atol=0)
    assert not torch.equal(average.state_dict()["head.weight"], model.head.weight)


def test_the_average_of_buffers_and_of_half_precision_weights_is_kept_in_fp32():
    model = nn.BatchNorm1d(2).half()  # counts its batches as well
    average = Average(model, 0.5)
    with torch.no_grad():
        model.running_mean.fill_(1.0)
        model.weight.fill_(3.0)
        model.num_batches_tracked.fill_(7)
    average.update(model)
    assert average.state_dict()["running_mean"].tolist() == [0.5, 0.5]
    assert average.state_dict()["weight"].tolist() == [2.0, 2.0]
    assert average.state_dict()["weight"].dtype == torch.float32
    assert int(average.state_dict()["num_batches_tracked"]) == 7


def test_a_run_learns_the_shapes_and_says_how_well(data: Path, tmp_path: Path):
    frozen = {"model__train_patch_embed": False, "train__epochs": 15, "train__batch": 16}
    config = nano_config(data, tmp_path / "run", **frozen)
    run = FinetuneRun(config)
    before = state(run.model)
    run.go(run.resume())
    entries = record(tmp_path / "run")
    assert len(entries) == 15
    assert entries[-1]["scores"]["raw"]["top1"] >= 95
    assert entries[-1]["scores"]["ema"]["top1"] >= 95
    assert {scores["images"] for entry in entries for scores in entry["scores"].values()} == {7 * len(CLASSES)}
    assert losses(tmp_path / "run")[45] < 0.5
    kernel, bias = before["patch_embed.proj.weight"].double(), before["patch_embed.proj.bias"]
    for step in range(run.steps):
        kernel *= 1 - run.schedule(step) * 0.9**3 * 0.05
    torch.testing.assert_close(run.model.patch_embed.proj.weight.double(), kernel, rtol=1e-6, atol=0)
    assert torch.equal(run.model.patch_embed.proj.bias, bias)
    assert not torch.equal(run.model.state_dict()["cls_token"], before["cls_token"])


def test_the_best_weights_are_kept_and_score_the_same_again(data: Path, whole: Path, tmp_path: Path):
    entries = record(whole)
    best = torch.load(whole / finetuning.BEST, weights_only=True)
    top = max(scores["top1"] for entry in entries for scores in entry["scores"].values())
    chosen = next(entry for entry in entries if top in [scores["top1"] for scores in entry["scores"].values()])
    assert (best["step"], best["scores"]) == (chosen["step"], chosen["scores"])
    config = nano_config(data, tmp_path / "scored", train__init_checkpoint=str(whole / finetuning.BEST))
    assert evaluate_checkpoint(config) == {"validation": chosen["scores"]}
    last = nano_config(data, tmp_path / "scored", train__init_checkpoint=str(newest(whole)))
    assert evaluate_checkpoint(last) == {"validation": entries[-1]["scores"]}


def test_the_first_of_equal_evaluations_is_the_best(tmp_path: Path):
    evaluations = Evaluations(tmp_path)
    scores = [{"raw": {"top1": top1, "top5": 100.0, "images": 4}} for top1 in (50.0, 75.0, 75.0, 25.0)]
    assert [evaluations.add(step, step / 4, found) for step, found in enumerate(scores)] == [True, True, False, False]
    assert evaluations.best["step"] == 1


class Finetuning(ToolRun):
    """tools/finetune_classifier.py on the nano recipe."""

    def __init__(self, data: Path, output: Path, *options: str, processes: int = 1, **changes: Any) -> None:
        self.output = output
        self.start(TOOL, *arguments(data, output, *options, **changes), processes=processes)


@pytest.mark.slow
def test_after_kill_9_at_a_random_step_the_run_is_the_one_that_was_not_killed(data: Path, whole: Path, tmp_path: Path):
    step = random.SystemRandom().randint(4, 25)
    killed = tmp_path / "killed"
    Finetuning(data, killed, **RUN).kill_at(step)
    finetune_all(data, {killed: RUN})
    assert list(losses(whole)) == list(range(1, 37))
    assert losses(killed) == pytest.approx(losses(whole), abs=1e-6), f"killed after step {step}"
    assert_same_files(killed, whole, atol=1e-6)
    assert record(killed) == record(whole)


def assert_same_files(run: Path, other: Path, *, atol: float) -> None:
    one, two = (torch.load(files_of(folder)[-1], weights_only=True) for folder in (run, other))
    for part in ("model", "model_ema"):
        torch.testing.assert_close(one[part], two[part], rtol=0, atol=atol)


def test_a_run_stopped_between_checkpoint_and_evaluation_makes_up_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finetune(nano_config(data, whole, **TWO))

    def stop(run: FinetuneRun, done: int, reporter: Any) -> None:
        raise KeyboardInterrupt

    config = nano_config(data, stopped, **TWO)
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneRun, "_evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    assert files_of(stopped)[-1].name == "checkpoint_0000004.pt"
    finetune(nano_config(data, stopped, **TWO), resume=True)
    assert record(stopped) == record(whole)
    assert losses(stopped) == losses(whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_leaves_the_random_numbers_of_the_training_as_they_are(data: Path, tmp_path: Path, workers: int):
    run = FinetuneRun(nano_config(data, tmp_path / "run", **TWO, dataloader__validation__workers=workers))
    reporter = Reporter(run.settings.output_dir, run.steps, start=0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run._evaluate(4, reporter)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_a_folder_of_an_earlier_run_is_not_written_over(data: Path, whole: Path):
    with pytest.raises(UserError, match="is of an earlier run; pass --resume to go on with it"):
        finetune(nano_config(data, whole, **RUN))


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_are_one_with_the_batch_and_count_every_image_once(data: Path, tmp_path: Path):
    threads = torch.get_num_threads()
    finetune_all(data, {tmp_path / "one": TWO})
    launch(finetune_all, 2, dist_url="auto", args=(data, {tmp_path / "two": {**TWO, "train__accumulate": 5}}))
    torch.set_num_threads(threads)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=2e-6)
    assert_same_files(tmp_path / "two", tmp_path / "one", atol=2e-5)
    assert record(tmp_path / "two") == record(tmp_path / "one")
    assert {s["images"] for entry in record(tmp_path / "two") for s in entry["scores"].values()} == {21}  # odd


def test_an_unreadable_image_of_an_evaluation_is_named_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
    data = draw_classes(tmp_path / "data", train=12, val=2)
    (data / "val" / CLASSES[1] / "001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image .*val/green square/001\.png cannot be read"):
        finetune(nano_config(data, tmp_path / "run", train__epochs=1))


def test_unreadable_images_of_training_are_counted_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVA02_MIM_CACHE", str(tmp_path / "cache"))
    data = draw_classes(tmp_path / "data", train=12, val=2)
    (data / "train" / CLASSES[1] / "001.png").write_bytes(b"no image")
    finetune(nano_config(data, tmp_path / "run", train__epochs=2, train__batch=12, train__log_period=1))
    assert [line["broken_images"] for line in lines(tmp_path / "run") if "loss" in line][-1] == 2
