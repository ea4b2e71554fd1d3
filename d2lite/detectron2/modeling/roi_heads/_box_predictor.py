"""Class scores and box offsets of regions of interest, with their losses.

Axes: R regions of the batch, K classes, D features; label K is the background.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec, cross_entropy
from detectron2.structures import Instances
from torch import Tensor, nn

from ..box_regression import Box2BoxTransform, _dense_box_regression_loss
from ._box_inference import fast_rcnn_inference
from ._statistics import log_classification

Predictions = tuple[Tensor, Tensor]


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers: `cls_score` (K + 1 logits) and `bbox_pred` (offsets, once or for each class).

    The classification loss is softmax cross-entropy, or with `use_sigmoid_ce` one binary problem a class; then
    `use_fed_loss` restricts it to `fed_loss_num_classes` classes a batch (federated loss, arXiv:2103.07461), drawn with
    the weights that `get_fed_loss_cls_weights()` returns, [K].
    """

    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | dict[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable[[], Tensor] | None = None,
        fed_loss_num_classes: int = 50,
    ) -> None:
        super().__init__()
        self.num_classes, self.box2box_transform = num_classes, box2box_transform
        width = _width(input_shape)
        regressors = 1 if cls_agnostic_bbox_reg else num_classes
        self.cls_score = _linear(width, num_classes + 1, std=0.01)
        self.bbox_pred = _linear(width, regressors * len(box2box_transform.weights), std=0.001)
        self.test_score_thresh, self.test_nms_thresh = test_score_thresh, test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.smooth_l1_beta, self.box_reg_loss_type = smooth_l1_beta, box_reg_loss_type
        if not isinstance(loss_weight, dict):
            loss_weight = dict.fromkeys(("loss_cls", "loss_box_reg"), loss_weight)
        self.loss_weight = loss_weight
        self.use_fed_loss, self.use_sigmoid_ce = use_fed_loss, use_sigmoid_ce
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss:
            self.register_buffer("fed_loss_cls_weights", self._sampling_weights(get_fed_loss_cls_weights))

    def _sampling_weights(self, source: Callable[[], Tensor] | None) -> Tensor:
        """Checked weights for the draw of federated classes, [K]."""
        if not self.use_sigmoid_ce or source is None:
            raise AssertionError("the federated loss needs use_sigmoid_ce=True and get_fed_loss_cls_weights")
        weights = source()
        if len(weights) != self.num_classes:
            raise AssertionError(f"{len(weights)} class weights for {self.num_classes} classes")
        return weights

    def forward(self, x: Tensor) -> Predictions:
        """[R, D] (or [R, C, h, w]) -> logits [R, K + 1] and offsets [R, 4] or [R, K * 4]."""
        features = x.flatten(1)
        return self.cls_score(features), self.bbox_pred(features)

    def losses(self, predictions: Predictions, proposals: list[Instances]) -> dict[str, Tensor]:
        """`loss_cls` and `loss_box_reg` of sampled proposals with the fields `proposal_boxes`, `gt_classes`, `gt_boxes`.

        An image without ground truth may lack `gt_boxes`.
        """
        logits, deltas = predictions
        labels = _joined([image.gt_classes for image in proposals], logits.new_empty(0, dtype=torch.int64))
        no_boxes = logits.new_empty(0, 4)
        starts = _joined([image.proposal_boxes.tensor for image in proposals], no_boxes)
        if starts.requires_grad:
            raise AssertionError("proposals must not carry a gradient")
        targets = _joined([_targets(image).tensor for image in proposals], no_boxes)
        log_classification(logits, labels)
        classify = self.sigmoid_cross_entropy_loss if self.use_sigmoid_ce else cross_entropy
        found = {
            "loss_cls": classify(logits, labels),
            "loss_box_reg": self.box_reg_loss(starts, targets, deltas, labels),
        }
        return {name: value * self.loss_weight.get(name, 1.0) for name, value in found.items()}

    def get_fed_loss_classes(
        self, gt_classes: Tensor, num_fed_loss_classes: int, num_classes: int, weight: Tensor | None
    ) -> Tensor:
        """The classes that take part: all labels that occur (background included), then a draw up to the wanted number."""
        present = gt_classes.unique()
        missing = num_fed_loss_classes - len(present)
        if missing <= 0:
            return present
        chances = torch.ones(num_classes + 1, device=present.device)
        if weight is not None:
            chances[:-1] = weight.float()
        chances[-1] = 0
        chances[present] = 0
        return torch.cat((present, chances.multinomial(missing, replacement=False)))

    def sigmoid_cross_entropy_loss(self, pred_class_logits: Tensor, gt_classes: Tensor) -> Tensor:
        """Binary cross-entropy summed over classes and regions, over R. The background logit takes no part."""
        count, width = pred_class_logits.shape
        if len(gt_classes) == 0:
            return 0.0 * pred_class_logits.sum()
        columns = torch.arange(width - 1, device=gt_classes.device)
        wanted = (gt_classes[:, None] == columns).to(pred_class_logits.dtype)
        weight = None
        if self.use_fed_loss:
            classes = self.get_fed_loss_classes(
                gt_classes, self.fed_loss_num_classes, width - 1, self.fed_loss_cls_weights
            )
            weight = wanted.new_zeros(width).index_fill_(0, classes, 1.0)[:-1].expand_as(wanted)
        total = F.binary_cross_entropy_with_logits(pred_class_logits[:, :-1], wanted, weight=weight, reduction="sum")
        return total / count

    def box_reg_loss(self, proposal_boxes: Tensor, gt_boxes: Tensor, pred_deltas: Tensor, gt_classes: Tensor) -> Tensor:
        """Smooth-L1 sum over foreground regions, over all R, so that each region weighs the same in every batch."""
        foreground = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero().flatten()
        offsets = pred_deltas.unflatten(1, (-1, len(self.box2box_transform.weights)))[foreground]
        if offsets.shape[1] == 1:
            chosen = offsets[:, 0]
        else:
            chosen = offsets[torch.arange(len(foreground), device=foreground.device), gt_classes[foreground]]
        total = _dense_box_regression_loss(
            [proposal_boxes[foreground]],
            self.box2box_transform,
            [chosen[None]],
            [gt_boxes[foreground]],
            torch.ones_like(foreground[None], dtype=torch.bool),
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return total / max(gt_classes.numel(), 1)

    def inference(self, predictions: Predictions, proposals: list[Instances]) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image and the rows of the proposals they came from."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [image.image_size for image in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(self, predictions: Predictions, proposals: list[Instances]) -> tuple[Tensor, ...]:
        """Refined boxes of each image, [R_i, 4] or [R_i, K * 4]."""
        if not proposals:
            return ()
        starts = torch.cat([image.proposal_boxes.tensor for image in proposals])
        return self.box2box_transform.apply_deltas(predictions[1], starts).split([len(image) for image in proposals])

    def predict_boxes_for_gt_classes(self, predictions: Predictions, proposals: list[Instances]) -> tuple[Tensor, ...]:
        """Refined boxes of each image for the labelled class, [R_i, 4]; background regions take the last class."""
        boxes = [image.unflatten(1, (-1, 4)) for image in self.predict_boxes(predictions, proposals)]
        return tuple(_own_class(image, known.gt_classes) for image, known in zip(boxes, proposals))

    def predict_probs(self, predictions: Predictions, proposals: list[Instances]) -> tuple[Tensor, ...]:
        """Class probabilities of each image, background last, [R_i, K + 1]."""
        logits = predictions[0]
        probs = logits.sigmoid() if self.use_sigmoid_ce else logits.softmax(dim=-1)
        return probs.split([len(image) for image in proposals])


def _width(shape: ShapeSpec | int) -> int:
    """Numbers that describe one region."""
    return shape if isinstance(shape, int) else math.prod(side or 1 for side in (shape.channels, shape.height, shape.width))


def _linear(width: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(width, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def _joined(parts: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.cat(parts) if parts else nothing


def _targets(image: Instances) -> object:
    """Ground-truth boxes row by row; without any, the regions themselves stand in (they are background)."""
    return image.gt_boxes if image.has("gt_boxes") else image.proposal_boxes


def _own_class(boxes: Tensor, classes: Tensor) -> Tensor:
    """[R, k, 4] and labels [R] -> [R, 4]."""
    pick = classes.clamp(max=boxes.shape[1] - 1)
    return boxes.take_along_dim(pick[:, None, None], dim=1)[:, 0]
