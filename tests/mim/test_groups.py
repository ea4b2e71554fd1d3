"""Which parameters are decayed, and how much each layer learns."""

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from eva02_mim.classifier import classifier_of_size
from eva02_mim.export import timm_weights
from eva02_mim.groups import decay_groups, layer_decay_groups
from eva02_mim.sizes import student_of_size


def test_vectors_biases_positions_and_class_token_are_not_decayed_and_the_mask_token_is():
    with torch.device("meta"):
        student = student_of_size("Ti")
    undecayed, decayed = ({id(p) for p in group["params"]} for group in decay_groups(student, weight_decay=0.05))
    for name, parameter in student.named_parameters():
        without = parameter.ndim == 1 or name in ("pos_embed", "cls_token")
        assert (id(parameter) in undecayed) == without, name
        assert (id(parameter) in decayed) == (not without), name
    assert id(student.mask_token) in decayed


def test_a_bias_of_two_dimensions_is_not_decayed():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2, 2))

    layer = nn.Sequential(Odd())
    assert [len(group["params"]) for group in decay_groups(layer, weight_decay=1.0)] == [1, 0]


def test_what_does_not_learn_is_in_no_group():
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    assert [len(group["params"]) for group in decay_groups(layer, weight_decay=1.0)] == [1, 0]


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("size", ["Ti", "B"])
def test_layers_learn_and_decay_as_in_timm(size: str, frozen: bool):
    with torch.device("meta"):
        ours = classifier_of_size(size, image_size=224, train_patch_embed=not frozen)
        theirs = timm.create_model({"Ti": "eva02_tiny_patch14_224", "B": "eva02_base_patch14_224"}[size], num_classes=1000)
    theirs.patch_embed.requires_grad_(not frozen)
    groups = layer_decay_groups(ours, layer_decay=0.7, weight_decay=0.05)
    reference = param_groups_layer_decay(
        theirs, layer_decay=0.7, weight_decay=0.05, no_weight_decay_list=theirs.no_weight_decay()
    )
    renamed = dict(zip(timm_weights(dict(ours.named_parameters()), pooled=False), dict(ours.named_parameters())))
    wanted = {renamed[name]: place for name, place in places_of(theirs, reference).items()}
    found = places_of(ours, groups)
    assert found.keys() == wanted.keys()
    for name, (scale, decay) in found.items():
        assert (scale, decay) == (pytest.approx(wanted[name][0]), wanted[name][1]), name
    assert found["cls_token"] == (pytest.approx(0.7**13), 0)
    assert found["head.weight"] == (1, 0.05)


def places_of(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> (its part of the learning rate, its weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
