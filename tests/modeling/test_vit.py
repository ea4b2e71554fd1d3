"""The backbone against independent networks, at any size, in training and evaluation, eager and compiled."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import Tensor

from eva02_det.layers.drop_path import DropPath
from eva02_det.modeling.vit import Positions, TrV

FEATURE = "last_feat"


def small(depth: int = 3, **arguments: object) -> TrV:
    """Blocks of width 32, the second global; every bias and norm away from its initial value."""
    torch.manual_seed(0)
    model = TrV(32, depth, 2, **{"window_size": 4, "global_block_indexes": (1,), **arguments})
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    return model.eval()


def plain_block(model: TrV, index: int, z: Tensor, window: int | None) -> Tensor:
    """Section 1.2 to 1.5 of the specification, window after window. z [B, rows, cols, D]."""
    block = model.blocks[index]
    rows, cols = z.shape[1:3]
    down, right = (window, window) if window else (rows, cols)
    padded = F.pad(block.norm1(z), (0, 0, 0, -cols % right, 0, -rows % down))
    attended = torch.zeros_like(padded)
    for top in range(0, padded.shape[1], down):
        for left in range(0, padded.shape[2], right):
            attended[:, top : top + down, left : left + right] = plain_attention(
                block.attn, padded[:, top : top + down, left : left + right]
            )
    a = z + attended[:, :rows, :cols]
    mlp, x = block.mlp, block.norm2(a)
    return a + mlp.w3(mlp.ffn_ln(F.silu(mlp.w1(x)) * mlp.w2(x)))


def plain_attention(attn: torch.nn.Module, x: Tensor) -> Tensor:
    rows, cols, dim = x.shape[1:]
    heads = attn.num_heads
    q, k, v = attn.q_proj(x) + attn.q_bias, attn.k_proj(x), attn.v_proj(x) + attn.v_bias
    q, k, v = (t.flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    per_axis = dim // heads // 2
    frequencies = 10000.0 ** (-torch.arange(0, per_axis, 2) / per_axis)
    row = (torch.arange(rows) * 16 / rows)[:, None, None].expand(rows, cols, 1) * frequencies
    col = (torch.arange(cols) * 16 / cols)[None, :, None].expand(rows, cols, 1) * frequencies
    angles = torch.cat((row, col), -1).flatten(0, 1).repeat_interleave(2, -1)

    def turn(t: Tensor) -> Tensor:
        partner = torch.stack((-t[..., 1::2], t[..., ::2]), -1).flatten(-2)
        return t * angles.cos() + partner * angles.sin()

    weights = (turn(q) @ turn(k).transpose(-2, -1) / (dim // heads) ** 0.5).softmax(-1)
    return attn.proj((weights @ v).transpose(1, 2).flatten(2)).unflatten(1, (rows, cols))


def plain_forward(model: TrV, images: Tensor, windowed: set[int]) -> Tensor:
    z = model.patch_embed.proj(images).permute(0, 2, 3, 1)
    table = model.pos_embed[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    z = z + F.interpolate(table, size=z.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
    for index in range(len(model.blocks)):
        z = plain_block(model, index, z, model.window_size if index in windowed else None)
    return z.permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(128, 128), (96, 96), (80, 144), (16, 48)])
@pytest.mark.parametrize("global_blocks", [(1,), (), (0, 1, 2), (2,), (0,)])
def test_features_and_gradients_equal_a_window_by_window_network(size: tuple[int, int], global_blocks: tuple[int, ...]) -> None:
    model, images = small(global_block_indexes=global_blocks), torch.randn(2, 3, *size)
    expected = plain_forward(model, images, {0, 1, 2} - set(global_blocks))
    result = model(images)[FEATURE]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-5)
    parameters = list(model.parameters())
    weights = torch.randn_like(result)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), parameters) for out in (result, expected))
    for (name, _), one, other in zip(model.named_parameters(), ours, theirs):
        largest = max(1, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * largest, msg=lambda m, n=name: f"{n}: {m}")


def timm_twin(model: TrV, side: int) -> torch.nn.Module:
    """timm's Eva with the weights of `model`, position table on its own grid."""
    eva = pytest.importorskip("timm.models.eva")
    dim, depth, heads = model.pos_embed.shape[2], len(model.blocks), model.blocks[0].attn.num_heads
    twin = eva.Eva(
        img_size=side * 16, patch_size=16, num_classes=0, global_pool="", embed_dim=dim, depth=depth, num_heads=heads,
        mlp_ratio=8 / 3, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, class_token=False, use_rot_pos_emb=True,
        ref_feat_shape=(16, 16), norm_layer=eva.partial(torch.nn.LayerNorm, eps=1e-6), use_post_transformer_norm=False,
    )  # fmt: skip
    names = {"mlp.w1": "mlp.fc1_g", "mlp.w2": "mlp.fc1_x", "mlp.w3": "mlp.fc2", "mlp.ffn_ln": "mlp.norm"}
    names |= {"attn.q_bias": "attn.q_proj.bias", "attn.v_bias": "attn.v_proj.bias"}
    weights = {}
    for key, value in model.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        weights[key] = value
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [key for key in missing if "rope" not in key and "k_proj" not in key]
    return twin.eval()


