"""Teachers: what they compute, in which precision, from which files, and what is said of what does not fit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from eva02_det.utils.errors import UserError
from eva02_mim.teacher import FrozenTeacher, SeededTeacher, check_teacher, fingerprint, load_teacher, normalised
from eva02_mim.towers import CLIP_MEAN, CLIP_STD, EVA_CLIP_G, published_file, tower_of_clip, tower_of_timm

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"embed_dim": 176, "depth": 3, "num_heads": 2}  # heads of 88 channels, as in the g model


def small_eva(classes: int = 24, depth: int = 3, **options: object) -> nn.Module:
    """The g model cut in width and depth, with biases and norms that matter, as after training."""
    torch.manual_seed(0)
    model = timm.create_model(EVA_CLIP_G, num_classes=classes, **{**SMALL, "depth": depth}, **options)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.2 + float("norm" in name and name.endswith("weight")))
            else:
                weight.mul_(3)
    return model.eval()


def pictures(count: int = 2, side: int = 224) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def projected(model: nn.Module, images: Tensor) -> Tensor:
    """Every patch through the last block, the final norm and the head, by timm's other way to its tokens."""
    with torch.no_grad():
        last = model.forward_intermediates(images, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)[0]
        return model.head(last)


@pytest.fixture(scope="module")
def eva() -> nn.Module:
    return small_eva()


