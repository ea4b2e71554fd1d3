"""From tables to numbers: what is undefined is left out of a mean, groups of classes, sizes and limits."""

import math
from dataclasses import replace

import numpy as np
import pytest

from eva02_det.evaluation.backends import Tables
from eva02_det.evaluation.metrics import class_ap, mean, summary
from eva02_det.evaluation.truth import truth_of
from tests.evaluation import scenes

AREAS = ("", "s", "m", "l", "0-8")


def tables(limits: tuple[int, ...]) -> Tables:
    """Precision 0.1, 0.2, 0.3 by class, twice that at IoU 0.5; neither the last class nor small sizes have ground truth."""
    precision = np.full((10, 101, 4, 5, len(limits)), -1.0)
    for row in range(3):
        precision[:, :, row, [0, 2, 3, 4]] = 0.1 * (row + 1)
        precision[0, :, row, [0, 2, 3, 4]] = 0.2 * (row + 1)
    recall = np.full((10, 4, 5, len(limits)), -1.0)
    recall[:, :3, [0, 2, 3, 4]] = np.array([0.25, 0.5, 0.75])[: len(limits)]
    return Tables(precision, recall, AREAS, limits)


def test_a_mean_is_over_what_is_defined_and_in_percent():
    assert mean(np.array([0.5, -1, 0.25, -1])) == 37.5
    assert math.isnan(mean(np.array([-1.0, -1.0])))
    assert math.isnan(mean(np.zeros(0)))


def test_coco_has_a_recall_for_each_limit_and_precision_for_the_last():
    metrics = summary(tables((1, 10, 100)), truth_of(scenes.ground_truth(0)))
    assert list(metrics)[:12] == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert list(metrics)[12:] == ["AP0-8", "AR0-8"]
    assert metrics["AP50"] == pytest.approx(40)
    assert metrics["AP75"] == pytest.approx(20)
    assert metrics["AP"] == metrics["APm"] == metrics["AP0-8"] == pytest.approx(22)
    assert [metrics[f"AR{limit}"] for limit in (1, 10, 100)] == [25, 50, 75]
    assert metrics["ARl"] == 75
    assert math.isnan(metrics["APs"])


def test_lvis_groups_its_classes_by_how_rare_they_are():
    truth = truth_of(scenes.federated_truth(0), federated=True)
    assert truth.frequency.tolist() == ["r", "c", "f", "c"]
    metrics = summary(tables((300,)), truth)
    assert [metrics[f"AP{group}"] for group in "rcf"] == pytest.approx([11, 22, 33])
    assert metrics["AR"] == 25
    without = replace(truth, frequency=np.array(["", "", "", ""]))
    assert math.isnan(summary(tables((300,)), without)["APr"])


def test_a_class_without_ground_truth_has_no_ap():
    assert class_ap(tables((100,))) == pytest.approx([11, 22, 33, math.nan], nan_ok=True)
