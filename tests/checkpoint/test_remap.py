"""Every key of a file and of a model is accounted for."""

import pytest
import torch
from torch import Tensor, nn

from eva02_det.checkpoint.account import Account, grouped
from eva02_det.checkpoint.remap import Fit, Target, all_finite
from eva02_det.checkpoint.rotary import stored_table


class Detector(nn.Module):
    """The names of a detector, in a few numbers."""

    def __init__(self, width: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.net = nn.Module()
        self.backbone.net.patch_embed = nn.Module()
        self.backbone.net.patch_embed.proj = nn.Linear(2, width)
        self.head = nn.Linear(width, classes)


def backbone_file(width: int = 3) -> dict[str, Tensor]:
    return {
        "patch_embed.proj.weight": torch.randn(width, 2),
        "patch_embed.proj.bias": torch.randn(width),
        "cls_token": torch.zeros(1, 1, width),
        "norm.weight": torch.ones(width),
        "rope.freqs_cos": stored_table(16, 64, "cos").view(16, 16, 64),
        "blocks.0.attn.rope.freqs_sin": stored_table(16, 64, "sin"),
    }


def account_of(weights: dict[str, Tensor], model: nn.Module, new: tuple[str, ...] = ()) -> Account:
    return Fit(weights, Target.of(model), "file.pth", new=new).account


def test_each_key_is_used_dropped_unexpected_mismatched_or_damaged_and_never_lost() -> None:
    weights = {
        **backbone_file(),
        "patch_embed.proj.bias": torch.zeros(9),
        "strange": torch.zeros(1),
        "rope.freqs_sin": torch.zeros(16, 4),
    }
    account = account_of(weights, Detector())
    fates = [*account.used, *account.dropped, *account.unexpected, *account.mismatched, *account.damaged]
    assert sorted(fates) == sorted(weights)
    assert account.unexpected == {"strange": (1,)}
    assert account.mismatched == {"patch_embed.proj.bias": ((9,), (3,))}
    assert list(account.damaged) == ["rope.freqs_sin"]
    assert account.absent == {}
    assert sorted(account.new) == ["head.bias", "head.weight"]
    assert not account.complete


def test_every_drop_tells_its_rule() -> None:
    account = account_of(backbone_file(), Detector())
    assert account.complete
    assert account.dropped == {
        "cls_token": "a token that detection does not use",
        "norm.weight": "the norm after the last block, which detection does not apply",
        "rope.freqs_cos": "rotary table, equal to the computed one",
        "blocks.0.attn.rope.freqs_sin": "rotary table, equal to the computed one",
    }
    assert account.summary() == "backbone: 2 tensors loaded, 2 renamed, 4 dropped by rule, 2 start anew"


@pytest.mark.parametrize(
    "key", ["norm.weight", "cls_token", "mask_token", "lm_head.weight", "fc_norm.bias", "decoder_pred.bias", "head.x"]
)
def test_what_only_pre_training_has_is_refused_in_a_detector_file(key: str) -> None:
    weights = {**Detector().state_dict(), key: torch.ones(3)}
    assert account_of(weights, Detector()).unexpected == {key: (3,)}


@pytest.mark.parametrize(
    "key", ["norms.weight", "blocks.0.cls_token", "xrope.freqs_cos", "rope.freqs_cos2", "decoder", "backbone.norm.weight"]
)
def test_a_rule_drops_its_keys_and_none_that_look_like_them(key: str) -> None:
    assert account_of({**backbone_file(), key: torch.ones(3)}, Detector()).unexpected == {key: (3,)}


def test_weights_named_as_new_may_be_absent_of_another_shape_or_left_over() -> None:
    weights = {**Detector().state_dict(), "head.weight": torch.zeros(9, 3), "head.scale": torch.zeros(1)}
    del weights["head.bias"]
    problems = account_of(weights, Detector())
    assert list(problems.absent) == ["head.bias"]
    assert list(problems.mismatched) == ["head.weight"]
    assert list(problems.unexpected) == ["head.scale"]
    account = account_of(weights, Detector(), new=(r"^head\.",))
    assert account.complete
    assert sorted(account.new) == ["head.bias", "head.weight"]
    assert sorted(account.dropped) == ["head.scale", "head.weight"]
    assert sorted(account.filled) == ["backbone.net.patch_embed.proj.bias", "backbone.net.patch_embed.proj.weight"]


def test_weights_named_as_new_start_anew_even_where_those_of_the_file_would_fit() -> None:
    account = account_of(Detector().state_dict(), Detector(), new=(r"^head\.",))
    assert account.complete
    assert sorted(account.new) == sorted(account.dropped) == ["head.bias", "head.weight"]


def test_class_weights_of_training_never_come_from_a_file() -> None:
    class WithCounts(Detector):
        def __init__(self) -> None:
            super().__init__()
            self.roi_heads = nn.Module()
            self.roi_heads.box_predictor = nn.ModuleList([nn.Module()])
            self.roi_heads.box_predictor[0].register_buffer("fed_loss_cls_weights", torch.ones(5))

    key = "roi_heads.box_predictor.0.fed_loss_cls_weights"
    with_counts = {**WithCounts().state_dict(), key: torch.full((5,), 9.0)}
    account = account_of(with_counts, WithCounts())
    assert account.complete
    assert key in account.dropped
    assert key in account.new
    assert account_of(Detector().state_dict(), WithCounts()).complete  # a file of another data set has none
    assert key in account_of(with_counts, Detector()).dropped  # an exported model has no federated loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_finite_means_every_element(dtype: torch.dtype) -> None:
    values = torch.full((7, 5), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(values)  # the sum would not be
    for spoilt in (float("nan"), float("inf"), float("-inf")):
        copy = values.clone()
        copy[6, 4] = spoilt
        assert not all_finite(copy)
    assert all_finite(torch.zeros(0, dtype=dtype))
    assert all_finite(torch.ones(3, dtype=torch.int64))


def test_keys_of_one_detail_that_differ_in_their_first_number_share_an_entry() -> None:
    keys = [
        *(f"blocks.{i}.mlp.w1.weight" for i in (10, 0, 1, 2)),
        "blocks.1.mlp.w3.bias",
        "simfp_2.4.norm.weight",
        "a.2.b",
        "a.7.b",
    ]
    found = {**dict.fromkeys(keys, "[1]"), "blocks.5.mlp.w1.weight": "[2]", "pos_embed": "[1]"}
    assert grouped(found) == [
        "blocks.{0,1,2,10}.mlp.w1.weight [1]",
        "blocks.1.mlp.w3.bias [1]",
        "simfp_2.4.norm.weight [1]",
        "a.{2,7}.b [1]",
        "blocks.5.mlp.w1.weight [2]",
        "pos_embed [1]",
    ]
    assert grouped(dict.fromkeys((f"blocks.{i}.x" for i in (2, 0, 1)), "")) == ["blocks.{0..2}.x "]
