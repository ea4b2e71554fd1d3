"""Feature maps of small backbones, block by block, against stored ones."""

from typing import Any

import pytest
import torch

from eva02_det.modeling.vit import Positions, TrV
from tests.golden.cases import GoldenCase, golden_cases


def build(config: dict[str, Any]) -> TrV:
    """The backbone that a case describes."""
    return TrV(
        config["embed_dim"],
        config["depth"],
        config["num_heads"],
        patch_size=config["patch_size"],
        window_size=config["window_size"],
        global_block_indexes=set(range(config["depth"])) - set(config["window_block_indexes"]),
        drop_path_rate=config["drop_path_rate"],
        positions=Positions(
            pretrain_grid=config["pretrain_img_size"] // config["patch_size"] if config["use_abs_pos"] else None,
            cls_token=config["pretrain_use_cls_token"],
            rotary_grid=config["rope_pretrain_grid"],
        ),
    ).eval()


@pytest.mark.parametrize("case", golden_cases("backbone"))
def test_feature_maps_equal_the_stored_ones(case: GoldenCase) -> None:
    model = build(case.config)
    model.load_state_dict({key: value for key, value in case.weights().items() if ".freqs_" not in key})
    depth = case.config["depth"]
    with torch.no_grad():
        last = model(case.tensor("in.image"))["last_feat"]
        # the map after block i is the output of the network cut there, since no norm follows the last block
        after = {i: truncated(model, case.config, i + 1)(case.tensor("in.image"))["last_feat"] for i in range(depth)}
    close = {"atol": case.tolerance["atol"], "rtol": case.tolerance["rtol"]}
    torch.testing.assert_close(last, case.tensor("out.last_feat"), **close)
    for i in range(depth):
        torch.testing.assert_close(after[i].permute(0, 2, 3, 1), case.tensor(f"out.after_block{i}"), **close)


def truncated(model: TrV, config: dict[str, Any], depth: int) -> TrV:
    """The first `depth` blocks of `model`."""
    windowed = [i for i in config["window_block_indexes"] if i < depth]
    short = build({**config, "depth": depth, "window_block_indexes": windowed})
    short.load_state_dict({key: value for key, value in model.state_dict().items() if key in short.state_dict()})
    return short
