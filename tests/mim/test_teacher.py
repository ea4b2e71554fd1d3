"""Teachers: what they compute, in which precision, frozen, and which fit a student."""

import pytest
import timm
import torch
from torch import nn

from eva02_det.utils.errors import UserError
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise
from eva02_mim.teacher import FrozenTeacher, SeededTeacher, check_teacher, features_of, fingerprint
from eva02_mim.towers import tower_of_timm
from tests.mim.small_teacher import hidden_stream, pictures, small_eva


def test_features_are_those_of_the_patches_in_rows_and_not_of_the_class_token() -> None:
    eva = small_eva()
    teacher = FrozenTeacher(tower_of_timm(small_eva(), "g", project=True), dtype="fp32")
    images = Normalise()(pictures(1))
    with torch.no_grad():
        tokens = eva.norm(hidden_stream(eva, images))
        class_token = eva(images)
    torch.testing.assert_close(teacher(images), eva.head(tokens[:, 1:]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(class_token, eva.head(tokens[:, 0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("depth", [3, 40])
def test_weights_in_low_precision_turn_no_feature_by_more_than_a_cosine_of_one_in_a_thousand(depth: int, dtype: str) -> None:
    images = Normalise()(pictures(4, 56))
    exact = FrozenTeacher(tower_of_timm(small_eva(depth=depth, img_size=56), "g", True), dtype="fp32")(images)
    low = FrozenTeacher(tower_of_timm(small_eva(depth=depth, img_size=56), "g", True), dtype=dtype)(images)
    assert torch.cosine_similarity(exact, low.float(), dim=-1).min() > 0.999
    assert not torch.equal(exact, low.float())


def test_weights_are_stored_once_in_the_precision_asked_for_frozen_and_in_eval_mode() -> None:
    teacher = FrozenTeacher(tower_of_timm(small_eva(proj_drop_rate=0.5), "g", True), dtype="bf16")
    wrapper = nn.ModuleDict({"teacher": teacher}).train()
    assert {weight.dtype for weight in teacher.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert not any(module.training for module in wrapper["teacher"].modules())
    assert torch.equal(teacher(pictures()), teacher(pictures()))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("project", [True, False])
def test_autocast_around_the_teacher_changes_nothing_and_casts_no_weight(dtype: str, project: bool) -> None:
    teacher = FrozenTeacher(tower_of_timm(small_eva(), "g", project), dtype=dtype)
    alone = teacher(pictures())
    with torch.autocast("cpu", torch.float16):
        inside = teacher(pictures())
    assert inside.dtype == alone.dtype == teacher.dtype
    assert torch.equal(alone, inside)
    assert alone.shape[-1] == (24 if project else 176)


@pytest.mark.parametrize("project", [True, False])
def test_a_loss_on_the_features_trains_the_student_and_not_the_teacher(project: bool) -> None:
    teacher = FrozenTeacher(tower_of_timm(small_eva(), "g", project), dtype="fp32")
    targets = teacher(pictures())
    predictions = torch.zeros_like(targets).normal_().requires_grad_()
    torch.cosine_similarity(predictions, targets, dim=-1).mean().backward()
    assert predictions.grad.abs().sum() > 0
    assert not targets.requires_grad
    assert all(weight.grad is None for weight in teacher.parameters())


def test_bytes_and_normalised_images_give_the_same_features() -> None:
    teacher = SeededTeacher(8, image_size=56)
    images = pictures(2, 56)
    by_hand = images.double() / 255
    by_hand = (by_hand - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    torch.testing.assert_close(teacher(images), teacher(by_hand.float()))


def test_a_seed_fixes_the_seeded_teacher_and_the_drawing_of_others_goes_on_untouched() -> None:
    images = pictures(2, 56)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = SeededTeacher(8, image_size=56, seed=3)(images)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(SeededTeacher(8, image_size=56, seed=3)(images), first)
    assert not torch.allclose(SeededTeacher(8, image_size=56, seed=4)(images), first)
    assert not torch.allclose(first[0], first[1]), "two images must have two targets"
    assert first.shape == (2, 16, 8)


def test_a_teacher_of_stride_sixteen_sees_the_patches_of_a_student_of_stride_fourteen_when_crops_are_resized() -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", img_size=256, depth=1).eval()
    teacher = FrozenTeacher(tower_of_timm(trunk, "tiny", project=False), dtype="fp32", resize=True)
    check_teacher(teacher, target_dim=192, image_size=224, patch_size=14)
    smooth = torch.linspace(0, 255, 224).expand(3, 224, 224)[None].to(torch.uint8)
    larger = torch.linspace(0, 255, 256).expand(3, 256, 256)[None].to(torch.uint8)
    assert torch.cosine_similarity(teacher(smooth), teacher(larger), dim=-1).min() > 0.99
    teacher.resize = False
    with pytest.raises(UserError, match="sees 256 px and the crops have 224; pass resize=True"):
        check_teacher(teacher, target_dim=192, image_size=224, patch_size=14)
    with pytest.raises(UserError, match="sees 256 x 256 px and was given 224 x 224"):
        teacher(smooth)


def test_a_teacher_of_another_width_or_grid_than_the_students_is_refused_in_one_sentence() -> None:
    teacher = SeededTeacher(32, image_size=224, patch_size=16)
    with pytest.raises(UserError, match="gives features of width 32 and the student predicts 1024; set the student's target_dim"):
        check_teacher(teacher, target_dim=1024, image_size=224, patch_size=16)
    with pytest.raises(UserError, match=r"sees 14 x 14 patches .* the student 16 x 16 .* image_size=256 and resize=True"):
        check_teacher(teacher, target_dim=32, image_size=224, patch_size=14)
    check_teacher(teacher, target_dim=32, image_size=224, patch_size=16)


def test_a_fingerprint_follows_the_weights_and_the_view_and_not_the_moment() -> None:
    one, other = SeededTeacher(8, image_size=56), SeededTeacher(8, image_size=56)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(SeededTeacher(8, image_size=56, dtype="bf16")) != fingerprint(one)
    with torch.no_grad():
        other.tokens.pos_embed[0, -1, -1] += 1e-3
    assert fingerprint(one) != fingerprint(other)
    other = SeededTeacher(8, image_size=56)
    other.std = (0.2, 0.2, 0.2)
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("kind", ["eva", "eva without projection", "vit", "seeded"])
def test_features_of_some_patches_are_the_ones_of_these_patches_among_all(kind: str) -> None:
    if kind == "seeded":
        teacher = SeededTeacher(8)
    elif kind == "vit":
        trunk = timm.create_model("vit_tiny_patch16_224", depth=2)
        teacher = FrozenTeacher(tower_of_timm(trunk, "vit", project=False), dtype="fp32")
    else:
        teacher = FrozenTeacher(tower_of_timm(small_eva(), "g", project=kind == "eva"), dtype="fp32")
    index = torch.tensor([[3, 7, 0, 195, 3], [1, 2, 100, 50, 194]])
    everywhere = teacher(pictures())
    expected = torch.stack([features[places] for features, places in zip(everywhere, index)])
    torch.testing.assert_close(features_of(teacher, pictures(), index), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(teacher(pictures()), everywhere, msg="asking for some leaves nothing behind")


def test_the_published_teachers_kind_computes_the_last_feed_forward_layer_for_the_patches_asked_for_only() -> None:
    teacher = FrozenTeacher(tower_of_timm(small_eva(), "g", project=True), dtype="fp32")
    seen = []
    for layer in (teacher.tokens.trunk.blocks[-1].block.mlp, teacher.tokens.trunk.norm, teacher.projection):
        layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0].shape[1]))
    teacher.of_patches(pictures(), torch.zeros(2, 5, dtype=torch.int64))
    assert seen == [5, 5, 5]
