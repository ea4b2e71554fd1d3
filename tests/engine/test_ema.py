"""The average of weights in a run: exchanged without a copy, saved and resumed exactly, updated once per iteration."""

from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.engine.ema import EmaHook, ModelEma
from eva02_det.engine.trainer import Trainer
from eva02_det.utils.errors import UserError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    net.register_buffer("constant", torch.arange(3.0), persistent=False)
    return net


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def shake(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=draw)


def test_the_average_starts_as_the_weights_and_follows_them_slowly(model: nn.Module):
    start, average = weights(model), ModelEma(model, 0.75)
    shake(model, 1)
    average.update(model)
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * weights(model)[name])


def test_model_and_average_exchange_their_storage_and_get_it_back(model: nn.Module):
    average = ModelEma(model)
    shake(model, 1)
    raw, averaged = weights(model), {name: value.clone() for name, value in average.state_dict().items()}
    storages = {p.data_ptr() for p in model.parameters()} | {v.data_ptr() for v in average.state_dict().values()}
    identities = [id(p) for p in model.parameters()]
    with average.applied(model):
        assert all(torch.equal(value, averaged[name]) for name, value in weights(model).items())
        assert {p.data_ptr() for p in model.parameters()} < storages
    assert all(torch.equal(value, raw[name]) for name, value in weights(model).items())
    assert all(torch.equal(value, averaged[name]) for name, value in average.state_dict().items())
    assert {p.data_ptr() for p in model.parameters()} | {v.data_ptr() for v in average.state_dict().values()} == storages
    assert [id(p) for p in model.parameters()] == identities, "the optimiser holds these"


def test_the_weights_come_back_after_an_error(model: nn.Module):
    average, raw = ModelEma(model), weights(model)
    shake(model, 1)
    raw = weights(model)
    with pytest.raises(KeyError), average.applied(model):
        raise KeyError
    assert all(torch.equal(value, raw[name]) for name, value in weights(model).items())


def test_what_is_applied_can_be_neither_saved_nor_updated_by_mistake(model: nn.Module):
    average = ModelEma(model)
    for act in (average.state_dict, lambda: average.update(model), lambda: average.load_state_dict({})):
        with average.applied(model), pytest.raises(RuntimeError, match="raw weights"):
            act()


def test_buffers_are_not_averaged(model: nn.Module):
    average = ModelEma(model, 0.5)
    model[1].running_mean += 7
    average.update(model)
    assert set(average.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    with average.applied(model):
        assert torch.equal(model[1].running_mean, torch.full((3,), 7.0))


def test_a_checkpoint_holds_the_average_in_the_layout_of_the_authors_and_a_run_resumes_it_exactly(
    model: nn.Module, tmp_path: Path
):
    average = ModelEma(model, 0.9)
    for seed in range(3):
        shake(model, seed)
        average.update(model)
    DetectorCheckpointer(model, str(tmp_path), ema_state=average).save("model_0000002", iteration=2)
    content = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    assert {name: tuple(value.shape) for name, value in content["ema_state"].items()} == {
        name: tuple(value.shape) for name, value in model.named_parameters()
    }
    other = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    resumed = ModelEma(other, 0.9)
    DetectorCheckpointer(other, str(tmp_path), ema_state=resumed).resume_or_load("", resume=True)
    for seed in (3, 4):
        for each, its in ((model, average), (other, resumed)):
            shake(each, seed)
            its.update(each)
    for name, value in average.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_checkpoint_without_an_average_cannot_be_resumed_with_averaging_on(model: nn.Module, tmp_path: Path):
    DetectorCheckpointer(model, str(tmp_path)).save("model_final")
    with pytest.raises(UserError, match="ema_state"):
        DetectorCheckpointer(model, str(tmp_path), ema_state=ModelEma(model)).resume_or_load("", resume=True)


def test_restarting_forgets_what_was_averaged(model: nn.Module):
    average = ModelEma(model, 0.9)
    shake(model, 1)
    average.restart(model)
    assert all(torch.equal(value, weights(model)[name]) for name, value in average.state_dict().items())


class Overflow(HookBase):
    """Makes the gradient of one iteration infinite, as a loss scale that is too large does."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_backward(self) -> None:
        if self.trainer.iter == self.at:
            next(self.trainer.model.parameters()).grad[0, 0] = float("inf")


class Error(nn.Module):
    """The squared output of a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 1)

    def forward(self, batch: Tensor) -> Tensor:
        return self.map(batch).pow(2).mean()


def test_an_iteration_whose_step_the_scaler_skips_counts_the_unchanged_weights_once_more():
    torch.manual_seed(0)
    model = Error()
    trainer = Trainer(model, [torch.ones(4, 2)] * 3, torch.optim.SGD(model.parameters(), lr=0.1), scale_loss=True)
    average = ModelEma(model, 0.5)
    trainer.register_hooks([Overflow(at=1), EmaHook(average)])
    expected, seen = weights(model), []
    trainer.max_iter = 3
    with EventStorage() as trainer.storage:
        for trainer.iter in range(3):
            trainer.run_step()
            trainer.after_step()
            seen.append(weights(model))
            expected = {name: 0.5 * value + 0.5 * seen[-1][name] for name, value in expected.items()}
    assert torch.equal(seen[0]["map.weight"], seen[1]["map.weight"]), "the scaler must have skipped the second step"
    assert not torch.equal(seen[1]["map.weight"], seen[2]["map.weight"])
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_averages_nothing_is_refused(model: nn.Module, decay: float):
    with pytest.raises(UserError, match=r"train\.ema\.decay"):
        ModelEma(model, decay)


def test_weights_of_half_precision_are_refused(model: nn.Module):
    with pytest.raises(UserError, match="bfloat16"):
        ModelEma(model.bfloat16())
