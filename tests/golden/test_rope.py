"""Rotary tables and a rotated query against stored ones."""

import pytest
import torch

from eva02_det.layers.rope import rotary_table, rotate
from tests.golden.cases import GoldenCase, golden_cases


@pytest.mark.parametrize("case", golden_cases("rope"))
def test_tables_and_rotation_equal_the_stored_ones(case: GoldenCase) -> None:
    span = case.config["pretrain_length"]
    side = case.config["finetune_length"] or span
    table = rotary_table((side, side), case.config["head_dim"], span=span)
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    for part, name in enumerate(("out.cos", "out.sin")):
        torch.testing.assert_close(table[..., part].repeat_interleave(2, -1), case.tensor(name), **close)
    turned = rotate(case.tensor("in.q").transpose(1, 2), table).transpose(1, 2)
    torch.testing.assert_close(turned, case.tensor("out.rotated"), **close)
