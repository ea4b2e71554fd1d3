"""One step: its gradient, its parts, its precision, and what it does with values that are not finite."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from eva02_det.utils.errors import UserError
from eva02_mim.groups import decay_groups
from eva02_mim.guard import Guard, to_host
from eva02_mim.hidden import HiddenTokens
from eva02_mim.loss import hidden_targets, hidden_token_loss
from eva02_mim.normalise import Normalise
from eva02_mim.precision import PATIENCE, START, WINDOW, LossScale
from eva02_mim.step import Batch, Outcome, PretrainStep
from eva02_mim.student import MimStudent
from eva02_mim.teacher import SeededTeacher
from tests.mim.nano_run import Poisoned

CPU = torch.device("cpu")
PIXELS, WIDTH = 56, 8


def make_step(*, fused: bool = True, teacher: type[SeededTeacher] = SeededTeacher, **options: Any) -> PretrainStep:
    torch.manual_seed(0)
    student = MimStudent(16, 2, 2, target_dim=WIDTH, image_size=PIXELS)
    optimizer = AdamW(decay_groups(student, weight_decay=0.05), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=fused)
    frozen = teacher(WIDTH, width=16, depth=1, image_size=PIXELS)
    return PretrainStep(student, frozen, optimizer, Normalise(), CPU, **{"precision": "fp32", **options})


def draw(count: int = 4, hidden: tuple[int, ...] = (6, 5, 4, 6)) -> Batch:
    """Images whose masks hide `hidden` patches of 16, in 6 slots."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (count, 3, PIXELS, PIXELS), generator=generator, dtype=torch.uint8)
    index = torch.stack([torch.randperm(16, generator=generator)[:6] for _ in range(count)])
    weight = (torch.arange(6) < torch.tensor(hidden)[:count, None]).float()
    return Batch(images, HiddenTokens(index, weight), torch.arange(100, 100 + count))


def white(batch: Batch, number: int) -> Batch:
    images = batch.images.clone()
    images[number] = 255
    return Batch(images, batch.hidden, batch.sample)


def weights(step: PretrainStep) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.student.state_dict().items()}


def test_a_step_is_the_plain_one_written_out():
    step, batch = make_step(), draw()
    plain = copy.deepcopy(step.student)
    optimizer = AdamW(decay_groups(plain, weight_decay=0.05), lr=2e-3, betas=(0.9, 0.98), eps=1e-6)
    for _ in range(3):
        outcome = step(batch, 2e-3)
        targets = hidden_targets(step.teacher(batch.images), batch.hidden.index)
        loss = hidden_token_loss(plain(Normalise()(batch.images), batch.hidden), targets, batch.hidden.weight)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 3.0)
        optimizer.step()
        torch.testing.assert_close((outcome.loss, outcome.norm), (loss.detach(), norm), rtol=1e-5, atol=1e-6)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(step.student.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_to_the_norm_given():
    step = make_step(clip_norm=0.01)
    outcome = step(draw(), 0.0)
    clipped = nn.utils.get_total_norm([p.grad for p in step.student.parameters()])
    assert float(outcome.norm) > 0.1
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("average", "hidden"), [("rank", (6, 6, 6, 6)), ("global", (6, 5, 4, 6))])
def test_accumulated_parts_have_the_gradient_of_the_whole_batch(average: str, hidden: tuple[int, ...]):
    whole, parts = make_step(), make_step(accumulate=4, average=average)
    batch = draw(hidden=hidden)
    torch.testing.assert_close(parts(batch, 1e-3).loss, whole(batch, 1e-3).loss, rtol=1e-5, atol=1e-7)
    for one, other in zip(whole.student.parameters(), parts.student.parameters()):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-7)


def test_as_published_the_loss_of_parts_is_the_mean_of_their_means():
    step, batch = make_step(accumulate=2), draw(hidden=(6, 6, 2, 1))
    means = [step.loss(part)[0].item() for part in batch.split(2)]
    assert float(step(batch, 0.0).loss) == pytest.approx(sum(means) / 2, rel=1e-5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(fused: bool):
    step = make_step(teacher=Poisoned, fused=fused)
    step(draw(), 1e-3)
    before, moments = weights(step), copy.deepcopy(step.optimizer.state_dict()["state"])
    outcome = step(white(draw(), 2), 1e-3)
    assert bool(outcome.skipped)
    assert bool(outcome.fault)
    assert outcome.wrong.tolist() == [False, False, True, False]
    torch.testing.assert_close(weights(step), before, rtol=0, atol=0)
    torch.testing.assert_close(step.optimizer.state_dict()["state"], moments, rtol=0, atol=0)
    assert not bool(step(draw(), 1e-3).skipped)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("fp16", 0.01)])
