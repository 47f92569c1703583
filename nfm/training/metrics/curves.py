"""How scores rank labels: curves and areas that are read from cells of scores (`contract.cells`)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract import cells
from nfm.contract.cells import auc
from nfm.training.metrics.names import Array, Floats

LIMIT = 1 << 18  # cells of scores
MOST_POINTS = 400  # of a curve: more cannot be distinguished on a page


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
    base: float  # the precision of taking any rows


class Calibration(NamedTuple):
    """Bins of rows with about equal weight, by score ascending."""

    predicted: Floats  # mean score
    observed: Floats  # label rate
    low: Floats  # 95 % interval of the label rate
    high: Floats


def precision_recall(positive_C: Floats, negative_C: Floats) -> PrecisionRecall | None:
    """Precision at every score, and the average precision, Σ (recall step × precision). Arguments as for `auc`."""
    positives, negatives = float(positive_C.sum()), float(negative_C.sum())
    if positives <= 0 or negatives <= 0:
        return None
    some = positive_C + negative_C > 0
    step = positive_C[some][::-1]
    found, taken = np.cumsum(step), np.cumsum((positive_C + negative_C)[some][::-1])
    precision = found / taken
    average = min(1.0, float((step / positives) @ precision))
    few = _few(len(step))
    return PrecisionRecall(found[few] / positives, precision[few], average, positives / (positives + negatives))


def roc(positive_C: Floats, negative_C: Floats) -> Roc | None:
    """The ROC, thinned to MOST_POINTS; None without both labels. Arguments as for `nfm.contract.cells.auc`."""
    area = auc(positive_C, negative_C)
    if area is None:
        return None
    true_positive, false_positive = (
        np.concatenate([[0.0], np.cumsum(part[::-1]) / part.sum()]) for part in (positive_C, negative_C)
    )
    few = _few(len(true_positive))
    return Roc(false_positive[few], true_positive[few], area)


def _few(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, MOST_POINTS).round().astype(np.int64))


def calibration(
    predicted_C: Floats, positive_C: Floats, weight_C: Floats, squares_C: Floats, most: int
) -> Calibration | None:
    """Mean score and label rate of at most `most` bins with about equal weight; None without any weight.

    Takes sums of each cell, by score ascending: Σ weight · score, weight of the positive rows, of all rows, Σ weight².
    The intervals are Wilson's, for the number of equally weighted rows with the same information.
    """
    if weight_C.sum() <= 0:
        return None
    middle = (np.cumsum(weight_C) - weight_C / 2) / weight_C.sum()
    cell_bin = np.minimum((middle * most).astype(int), most - 1)

    def total(values: Floats) -> Floats:
        return np.bincount(cell_bin, values, most).astype(np.float64)

    weight, squares = total(weight_C), total(squares_C)
    some = weight > 0
    predicted, observed = (total(x)[some] / weight[some] for x in (predicted_C, positive_C))
    observed = np.clip(observed, 0, 1)
    n, z = weight[some] ** 2 / squares[some], 1.96
    center = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2))
    return Calibration(predicted, observed, center - half, center + half)


def gauc(group_B: Array, score_B: Array, positive_B: NDArray[np.bool_], weight_B: Floats) -> float | None:
    """AUC within each group, weighted by the groups' weights (gAUC; Zhu et al. 2017, "Optimized Cost per Click").

    Groups without both labels are left out; None where all are.
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
        np.add.reduceat(np.where(chosen, weight, 0.0), starts) for chosen in (positive_B[order], ~positive_B[order])
    )
    areas = cells.grouped_auc(positive, negative, groups)
    both = ~np.isnan(areas)
    weights = np.add.reduceat(positive + negative, groups)
    return float(np.average(areas[both], weights=weights[both])) if both.any() else None
