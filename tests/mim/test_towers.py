"""Towers from timm, open_clip and files: the features of the patches, and what is said of what does not fit."""

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
from eva02_mim.normalise import Normalise
from eva02_mim.teacher import FrozenTeacher, load_teacher
from eva02_mim.towers import EVA_CLIP_G, published_file, tower_of_clip, tower_of_timm
from tests.mim.small_teacher import SMALL, hidden_stream, pictures, small_eva

ROOT = Path(__file__).resolve().parents[2]


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

    images = Normalise()(pictures())
    expected = projected(eva, images)
    tolerance = 1e-2 if layout == "half" else 1e-5
    assert teacher(images).shape == (2, 256, 24)
    assert (teacher.dim, teacher.patch_size, teacher.image_size) == (24, 14, 224)
    torch.testing.assert_close(teacher(images), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_the_real_teacher_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        trunk = timm.create_model(EVA_CLIP_G)
    assert sum(weight.numel() for weight in trunk.parameters()) == 1_012_588_928
    shapes = {key: value.shape for key, value in trunk.state_dict().items()}
    tower = tower_of_timm(trunk, EVA_CLIP_G, project=True)
    kept = [*tower.tokens.parameters(), *tower.projection.parameters()]
    assert sum(weight.numel() for weight in kept) == 1_012_588_928
    assert (tower.dim, tower.image_size, tower.patch_size) == (1024, 224, 14)
    assert shapes["pos_embed"] == (1, 257, 1408)
    assert shapes["blocks.39.mlp.fc1.weight"] == (6144, 1408)


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
    images = Normalise()(pictures(1))
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
    images = Normalise()(pictures(1))
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
    images = Normalise()(pictures(1))
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
    images = Normalise()(pictures(1))
    with torch.no_grad():
        whole = model.visual.ln_post(model.visual.transformer(model.visual._embeds(images))) @ model.visual.proj
    assert not any("token_embedding" in name or "logit_scale" in name for name in teacher.state_dict())
    torch.testing.assert_close(teacher(images), whole[:, 1:], rtol=1e-5, atol=1e-5)


def saved(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(weights, path)
    return path


def test_a_file_that_is_not_of_the_architecture_is_refused_with_its_keys(eva: nn.Module, tmp_path: Path) -> None:
    weights = eva.state_dict()
    with pytest.raises(
        UserError, match=r"weights.pt is not one of eva_giant.*size mismatch for cls_token.*\[1, 1, 176\].*\[1, 1, 88\]"
    ):
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
