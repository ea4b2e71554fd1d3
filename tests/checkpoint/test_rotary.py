"""Rotary tables of files: the ones the network computes are accepted in every published form, any other is not."""

import pytest
import torch

from eva02_det.checkpoint.rotary import RotaryTables, stored_table
from eva02_det.layers.rope import rotary_table


def released(side: int, function: str, span: float = 16, channels: int = 64) -> torch.Tensor:
    """[N, C] in the authors' layout, from the tables that our network turns queries with."""
    table = rotary_table((side, side), channels, span=span)[..., 0 if function == "cos" else 1]
    return table.repeat_interleave(2, -1)


@pytest.mark.parametrize("function", ["cos", "sin"])
@pytest.mark.parametrize(("side", "channels"), [(1, 64), (16, 64), (32, 64), (64, 64), (96, 64), (20, 16), (7, 8)])
def test_the_table_computed_for_the_check_is_the_one_that_the_network_uses(side: int, channels: int, function: str) -> None:
    expected = stored_table(side, channels, function)
    torch.testing.assert_close(released(side, function, channels=channels).double(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", [16, 32, 96])
@pytest.mark.parametrize("function", ["cos", "sin"])
def test_a_sound_table_of_any_size_type_and_shape_is_accepted(side: int, function: str, dtype: torch.dtype) -> None:
    table = released(side, function).to(dtype)
    for stored in (table, table.view(side, side, 64)):
        assert RotaryTables().problem(f"rope.freqs_{function}", stored) is None


@pytest.mark.parametrize("function", ["cos", "sin"])
@pytest.mark.parametrize(("side", "span"), [(16, 14), (32, 32), (64, 14), (96, 24)])
def test_a_table_of_another_reference_length_is_recognised(side: int, span: int, function: str) -> None:
    problem = RotaryTables().problem(f"rope.freqs_{function}", released(side, function, span))
    assert problem == f"[{side**2}, 64] stretches {span} positions over its side, this model 16"


def test_a_model_of_another_reference_length_takes_tables_of_its_own() -> None:
    assert RotaryTables(14).problem("rope.freqs_cos", released(16, "cos", 14)) is None
    assert "16 positions" in RotaryTables(14).problem("rope.freqs_cos", released(16, "cos", 16))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.index_put((torch.tensor(200), torch.tensor(9)), torch.tensor(float("nan"))),
        lambda table: table.index_put((torch.tensor(3), torch.tensor(40)), torch.tensor(0.5)),
        lambda table: table[:, torch.arange(64).roll(1)],
        lambda table: table.view(16, 16, 64).transpose(0, 1).reshape(256, 64),
        torch.zeros_like,
    ],
    ids=["not a number", "one value", "channels moved", "rows and columns exchanged", "zero"],
)
@pytest.mark.parametrize("function", ["cos", "sin"])
def test_a_spoilt_table_is_refused(function: str, spoil) -> None:
    assert "no rotary reference length" in RotaryTables().problem(f"rope.freqs_{function}", spoil(released(16, function)))


def test_cosines_and_sines_are_not_exchangeable() -> None:
    assert RotaryTables().problem("rope.freqs_sin", released(16, "cos")) is not None


@pytest.mark.parametrize("shape", [(255, 64), (0, 64), (16, 17, 64), (256,), (1, 16, 16, 64), (256, 66)])
def test_a_tensor_that_cannot_be_the_table_of_a_square_is_refused(shape: tuple[int, ...]) -> None:
    assert "no rotary table of a square" in RotaryTables().problem("rope.freqs_cos", torch.zeros(shape))


def test_only_averaged_tables_may_have_drifted() -> None:
    drifted = released(64, "cos") * (1 - 5e-4)
    assert RotaryTables().problem("rope_glb.freqs_cos", drifted) is not None
    assert RotaryTables(averaged=True).problem("rope_glb.freqs_cos", drifted) is None
    assert RotaryTables(averaged=True).problem("rope_glb.freqs_cos", released(64, "cos", 15)) is not None


def test_drift_of_an_average_stays_within_what_is_allowed() -> None:
    table = released(16, "cos")
    average = table.clone()
    for _ in range(20_000):  # the released rule, in float32
        average.mul_(0.9999).add_(table, alpha=1 - 0.9999)
    assert not torch.equal(average, table)
    assert RotaryTables(averaged=True).problem("rope_win.freqs_cos", average) is None
