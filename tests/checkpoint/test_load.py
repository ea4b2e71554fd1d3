"""What load_weights puts where, what it refuses, and that a refusal changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eva02_det.checkpoint.checkpointer import DetectorCheckpointer
from eva02_det.checkpoint.convert import convert_checkpoint
from eva02_det.checkpoint.io import write_weights
from eva02_det.checkpoint.load import check_source, load_weights
from eva02_det.layers.patch_embed import Positions
from eva02_det.utils.errors import UserError
from tests.checkpoint.small import as_released, assert_same, randomise, small_backbone, small_detector, snapshot

CHAIN = (r"cls_score", r"^roi_heads\.mask_head\.")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.pth"


def test_a_released_detector_fills_every_weight_and_its_rotary_tables_are_checked_and_dropped(file: Path) -> None:
    source, model = small_detector(), small_detector()
    weights = as_released(source)
    torch.save({"model": weights, "iteration": 9}, file)
    account = load_weights(model, file)
    assert_same(model, snapshot(source))
    assert sorted(account.dropped) == sorted(key for key in weights if ".freqs_" in key)
    assert len(account.dropped) == 12
    assert account.layout == "detector"
    assert not account.renamed
    assert "12 dropped by rule" in account.summary()


def test_another_window_and_another_image_size_than_the_files_just_work(file: Path) -> None:
    source, model = small_detector(window=4), small_detector(window=8)
    torch.save({"model": as_released(source, window=4, image=384)}, file)
    load_weights(model, file)
    assert_same(model, snapshot(source))
    images = torch.randn(1, 3, 96, 160)
    source.backbone.net.window_size = 8
    with torch.no_grad():
        expected, found = (m.backbone.net(images)["last_feat"] for m in (source, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_table_of_another_reference_length_is_an_error_that_says_which(file: Path) -> None:
    source, model = small_detector(positions=Positions(rotary_grid=14)), small_detector()
    torch.save({"model": as_released(source)}, file)  # 16, as the model has
    load_weights(model, file)
    before = snapshot(source)
    with pytest.raises(UserError, match=r"rope_win\.freqs_cos \[16, 16\] stretches 16 positions over its side, this model 14"):
        load_weights(source, file)
    assert_same(source, before)


def test_one_wrong_number_in_a_rotary_table_is_an_error_that_names_it(file: Path) -> None:
    weights = as_released(small_detector())
    key = "backbone.net.blocks.2.attn.rope.freqs_sin"
    weights[key] = weights[key].clone()
    weights[key][7, 3] += 0.01
    torch.save({"model": weights}, file)
    with pytest.raises(UserError, match=rf"1 damaged \({key} \[16, 16\] follows no rotary reference length from 1 to 64\)"):
        load_weights(small_detector(), file)


@pytest.mark.parametrize("kernel", [14, 16])
@pytest.mark.parametrize("rows", [257, 256, 197, 196])
def test_a_backbone_of_any_patch_and_grid_fills_the_detector_and_leaves_the_rest_as_it_was(
    file: Path, kernel: int, rows: int
) -> None:
    grid = 16 if rows > 200 else 14
    source = small_backbone(patch_size=kernel, positions=Positions(grid, cls_token=rows in {257, 197}))
    model = small_detector()
    before = snapshot(model)
    weights = {**snapshot(source), "cls_token": torch.zeros(1, 1, 32), "norm.weight": torch.zeros(32)}
    torch.save(weights, file)
    account = load_weights(model, file)
    for key, value in model.state_dict().items():
        if not key.startswith("backbone.net."):
            assert key in account.new
            assert torch.equal(value, before[key])
        elif "pos_embed" not in key and "patch_embed.proj.weight" not in key:
            assert torch.equal(value, weights[key.removeprefix("backbone.net.")]), key
    resized = {"patch_embed.proj.weight"} if kernel == 14 else set()
    resized |= {"pos_embed"} if rows != 197 else set()
    assert account.resized.keys() == resized
    assert account.resized.get("pos_embed", ((1, rows, 32), (1, 197, 32))) == ((1, rows, 32), (1, 197, 32))
    if rows == 196:
        assert torch.equal(model.backbone.net.pos_embed[:, 1:], weights["pos_embed"])
        assert not model.backbone.net.pos_embed[:, 0].any()


def test_a_class_row_that_the_model_has_no_place_for_is_left_out(file: Path) -> None:
    source, model = small_backbone(), small_detector(positions=Positions(14, cls_token=False))
    torch.save(snapshot(source), file)
    load_weights(model, file)
    assert torch.equal(model.backbone.net.pos_embed, source.pos_embed[:, 1:])


def test_loading_on_the_fly_equals_converting_first(file: Path, tmp_path: Path) -> None:
    source = small_backbone(patch_size=14, positions=Positions(16))
    torch.save({"module": {key: value.half() for key, value in snapshot(source).items()}}, file)
    for method in ("bicubic", "pseudo_inverse"):
        direct, converted = small_detector(), small_detector()
        load_weights(direct, file, resize=method)
        convert_checkpoint(file, tmp_path / "p16.safetensors", resize=method)
        load_weights(converted, tmp_path / "p16.safetensors")
        assert_same(direct.backbone.net, snapshot(converted.backbone.net))


def test_the_positions_of_a_whole_detector_are_not_resized(file: Path) -> None:
    torch.save({"model": small_detector(positions=Positions(16)).state_dict()}, file)
    with pytest.raises(UserError, match=r"1 of another shape .*pos_embed \[1, 257, 32\] instead of \[1, 197, 32\]"):
        load_weights(small_detector(), file)


def test_a_file_of_the_backbone_under_its_prefix_is_a_bare_backbone(file: Path) -> None:
    source, model = small_backbone(), small_detector()
    torch.save({f"backbone.net.{key}": value for key, value in snapshot(source).items()}, file)
    account = load_weights(model, file)
    assert_same(model.backbone.net, snapshot(source))
    assert "roi_heads.mask_head.predictor.weight" in account.new


def test_a_model_that_is_a_backbone_takes_bare_names_and_what_it_has_of_pre_training(file: Path) -> None:
    source, model = small_backbone(), small_backbone()
    for student in (source, model):
        student.cls_token = nn.Parameter(torch.randn(1, 1, 32))
    torch.save({**source.state_dict(), "mask_token": torch.zeros(1, 1, 32)}, file)
    account = load_weights(model, file)
    assert_same(model, snapshot(source))
    assert list(account.dropped) == ["mask_token"]


def test_objects365_weights_start_a_detector_of_other_classes_where_the_new_ones_are_named(file: Path) -> None:
    source, model = small_detector(classes=9, masks=False), small_detector(classes=5)
    before = snapshot(model)
    torch.save({"model": as_released(source)}, file)
    with pytest.raises(UserError, match=r"cls_score.*\[10, 12\] instead of \[6, 12\].*train\.new_weights"):
        load_weights(model, file)
    with pytest.raises(UserError, match=r"mask_head"):
        load_weights(model, file, new_weights=("cls_score",))
    assert_same(model, before)
    account = load_weights(model, file, new_weights=CHAIN)
    for key, value in model.state_dict().items():
        is_new = "cls_score" in key or "mask_head" in key
        assert torch.equal(value, before[key] if is_new else source.state_dict()[key]), key
        assert (key in account.new) is is_new
    assert sum("bbox_pred" in key for key in account.filled) == 6


def test_averaged_weights_are_loaded_on_request_with_the_constants_of_the_authors_files(file: Path) -> None:
    raw, average, model = small_detector(), small_detector(), small_detector()
    ema = {key: value for key, value in as_released(average).items() if ".attn.rope." not in key}
    for name, buffer in average.named_buffers():
        ema[name] = buffer * (1 + 1e-4)
    torch.save({"model": as_released(raw), "ema_state": ema}, file)
    load_weights(model, file)
    assert_same(model, snapshot(raw))
    account = load_weights(model, file, which="ema")
    assert_same(model, snapshot(average))
    assert {"pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors.4"} <= account.dropped.keys()
    assert {*account.used, *account.dropped} == ema.keys()


def test_an_average_of_parameters_alone_is_enough(file: Path) -> None:
    raw, average, model = small_detector(), small_detector(), small_detector()
    torch.save({"model": raw.state_dict(), "ema_state": dict(average.named_parameters())}, file)
    load_weights(model, file, which="ema")
    assert_same(model, snapshot(average))


def test_buffers_that_an_average_lacks_come_from_the_weights_beside_it(file: Path) -> None:
    def normed() -> nn.Module:
        model = randomise(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
        model[1].running_mean.copy_(torch.randn(4))
        return model

    raw, average, model = normed(), normed(), normed()
    torch.save({"model": raw.state_dict(), "ema_state": dict(average.named_parameters())}, file)
    load_weights(model, file, which="ema")
    assert torch.equal(model[1].running_mean, raw[1].running_mean)
    assert torch.equal(model[1].weight, average[1].weight)


def test_a_constant_of_the_file_that_contradicts_the_config_is_an_error(file: Path) -> None:
    model = small_detector()
    ema = {**model.state_dict(), "pixel_mean": torch.tensor([104.0, 117.0, 124.0]).view(3, 1, 1)}
    torch.save({"ema_state": ema}, file)
    with pytest.raises(UserError, match=r"pixel_mean \[104, 117, 124\] where the config gives \[123\.675, 116\.28, 103\.53\]"):
        load_weights(model, file, which="ema")


def test_a_file_without_an_average_is_refused_before_anything_is_built(file: Path) -> None:
    torch.save({"model": small_detector().state_dict(), "iteration": 3}, file)
    assert check_source(file) == file
    with pytest.raises(UserError, match=r"no averaged weights .*only model, iteration"):
        check_source(file, "ema")
    with pytest.raises(UserError, match="no averaged weights"):
        load_weights(small_detector(), file, which="ema")


def test_a_model_folder_is_loaded_from_its_weights(tmp_path: Path) -> None:
    source, model = small_detector(), small_detector()
    write_weights(tmp_path / "model.safetensors", source.state_dict(), {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    load_weights(model, tmp_path)
    assert_same(model, snapshot(source))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        load_weights(model, tmp_path)


def test_a_model_without_memory_is_checked_and_left_so(file: Path) -> None:
    source = small_detector()
    torch.save({"model": as_released(source)}, file)
    with torch.device("meta"):
        model = small_detector()
    assert load_weights(model, file).complete
    assert all(weight.is_meta for weight in model.parameters())
    with torch.device("meta"):
        other = small_detector(classes=6)
    with pytest.raises(UserError, match="cls_score"):
        load_weights(other, file)


def test_weights_are_cast_to_the_models_type_and_whole_numbers_are_no_weights(file: Path) -> None:
    source, model = small_detector(), small_detector()
    weights = {key: value.to(torch.bfloat16) for key, value in source.state_dict().items()}
    torch.save(weights, file)
    load_weights(model, file)
    assert model.backbone.net.pos_embed.dtype == torch.float32
    assert torch.equal(model.backbone.net.pos_embed, source.backbone.net.pos_embed.bfloat16().float())
    weights["roi_heads.mask_head.predictor.bias"] = torch.ones(5, dtype=torch.int64)
    torch.save(weights, file)
    with pytest.raises(UserError, match=r"mask_head\.predictor\.bias holds int64 instead of float32"):
        load_weights(model, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_that_is_not_finite_is_found_in_any_type(file: Path, value: float, dtype: torch.dtype) -> None:
    weights = {key: tensor.to(dtype) for key, tensor in small_detector().state_dict().items()}
    weights["backbone.net.blocks.3.mlp.w3.weight"][5, 7] = value
    torch.save(weights, file)
    with pytest.raises(UserError, match=r"1 damaged \(backbone\.net\.blocks\.3\.mlp\.w3\.weight holds NaN or infinity\)"):
        load_weights(small_detector(), file)


def test_an_error_names_all_that_is_wrong_at_once_and_groups_the_blocks(file: Path) -> None:
    weights = small_detector().state_dict()
    for index in range(4):
        weights[f"backbone.net.blocks.{index}.attn.inner.weight"] = torch.zeros(32)
    weights["backbone.net.pos_embed"] = torch.zeros(1, 197, 16)
    del weights["proposal_generator.rpn_head.anchor_deltas.bias"]
    torch.save(weights, file)
    with pytest.raises(UserError) as error:
        load_weights(small_detector(), file)
    text = str(error.value)
    assert "1 not in the file (proposal_generator.rpn_head.anchor_deltas.bias [12])" in text
    assert "4 not in the model (backbone.net.blocks.{0..3}.attn.inner.weight [32])" in text
    assert "1 of another shape (backbone.net.pos_embed [1, 197, 16] instead of [1, 197, 32])" in text


def test_what_a_run_of_ours_saves_is_loaded_whole(tmp_path: Path) -> None:
    source, model = small_detector(), small_detector()
    DetectorCheckpointer(source, str(tmp_path)).save("model_final", iteration=3)
    account = load_weights(model, tmp_path / "model_final.pth")
    assert_same(model, snapshot(source))
    assert not account.dropped
    assert not account.new


def test_entries_of_a_state_dict_that_are_no_tensors_are_accounted_for(file: Path) -> None:
    torch.save({**small_detector().state_dict(), "epoch": 3}, file)
    assert load_weights(small_detector(), file).dropped == {"epoch": "no tensor but int"}


def test_data_parallel_wrappers_are_seen_through_in_file_and_model(file: Path) -> None:
    source, model = small_detector(), small_detector()
    torch.save({"model": {f"module.{key}": value for key, value in source.state_dict().items()}}, file)
    load_weights(nn.DataParallel(model), file)
    assert_same(model, snapshot(source))
