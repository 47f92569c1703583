"""How scores rank labels: cells of scores in bounded memory, and the areas and curves that are read from them.

A cell holds the scores that share their sign, exponent and leading bits of the mantissa. While there are at most
`limit` distinct scores each has a cell of its own, and everything here is exact; beyond that all cells are widened, a
bit at a time, until at most `limit` are left. Scores of one cell count as ties: with p_c and n_c the weights of its
positive and negative rows, and P and N their sums, an AUC is off by at most ½ Σ_c p_c n_c / (P N), c over the cells
that hold several scores. With 2¹⁸ cells that is below 1e-4 for millions of rows.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LIMIT = 1 << 18
MOST_POINTS = 400  # of a curve: more cannot be told apart on a page
_MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)


class ScoreCells:
    """Sums of G quantities over the rows of each cell of scores. What order the rows come in makes no difference."""

    def __init__(self, groups: int, limit: int = LIMIT) -> None:  # noqa: D107 (the class says it)
        self._limit, self._shift, self._pending_rows = limit, 0, 0
        self._keys: NDArray[np.int64] = np.empty(0, np.int64)
        self._sums: NDArray[np.float64] = np.empty((0, groups))
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def add(self, score_B: NDArray[Any], sums_BG: NDArray[np.float64]) -> None:
        """Add B rows with finite scores."""
        as_int = (score_B.astype(np.float64) + 0.0).view(np.int64)  # + 0.0 makes -0.0 the same as 0.0
        ordered = np.where(as_int < 0, as_int ^ _MAGNITUDE, as_int)  # ascending as the floats are
        self._pending.append((ordered, sums_BG))
        self._pending_rows += len(score_B)
        if self._pending_rows >= self._limit:
            self._merge()

    def cells(self) -> NDArray[np.float64]:
        """(C, G) the sums of each cell, by score ascending."""
        self._merge()
        return self._sums

    @property
    def exact(self) -> bool:
        """Each distinct score has a cell of its own."""
        self._merge()
        return self._shift == 0

    def _merge(self) -> None:
        if not self._pending_rows:
            return
        keys = np.concatenate([self._keys, *(keys >> self._shift for keys, _ in self._pending)])
        order = np.argsort(keys, kind="stable")
        keys, sums = keys[order], np.concatenate([self._sums, *(sums for _, sums in self._pending)])[order]
        while True:
            starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
            if len(starts) <= self._limit:
                break
            keys >>= 1
            self._shift += 1
        self._keys, self._sums = keys[starts], np.add.reduceat(sums, starts, axis=0)
        self._pending, self._pending_rows = [], 0


class Roc(NamedTuple):
    """A receiver operating characteristic, from the highest score down."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    auc: float


class PrecisionRecall(NamedTuple):
    """Precision by recall, from the highest score down."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    average_precision: float
    base: float  # the precision of taking any rows


class Calibration(NamedTuple):
    """Bins of rows with about equal weight, by score ascending."""

    predicted: NDArray[np.float64]  # mean score
    observed: NDArray[np.float64]  # label rate
    low: NDArray[np.float64]  # 95 % interval of the label rate
    high: NDArray[np.float64]


def auc(positive_C: NDArray[np.float64], negative_C: NDArray[np.float64]) -> float | None:
    """Share of (positive, negative) pairs that the score puts in order, a tie as half; None without both.

    Args:
        positive_C: weight of the positive rows of each cell, by score ascending.
        negative_C: the same of the negative rows.
    """
    positives, negatives = float(positive_C.sum()), float(negative_C.sum())
    if positives <= 0 or negatives <= 0:
        return None
    below = np.cumsum(negative_C) - negative_C / 2
    return min(1.0, float((positive_C / positives) @ (below / negatives)))


def precision_recall(positive_C: NDArray[np.float64], negative_C: NDArray[np.float64]) -> PrecisionRecall | None:
    """Precision at every score and Σ (recall step × precision), the average precision; None without both labels.

    Arguments as of `auc`.
    """
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


def roc(positive_C: NDArray[np.float64], negative_C: NDArray[np.float64]) -> Roc | None:
    """The ROC, thinned to MOST_POINTS; None without both labels. Arguments as of `auc`."""
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
    predicted_C: NDArray[np.float64],
    positive_C: NDArray[np.float64],
    weight_C: NDArray[np.float64],
    squares_C: NDArray[np.float64],
    most: int,
) -> Calibration | None:
    """Mean score and label rate of at most `most` bins with about equal weight; None without any weight.

    The intervals are Wilson's, for the number of equally weighted rows that tell as much.

    Args:
        predicted_C: Σ weight · score of each cell, by score ascending.
        positive_C: weight of the positive rows.
        weight_C: of all rows.
        squares_C: Σ weight².
        most: bins.
    """
    if weight_C.sum() <= 0:
        return None
    middle = (np.cumsum(weight_C) - weight_C / 2) / weight_C.sum()
    cell_bin = np.minimum((middle * most).astype(int), most - 1)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(cell_bin, values, most).astype(np.float64)

    weight, squares = total(weight_C), total(squares_C)
    some = weight > 0
    predicted, observed = (total(x)[some] / weight[some] for x in (predicted_C, positive_C))
    observed = np.clip(observed, 0, 1)
    n, z = weight[some] ** 2 / squares[some], 1.96
    center = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2))
    return Calibration(predicted, observed, center - half, center + half)


def grouped_auc(
    group_B: NDArray[np.uint64],
    score_B: NDArray[Any],
    positive_B: NDArray[np.bool_],
    weight_B: NDArray[np.float64],
) -> float | None:
    """AUC within each group, weighted by the groups' weights (gAUC; Zhu et al. 2017, "Optimized Cost per Click").

    Groups without both labels are left out; None where all are.
    """
    if not len(group_B):
        return None
    order = np.lexsort((score_B, group_B))
    group, score = group_B[order], score_B[order]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])
    new_cell = new_group | np.concatenate([[True], score[1:] != score[:-1]])
    cells, groups = np.flatnonzero(new_cell), np.flatnonzero(new_group[new_cell])
    weight = weight_B[order]
    positive, negative = (
        np.add.reduceat(np.where(chosen, weight, 0.0), cells) for chosen in (positive_B[order], ~positive_B[order])
    )
    positives, negatives = (np.add.reduceat(part, groups) for part in (positive, negative))
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return None
    before = np.cumsum(negative) - negative / 2
    start = (np.cumsum(negative) - negative)[groups]  # of all groups before
    below = before - np.repeat(start, np.diff(np.append(groups, len(negative))))
    in_order = np.add.reduceat(positive * below, groups)[both]
    areas = in_order / (positives[both] * negatives[both])
    return min(1.0, float(np.average(areas, weights=positives[both] + negatives[both])))
