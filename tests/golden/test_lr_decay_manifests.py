"""The full-size detectors that the config functions describe: every state-dict key, shape and type, every parameter count."""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from configs.common.models import cascade_mask_rcnn, federated_loss, softmax_loss, trv
from eva02_det.modeling.sizes import TRV_SIZES
from tests.golden.cases import GoldenCase, golden_cases
from tests.golden.detectors import data_set_with_counts


def described_detector(config: dict) -> nn.Module:
    """The released detector, without memory for its weights."""
    size = next(name for name, shape in TRV_SIZES.items() if shape.embed_dim == config["embed_dim"])
    windowed = config["window_block_indexes"]
    net = trv(
        size,
        window_size=config["window_size"],
        num_global=config["depth"] - len(windowed),
        drop_path_rate=config["drop_path_rate"],
    )
    assert sorted([*net.global_block_indexes, *windowed]) == list(range(config["depth"]))
    counts = data_set_with_counts([1] * config["num_classes"])
    loss = federated_loss(counts, num_classes=config["fed_classes"]) if config["federated"] else softmax_loss()
    tree = cascade_mask_rcnn(net, num_classes=config["num_classes"], image_size=config["square_pad"], class_loss=loss)
    with torch.device("meta"):
        return instantiate(tree)


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("case", golden_cases("lr_decay"))
def test_state_dict_and_parameter_counts_are_those_of_the_released_detector(case: GoldenCase) -> None:
    model = described_detector(case.config)
    stored = case.json("state_dict.json")
    expected = {key: (tuple(shape), dtype) for key, (shape, dtype) in stored.items() if ".freqs_" not in key}
    found = {key: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in model.state_dict().items()}
    assert found == expected
    assert parameters(model) == case.spec["parameters"]
    assert parameters(model.backbone.net) == case.spec["backbone_net_parameters"]
    assert {name for name, _ in model.named_parameters()} == case.json("params.json").keys()
