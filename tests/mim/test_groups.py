"""Which parameters are decayed."""

import torch
from torch import nn

from eva02_mim.groups import decay_groups
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
