"""Metrics of a fold in one pass, in memory that does not grow with its rows, except for the AUC within groups.

Every metric is weighted by the sample weights, and None where it is not defined: without rows, without weight, or with
only one class. The model is compared with two baselines: a constant, and the linear part of the same model alone.
`names` describes how to add a metric.
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
    """Make an empty tally for the metrics of a task.

    `classes`: names of a multiclass label's classes, by number. `constant`: the baseline, from `compute_constant`.
    """
    if task == "multiclass":
        return MulticlassTally(classes, constant)
    return BinaryTally(constant[0]) if task == "binary" else RegressionTally(constant[0])


def compute_constant(
    task: Task, classes: Sequence[str], pieces: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[float, ...]:
    """Return the best constant prediction for the train fold, from pieces of its labels and weights.

    The result is one number, the weighted mean label; for multiclass a number for each class, its share of the weight.
    Rows of a fold without any weight count equally; the constant of a fold without rows is 0.
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
