"""Stochastic depth keeps the expectation, drops whole samples and rests in evaluation."""

import pytest
import torch

from eva02_det.layers.drop_path import DropPath, drop_path_rates


def test_expectation_is_the_branch_itself() -> None:
    torch.manual_seed(0)
    outputs = DropPath(0.3).train()(torch.ones(20000, 1, 1))
    # standard error sqrt(0.3 / 0.7 / 20000) = 0.0046
    assert outputs.mean().item() == pytest.approx(1, abs=0.02)


def test_a_sample_is_kept_whole_or_dropped_whole() -> None:
    torch.manual_seed(0)
    outputs = DropPath(0.5).train()(torch.ones(64, 3, 5))
    assert set(outputs.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(outputs, outputs[:, :1, :1].expand_as(outputs))


def test_evaluation_and_rate_zero_change_nothing() -> None:
    branch = torch.randn(4, 2)
    assert DropPath(0.9).eval()(branch) is branch
    assert DropPath(0.0).train()(branch) is branch


def test_rates_rise_linearly_from_zero_to_the_last() -> None:
    assert drop_path_rates(0.4, 5) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert drop_path_rates(0.4, 1) == [0]


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="drop-path rate"):
        DropPath(rate)
