"""The student against worked numbers and against the plain reading of the method."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eva02_det.checkpoint.load import load_weights
from eva02_det.layers.pick import pick
from eva02_det.utils.errors import UserError
from eva02_mim.hidden import HiddenTokens, hidden_mask, pack_hidden
from eva02_mim.loss import hidden_targets, hidden_token_loss
from eva02_mim.masking import BlockMasks
from eva02_mim.sizes import student_of_size
from eva02_mim.student import MimStudent
from tests.mim.small_student import loss_of, randomise, small_batch, small_student

# flavour: sum of outputs, sum of their absolute values, loss, gradient norms: all, patch kernel, mask token, class token
WORKED = {
    False: (-3.539868827138, 223.365010302892, -0.009624265206, 0.759175977815, 0.000788830861, 0.007458138452, 0.002225660847),
    True: (-0.508211141241, 123.714413096859, -0.008246381226, 1.251183569717, 0.003193476658, 0.013243922480, 0.000604593377),
}
PATCH_KERNEL_SCALED = {False: 0.000078883086, True: 0.000319347666}
DIGITS = 0.5e-12  # half a unit of the last digit given
DECIMALS_OF_TABLES = 1e-7  # relative: the rotary tables of the worked numbers are those of fp32


def wave(shape: tuple[int, ...], number: int) -> Tensor:
    """The deterministic filling of the worked example, in float64."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.05 * torch.sin(0.37 * i + number) + 0.03 * torch.cos(1.7 * i + 2 * number)).view(shape)


def worked_student(sub_ln: bool, **options: Any) -> MimStudent:
    """Every parameter filled by its place in the alphabet."""
    student = MimStudent(128, 2, 2, image_size=56, sub_ln=sub_ln, target_dim=32, **options).double()
    for number, (name, parameter) in enumerate(sorted(student.named_parameters())):
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = wave(tuple(parameter.shape), number) + is_scale
    return student


def worked_numbers(student: MimStudent) -> list[float]:
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [1, 2, 5, 6, 9]] = True
    mask[1, [0, 3, 12, 15]] = True
    hidden, targets = pack_hidden(mask), 10 * wave((2, 16, 32), 7)
    predictions = student(20 * wave((2, 3, 56, 56), 99), hidden)
    loss = hidden_token_loss(predictions, hidden_targets(targets, hidden.index), hidden.weight)
    loss.backward()
    shown = predictions[hidden.weight > 0]
    assert shown.shape == (9, 32)
    gradients = [parameter.grad for parameter in student.parameters()]
    named = [student.patch_embed.proj.weight, student.mask_token, student.cls_token]
    total = torch.stack([gradient.norm() for gradient in gradients]).norm()
    return [x.item() for x in (shown.sum(), shown.abs().sum(), loss, total, *(parameter.grad.norm() for parameter in named))]


@pytest.mark.parametrize("sub_ln", [False, True])
def test_the_worked_example_comes_out_to_the_digits_given(sub_ln: bool) -> None:
    student = worked_student(sub_ln, patch_gradient=1.0)
    assert len(list(student.parameters())) == (47 if sub_ln else 35)
    for found, given in zip(worked_numbers(student), WORKED[sub_ln]):
        assert found == pytest.approx(given, rel=DECIMALS_OF_TABLES, abs=DIGITS)


@pytest.mark.parametrize("sub_ln", [False, True])
def test_the_scaled_gradient_changes_the_patch_projection_alone(sub_ln: bool) -> None:
    whole, scaled = worked_student(sub_ln, patch_gradient=1.0), worked_student(sub_ln)
    expected, found = worked_numbers(whole), worked_numbers(scaled)
    assert found[:3] == expected[:3]
    assert found[4] == pytest.approx(PATCH_KERNEL_SCALED[sub_ln], rel=DECIMALS_OF_TABLES, abs=DIGITS)
    for (name, one), other in zip(whole.named_parameters(), scaled.parameters()):
        factor = 0.1 if name.startswith("patch_embed") else 1
        torch.testing.assert_close(other.grad, one.grad * factor, rtol=1e-9, atol=1e-15)


