"""The whole two-stage detector."""

import pytest
import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from tests.d2lite.modeling.small import batch, cascade, detector


def losses_of(model: torch.nn.Module, inputs: list[dict]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with EventStorage():
        return model(inputs)


def test_training_returns_the_losses_of_both_parts():
    losses = losses_of(detector(), batch())
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_mask", "loss_cls_stage2"} <= set(losses)
    assert len(losses) == 9
    assert all(loss.ndim == 0 for loss in losses.values())


def test_every_parameter_receives_a_gradient():
    model = detector()
    sum(losses_of(model, batch()).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("counts", [(0, 2), (0, 0)])
def test_images_without_objects_can_be_trained_on(counts):
    losses = losses_of(detector(), batch(counts))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()


def test_a_seed_fixes_the_losses():
    model = detector()
    first, second = losses_of(model, batch()), losses_of(model, batch())
    assert first == second


def test_a_few_steps_lower_the_loss():
    model = detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(6):
        loss = sum(losses_of(model, batch()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]


def test_detections_come_in_the_size_that_was_asked_for():
    inputs = [{**item, "height": 150, "width": 200} for item in batch()]
    with torch.no_grad():
        found = [item["instances"] for item in detector().eval()(inputs)]
    assert [image.image_size for image in found] == [(150, 200)] * 2
    for image in found:
        assert len(image) > 0
        assert image.pred_masks.shape == (len(image), 150, 200)
        assert (image.pred_boxes.tensor[:, 2] <= 200).all()


def test_without_a_wish_detections_have_the_size_of_the_image():
    with torch.no_grad():
        found = [item["instances"] for item in detector().eval()(batch())]
    assert [image.image_size for image in found] == [(48, 64), (64, 40)]


def test_detections_can_stay_in_the_coordinates_of_the_network():
    with torch.no_grad():
        found = detector().eval().inference(batch(), do_postprocess=False)
    assert isinstance(found[0], Instances)
    assert found[0].pred_masks.shape[1:] == (1, 28, 28)


def test_given_detections_only_receive_their_masks():
    model = detector().eval()
    with torch.no_grad():
        found = model.inference(batch(), do_postprocess=False)
        bare = [Instances(image.image_size, pred_boxes=image.pred_boxes, pred_classes=image.pred_classes) for image in found]
        again = model.inference(batch(), bare, do_postprocess=False)
    for image, other in zip(found, again):
        torch.testing.assert_close(image.pred_masks, other.pred_masks)


def test_inference_is_refused_in_training_mode():
    with pytest.raises(AssertionError):
        detector().inference(batch())


def test_images_are_normalised_and_padded_to_a_square():
    model = detector()
    inputs = batch()
    images = model.preprocess_image(inputs)
    assert images.tensor.shape == (2, 3, 64, 64)
    mean, std = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 40.0])
    expected = (inputs[0]["image"] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(images[0], expected)
    assert (images.tensor[0, :, 48:] == 0).all()


def test_padding_does_not_depend_on_the_other_images_of_the_batch():
    model = detector().eval()
    with torch.no_grad():
        alone = model(batch()[:1])[0]["instances"]
        together = model(batch())[0]["instances"]
    torch.testing.assert_close(alone.scores, together.scores)
    torch.testing.assert_close(alone.pred_boxes.tensor, together.pred_boxes.tensor)


def test_mean_and_deviation_move_with_the_model_but_are_not_saved():
    model = detector()
    assert not [name for name in model.state_dict() if "pixel" in name or "cell_anchors" in name]
    assert {"pixel_mean", "pixel_std"} <= {name for name, _ in model.named_buffers()}
    assert model.device.type == "cpu"
    assert model.input_format == "RGB"


def test_a_detector_without_masks_finds_boxes():
    with torch.no_grad():
        found = detector(cascade(masks=False)).eval()(batch())[0]["instances"]
    assert not found.has("pred_masks")
    assert len(found) > 0


def test_low_precision_training_has_finite_losses_near_those_in_full_precision():
    model = detector()
    full = losses_of(model, batch())
    with torch.autocast("cpu", torch.bfloat16):
        low = losses_of(model, batch())
    assert set(low) == set(full)
    for name, loss in low.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(full[name].item(), rel=0.2, abs=0.05)
