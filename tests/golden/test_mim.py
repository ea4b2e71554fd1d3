"""The pre-training student, its loss, its masks and the key sets of its four sizes against stored ones."""

import random
from typing import Any

import pytest
import torch

from eva02_mim.hidden import HiddenTokens, pack_hidden
from eva02_mim.loss import hidden_targets, hidden_token_loss
from eva02_mim.masking import BlockMasks
from eva02_mim.sizes import student_of_size
from eva02_mim.student import MimStudent
from tests.golden.cases import GoldenCase, golden_cases

CASES = golden_cases("mim")


def cases_with(entry: str) -> list[Any]:
    """The cases whose configuration holds `entry`; the one that says the fixtures are absent stays."""
    return [p for p in CASES if p.values[0] is None or entry in p.values[0].config]


def build(case: GoldenCase) -> MimStudent:
    config = case.config
    student = MimStudent(
        config["embed_dim"],
        config["depth"],
        config["num_heads"],
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        sub_ln=config["subln"],
        target_dim=config["teacher_dim"],
        patch_gradient=1.0,
    )
    student.load_state_dict({key: value for key, value in case.weights().items() if ".freqs_" not in key})
    return student


def hidden_of(case: GoldenCase) -> HiddenTokens:
    """With two slots of padding more than any image needs."""
    mask = case.tensor("in.mask").bool()
    return pack_hidden(mask, int(mask.sum(1).max()) + 2)


def test_every_case_is_compared_by_some_test() -> None:
    compared = [p.id for entry in ("subln", "teacher_dim", "num_mask") for p in cases_with(entry)]
    assert {p.id for p in CASES} == set(compared)


@pytest.mark.parametrize("case", cases_with("subln"))
def test_tokens_block_by_block_and_predictions_equal_the_stored_ones(case: GoldenCase) -> None:
    student, images, hidden = build(case).eval(), case.tensor("in.image"), hidden_of(case)
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    tokens = student.embed(images, student.mask_token, case.tensor("in.mask").bool())
    torch.testing.assert_close(tokens, case.tensor("out.tokens_before_blocks"), **close)
    for i, block in enumerate(student.blocks):
        tokens = block(tokens, student.table(images.device))
        torch.testing.assert_close(tokens, case.tensor(f"out.after_block{i}"), **close)
    torch.testing.assert_close(student(images, hidden)[hidden.weight > 0], case.tensor("out.predictions"), **close)


@pytest.mark.parametrize("case", cases_with("subln"))
def test_loss_and_all_gradients_equal_the_stored_ones(case: GoldenCase) -> None:
    student, hidden = build(case), hidden_of(case)
    predictions = student(case.tensor("in.image"), hidden)
    loss = hidden_token_loss(predictions, hidden_targets(case.tensor("in.teacher"), hidden.index), hidden.weight)
    torch.testing.assert_close(loss, case.tensor("out.loss"), atol=case.tolerance["loss_atol"], rtol=0)
    loss.backward()
    norms = case.json("gradients.json")
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    assert set(norms) == set(gradients)
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=case.tolerance["gradient_norm_rtol"]), name
    for key in case.tensors:
        if key.startswith("out.grad."):
            mine = gradients[key.removeprefix("out.grad.")]
            torch.testing.assert_close(mine, case.tensor(key), rtol=1e-3, atol=1e-4 * mine.abs().max().item(), msg=key)


@pytest.mark.parametrize("case", [p for p in cases_with("teacher_dim") if p not in cases_with("subln")])
def test_keys_shapes_precision_and_count_of_every_size_equal_the_stored_ones(case: GoldenCase) -> None:
    with torch.device("meta"):
        student = student_of_size(case.name.rsplit("_", 1)[1], target_dim=case.config["teacher_dim"])
    mine = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in student.state_dict().items()}
    stored = case.json("state_dict.json")
    tables = {key for key in stored if key.endswith(("rope.freqs_cos", "rope.freqs_sin"))}
    assert mine == {key: value for key, value in stored.items() if key not in tables}
    assert sum(parameter.numel() for parameter in student.parameters()) == case.spec["parameters"]


@pytest.mark.parametrize("case", cases_with("num_mask"))
def test_masks_equal_those_drawn_from_the_same_random_numbers(case: GoldenCase) -> None:
    config = case.config
    masks = BlockMasks(config["grid"][0], config["num_mask"], config["min_per_block"], tuple(config["aspect"]))
    for seed, stored in zip(config["seeds"], case.tensor("out.masks")):
        assert torch.equal(masks.draw_with(random.Random(seed)).view_as(stored), stored.bool())


@pytest.mark.parametrize("case", cases_with("num_mask"))
def test_masks_have_the_stored_statistics(case: GoldenCase) -> None:
    masks = BlockMasks(case.config["grid"][0], case.config["num_mask"])
    drawn = torch.stack([masks.draw(0, 0, index) for index in range(3000)]).float()
    frequency = case.tensor("out.frequency")
    torch.testing.assert_close(drawn.mean(0).view_as(frequency), frequency, atol=case.tolerance["frequency_atol"], rtol=0)
    assert drawn.sum(1).mean().item() == pytest.approx(case.spec["mean_count"], abs=case.tolerance["mean_count_atol"])
