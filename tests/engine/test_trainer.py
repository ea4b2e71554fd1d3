"""One optimiser step: accumulation, clipping, scaling, and what a non-finite loss may not do."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from eva02_det.engine.trainer import Trainer
from eva02_det.utils.errors import UserError


class Regression(nn.Module):
    """Mean squared error of a linear map, as a dictionary of two losses."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 1)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        error = (self.map(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
        return {"loss_a": error, "loss_b": 0.5 * error}


def steps(model: nn.Module, batches: list[torch.Tensor], count: int, **options: object) -> Trainer:
    trainer = Trainer(model, batches, torch.optim.AdamW(model.parameters(), lr=0.1), **options)
    trainer.max_iter = count
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()
            trainer.storage.step()
    return trainer


@pytest.fixture
def model() -> Regression:
    torch.manual_seed(0)
    return Regression()


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


def test_two_accumulated_batches_give_the_step_of_one_batch_of_twice_the_size(model: Regression, data: torch.Tensor):
    other = copy.deepcopy(model)
    steps(model, list(data.split(2)), 3, accumulate=2)
    steps(other, list(data.split(4)), 3)
    torch.testing.assert_close(model.map.weight, other.map.weight)


def test_the_logged_losses_are_means_over_the_micro_batches(model: Regression, data: torch.Tensor):
    expected = model(data[:4])
    trainer = steps(model, list(data.split(2)), 1, accumulate=2)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert latest["loss_a"] == pytest.approx(expected["loss_a"].item(), rel=1e-5)
    assert latest["total_loss"] == pytest.approx(1.5 * expected["loss_a"].item(), rel=1e-5)
    assert latest["data_time"] >= 0


def test_clipping_bounds_the_norm_of_the_whole_gradient(model: Regression, data: torch.Tensor):
    steps(model, [100 * data], 1, clip_norm=0.25)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.25, rel=1e-4)


def test_scaling_the_loss_changes_nothing_when_nothing_overflows(model: Regression, data: torch.Tensor):
    other = copy.deepcopy(model)
    steps(model, list(data.split(4)), 3, scale_loss=True)
    steps(other, list(data.split(4)), 3)
    torch.testing.assert_close(model.map.weight, other.map.weight, rtol=1e-5, atol=1e-6)


def test_a_non_finite_loss_stops_before_it_reaches_the_weights(model: Regression, data: torch.Tensor):
    before = model.map.weight.detach().clone()
    with pytest.raises(UserError, match="loss_a is nan"):
        steps(model, [data * float("nan")], 1)
    torch.testing.assert_close(model.map.weight.detach(), before, rtol=0, atol=0)


def test_the_state_of_optimiser_and_scaler_survives_a_save(model: Regression, data: torch.Tensor):
    batches = list(data.split(4))
    other = copy.deepcopy(model)
    first = steps(model, batches[:2], 2, scale_loss=True)
    middle = copy.deepcopy(model)
    resumed = Trainer(middle, batches[2:], torch.optim.AdamW(middle.parameters(), lr=0.5), scale_loss=True)
    resumed.load_state_dict(first.state_dict())
    with EventStorage(2) as resumed.storage:
        resumed.iter, resumed.max_iter = 2, 3
        resumed.run_step()
    steps(other, batches, 3, scale_loss=True)
    torch.testing.assert_close(middle.map.weight, other.map.weight, rtol=0, atol=0)
