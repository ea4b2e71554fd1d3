"""From tables of precision and recall to the benchmarks' numbers, in percent."""

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation.backends import IOU_THRESHOLDS, Tables
from eva02_det.evaluation.truth import FREQUENCIES, Truth

Metrics = dict[str, float]

STANDARD = ("s", "m", "l")


def summary(tables: Tables, truth: Truth) -> Metrics:
    """The benchmark's numbers, NaN where undefined.

    COCO: AP, AP50, AP75, APs, APm, APl, AR<limit> ..., ARs, ARm, ARl. LVIS: AP ... APl, APr, APc, APf, AR, ARs, ARm, ARl.
    Then AP and AR of the finer areas, if there are any: AP0-8, ..., AR256-.
    """
    precision, recall = tables.precision[..., -1], tables.recall  # AP is for the last limit
    metrics = {"AP": mean(precision[:, :, :, 0])}
    for threshold in (50, 75):
        metrics[f"AP{threshold}"] = mean(precision[np.isclose(IOU_THRESHOLDS, threshold / 100)][..., 0])
    sizes = {name: place for place, name in enumerate(tables.areas) if name}
    metrics |= {f"AP{name}": mean(precision[..., sizes[name]]) for name in STANDARD}
    if truth.frequency is not None:
        metrics |= {f"AP{group}": mean(precision[:, :, truth.frequency == group, 0]) for group in FREQUENCIES}
    for place, limit in enumerate(tables.limits):
        metrics["AR" if truth.federated else f"AR{limit}"] = mean(recall[:, :, 0, place])
    metrics |= {f"AR{name}": mean(recall[:, :, sizes[name], -1]) for name in STANDARD}
    finer = [name for name in sizes if name not in STANDARD]
    metrics |= {f"AP{name}": mean(precision[..., sizes[name]]) for name in finer}
    return metrics | {f"AR{name}": mean(recall[:, :, sizes[name], -1]) for name in finer}


def class_ap(tables: Tables) -> NDArray[np.float64]:
    """AP of each category, NaN for one without ground truth. -> [K]"""
    return np.array([mean(tables.precision[:, :, row, 0, -1]) for row in range(tables.precision.shape[2])])


def mean(values: NDArray[np.float64]) -> float:
    """In percent, over what is defined: the tables hold -1 where there is no ground truth."""
    defined = values[values > -1]
    return 100 * float(defined.mean()) if defined.size else float("nan")
