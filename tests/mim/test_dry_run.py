"""What a dry run says of a run whose data and teacher are elsewhere, and that its memory is counted right."""

from pathlib import Path

import pytest
import torch

from eva02_det.utils.errors import UserError
from eva02_mim.config import load_recipe
from eva02_mim.dry_run import describe, saved_bytes, stated_images
from eva02_mim.encoder import cached_table
from eva02_mim.hidden import HiddenTokens
from eva02_mim.student import MimStudent
from tests.mim.nano_run import RECIPE

CONFIGS = RECIPE.parent
ELSEWHERE = "dataloader.train.source.spec=/nowhere"


def rows(recipe: Path, processes: int, *overrides: str) -> dict[str, str]:
    text = describe(load_recipe(recipe, list(overrides)), processes)
    return {key: rest.strip() for key, rest in (line.split("  ", 1) for line in text.splitlines())}


def test_the_published_run_is_described_without_its_images_and_its_teacher_s_weights() -> None:
    said = rows(CONFIGS / "b_in21k.py", 32, ELSEWHERE)
    assert said["student"].startswith("86,546,944 parameters (86,173,440 decayed)")  # specification 1.1 and 6.3
    assert "1,012,588,928 parameters, 1024 features a patch" in said["teacher"]  # specification 2.1
    assert said["data"].startswith("14,200,000 images an epoch, as its config states; it is not here: /nowhere does not exist")
    assert said["steps"] == "1,039,950 of 2048 images, 6,933 in an epoch"
    assert said["epochs"] == "150"
    assert said["batch"].startswith("64 images in each of 32 processes, in 1 parts of 64; 443,712 images of an epoch in each")
    assert said["learning rate"] == "0 -> 0.0015 in 6,933 steps (1 epochs), then a cosine to 1e-05"
    assert "student with gradients and moments 1.3, activations of 64 images" in said["memory"]
    assert said["memory"].endswith("teacher 1.9")


def test_without_a_stated_size_steps_are_said_to_be_unknown() -> None:
    said = rows(RECIPE, 2, ELSEWHERE)
    assert said["data"].startswith("an unknown number of images; it is not here: /nowhere does not exist")
    assert said["steps"] == "unknown, 300 epochs of 64 images; how many in an epoch depends on the data"
    assert rows(RECIPE, 2, ELSEWHERE, "train.max_steps=50")["steps"].startswith("50 of 64 images")


def test_a_mixture_states_the_sum_of_its_sources_or_what_it_was_told() -> None:
    source = load_recipe(CONFIGS / "l_merged38m.py").dataloader.train.source
    assert stated_images(source) == 14_200_000 + 12_400_000 + 3_300_000 + 118_287 + 20_210 + 1_820_000 + 9_000_000
    source.sources[1].expected = None
    assert stated_images(source) is None
    source.epoch_images = 5000
    assert stated_images(source) == 5000


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("teacher.source=timm:no_such_vit", "timm has no model no_such_vit; see timm.list_models"),
        ("teacher.source=timm:vit_tiny_patch16_224", "gives features of width 1000 and the student predicts 1024"),
        ("student.size=XL", "size"),
    ],
)
def test_parts_that_cannot_fit_are_refused_before_anything_is_loaded(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rows(CONFIGS / "b_in21k.py", 32, ELSEWHERE, override)


def test_fsdp_divides_the_memory_of_the_student() -> None:
    def learnt(strategy: str) -> float:
        said = rows(RECIPE, 4, ELSEWHERE, f"train.parallel={strategy}", "student.embed_dim=1024", "student.depth=12")["memory"]
        return float(said.split("moments ")[1].split(",")[0])

    assert learnt("fsdp") == pytest.approx(learnt("ddp") / 4, abs=0.06)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_counted_as_a_real_forward_pass_keeps_them(precision: str) -> None:
    shape = {"embed_dim": 64, "depth": 3, "num_heads": 2, "target_dim": 16, "image_size": 56}
    with torch.device("meta"):
        outline = MimStudent(**shape)
    counted = saved_bytes(outline, 2, 6, precision)
    kept = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    cached_table.cache_clear()
    student = MimStudent(**shape).train()
    hidden = HiddenTokens(torch.zeros(2, 6, dtype=torch.int64), torch.ones(2, 6))
    low = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(note, torch.Tensor.detach), low:
        result = student(torch.zeros(2, 3, 56, 56), hidden)
    assert result.requires_grad
    assert counted == pytest.approx(sum(kept.values()), rel=1e-3)  # kernels may keep a few bytes of their own
