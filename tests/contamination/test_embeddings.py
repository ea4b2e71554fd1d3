"""Embeddings of local networks, and their exact search."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from eva02_det.contamination.embeddings import EmbeddingIndex, open_embedder
from eva02_det.contamination.networks import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, backbone_of, open_network
from eva02_det.modeling.vit import Positions, TrV
from eva02_det.utils.errors import UserError
from eva02_mim.export import export_student
from tests.mim.small_student import small_student

ROOT = Path(__file__).resolve().parents[2]


class Means(nn.Module):
    """Mean colour and mean square of every channel."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((images.mean((2, 3)), (images * images).mean((2, 3))), 1)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (int(rng.integers(20, 60)), 40, 3), dtype=np.uint8) for _ in range(count)]


def unit(count: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_scripted_network_sees_normalised_squares_and_gives_vectors_of_unit_length(tmp_path: Path) -> None:
    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    embedder = open_embedder(str(tmp_path / "means.pt"), size=32)
    images = pictures(35)  # more than a batch
    vectors = embedder.embed(images)
    assert vectors.shape == (35, 6)
    assert vectors.dtype == np.float32
    square = np.asarray(Image.fromarray(images[33]).resize((32, 32), Image.Resampling.BICUBIC)) / 255
    pixels = (square - IMAGENET_MEAN) / IMAGENET_STD
    expected = np.concatenate([pixels.mean((0, 1)), (pixels**2).mean((0, 1))])
    np.testing.assert_allclose(vectors[33], expected / np.linalg.norm(expected), atol=1e-5)
    assert embedder.embed([]).shape[0] == 0


def small_backbone() -> TrV:
    torch.manual_seed(0)
    return TrV(32, 3, 2, patch_size=14, global_block_indexes=range(3), positions=Positions(4, rotary_grid=4))


@pytest.mark.parametrize("prefix", ["", "backbone.net."])
def test_the_backbone_of_a_checkpoint_of_ours_is_built_from_its_weights(tmp_path: Path, prefix: str) -> None:
    """Alone, as pre-training keeps it, and inside a detector."""
    weights = {prefix + key: value for key, value in small_backbone().state_dict().items()}
    save_file(weights | {"other.weight": torch.zeros(1)} if prefix else weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": {"net": {"embed_dim": 32, "num_heads": 2}}}')
    network = open_network(str(tmp_path), "cpu", 56)
    images = torch.randn(2, 3, 56, 56)
    (features,) = small_backbone().eval()(images).values()
    normed = nn.functional.layer_norm(features.flatten(2).mT, (32,))
    torch.testing.assert_close(network.forward(images), normed.mean(1))


def test_the_sizes_of_the_paper_have_their_heads_without_a_description(tmp_path: Path) -> None:
    with torch.device("meta"):
        weights = TrV(192, 12, 3, sub_ln=False, positions=Positions(14)).state_dict()
    assert backbone_of(weights, str(tmp_path / "weights.pt")).head_dim == 64


def test_a_model_of_timm_is_opened_from_the_hubs_cache(tmp_path: Path) -> None:
    """In a process of its own: where the cache is, is decided when the hub's package is imported."""
    model = timm.create_model("resnet10t", num_classes=5).eval()
    folder = tmp_path / "models--timm--resnet10t" / "snapshots" / "0"
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("0")
    image = pictures(1)[0]
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, numpy as np; from eva02_det.contamination.embeddings import open_embedder\n"
        "folder = sys.argv[1]; image = np.load(folder + '/image.npy')\n"
        "np.save(folder + '/vectors.npy', open_embedder('timm/resnet10t', size=64).embed([image]))"
    )
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, check=True)
    config, square = model.pretrained_cfg, Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = torch.tensor((np.asarray(square) / 255 - config["mean"]) / config["std"]).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        expected = nn.functional.normalize(model.forward_head(model.forward_features(pixels), pre_logits=True))
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-4)


def test_a_model_of_open_clip_is_opened_from_a_file(tmp_path: Path) -> None:
    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    about = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "a-very-small-clip.json").write_text(json.dumps(about))
    open_clip.add_model_config(tmp_path / "a-very-small-clip.json")
    model = open_clip.create_model("a-very-small-clip").eval()
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    vectors = open_embedder(f"open_clip/a-very-small-clip:{tmp_path / 'clip.pt'}").embed(pictures(2))
    squares = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)) for image in pictures(2)]
    pixels = torch.tensor((np.stack(squares) / 255 - CLIP_MEAN) / CLIP_STD).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        np.testing.assert_allclose(vectors, model.encode_image(pixels, normalize=True), atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("timm/no_such_net", "timm has no model no_such_net"),
        ("open_clip/no_such_net", "open_clip has no model no_such_net"),
        ("open_clip/ViT-B-32:no_such_tag", "open_clip has no weights no_such_tag of ViT-B-32"),
    ],
)
def test_a_network_that_is_not_there_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        open_embedder(spec)


def test_a_checkpoint_without_a_transformer_and_a_network_without_vectors_are_one_sentence(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds no vision transformer"):
        open_embedder(str(tmp_path / "other.safetensors"))
    torch.jit.script(nn.Identity()).save(str(tmp_path / "same.pt"))
    with pytest.raises(UserError, match="one vector for each picture"):
        open_embedder(str(tmp_path / "same.pt"), size=8).embed(pictures(2))


@pytest.mark.parametrize("least", [0.2, 0.5, 1.0])
def test_the_search_finds_the_pairs_of_brute_force(least: float) -> None:
    rows = unit(500, 8, 0)
    queries = np.concatenate([rows[:40], unit(60, 8, 1)])
    found = EmbeddingIndex(rows, least).search(queries)
    similarity = queries.astype(np.float64) @ rows.T.astype(np.float64)
    if least == 1:
        assert set(found.query.tolist()) <= set(range(40))  # equal but for rounding
        return
    assert (abs(similarity - least) > 1e-6).all()
    np.testing.assert_array_equal(np.stack([found.query, found.row], 1), np.argwhere(similarity >= least))
    np.testing.assert_allclose(found.similarity, similarity[found.query, found.row], atol=1e-6)


def test_an_empty_index_and_vectors_of_another_network() -> None:
    assert len(EmbeddingIndex(np.empty((0, 8), np.float32), 0.5).search(unit(3, 8, 0)).query) == 0
    assert len(EmbeddingIndex(unit(3, 8, 0), 0.5).search(np.empty((0, 8), np.float32)).query) == 0
    with pytest.raises(UserError, match="queries have 4 numbers and the index 8"):
        EmbeddingIndex(unit(3, 8, 0), 0.5).search(unit(3, 4, 0))
    with pytest.raises(UserError, match="min_similarity=0"):
        EmbeddingIndex(unit(3, 8, 0), 0)


@pytest.mark.parametrize("sub_ln", [True, False])
def test_an_exported_student_of_pre_training_embeds(tmp_path: Path, sub_ln: bool) -> None:
    """B and L keep a norm inside the feed-forward layer; Ti and S do not, and pack their matrices."""
    save_file({k: v.clone() for k, v in small_student(sub_ln=sub_ln).state_dict().items()}, tmp_path / "run.safetensors")
    export_student(tmp_path / "run.safetensors", tmp_path / "student", num_heads=2)
    same, other = pictures(2)
    vectors = open_embedder(str(tmp_path / "student"), size=56).embed([same, other, same])
    assert vectors.shape == (3, 32)
    np.testing.assert_allclose(vectors[0], vectors[2], atol=1e-5)
    assert vectors[0] @ vectors[1] < 0.9999
