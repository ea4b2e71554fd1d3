"""The encoder against timm's network, and what it knows about places."""

import pytest
import torch
from torch import Tensor, nn

from eva02_det.layers.pick import pick
from eva02_mim.hidden import pack_hidden
from eva02_mim.masking import BlockMasks
from eva02_mim.sizes import TABLE_2
from eva02_mim.student import MimStudent
from tests.mim.small_student import randomise, small_student

TIMM_NAMES = {"mlp.ffn_ln": "mlp.norm", "mlp.w12": "mlp.fc1", "mlp.w1": "mlp.fc1_g", "mlp.w2": "mlp.fc1_x", "mlp.w3": "mlp.fc2"}
TIMM_BIASES = {"attn.q_bias": "attn.q_proj.bias", "attn.v_bias": "attn.v_proj.bias"}  # where the projections are apart


def timm_twin(student: MimStudent, sub_ln: bool, *, gated: bool = True) -> nn.Module:
    """timm's Eva of the same shape with the weights of `student`."""
    eva = pytest.importorskip("timm.models.eva")
    twin = eva.Eva(
        img_size=student.image_size, patch_size=14, embed_dim=student.embed_dim, depth=len(student.blocks),
        num_heads=student.embed_dim // student.head_dim, mlp_ratio=8 / 3 if gated else 4, qkv_fused=not sub_ln,
        swiglu_mlp=gated, scale_mlp=sub_ln, use_rot_pos_emb=student.rope, ref_feat_shape=(student.grid, student.grid),
        global_pool="", use_fc_norm=False, use_post_transformer_norm=True, num_classes=student.lm_head.out_features,
    )  # fmt: skip
    names = {f"{ours}.": f"{theirs}." for ours, theirs in TIMM_NAMES.items()} | (TIMM_BIASES if sub_ln else {})
    state = {key: value for key, value in student.state_dict().items() if key != "mask_token"}
    for ours, theirs in {**names, "lm_head.": "head."}.items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    twin.load_state_dict(state)
    return twin.to(next(student.parameters()).dtype).eval()


def timm_features(twin: nn.Module, patches: Tensor, table: Tensor) -> Tensor:
    """Its features of embedded patches, under our rotary table: rounding of the angles would hide what float64 can show."""
    tokens, theirs = twin._pos_embed(patches)
    rope = table[1:].flip(-1).transpose(1, 2).repeat_interleave(2, -1).flatten(1).to(tokens.dtype)  # sines before cosines
    torch.testing.assert_close(rope, theirs, rtol=0, atol=1e-7)
    for block in twin.blocks:
        tokens = block(tokens, rope=rope)
    return twin.norm(tokens)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["float32", "float64"])
@pytest.mark.parametrize("sub_ln", [False, True])
def test_the_encoder_equals_timms_with_and_without_a_mask(sub_ln: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    student = randomise(MimStudent(128, 3, 2, sub_ln=sub_ln, target_dim=48)).to(dtype).eval()
    twin, images = timm_twin(student, sub_ln), torch.randn(2, 3, 224, 224, dtype=dtype)
    mask = torch.stack([BlockMasks(exact=True).draw(0, 0, i) for i in range(2)])
    table, hidden = student.table(images.device), pack_hidden(mask)
    with torch.no_grad():
        patches = twin.patch_embed(images)
        torch.testing.assert_close(student.encode(images), timm_features(twin, patches, table), rtol=0, atol=tolerance)
        patches = torch.where(mask[..., None], student.mask_token, patches)
        theirs = twin.head(timm_features(twin, patches, table))[:, 1:]
        torch.testing.assert_close(student(images, hidden), pick(theirs, hidden.index), rtol=0, atol=tolerance)


@pytest.mark.parametrize("row", TABLE_2)
def test_every_architecture_of_table_2_equals_timms(row: str) -> None:
    options = TABLE_2[row]
    torch.manual_seed(0)
    student = randomise(MimStudent(128, 3, 2, target_dim=48, **options)).eval()
    images = torch.randn(1, 3, 224, 224)
    twin = timm_twin(student, options.get("sub_ln", True), gated="feed_forward" not in options)
    with torch.no_grad():
        torch.testing.assert_close(student.encode(images), twin.forward_features(images), rtol=0, atol=1e-5)


def test_an_encoder_for_larger_images_spans_the_positions_of_pre_training() -> None:
    small, large = small_student(), small_student(image_size=112, rotary_grid=4)
    device = torch.device("cpu")
    coarse, fine = (student.table(device)[1:].unflatten(0, (student.grid, student.grid)) for student in (small, large))
    assert torch.equal(fine[::2, ::2], coarse)


def test_the_class_token_is_not_turned_and_masked_patches_are() -> None:
    table = small_student().table(torch.device("cpu"))
    assert torch.equal(table[0], torch.tensor([1.0, 0.0]).expand(8, 2))
    assert torch.equal(table[1], table[0])  # place (0, 0)
    assert all(not torch.equal(row, table[0]) for row in table[2:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rotary_tables_stay_in_fp32_and_out_of_the_state(dtype: torch.dtype) -> None:
    student = small_student().to(dtype)
    assert student.table(torch.device("cpu")).dtype == torch.float32
    assert not list(student.buffers())
