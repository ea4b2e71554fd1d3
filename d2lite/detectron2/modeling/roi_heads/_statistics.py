"""Numbers about the quality of training samples, for the log. Each function waits for the device at most once."""

from __future__ import annotations

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor


def log_classification(logits: Tensor, labels: Tensor) -> None:
    """Accuracy of all regions and of the foreground, and the share of foreground taken for background.

    logits [R, K + 1], labels [R] with K for the background. Nothing is logged without regions.
    """
    if labels.numel() == 0:
        return
    background = logits.shape[1] - 1
    guess = logits.argmax(dim=1)
    foreground = (labels >= 0) & (labels < background)
    right = guess == labels
    missed = foreground & (guess == background)
    counts = torch.stack((right, foreground, right & foreground, missed)).sum(dim=1)
    num_right, num_foreground, num_found, num_missed = counts.tolist()
    storage = get_event_storage()
    storage.put_scalar("fast_rcnn/cls_accuracy", num_right / labels.numel())
    if num_foreground > 0:
        storage.put_scalar("fast_rcnn/fg_cls_accuracy", num_found / num_foreground)
        storage.put_scalar("fast_rcnn/false_negative", num_missed / num_foreground)


def log_samples(labels: list[Tensor], num_classes: int, prefix: str = "roi_head") -> None:
    """Mean number of foreground and of background regions an image; one label tensor an image."""
    background = torch.stack([(image == num_classes).sum() for image in labels]).sum().item()
    total = sum(image.numel() for image in labels)
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/num_fg_samples", (total - background) / len(labels))
    storage.put_scalar(f"{prefix}/num_bg_samples", background / len(labels))


def log_masks(logits: Tensor, targets: Tensor) -> None:
    """Share of mask pixels that are right, and the two kinds of error; logits and bool targets [R, S, S]."""
    wrong = (logits > 0) != targets
    counts = torch.stack((wrong.sum(), (wrong & targets).sum(), targets.sum())).tolist()
    num_wrong, num_missed, num_inside = counts
    num_outside = targets.numel() - num_inside
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - num_wrong / max(targets.numel(), 1))
    storage.put_scalar("mask_rcnn/false_positive", (num_wrong - num_missed) / max(num_outside, 1))
    storage.put_scalar("mask_rcnn/false_negative", num_missed / max(num_inside, 1))
