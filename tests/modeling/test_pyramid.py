"""The pyramid's precision region and the padding of images."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import SimpleFeaturePyramid
from omegaconf import DictConfig

from configs.common.models import HeadSizes, cascade_mask_rcnn, pyramid, trv
from eva02_det.modeling.pyramid import Eva02RCNN, MixedPrecisionPyramid
from eva02_det.utils.errors import UserError


def small_tree(square_pad: int = 0) -> DictConfig:
    tree = pyramid(trv("Ti", window_size=2, num_global=2, drop_path_rate=0.0), 16, square_pad)
    tree.net.update(embed_dim=24, depth=2, num_heads=2, global_block_indexes=[1])
    return tree


def small_pyramid(square_pad: int = 0, **options: object) -> MixedPrecisionPyramid:
    tree = small_tree(square_pad)
    tree.update(options)
    torch.manual_seed(0)
    return instantiate(tree).eval()


def small_detector(square_pad: int) -> Eva02RCNN:
    tree = cascade_mask_rcnn(trv("Ti"), num_classes=2, channels=8, heads=HeadSizes(1, 8, 1), image_size=square_pad)
    tree.backbone.net.update(embed_dim=24, depth=1, num_heads=2, global_block_indexes=[0])
    return instantiate(tree).eval()


def test_without_a_precision_the_maps_are_those_of_the_parent() -> None:
    ours = small_pyramid()
    arguments = {name: value for name, value in small_tree().items() if name not in ("train_dtype", "eval_dtype")}
    parent = instantiate({**arguments, "_target_": SimpleFeaturePyramid}).eval()
    parent.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, level in parent(image).items():
            assert torch.equal(ours(image)[name], level)


@pytest.mark.parametrize(("mode", "inside"), [("train", torch.bfloat16), ("eval", torch.float32)])
def test_the_net_runs_in_the_precision_of_its_mode_and_maps_leave_in_float32(mode: str, inside: torch.dtype) -> None:
    backbone = small_pyramid(train_dtype="bf16")
    backbone.train(mode == "train")
    seen = []
    backbone.net.blocks[0].mlp.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert seen == [inside]
    assert {level.dtype for level in maps.values()} == {torch.float32}
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]


def test_low_precision_evaluation_on_request_stays_close_to_float32() -> None:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        full, low = small_pyramid()(image), small_pyramid(eval_dtype="bf16")(image)
    for name, level in full.items():
        assert 0 < (low[name] - level).norm() / level.norm() < 0.05


def test_no_autocast_is_left_behind() -> None:
    small_pyramid(eval_dtype="bf16")(torch.randn(1, 3, 64, 64))
    assert not torch.is_autocast_enabled("cpu")


def test_maps_have_their_strides_on_an_image_that_is_not_square() -> None:
    maps = small_pyramid()(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(level.shape[-2:]) for name, level in maps.items()} == {
        "p2": (16, 24), "p3": (8, 12), "p4": (4, 6), "p5": (2, 3), "p6": (1, 2),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["train_dtype", "eval_dtype"])
def test_an_unknown_precision_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}='fp8'"):
        small_pyramid(**{name: "fp8"})


@pytest.mark.parametrize(
    ("square_pad", "sizes", "padded"),
    [
        (96, [(50, 80), (96, 40)], (96, 96)),
        (0, [(50, 80), (60, 40)], (64, 96)),
        (64, [(50, 130), (60, 40)], (160, 160)),
    ],
    ids=["to the square", "to a multiple of 32", "to a larger square where an image does not fit"],
)
def test_images_are_padded(square_pad: int, sizes: list[tuple[int, int]], padded: tuple[int, int]) -> None:
    images = small_detector(square_pad).preprocess_image([{"image": torch.full((3, *size), 200.0)} for size in sizes])
    assert tuple(images.tensor.shape[-2:]) == padded
    assert images.image_sizes == sizes
    for image, (height, width) in zip(images.tensor, sizes):
        assert (image[:, :height, :width] > 0).all()
        assert image.count_nonzero() == 3 * height * width


def test_images_are_normalised_with_the_statistics_of_imagenet() -> None:
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None].expand(3, 32, 32)
    deviation = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    images = small_detector(32).preprocess_image([{"image": mean}, {"image": mean + 2 * deviation}])
    torch.testing.assert_close(images.tensor[0], torch.zeros(3, 32, 32))
    torch.testing.assert_close(images.tensor[1], torch.full((3, 32, 32), 2.0), rtol=1e-5, atol=1e-5)


def test_an_image_larger_than_the_square_is_detected_in_whole() -> None:
    with torch.no_grad():
        found = small_detector(32)([{"image": torch.rand(3, 32, 80) * 255}])[0]["instances"]
    assert found.image_size == (32, 80)