def test_low_precision_has_the_loss_and_gradient_of_fp32_but_for_rounding(precision: str, tolerance: float):
    exact, low = make_step(), make_step(precision=precision)
    one, other = exact(draw(), 1e-3), low(draw(), 1e-3)
    assert float(other.loss) == pytest.approx(float(one.loss), abs=tolerance)
    assert float(other.norm) == pytest.approx(float(one.norm), rel=5 * tolerance)
    assert all(p.dtype == torch.float32 for p in low.student.parameters())
    moved = torch.cat([(a - b).flatten() for a, b in zip(low.student.parameters(), exact.student.parameters())])
    assert moved.detach().abs().max().item() < 2.1e-3  # at most the step of Adam in the other direction


def test_an_overflow_of_fp16_lowers_the_scale_and_is_no_fault():
    step = make_step(precision="fp16")
    step.scale.value.fill_(2.0**40)
    before = weights(step)
    outcomes = [step(draw(), 1e-3) for _ in range(PATIENCE)]
    assert [bool(outcome.skipped) for outcome in outcomes] == [True] * PATIENCE
    assert not any(bool(outcome.fault) for outcome in outcomes)
    assert float(step.scale.value) == 2.0**39
    torch.testing.assert_close(weights(step), before, rtol=0, atol=0)


def test_images_that_are_not_finite_are_a_fault_in_fp16_too_and_leave_the_scale():
    step = make_step(precision="fp16", teacher=Poisoned)
    outcome = step(white(draw(), 2), 1e-3)
    assert bool(outcome.skipped)
    assert bool(outcome.fault)
    assert float(step.scale.value) == START


def test_the_scale_waits_for_the_second_overflow_and_doubles_after_a_window_without():
    scale, overflow, fine = LossScale(CPU, enabled=True), torch.tensor(True), torch.tensor(False)
    scale.update(overflow)
    assert float(scale.value) == START
    scale.update(overflow)
    scale.update(overflow)
    assert float(scale.value) == START / 4
    for _ in range(WINDOW - 1):
        scale.update(fine)
    assert float(scale.value) == START / 4
    scale.update(fine)
    assert float(scale.value) == START / 2
    again = LossScale(CPU, enabled=True)
    again.load_state_dict(scale.state_dict())
    scale.update(overflow)
    again.update(overflow)
    assert again.state_dict() == scale.state_dict()


def outcomes(faults: str) -> list[Outcome]:
    """"." fine, "!" a fault of the second of two images."""
    made = []
    for mark in faults:
        bad = torch.tensor(mark == "!")
        value = torch.tensor(math.nan if bad else 0.0)
        made.append(Outcome(value, value, bad, bad, torch.tensor([False, bool(bad)]), torch.tensor([4, 7])))
    return made


def observe(guard: Guard, faults: str) -> None:
    window = outcomes(faults)
    guard.observe(0, window, to_host(window)[2])


def test_faults_up_to_the_limit_are_let_pass_and_one_more_stops_with_the_name_of_the_image():
    guard = Guard(3, name="picture {}.jpg".format)
    observe(guard, "!!!.!!")
    observe(guard, "!")
    assert guard.skipped == 6
    with pytest.raises(UserError, match=r"step 0 and the 3 before it were not finite.*1 images.*: picture 7.jpg;"):
        observe(guard, "!")


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(UserError, match=r"4 images a process does not split into train.accumulate=3"):
        make_step(accumulate=3)(draw(), 0.0)


def test_an_unknown_precision_or_average_is_refused():
    with pytest.raises(UserError, match=r"train.precision=int8 is not one of fp32, bf16, fp16"):
        make_step(precision="int8")
    with pytest.raises(UserError, match=r"train.average=mean is not one of rank, global"):
        make_step(average="mean")
