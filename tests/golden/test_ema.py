"""The moving average of weights against the authors': each parameter after every recorded number of steps, and what it covers."""

import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from configs.common.models import cascade_mask_rcnn, trv
from eva02_det.checkpoint.rotary import stored_table
from eva02_det.engine.ema import ModelEma
from eva02_det.utils.errors import UserError
from tests.golden.cases import GoldenCase, golden_cases

CASES = golden_cases("ema")


def only(kind: str) -> list:
    return [case for case in CASES if case.values[0] is None or (("updates" in case.values[0].config) == (kind == "steps"))]


class Model(nn.Module):
    """Values of step 0. `averaged` are parameters, whatever they are in the fixture; the rest are buffers."""

    def __init__(self, values: dict[str, Tensor], averaged: set[str]) -> None:
        super().__init__()
        for name, value in values.items():
            if name in averaged:
                self.register_parameter(flat(name), nn.Parameter(value.clone(), requires_grad=False))
            else:
                self.register_buffer(flat(name), value.clone())

    def set_to(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            getattr(self, flat(name)).copy_(value)


def flat(name: str) -> str:
    return name.replace(".", "_")


def run(case: GoldenCase, averaged: set[str]) -> tuple[dict[int, dict[str, Tensor]], Model]:
    """The average after each recorded number of updates, and the model at the end."""
    steps = [
        {name: case.tensor(f"in.{name}")[i] for name in case.spec["tracked_names"]} for i in range(case.config["updates"] + 1)
    ]
    model = Model(steps[0], averaged)
    average = ModelEma(model, case.config["decay"])
    found = {}
    for number, values in enumerate(steps[1:], start=1):
        model.set_to(values)
        average.update(model)
        if number in case.config["recorded_updates"]:
            found[number] = {name: value.clone() for name, value in average.state_dict().items()}
    return found, model


def parameters_of(case: GoldenCase) -> set[str]:
    return {name for name in case.spec["tracked_names"] if name.split(".")[-1] in ("weight", "bias")}


@pytest.mark.parametrize("case", only("steps"))
def test_every_parameter_is_averaged_as_by_the_authors(case: GoldenCase) -> None:
    found, _ = run(case, parameters_of(case))
    compared = 0
    for number, state in found.items():
        for name in parameters_of(case):
            expected = case.tensor(f"out.after{number}.{name}")
            torch.testing.assert_close(state[flat(name)], expected, atol=case.tolerance["atol"], rtol=case.tolerance["rtol"])
            compared += 1
    assert compared == 4 * len(case.config["recorded_updates"])


@pytest.mark.parametrize("case", only("steps"))
def test_a_float_buffer_would_be_averaged_alike_were_it_a_parameter(case: GoldenCase) -> None:
    # The authors average buffers too. For float32 that is the same rule; an integer counter (truncated at each step) and
    # bfloat16 constants (rounded at each step) show why it is no use, and are left to the model.
    found, _ = run(case, {"table"})
    for number, state in found.items():
        expected = case.tensor(f"out.after{number}.table")
        torch.testing.assert_close(state["table"], expected, atol=case.tolerance["atol"], rtol=case.tolerance["rtol"])


@pytest.mark.parametrize("case", only("steps"))
def test_buffers_stay_those_of_the_model_bit_for_bit(case: GoldenCase) -> None:
    _, model = run(case, parameters_of(case))
    average = ModelEma(model, case.config["decay"])
    last = {name: case.tensor(f"in.{name}")[-1] for name in ("table", "count", "bf16_table")}
    with average.applied(model):
        for name, value in last.items():
            assert torch.equal(getattr(model, name), value)
    assert not set(last) & set(average.state_dict())
    number = max(case.config["recorded_updates"])
    drifted = [name for name in last if not torch.equal(case.tensor(f"out.after{number}.{name}").to(last[name]), last[name])]
    assert drifted, "the reference's average of a buffer is not the buffer"


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    """The L detector of the recipes from Objects365 to COCO, without memory."""
    with torch.device("meta"):
        return instantiate(cascade_mask_rcnn(trv("L", num_global=8, window_size=16), image_size=1536))


def released_state(case: GoldenCase, model: nn.Module) -> dict[str, Tensor]:
    """An `ema_state` of the released names and shapes; zeros that take no memory where the values do not matter."""
    shapes = {name: value.shape for name, value in (*model.named_parameters(), *model.named_buffers())}
    state = {name: torch.zeros(()).expand(shapes[name]) for name in case.json("tracked.json") if name in shapes}
    for part, side in (("win", 16), ("glb", 96)):
        for function in ("cos", "sin"):
            state[f"backbone.net.rope_{part}.freqs_{function}"] = stored_table(side, 64, function).float()
    return state


@pytest.mark.parametrize("case", only("names"))
def test_all_parameters_that_the_authors_track_are_averaged_and_their_buffers_are_not(
    case: GoldenCase, detector: nn.Module
) -> None:
    tracked, buffers = set(case.json("tracked.json")), set(case.spec["buffers"])
    assert len(tracked) == case.spec["count"]
    assert set(ModelEma(detector).state_dict()) == tracked - buffers


@pytest.mark.parametrize("case", only("names"))
def test_an_average_of_the_authors_is_taken_up_with_every_name_accounted_for(case: GoldenCase, detector: nn.Module) -> None:
    state = released_state(case, detector)
    assert set(state) == set(case.json("tracked.json"))
    ModelEma(detector).load_state_dict(state)


@pytest.mark.parametrize("case", only("names"))
@pytest.mark.parametrize("change", ["renamed", "missing", "shape", "rotary"])
def test_a_name_that_does_not_fit_is_an_error_that_says_it(case: GoldenCase, detector: nn.Module, change: str) -> None:
    state = released_state(case, detector)
    name = "backbone.net.rope_glb.freqs_sin" if change == "rotary" else "backbone.net.blocks.7.attn.k_proj.weight"
    value = state.pop(name)
    if change == "renamed":
        state["backbone.net.blocks.7.attn.key.weight"] = value
    elif change == "shape":
        state[name] = value[:-1]
    elif change == "rotary":
        state[name] = value.roll(1, 0)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        ModelEma(detector).load_state_dict(state)