VARIANTS = [
    {"sub_ln": True},
    {"sub_ln": False},
    {"sub_ln": False, "packed": False},
    {"feed_forward": "gelu"},
    {"rope": False},
    {"drop_path_rate": 0.0, "use_act_checkpoint": True},
    {"patch_gradient": 0.0},
    {"sub_ln": False, "feed_forward": "gelu", "rope": False, "init": "beit"},  # the plain ViT of Table 2
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_computing_only_what_the_loss_needs_equals_computing_everything_with_all_gradients(options: dict[str, Any]) -> None:
    student, (images, hidden, targets) = small_student(**options), small_batch()
    few = student(images, hidden)
    everything = pick(student.predict_all(images, hidden_mask(hidden, 16)), hidden.index)
    torch.testing.assert_close(few, everything, rtol=0, atol=1e-6)
    wanted = hidden_targets(targets, hidden.index)
    parameters = [p for name, p in student.named_parameters() if options.get("patch_gradient") != 0 or "patch" not in name]
    gradients = [torch.autograd.grad(hidden_token_loss(p, wanted, hidden.weight), parameters) for p in (few, everything)]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_published_shape_computes_the_same_either_way() -> None:
    torch.manual_seed(0)
    student = randomise(MimStudent(192, 2, 3, sub_ln=False))
    hidden = HiddenTokens(*(part[None] for part in BlockMasks().hidden(0, 0, 0)))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        few = student(images, hidden)
        everything = pick(student.predict_all(images, hidden_mask(hidden, 256)), hidden.index)
    assert few.shape == (1, 105, 1024)
    torch.testing.assert_close(few, everything, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS[:4], ids=str)
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    student = small_student(**options)
    loss_of(student, small_batch()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in student.named_parameters())


def test_padding_moves_neither_loss_nor_gradient() -> None:
    student, (images, hidden, targets) = small_student().double(), small_batch(torch.float64)
    elsewhere = hidden._replace(index=torch.where(hidden.weight > 0, hidden.index, 15 - hidden.index))
    results = []
    for tokens in (hidden, elsewhere):
        loss = loss_of(student, (images, tokens, targets))
        results.append((loss, *torch.autograd.grad(loss, list(student.parameters()))))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_what_is_hidden_does_not_reach_the_student() -> None:
    student, (images, hidden, _) = small_student(), small_batch()
    mask = hidden_mask(hidden, 16).view(2, 1, 4, 4).repeat_interleave(14, 2).repeat_interleave(14, 3)
    repainted = torch.where(mask, torch.randn_like(images) * 9, images)
    assert torch.equal(student(images, hidden), student(repainted, hidden))
    assert not torch.equal(student(images, hidden), student(torch.where(mask, images, 9), hidden))


def test_low_precision_keeps_the_direction_of_every_prediction() -> None:
    student, (images, hidden, _) = small_student(), small_batch()
    with torch.no_grad():
        exact = student(images, hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = student(images, hidden)
    assert rough.dtype == torch.bfloat16
    assert torch.cosine_similarity(exact, rough.float(), dim=-1).min() > 0.999


def test_the_compiled_graph_has_no_break() -> None:
    student, (images, hidden, targets) = small_student(), small_batch()

    def step(images: Tensor, index: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return loss_of(student, (images, hidden._replace(index=index, weight=weight), targets))

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, *hidden, targets), loss_of(student, (images, hidden, targets)))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_step_never_asks_for_a_value(options: dict[str, Any]) -> None:
    """Tensors of the meta device have none: whatever waited for the device or shaped itself by data would fail here."""
    student, (images, hidden, targets) = small_student(**options).to("meta"), small_batch()
    nowhere = images.to("meta"), HiddenTokens(*(part.to("meta") for part in hidden)), targets.to("meta")
    loss = loss_of(student, nowhere)
    loss.backward()
    assert loss.is_meta


def test_drop_path_of_a_student_rises_linearly_from_none() -> None:
    rates = [block.drop_path.rate for block in small_student(drop_path_rate=0.1).blocks]
    assert rates == pytest.approx([0, 0.05, 0.1])


@pytest.mark.parametrize(
    ("options", "part"),
    [({"image_size": 60}, "60 px is no multiple"), ({"feed_forward": "relu"}, "choose one of swiglu, gelu")],
)
def test_a_shape_that_cannot_be_is_refused_in_one_sentence(options: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError, match=part):
        small_student(**options)


def test_an_image_of_another_size_is_refused_with_both_sizes() -> None:
    student, (_, hidden, _) = small_student(), small_batch()
    with pytest.raises(UserError, match="images of 56 x 56 px and got 70 x 56"):
        student(torch.zeros(2, 3, 70, 56), hidden)


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="Ti, S, B, L"):
        student_of_size("XL")


@pytest.mark.parametrize(
    ("size", "total", "encoder", "ffn_hidden"),
    [
        ("Ti", 5_699_968, 5_502_144, 512),
        ("S", 22_015_744, 21_621_120, 1024),
        ("B", 86_546_944, 85_758_720, 2048),
        ("L", 304_319_424, 303_268_800, 2730),
    ],
)
def test_parameters_are_those_of_table_5(size: str, total: int, encoder: int, ffn_hidden: int) -> None:
    with torch.device("meta"):
        student = student_of_size(size)
    counts = {name: parameter.numel() for name, parameter in student.named_parameters()}
    assert sum(counts.values()) == total
    assert sum(n for name, n in counts.items() if name != "mask_token" and not name.startswith("lm_head")) == encoder
    assert student.blocks[0].mlp.w3.in_features == ffn_hidden
    assert student.head_dim == 64


def test_all_variants_of_the_comparison_have_different_outputs() -> None:
    images, hidden, _ = small_batch()
    choices = product((True, False), ("swiglu", "gelu"), (True, False))
    outputs = [small_student(sub_ln=s, feed_forward=f, rope=r)(images, hidden) for s, f, r in choices]
    assert len({round(output.sum().item(), 4) for output in outputs}) == 8


@pytest.mark.parametrize("tables", [(16, 16), (4, 4, 16)], ids=["now", "as first released"])
@pytest.mark.parametrize("sub_ln", [True, False])
def test_a_released_file_fills_every_parameter_and_its_rotary_tables_are_accounted_for(
    sub_ln: bool, tables: tuple[int, ...], tmp_path: Path
) -> None:
    source, student = small_student(sub_ln=sub_ln).half(), MimStudent(32, 3, 2, image_size=56, target_dim=12, sub_ln=sub_ln)
    content = source.state_dict()
    angles = source.table(torch.device("cpu"))[1:].repeat_interleave(2, 1)
    for place in ("rope", *(f"blocks.{i}.attn.rope" for i in range(3))):
        content |= {f"{place}.freqs_{name}": angles[..., part].view(tables).half() for part, name in enumerate(("cos", "sin"))}
    torch.save({"module": content}, tmp_path / "released.pt")
    account = load_weights(student, tmp_path / "released.pt")
    assert set(account.filled) == set(student.state_dict())
    assert len(account.dropped) == 8
    assert all(torch.equal(one, other.float()) for one, other in zip(student.parameters(), source.parameters()))
