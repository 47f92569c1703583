"""Metrics of a fold in one pass: what is kept does not grow with its rows, except for an AUC within groups.

Every metric is weighted by the sample weights, and None where it is not defined: without rows, without weight, or with
one class only. Two baselines stand beside the model: a constant, and the linear part of the same model alone. `names`
says where to add a metric.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.training.metrics.binary import BinaryTally
from nfm.training.metrics.multiclass import MulticlassTally
from nfm.training.metrics.names import Task
from nfm.training.metrics.regression import RegressionTally

Tally = BinaryTally | RegressionTally | MulticlassTally


def make_tally(task: Task, classes: Sequence[str], constant: Sequence[float]) -> Tally:
    """An empty tally of a task's metrics.

    `classes`: the texts of a multiclass label, by number. `constant`: the constant baseline, from `compute_constant`.
    """
    if task == "multiclass":
        return MulticlassTally(classes, constant)
    return BinaryTally(constant[0]) if task == "binary" else RegressionTally(constant[0])


def compute_constant(
    task: Task, classes: Sequence[str], pieces: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[float, ...]:
    """The best constant of the train fold, from pieces of its labels and weights.

    One number, the weighted mean label; for multiclass one a class, its share of the weight. A fold without any
    weight counts as evenly weighted, one without rows has 0.
    """
    size = len(classes) if task == "multiclass" else 1
    sums, weight, rows_sums, rows = np.zeros(size), 0.0, np.zeros(size), 0
    for label_B, weight_B in pieces:
        label, weights = label_B.astype(np.float64), weight_B.astype(np.float64)
        for total, counted in ((sums, weights), (rows_sums, np.ones_like(weights))):
            if task == "multiclass":
                total += np.bincount(label.astype(np.int64), counted, size)
            else:
                total += counted @ label
        weight, rows = weight + float(weights.sum()), rows + len(label)
    means = sums / weight if weight else rows_sums / max(rows, 1)
    return tuple(float(mean) for mean in means)