@pytest.mark.parametrize("side", [14, 8])
def test_all_global_network_equals_the_eva_class_of_timm_with_gradients(side: int) -> None:
    torch.manual_seed(0)
    model = TrV(128, 3, 4, global_block_indexes=range(3), positions=Positions(side, cls_token=False)).eval()
    twin, images = timm_twin(model, side), torch.randn(2, 3, side * 16, side * 16)
    ours = model(images)[FEATURE].flatten(2).transpose(1, 2)
    theirs = twin.forward_features(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    pairs = [
        (model.patch_embed.proj.weight, twin.patch_embed.proj.weight),
        (model.pos_embed, twin.pos_embed),
        (model.blocks[0].attn.k_proj.weight, twin.blocks[0].attn.k_proj.weight),
        (model.blocks[1].attn.q_bias, twin.blocks[1].attn.q_proj.bias),
        (model.blocks[2].mlp.w1.weight, twin.blocks[2].mlp.fc1_g.weight),
        (model.blocks[0].mlp.ffn_ln.weight, twin.blocks[0].mlp.norm.weight),
    ]
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5 * other.grad.abs().max().item())


@pytest.mark.parametrize("size", [(70, 33), (64, 90), (15, 16)])
def test_size_that_patches_do_not_divide_equals_padding_by_hand(size: tuple[int, int]) -> None:
    model, images = small(), torch.randn(1, 3, *size)
    padded = F.pad(images, (0, -size[1] % 16, 0, -size[0] % 16))
    torch.testing.assert_close(model(images)[FEATURE], model(padded)[FEATURE], rtol=0, atol=0)


def test_an_image_does_not_see_the_others_of_its_batch() -> None:
    model, images = small(), torch.randn(3, 3, 80, 112)
    together = model(images)[FEATURE]
    for image, features in zip(images, together):
        torch.testing.assert_close(model(image[None])[FEATURE][0], features, rtol=1e-4, atol=1e-5)


def test_kernels_agree_in_the_whole_network() -> None:
    model, images = small(), torch.randn(2, 3, 80, 96)
    slow = small(attention="math")
    torch.testing.assert_close(model(images)[FEATURE], slow(images)[FEATURE], rtol=1e-4, atol=1e-5)


def test_small_sizes_run_without_sub_ln() -> None:
    model = small(sub_ln=False)
    assert not any("ffn_ln" in key for key in model.state_dict())
    assert model(torch.randn(1, 3, 64, 64))[FEATURE].isfinite().all()


def test_it_is_a_backbone_that_names_its_output() -> None:
    model = small(out_feature="map", patch_size=8)
    assert isinstance(model, Backbone)
    shape = model.output_shape()["map"]
    assert (shape.channels, shape.stride) == (32, 8)
    assert model(torch.randn(2, 3, 64, 40))["map"].shape == (2, 32, 8, 5)


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
def test_checkpointing_changes_memory_but_no_gradient(drop_path_rate: float) -> None:
    images, gradients = torch.randn(2, 3, 80, 64), []
    for use_act_checkpoint in (False, True):
        model = small(use_act_checkpoint=use_act_checkpoint, drop_path_rate=drop_path_rate).train()
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(model(images)[FEATURE].square().sum(), list(model.parameters())))
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


