"""Ranking metrics: curves and areas, computed from cells of scores (`contract.cells`)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract import cells
from nfm.contract.cells import auc
from nfm.training.metrics.names import Array, Floats

LIMIT = 1 << 18  # most cells of scores
MOST_POINTS = 400  # most points of a curve: more cannot be distinguished in a report


class Roc(NamedTuple):
    """A receiver operating characteristic, from the highest score down."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    auc: float


class PrecisionRecall(NamedTuple):
    """Precision by recall, from the highest score down."""

    recall: Floats
    precision: Floats
    average_precision: float
    base: float  # precision of a random order: the rate of label 1


class Calibration(NamedTuple):
    """Bins of rows with about equal weight, by score ascending."""

    predicted: Floats  # mean score
    observed: Floats  # label rate
    low: Floats  # 95 % interval of the label rate
    high: Floats


def precision_recall(positive_C: Floats, negative_C: Floats) -> PrecisionRecall | None:
    """Return precision by recall, thinned to MOST_POINTS, and the average precision, Σ (recall step × precision).

    None without both labels. Arguments as for `nfm.contract.cells.auc`.
    """
    positives, negatives = float(positive_C.sum()), float(negative_C.sum())
    if positives <= 0 or negatives <= 0:
        return None
    weighted = positive_C + negative_C > 0
    step = positive_C[weighted][::-1]
    true_positive, selected = np.cumsum(step), np.cumsum((positive_C + negative_C)[weighted][::-1])
    precision = true_positive / selected
    average = min(1.0, float((step / positives) @ precision))
    kept = _thin(len(step))
    return PrecisionRecall(
        true_positive[kept] / positives, precision[kept], average, positives / (positives + negatives)
    )


def roc(positive_C: Floats, negative_C: Floats) -> Roc | None:
    """Return the ROC, thinned to MOST_POINTS; None without both labels. Arguments as for `nfm.contract.cells.auc`."""
    area = auc(positive_C, negative_C)
    if area is None:
        return None
    true_positive, false_positive = (
        np.concatenate([[0.0], np.cumsum(weight_C[::-1]) / weight_C.sum()]) for weight_C in (positive_C, negative_C)
    )
    kept = _thin(len(true_positive))
    return Roc(false_positive[kept], true_positive[kept], area)


def _thin(count: int) -> NDArray[np.int64]:
    """Return the places of at most MOST_POINTS of `count` points, at even distances."""
    return np.unique(np.linspace(0, count - 1, MOST_POINTS).round().astype(np.int64))


def calibration(
    predicted_C: Floats, positive_C: Floats, weight_C: Floats, squares_C: Floats, most: int
) -> Calibration | None:
    """Return mean score and label rate of at most `most` bins with about equal weight; None without any weight.

    Takes sums of each cell, by score ascending: Σ weight · score, weight of the positive rows, weight of all rows,
    Σ weight². The intervals are Wilson's, for the effective number of rows, (Σ weight)² / Σ weight².
    """
    if weight_C.sum() <= 0:
        return None
    middle = (np.cumsum(weight_C) - weight_C / 2) / weight_C.sum()
    cell_bin = np.minimum((middle * most).astype(int), most - 1)

    def total(values: Floats) -> Floats:
        return np.bincount(cell_bin, values, most).astype(np.float64)

    weight, squares = total(weight_C), total(squares_C)
    filled = weight > 0
    predicted, observed = (total(x)[filled] / weight[filled] for x in (predicted_C, positive_C))
    observed = np.clip(observed, 0, 1)
    n, z = weight[filled] ** 2 / squares[filled], 1.96
    center = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2))
    return Calibration(predicted, observed, center - half, center + half)


def gauc(group_B: Array, score_B: Array, positive_B: NDArray[np.bool_], weight_B: Floats) -> float | None:
    """Return the mean AUC within groups, weighted by the groups (gAUC; Zhu et al. 2017, "Optimized Cost per Click").

    Groups without both labels are left out; None if no group has both.
    """
    if not len(group_B):
        return None
    order = np.lexsort((score_B, group_B))
    group, score = group_B[order], score_B[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    new_cell = new_group | np.concatenate([[True], score[1:] != score[:-1]])
    starts, groups = np.flatnonzero(new_cell), np.flatnonzero(new_group[new_cell])
    weight = weight_B[order]
    positive, negative = (
        np.add.reduceat(np.where(has_label, weight, 0.0), starts)
        for has_label in (positive_B[order], ~positive_B[order])
    )
    areas = cells.grouped_auc(positive, negative, groups)
    has_both_labels = ~np.isnan(areas)
    weights = np.add.reduceat(positive + negative, groups)
    if not has_both_labels.any():
        return None
    return float(np.average(areas[has_both_labels], weights=weights[has_both_labels]))
