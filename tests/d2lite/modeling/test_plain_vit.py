"""The plain vision transformer against independent networks: timm's, and one written out token by token."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import ViT
from torch import Tensor, nn

from eva02_det import _provider

FEATURE = "last_feat"
Norm = partial(nn.LayerNorm, eps=1e-6)


def small(**options: object) -> ViT:
    """Blocks of width 32 for images of 64 px (maps of 4 x 4), every weight away from its initial value."""
    torch.manual_seed(0)
    usual = {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2, "window_size": 3, "norm_layer": Norm}
    model = ViT(**{**usual, "window_block_indexes": (0, 2), "use_rel_pos": True, **options})
    for name, weight in model.named_parameters():
        nn.init.normal_(weight, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return model.eval()


def images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def difference_table(table: Tensor, size: int) -> dict[int, Tensor]:
    """Difference of two places on a side of `size` -> its entry, stretched by NumPy where the table is of another length."""
    old, count = len(table), 2 * size - 1
    centres = (np.arange(count) + 0.5) * old / count - 0.5
    columns = [np.interp(centres, np.arange(old), channel) for channel in table.detach().double().numpy().T]
    return {place - size + 1: torch.tensor(row) for place, row in enumerate(np.stack(columns, axis=1))}


def attend(attn: nn.Module, tokens: Tensor) -> Tensor:
    """One image or window [R, K, D], one query and one key at a time."""
    rows, cols, dim = tokens.shape
    places = [(row, col) for row in range(rows) for col in range(cols)]
    mixed = torch.empty(rows, cols, dim, dtype=torch.double)
    down, across = difference_table(attn.rel_pos_h, rows), difference_table(attn.rel_pos_w, cols)
    queries, keys, values = attn.qkv(tokens).detach().double().unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    for head in range(attn.num_heads):
        for row, col in places:
            query = queries[row, col, head]
            scores = [query @ keys[r, c, head] / len(query) ** 0.5 + query @ (down[row - r] + across[col - c]) for r, c in places]
            weights = torch.stack(scores).softmax(0)
            part = sum(weight * values[r, c, head] for weight, (r, c) in zip(weights, places))
            mixed[row, col, head * len(query) : (head + 1) * len(query)] = part
    return attn.proj(mixed.float())


def written_out(model: ViT, batch: Tensor, window: int, windowed: set[int]) -> Tensor:
    """The whole network; windows one by one, filled up with zeros."""
    tokens = model.patch_embed.proj(batch).permute(0, 2, 3, 1)
    rows, cols = tokens.shape[1:3]
    table = model.pos_embed[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    tokens = tokens + F.interpolate(table, size=(rows, cols), mode="bicubic").permute(0, 2, 3, 1)
    for index, block in enumerate(model.blocks):
        side_r, side_c = (window, window) if index in windowed else (rows, cols)
        padded = F.pad(block.norm1(tokens), (0, 0, 0, -cols % side_c, 0, -rows % side_r))
        attended = torch.zeros_like(padded)
        for image in range(len(batch)):
            for top in range(0, padded.shape[1], side_r):
                for left in range(0, padded.shape[2], side_c):
                    area = (image, slice(top, top + side_r), slice(left, left + side_c))
                    attended[area] = attend(block.attn, padded[area])
        tokens = tokens + attended[:, :rows, :cols]
        tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens))))
    return tokens.permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(64, 64), (80, 48)])
def test_features_equal_those_of_a_network_written_out_token_by_token(size: tuple[int, int]) -> None:
    model = small(depth=2, window_block_indexes=(0,))
    with torch.no_grad():
        expected = written_out(model, images(*size), 3, {0})
        torch.testing.assert_close(model(images(*size))[FEATURE], expected, rtol=1e-4, atol=2e-5)


def gradients(model: nn.Module, features: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad((features * weights).sum(), list(named.values()), allow_unused=True)))


def test_features_and_gradients_equal_timms_windowed_network_with_relative_positions() -> None:
    sam = pytest.importorskip("timm.models.vision_transformer_sam")
    model = small(pretrain_img_size=64, pretrain_use_cls_token=False)
    twin = sam.VisionTransformerSAM(
        img_size=64, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0, window_size=3,
        global_attn_indexes=(1,), use_rel_pos=True, neck_chans=0, norm_layer=Norm,
    )  # fmt: skip
    twin.neck = nn.Identity()
    twin.load_state_dict({**model.state_dict(), "pos_embed": model.pos_embed.unflatten(1, (4, 4))})
    ours, theirs = model(images(64, 64))[FEATURE], twin.forward_features(images(64, 64))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
    expected = gradients(twin, theirs)
    for name, grad in gradients(model, ours).items():
        torch.testing.assert_close(grad, expected[name].view_as(grad), rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_without_windows_and_relative_positions_it_is_timms_vision_transformer() -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    model = small(use_rel_pos=False, window_block_indexes=(), pretrain_img_size=64, pretrain_use_cls_token=False)
    twin = timm.VisionTransformer(
        img_size=64, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=0, class_token=False, global_pool="",
        final_norm=False, norm_layer=Norm,
    )  # fmt: skip
    twin.load_state_dict(model.state_dict())
    result = model(images(64, 64))[FEATURE].flatten(2).transpose(1, 2)
    torch.testing.assert_close(result, twin.forward_features(images(64, 64)), rtol=1e-4, atol=2e-5)


def test_the_names_and_shapes_of_the_weights_follow_the_published_rule() -> None:
    model = ViT(img_size=64, embed_dim=32, depth=2, num_heads=2, window_size=3, window_block_indexes=(1,), use_rel_pos=True)
    expected = {"pos_embed": (1, 197, 32), "patch_embed.proj.weight": (32, 3, 16, 16), "patch_embed.proj.bias": (32,)}
    layers = {"attn.qkv": (96, 32), "attn.proj": (32, 32), "mlp.fc1": (128, 32), "mlp.fc2": (32, 128)}
    for block, places in ((0, 4), (1, 3)):  # side of what a block attends to: the map of 64 px, then a window
        for name, shape in layers.items():
            expected |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        expected |= {f"blocks.{block}.norm{i}.{part}": (32,) for i in (1, 2) for part in ("weight", "bias")}
        expected |= {f"blocks.{block}.attn.rel_pos_{axis}": (2 * places - 1, 16) for axis in "hw"}
    assert {name: tuple(weight.shape) for name, weight in model.state_dict().items()} == expected


def test_options_leave_weights_out() -> None:
    names = set(small(use_rel_pos=False, use_abs_pos=False, qkv_bias=False).state_dict())
    assert not [name for name in names if "pos" in name or name.endswith("qkv.bias")]
    assert "blocks.2.attn.qkv.weight" in names


def test_relative_positions_start_at_zero_or_at_random() -> None:
    for zero in (True, False):
        tables = [weight for name, weight in ViT(
            img_size=64, embed_dim=32, depth=1, num_heads=2, use_rel_pos=True, rel_pos_zero_init=zero
        ).named_parameters() if "rel_pos" in name]  # fmt: skip
        assert len(tables) == 2
        assert all(bool((table == 0).all()) == zero for table in tables)


def test_it_describes_its_map() -> None:
    model = small(patch_size=8, out_feature="plain")
    assert model.output_shape() == {"plain": ShapeSpec(channels=32, stride=8)}
    assert model(images(40, 64))["plain"].shape == (2, 32, 5, 8)


def test_the_class_row_of_the_position_table_has_no_influence() -> None:
    model = small()
    model(images(64, 64))[FEATURE].square().sum().backward()
    assert (model.pos_embed.grad[:, 0] == 0).all()
    assert (model.pos_embed.grad[:, 1:] != 0).any()


def test_a_window_of_a_windowed_network_is_unaware_of_the_others() -> None:
    model = small(window_size=2, window_block_indexes=(0, 1, 2), use_abs_pos=False)
    one = images(64, 64)
    other = one.clone()
    other[..., 32:] += 1
    left, changed = (model(batch)[FEATURE] for batch in (one, other))
    torch.testing.assert_close(changed[..., :2], left[..., :2])
    assert (changed[..., 2:] - left[..., 2:]).abs().amin((1, 2, 3)).min() > 0


def test_residual_convolutions_start_as_the_identity_and_then_carry_information_across_windows() -> None:
    options = {"window_size": 2, "window_block_indexes": (0, 1, 2), "residual_block_indexes": (1,), "use_abs_pos": False}
    model = small(**options)
    plain = small(**{**options, "residual_block_indexes": ()})
    names = {name for name in model.state_dict() if ".residual." in name}
    parts = {f"blocks.1.residual.{part}" for i in (1, 2, 3) for part in (f"conv{i}.weight", f"norm{i}.weight", f"norm{i}.bias")}
    assert names == parts
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if name not in names})
    fresh = ViT(embed_dim=32, depth=2, num_heads=2, residual_block_indexes=(1,)).state_dict()
    convolutions = {name: fresh[name] for name in names}
    model.load_state_dict(convolutions, strict=False)
    torch.testing.assert_close(model(images(64, 64))[FEATURE], plain(images(64, 64))[FEATURE])
    nn.init.ones_(model.blocks[1].residual.norm3.weight)
    changed = images(64, 64)
    changed[..., 32:] += 1
    with torch.no_grad():
        assert (model(changed)[FEATURE] - model(images(64, 64))[FEATURE])[..., 1].abs().min() > 0


def test_residual_convolutions_equal_their_formula() -> None:
    model = small(depth=1, residual_block_indexes=(0,))
    block = model.blocks[0].residual
    source = torch.randn(2, 32, 4, 5)

    def norm(features: Tensor, layer: nn.Module) -> Tensor:
        return F.layer_norm(features.movedim(1, -1), layer.weight.shape, layer.weight, layer.bias, 1e-6).movedim(-1, 1)

    inner = F.gelu(norm(F.conv2d(source, block.conv1.weight), block.norm1))
    inner = F.gelu(norm(F.conv2d(inner, block.conv2.weight, padding=1), block.norm2))
    expected = source + norm(F.conv2d(inner, block.conv3.weight), block.norm3)
    torch.testing.assert_close(block(source), expected, rtol=1e-4, atol=1e-5)


def test_branches_are_left_out_more_often_towards_the_top_and_only_in_training() -> None:
    model, never = small(drop_path_rate=0.999), small()
    shorter = small(depth=1)
    shorter.load_state_dict({name: never.state_dict()[name] for name in shorter.state_dict()})
    for other in (model, never):
        nn.init.zeros_(other.blocks[1].attn.proj.weight)  # the middle block, half as likely to be left out, does nothing
        nn.init.zeros_(other.blocks[1].attn.proj.bias)
        nn.init.zeros_(other.blocks[1].mlp.fc2.weight)
        nn.init.zeros_(other.blocks[1].mlp.fc2.bias)
    torch.testing.assert_close(model(images(64, 64))[FEATURE], never(images(64, 64))[FEATURE])
    torch.manual_seed(0)
    torch.testing.assert_close(model.train()(images(64, 64))[FEATURE], shorter(images(64, 64))[FEATURE])


def test_a_branch_that_is_kept_counts_for_those_left_out() -> None:
    model = small(depth=2, drop_path_rate=0.25)
    for part in (model.blocks[1].attn.proj, model.blocks[0].attn.proj, model.blocks[0].mlp.fc2):
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)
    batch = images(64, 64)[:1].expand(64, -1, -1, -1)
    with torch.no_grad():
        whole = model(batch)[FEATURE][0]
        nothing = (model.patch_embed.proj(batch[:1]) + _positions(model))[0]
        torch.manual_seed(0)
        seen = model.train()(batch)[FEATURE]
    kept = (seen - nothing).abs().amax((1, 2, 3)) > 1e-4
    assert 0 < kept.sum() < 64
    torch.testing.assert_close(seen[kept], (nothing + (whole - nothing) / 0.75).expand_as(seen[kept]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[~kept], nothing.expand_as(seen[~kept]), rtol=1e-4, atol=1e-4)


def _positions(model: ViT) -> Tensor:
    table = model.pos_embed[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
    return F.interpolate(table, size=(4, 4), mode="bicubic")


def test_recomputed_activations_change_neither_features_nor_gradients_nor_names() -> None:
    if _provider.active() == "official":
        pytest.importorskip("fairscale", reason="the official package recomputes activations with fairscale")
    model, again = small(), small(use_act_checkpoint=True)
    again.load_state_dict(model.state_dict())
    expected, result = (one.train()(images(64, 64))[FEATURE] for one in (model, again))
    torch.testing.assert_close(result, expected)
    wanted = gradients(model, expected)
    for name, grad in gradients(again, result).items():
        torch.testing.assert_close(grad, wanted[name])
    assert kept_numbers(again, images(64, 64)) < kept_numbers(model, images(64, 64)) / 2


def kept_numbers(model: nn.Module, batch: Tensor) -> int:
    """How many numbers a forward pass keeps for the backward pass at least, before anything is recomputed."""
    kept: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        model(batch)
    return sum(kept)


def test_low_precision_stays_close() -> None:
    model = small()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = model(images(64, 64))[FEATURE].float()
    expected = model(images(64, 64))[FEATURE]
    assert F.cosine_similarity(result.flatten(1), expected.flatten(1)).min() > 0.999


@pytest.mark.skipif(_provider.active() == "official", reason="the official package stores all scores")
def test_the_scores_of_all_pairs_of_tokens_are_never_stored() -> None:
    model = ViT(img_size=512, embed_dim=16, depth=1, num_heads=2, use_rel_pos=True)
    assert kept_numbers(model, torch.randn(1, 3, 512, 512)) < 2 * 1024 * 1024  # of which each head's scores would be half