def test_checkpointing_keeps_fewer_tensors_for_the_backward_pass() -> None:
    kept = []
    for use_act_checkpoint in (False, True):
        model, sizes = small(use_act_checkpoint=use_act_checkpoint).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            model(torch.randn(1, 3, 128, 128))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_drop_path_rises_over_the_blocks() -> None:
    rates = [module.rate for module in small(drop_path_rate=0.4).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.2, 0.4])


@pytest.mark.parametrize("change", ["load_state_dict", "optimizer", "data", "half"])
def test_a_position_table_changed_between_two_evaluations_is_used(change: str) -> None:
    model, images = small(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = model(images)[FEATURE]
    if change == "load_state_dict":
        model.load_state_dict({**model.state_dict(), "pos_embed": torch.randn_like(model.pos_embed)})
    elif change == "optimizer":
        optimizer = torch.optim.AdamW([model.pos_embed], lr=0.5, fused=True)
        model(images)[FEATURE].sum().backward()
        optimizer.step()
    elif change == "data":
        model.pos_embed.data.mul_(-1)
    else:
        model, images = model.bfloat16(), images.bfloat16()
    with torch.no_grad():
        after = model(images)[FEATURE]
    torch.testing.assert_close(after, model(images)[FEATURE].detach(), rtol=0, atol=1e-6 if change != "half" else 0.1)
    assert change == "half" or (after - before).abs().max() > 1e-3


def test_tables_first_built_in_inference_serve_training() -> None:
    model, images = small(), torch.randn(1, 3, 176, 208)  # a grid no other test uses
    with torch.inference_mode():
        first = model(images)[FEATURE]
    last = model.train()(images)[FEATURE]
    last.sum().backward()
    torch.testing.assert_close(last.detach(), first.clone(), rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_of_a_used_network_work_and_store_no_table() -> None:
    model, images = small(), torch.randn(1, 3, 64, 96)
    keys = set(model.state_dict())
    with torch.no_grad():
        expected = model(images)[FEATURE]
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images)[FEATURE], expected)
    assert set(model.state_dict()) == keys
    assert not list(model.buffers())


def test_initial_values_follow_the_released_rule() -> None:
    torch.manual_seed(0)
    model = TrV(192, 2, 3, global_block_indexes=())
    for name, parameter in model.named_parameters():
        if name.startswith("patch_embed"):
            continue
        if name == "pos_embed" or ("norm" not in name and "ffn_ln" not in name and parameter.ndim == 2):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            is_scale = name.endswith(("norm1.weight", "norm2.weight", "ffn_ln.weight"))
            assert torch.equal(parameter, torch.full_like(parameter, float(is_scale))), name


def test_bf16_autocast_is_finite_near_fp32_and_keeps_the_residual_stream_in_fp32() -> None:
    model, images = small(), torch.randn(2, 3, 80, 96)
    exact = model(images)[FEATURE]
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images)[FEATURE]
    assert rough.dtype == torch.float32
    assert rough.isfinite().all()
    assert (rough - exact).norm() / exact.norm() < 0.02
    rough.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("train", [False, True])
def test_compiles_without_graph_breaks_at_two_sizes_with_cold_and_warm_tables(train: bool) -> None:
    torch._dynamo.reset()
    model = small(depth=2).train(train)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for size in ((64, 64), (96, 80)):
        images = torch.randn(1, 3, *size)
        with torch.set_grad_enabled(train):
            cold = compiled(images)[FEATURE]
            eager = model(images)[FEATURE]
            warm = compiled(images)[FEATURE]
        torch.testing.assert_close(cold, eager, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(warm, cold, rtol=0, atol=0)
        if train:
            parameters = list(model.parameters())
            ours, theirs = (torch.autograd.grad(out.square().sum(), parameters) for out in (warm, eager))
            for one, other in zip(ours, theirs):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_checkpointed_drop_path_training_compiles_without_graph_breaks() -> None:
    torch._dynamo.reset()
    model = small(depth=2, use_act_checkpoint=True, drop_path_rate=0.2).train()
    features = torch.compile(model, fullgraph=True, backend="eager")(torch.randn(2, 3, 64, 80))[FEATURE]
    features.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_block_indexes": (3,)}, "blocks are 0 to 2"),
        ({"global_block_indexes": (-1,)}, "blocks are 0 to 2"),
        ({"window_size": 0}, "window_size=0"),
        ({"attention": "fast"}, "attention='fast'"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="30 channels in 4 heads"):
        TrV(30, 1, 4, global_block_indexes=())