@pytest.mark.parametrize("layout", ["plain", "module", "visual.", "visual.trunk.", "safetensors", "half"])
def test_a_local_file_of_any_layout_gives_the_projected_features_of_the_patches(
    eva: nn.Module, layout: str, tmp_path: Path
) -> None:
    weights, path = eva.state_dict(), tmp_path / "eva_clip_psz14.pt"
    text = {"text.positional_embedding": torch.zeros(77, 8), "logit_scale": torch.tensor(1.0)}
    if layout == "safetensors":
        from safetensors.torch import save_file

        path = path.with_suffix(".safetensors")
        save_file(weights, path)
    elif layout == "module":
        torch.save({"module": weights}, path)
    elif layout == "half":
        torch.save({key: value.half() for key, value in weights.items()}, path)
    else:
        prefix = layout if layout.startswith("visual") else ""
        torch.save({prefix + key: value for key, value in weights.items()} | (text if prefix else {}), path)
    teacher = load_teacher(path, dtype="fp32", options=SMALL)

    images = normalised(pictures(), CLIP_MEAN, CLIP_STD)
    expected = projected(eva, images)
    tolerance = 1e-2 if layout == "half" else 1e-5
    assert teacher(images).shape == (2, 256, 24)
    assert (teacher.dim, teacher.patch_size, teacher.image_size) == (24, 14, 224)
    torch.testing.assert_close(teacher(images), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_features_are_those_of_the_patches_in_rows_and_not_of_the_class_token(eva: nn.Module) -> None:
    teacher = FrozenTeacher(tower_of_timm(small_eva(), "g", project=True), dtype="fp32")
    images = normalised(pictures(1), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        tokens = eva.norm(hidden_stream(eva, images))
        class_token = eva(images)
    torch.testing.assert_close(teacher(images), eva.head(tokens[:, 1:]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(class_token, eva.head(tokens[:, 0]), rtol=1e-4, atol=1e-4)


def hidden_stream(model: nn.Module, images: Tensor) -> Tensor:
    """Tokens before the final norm, block by block."""
    tokens = model.patch_embed(images)
    tokens = torch.cat([model.cls_token.expand(len(tokens), -1, -1), tokens], 1) + model.pos_embed
    for block in model.blocks:
        tokens = block(tokens)
    return tokens


def test_the_real_teacher_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        trunk = timm.create_model(EVA_CLIP_G)
    assert sum(weight.numel() for weight in trunk.parameters()) == 1_012_588_928
    tower = tower_of_timm(trunk, EVA_CLIP_G, project=True)
    kept = [*tower.tokens.parameters(), *tower.projection.parameters()]
    assert sum(weight.numel() for weight in kept) == 1_012_588_928
    assert (tower.dim, tower.image_size, tower.patch_size) == (1024, 224, 14)
    shapes = {key: value.shape for key, value in trunk.state_dict().items()}
    assert shapes["pos_embed"] == (1, 257, 1408)
    assert shapes["blocks.39.mlp.fc1.weight"] == (6144, 1408)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("depth", [3, 40])
def test_weights_in_low_precision_turn_no_feature_by_more_than_a_cosine_of_one_in_a_thousand(depth: int, dtype: str) -> None:
    images = normalised(pictures(4, 56), CLIP_MEAN, CLIP_STD)
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


TIMM_VITS = [
    ("vit_tiny_patch16_224.augreg_in21k", False, 192),  # class token first, norm before the pooling
    ("vit_base_patch16_clip_224.openai", True, 512),  # norm before the blocks too
    ("vit_small_patch14_dinov2.lvd142m", False, 384),
    ("vit_small_patch14_reg4_dinov2.lvd142m", False, 384),  # class token and four registers first
    ("eva02_tiny_patch14_224.mim_in22k", False, 192),  # averages: the final norm sits behind the pooling
]


@pytest.mark.parametrize(("architecture", "project", "dim"), TIMM_VITS, ids=[name for name, *_ in TIMM_VITS])
def test_any_plain_vit_of_timm_is_a_teacher(architecture: str, project: bool, dim: int) -> None:
    torch.manual_seed(0)
    trunk = timm.create_model(architecture, depth=2, img_size=224).eval()
    images = normalised(pictures(1), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        tokens = trunk.fc_norm(trunk.forward_features(images)[:, -((224 // trunk.patch_embed.patch_size[0]) ** 2) :])
        expected = trunk.head(tokens) if project else tokens
    teacher = FrozenTeacher(tower_of_timm(trunk, architecture, project), dtype="fp32")
    assert teacher.dim == dim == expected.shape[-1]
    torch.testing.assert_close(teacher(images), expected, rtol=1e-5, atol=1e-5)


def small_clip(**vision: object) -> nn.Module:
    from open_clip import CLIP, CustomTextCLIP

    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    kind = CustomTextCLIP if "timm_model_name" in vision else CLIP
    return kind(32, {"image_size": 224, **vision}, text).eval()


def test_open_clips_own_vit_gives_the_projection_of_its_class_token_for_every_patch() -> None:
    visual = small_clip(layers=2, width=64, head_width=32, patch_size=16).visual
    images = normalised(pictures(1), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        visual.output_tokens = True
        pooled, patches = visual(images)
        expected = patches @ visual.proj
        whole = visual.ln_post(visual.transformer(visual._embeds(images))) @ visual.proj
    visual.output_tokens = False
    teacher = FrozenTeacher(tower_of_clip(visual, "small", project=True), dtype="fp32")
    assert (teacher.dim, teacher.patch_size, teacher.image_size) == (32, 16, 224)
    torch.testing.assert_close(teacher(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([pooled[:, None], teacher(images)], 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("projection", [None, "linear", "mlp"])
def test_a_timm_tower_inside_open_clip_is_projected_by_whichever_part_projects(projection: str | None) -> None:
    trunk = "vit_tiny_patch16_224"
    visual = small_clip(timm_model_name=trunk, timm_pool="token", timm_proj=projection, timm_model_pretrained=False).visual
    images = normalised(pictures(1), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        tokens = visual.trunk.norm(hidden_stream(visual.trunk, images))
        expected = visual.head(visual.trunk.head(tokens[:, 1:]))
    teacher = FrozenTeacher(tower_of_clip(visual, "small", project=True), dtype="fp32")
    assert teacher.dim == 32
    torch.testing.assert_close(teacher(images), expected, rtol=1e-5, atol=1e-5)


def test_a_file_of_open_clip_loads_by_the_name_of_its_model(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    path = tmp_path / "clip.pt"
    model = open_clip.create_model("ViT-S-16-alt").eval()
    torch.save(model.state_dict(), path)
    teacher = load_teacher(f"open_clip:ViT-S-16-alt/{path}", dtype="fp32")
    images = normalised(pictures(1), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        whole = model.visual.ln_post(model.visual.transformer(model.visual._embeds(images))) @ model.visual.proj
    assert not any("token_embedding" in name or "logit_scale" in name for name in teacher.state_dict())
    torch.testing.assert_close(teacher(images), whole[:, 1:], rtol=1e-5, atol=1e-5)


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


def saved(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    return path


def test_a_file_that_is_not_of_the_architecture_is_refused_with_its_keys(eva: nn.Module, tmp_path: Path) -> None:
    weights = eva.state_dict()
    with pytest.raises(UserError, match=r"weights.pt is not one of eva_giant.*size mismatch for cls_token.*\[1, 1, 176\].*\[1, 1, 88\]"):
        load_teacher(saved(tmp_path, weights), options={**SMALL, "embed_dim": 88, "num_heads": 1})
    short = {key: value for key, value in weights.items() if key != "blocks.1.norm1.weight"}
    with pytest.raises(UserError, match=r"Missing key.*blocks\.1\.norm1\.weight"):
        load_teacher(saved(tmp_path, short), options=SMALL)
    with pytest.raises(UserError, match=r"Unexpected key.*blocks\.7\.extra"):
        load_teacher(saved(tmp_path, weights | {"blocks.7.extra": torch.zeros(1)}), options=SMALL)


def test_no_second_copy_of_the_weights_stays_beside_the_teacher(eva: nn.Module, tmp_path: Path) -> None:
    trunk = load_teacher(saved(tmp_path, eva.state_dict()), options=SMALL).tokens.trunk
    assert not any("state_dict" in kept for kept in (trunk.pretrained_cfg, trunk.default_cfg))


def test_a_file_without_projection_is_a_teacher_of_tokens_only(eva: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path, {key: value for key, value in eva.state_dict().items() if not key.startswith("head.")})
    with pytest.raises(UserError, match="has no projection that single patches can go through; pass project=False"):
        load_teacher(path, options=SMALL)
    assert load_teacher(path, project=False, options=SMALL).dim == 176


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("timm:eva_gigantic", "timm has no model eva_gigantic"),
        ("open_clip:EVA99", "open_clip has no model EVA99"),
        ("open_clip:EVA01-g-14/laion9", "no weights laion9 of EVA01-g-14 .* published are laion400m_s11b_b41k"),
        ("/nowhere/eva_clip_psz14.pt", "eva_clip_psz14.pt does not exist"),
    ],
)
def test_a_name_of_nothing_is_one_sentence(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_teacher(source)


def test_networks_without_one_token_a_patch_and_unknown_precisions_are_refused() -> None:
    with pytest.raises(UserError, match=r"is a ResNet, not a plain ViT"):
        tower_of_timm(timm.create_model("resnet18"), "resnet18", project=False)
    siglip = timm.create_model("vit_base_patch16_siglip_224", depth=1)
    with pytest.raises(UserError, match=r"pass project=False"):
        tower_of_timm(siglip, "siglip", project=True)
    with pytest.raises(UserError, match="dtype='int4' is not a precision of the teacher; choose one of fp32, bf16, fp16"):
        FrozenTeacher(tower_of_timm(siglip, "siglip", project=False), dtype="int4")
    assert FrozenTeacher(tower_of_timm(siglip, "siglip", project=False))(pictures(1)).shape == (1, 196, 768)


SAY = """
import json, sys
from eva02_det.utils.errors import UserError
from eva02_mim.teacher import load_teacher
said = {}
for name in sys.argv[1:]:
    try:
        load_teacher(name)
    except UserError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_without_a_network_the_published_teacher_is_one_sentence_with_the_command_that_brings_it(tmp_path: Path) -> None:
    names = (f"timm:{EVA_CLIP_G}", "open_clip:EVA01-g-14/laion400m_s11b_b41k")
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SAY, *names]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120)
    said = json.loads(done.stdout.splitlines()[-1])
    assert published_file(EVA_CLIP_G) == f"hf://timm/{EVA_CLIP_G}/model.safetensors"
    assert f"run `hf download timm/{EVA_CLIP_G} model.safetensors` where there is a network" in said[names[0]]
    assert "run `hf download timm/eva_giant_patch14_clip_224.laion400m_s11b_b41k open_clip_" in said[names[1]]
    assert "\n" not in "".join(said.values())
