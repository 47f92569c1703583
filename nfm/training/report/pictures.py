"""Charts of the training report."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nfm.reports.charts import SQUARE, Axis, Bars, Chart, Line, chart, extent, steps
from nfm.training.metrics.curves import Calibration, PrecisionRecall, Roc

_FEW = 12  # most epochs that are marked individually
_POINTS = 800  # most rows that are drawn as points
_Array = NDArray[np.float64]


def draw_curve(history: Mapping[str, Sequence[float]], metric: str, label: str, best_epoch: int) -> Chart:
    """Draw a metric of the train and the validation fold by epoch, and mark the best epoch."""
    lines = []
    epochs = range(1, len(history["loss"]) + 1)
    for fold, key in (("train", metric), ("valid", f"val_{metric}")):
        if key in history:
            lines.append(Line(epochs, history[key], fold, fold if f"val_{metric}" in history else ""))
            marked = epochs if len(epochs) <= _FEW else [best_epoch]
            lines.append(Line(marked, [history[key][epoch - 1] for epoch in marked], f"{fold} points"))
    low, high = extent(value for line in lines for value in line.y)
    best = Line((best_epoch, best_epoch), (low, high), "faint dashed", f"weights of epoch {best_epoch}")
    return chart([best, *lines], Axis(0.5, len(epochs) + 0.5, "epoch", whole=True), Axis(low, high, label))


def draw_roc(rocs: Mapping[str, Roc], linear: Roc | None = None) -> Chart:
    """Draw the ROC of each fold, and of the linear part alone."""
    lines = [Line((0, 1), (0, 1), "faint dashed")]
    if linear is not None:
        name = f"linear part, AUC {linear.auc:.3f}"
        lines.append(Line(linear.false_positive_rate, linear.true_positive_rate, "linear dashed", name))
    for fold, points in rocs.items():
        name = f"{fold}, AUC {points.auc:.3f}"
        lines.append(Line(points.false_positive_rate, points.true_positive_rate, _fold_style(fold), name))
    return chart(lines, Axis(0, 1, "false positive rate"), Axis(0, 1, "true positive rate"), SQUARE)


def draw_precision_recall(curves: Mapping[str, PrecisionRecall]) -> Chart:
    """Draw precision by recall of each fold, and the rate of label 1."""
    base = list(curves.values())[-1].base
    lines = [Line((0, 1), (base, base), "faint dashed", f"random order, {base:.3f}")]
    for fold, points in curves.items():
        name = f"{fold}, area {points.average_precision:.3f}"
        lines.append(Line(points.recall, points.precision, _fold_style(fold), name))
    return chart(lines, Axis(0, 1, "recall"), Axis(0, 1, "precision"), SQUARE)


def _fold_style(fold: str) -> str:
    return "train thin" if fold == "train" else fold


def _end_of_scores(largest: float) -> float:
    """Return the end of the axis of scores: 1, or less if all scores are small, as with a rare label."""
    return largest if 0 < largest <= 0.5 else 1.0


def draw_calibration(bins: Calibration, fold: str) -> Chart:
    """Draw the label rate by mean score, with 95 % intervals and the diagonal."""
    top = _end_of_scores(1.1 * max(bins.predicted.max(), bins.observed.max()))
    gap = np.full(len(bins.predicted), np.nan)
    intervals = np.stack([bins.low, bins.high, gap], axis=1).ravel()
    lines = [
        Line((0, top), (0, top), "faint dashed", "perfectly calibrated"),
        Line(bins.predicted.repeat(3), intervals, f"{fold} thin"),
        Line(bins.predicted, bins.observed, fold, fold),
        Line(bins.predicted, bins.observed, f"{fold} points"),
    ]
    return chart(lines, Axis(0, top, "mean score"), Axis(0, top, "label rate"), SQUARE)


def draw_scores_by_label(scores: _Array, ones: _Array, zeros: _Array) -> Chart:
    """Draw the distribution of scores for each label, from ascending scores and their weights of label 1 and 0."""
    below = np.cumsum(ones + zeros)
    end = _end_of_scores(float(scores[np.searchsorted(below, 0.999 * below[-1]).clip(max=len(scores) - 1)]))
    shown, edges = np.minimum(scores, end), np.linspace(0, end, 26)
    marks: list[Bars | Line] = []
    top = 0.0
    for label, weight, style in ((0, zeros, "train"), (1, ones, "one")):
        if weight.sum() > 0:
            share = np.histogram(shown, edges, weights=weight)[0] / weight.sum()
            top = max(top, share.max())
            marks += [Bars(edges, share, style), steps(edges, share, f"{style} thin", f"label {label}")]
    return chart(marks, Axis(0, end, "score"), Axis(0, top, "share of the rows with this label", percent=True), SQUARE)


def draw_predicted_and_actual(label: _Array, predicted: _Array, weight: _Array) -> Chart:
    """Draw some rows as points, the mean label by prediction in bins of about equal weight, and the diagonal."""
    low, high = _central_range(np.concatenate([label, predicted]), np.concatenate([weight, weight]))
    order = np.argsort(predicted, kind="stable")
    place = np.cumsum(weight[order]) - weight[order] / 2
    bins = max(1, min(15, len(label) // 10))
    row_bin = np.minimum((place / weight.sum() * bins).astype(int), bins - 1)
    total = np.bincount(row_bin, weight[order], bins)

    def mean(x: _Array) -> _Array:
        return np.bincount(row_bin, (weight * x)[order], bins)[total > 0] / total[total > 0]

    def shown(x: _Array) -> _Array:
        return np.where((x >= low) & (x <= high), x, np.nan)[:_POINTS]

    marks = [
        Line((low, high), (low, high), "faint dashed", "perfect"),
        Line(shown(predicted), shown(label), "test points many"),
        Line(mean(predicted), mean(label), "ink", "mean label of a bin"),
        Line(mean(predicted), mean(label), "ink points"),
    ]
    return chart(marks, Axis(low, high, "predicted"), Axis(low, high, "label"), SQUARE)


def draw_residuals(residual: _Array, weight: _Array) -> Chart:
    """Draw the distribution of the errors, label − prediction."""
    low, high = _central_range(residual, weight)
    edges = np.linspace(low, high, 41)
    share = np.histogram(np.clip(residual, low, high), edges, weights=weight)[0] / weight.sum()
    marks: list[Bars | Line] = [Bars(edges, share, "test")]
    if low <= 0 <= high:
        marks.append(Line((0, 0), (0, share.max()), "ink thin"))
    shares = Axis(0, share.max(), "share of the rows", percent=True)
    return chart(marks, Axis(low, high, "label − prediction"), shares, SQUARE)


def _central_range(values: _Array, weight: _Array) -> tuple[float, float]:
    """Return the range between the 0.1 % and 99.9 % quantiles, because a few extreme rows would flatten the rest."""
    low, high = (float(q) for q in np.quantile(values[weight > 0], (0.001, 0.999)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
