"""The report's pictures: numbers in, an SVG element out. The same numbers give the same text, byte for byte."""

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from nfm.training.metrics.curves import Calibration, PrecisionRecall, Roc

INK, MUTED, LINE, PAPER, BAND = "#1f2a37", "#5f6b7a", "#9aa7b6", "#ffffff", "#f1f4f8"
LINEAR = "#a03d6e"  # of the linear part alone
FOLD_COLORS = {"train": "#8a97a6", "valid": "#d9822b", "test": "#2b6cb0"}
_STYLE: Any = {
    "svg.hashsalt": "nfm",
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the page's font
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a field's name is a $
    "savefig.transparent": True,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "grid.color": "#e6eaef",
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}
_POINTS = 800  # rows that are drawn one by one
_P = ParamSpec("_P")
_Array = NDArray[np.float64]


def picture(draw: Callable[_P, Figure]) -> Callable[_P, str]:
    """Draw in the report's style, and return the SVG element."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> str:
        text = io.StringIO()
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has fonts for every script
            figure = draw(*args, **kwargs)
            figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        return _element(text.getvalue())

    return drawn


def _element(svg: str) -> str:
    """The bare element: as wide as its place on the page, without ids that another picture might have too."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1))
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}-", svg)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


@picture
def curve(history: Mapping[str, Sequence[float]], metric: str, label: str, best_epoch: int) -> Figure:
    """A metric of the train and the validation fold by epoch, with one epoch marked."""
    figure, axes = _axes(5.2, 3.2)
    epochs = np.arange(1, len(history[metric]) + 1)
    marked = [best_epoch - 1] if len(epochs) > 12 else 1
    axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), label=f"weights of epoch {best_epoch}")
    for fold, key in (("train", metric), ("valid", f"val_{metric}")):
        if key in history:
            axes.plot(epochs, history[key], "o-", ms=4.5, markevery=marked, color=FOLD_COLORS[fold], label=fold)
    beside = 0.03 * (len(epochs) - 1) or 0.5
    axes.set(xlabel="epoch", ylabel=label, xlim=(1 - beside, len(epochs) + beside))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@picture
def learning_rate(rates: Sequence[float]) -> Figure:
    """The learning rate by epoch."""
    figure, axes = _axes(5.2, 3.2)
    axes.plot(np.arange(1, len(rates) + 1), rates, "o-", ms=3, color=INK)
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, 1.08 * max(rates)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


@picture
def roc(found: Mapping[str, Roc], linear: Roc | None = None) -> Figure:
    """The ROC of each fold, the train fold's thin; and the one of the linear part alone, dotted."""
    figure, axes = _axes(3.8, 3.8)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (2, 2)))
    for fold, points in found.items():
        axes.plot(*points[:2], color=FOLD_COLORS[fold], label=f"{fold}, AUC {points.auc:.3f}")
        axes.lines[-1].set_linewidth(0.9 if fold == "train" else 1.8)
    if linear is not None:
        axes.plot(*linear[:2], ":", color=LINEAR, linewidth=1.4, label=f"linear part, AUC {linear.auc:.3f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    return figure


@picture
def precision_recall(found: Mapping[str, PrecisionRecall]) -> Figure:
    """Precision by recall of each fold, the train fold's thin, over the rate of label 1."""
    figure, axes = _axes(3.8, 3.8)
    for fold, points in found.items():
        axes.plot(*points[:2], color=FOLD_COLORS[fold], label=f"{fold}, area {points.average_precision:.3f}")
        axes.lines[-1].set_linewidth(0.9 if fold == "train" else 1.8)
    base = list(found.values())[-1].base
    axes.axhline(base, color=LINE, linewidth=1, linestyle=(0, (2, 2)), label=f"no order, {base:.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def _end_of_scores(largest: float) -> float:
    """A rare label has small scores only: the axis ends where they do."""
    return largest if 0 < largest <= 0.5 else 1.0


@picture
def calibration(bins: Calibration, scores: _Array, weight: _Array, fold: str) -> Figure:
    """Label rate by mean score with its intervals and the diagonal; below it, how the rows are spread over the scores.

    Args:
        bins: of the fold.
        scores: (C,) probabilities.
        weight: (C,) of the rows with each.
        fold: whose color it has.
    """
    figure = Figure(figsize=(3.8, 3.8), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top = _end_of_scores(1.1 * max(bins.predicted.max(), bins.observed.max()))
    axes.plot([0, top], [0, top], color=LINE, linewidth=1, linestyle=(0, (2, 2)), label="perfectly calibrated")
    axes.vlines(bins.predicted, bins.low, bins.high, color=FOLD_COLORS[fold], linewidth=1, alpha=0.45)
    axes.plot(bins.predicted, bins.observed, "o-", color=FOLD_COLORS[fold], markersize=4, label=fold)
    axes.set(ylabel="label rate", xlim=(-0.02 * top, 1.02 * top), ylim=(-0.02 * top, 1.02 * top))
    axes.legend(loc="upper left")
    edges = np.linspace(0, top, 26)
    share = np.histogram(np.minimum(scores, top), edges, weights=weight)[0] / weight.sum()
    counts.stairs(share, edges, fill=True, color=FOLD_COLORS[fold], alpha=0.6, zorder=2)
    counts.set(xlabel="score", ylabel="rows")
    counts.yaxis.set_major_locator(MaxNLocator(2))
    counts.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


@picture
def scores_by_label(scores: _Array, ones: _Array, zeros: _Array) -> Figure:
    """How the scores of each label are spread.

    Args:
        scores: (C,) probabilities, ascending.
        ones: (C,) weight of the rows with each that have label 1.
        zeros: of those that have label 0.
    """
    figure, axes = _axes(3.8, 3.8)
    below = np.cumsum(ones + zeros)
    end = _end_of_scores(float(scores[np.searchsorted(below, 0.999 * below[-1]).clip(max=len(scores) - 1)]))
    shown, edges = np.minimum(scores, end), np.linspace(0, end, 26)
    for label, weight, color in ((0, zeros, "#8a97a6"), (1, ones, "#2b6cb0")):
        if weight.sum() > 0:
            share = np.histogram(shown, edges, weights=weight)[0] / weight.sum()
            axes.stairs(share, edges, fill=True, color=color, alpha=0.35)
            axes.stairs(share, edges, color=color, linewidth=1.2, label=f"label {label}")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="score", ylabel="share of the rows with this label")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@picture
def predicted_and_actual(label: _Array, predicted: _Array, weight: _Array, fold: str) -> Figure:
    """Some rows as points, and the mean label by prediction in bins of about equal weight; the diagonal behind."""
    figure, axes = _axes(4.2, 4.2)
    low, high = _middle(np.concatenate([label, predicted]), np.concatenate([weight, weight]))
    axes.plot([low, high], [low, high], color=LINE, linewidth=1, linestyle=(0, (2, 2)), label="perfect")
    color = FOLD_COLORS[fold]
    axes.plot(predicted[:_POINTS], label[:_POINTS], "o", color=color, markersize=2.5, alpha=0.25, markeredgewidth=0)
    order = np.argsort(predicted, kind="stable")
    place = np.cumsum(weight[order]) - weight[order] / 2
    bins = max(1, min(15, len(label) // 10))
    row_bin = np.minimum((place / weight.sum() * bins).astype(int), bins - 1)
    total = np.bincount(row_bin, weight[order], bins)
    means = [np.bincount(row_bin, (weight * x)[order], bins)[total > 0] / total[total > 0] for x in (predicted, label)]
    axes.plot(*means, "o-", color=INK, markersize=4, linewidth=1.4, label="mean of equally many rows")
    beside = 0.03 * (high - low)
    axes.set(xlabel="predicted", ylabel="label", xlim=(low - beside, high + beside), ylim=(low - beside, high + beside))
    axes.set_aspect("equal")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@picture
def residuals(residual: _Array, weight: _Array, fold: str) -> Figure:
    """How the errors, label − prediction, are spread."""
    figure, axes = _axes(4.2, 4.2)
    low, high = _middle(residual, weight)
    edges = np.linspace(low, high, 41)
    share = np.histogram(np.clip(residual, low, high), edges, weights=weight)[0] / weight.sum()
    axes.stairs(share, edges, fill=True, color=FOLD_COLORS[fold], alpha=0.6)
    axes.axvline(0, color=INK, linewidth=1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="label − prediction", ylabel="share of the rows")
    return figure


def _middle(values: _Array, weight: _Array) -> tuple[float, float]:
    """Without the outermost thousandth on each side: a few extreme rows would flatten all others."""
    low, high = (float(q) for q in np.quantile(values[weight > 0], (0.001, 0.999)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


@picture
def pairs(strongest: Sequence[tuple[str, str, float]]) -> Figure:
    """The strongest pairs of features as bars."""
    figure, axes = _axes(7.2, 0.7 + 0.26 * len(strongest))
    places, strength = np.arange(len(strongest)), [value for *_, value in strongest]
    axes.barh(places, strength, 0.66, color=FOLD_COLORS["test"], alpha=0.75, zorder=2)
    axes.set_yticks(places, [f"{short(one, 24)} × {short(other, 24)}" for one, other, _ in strongest], color=INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    axes.set(xlabel="mean of |xᵢ vᵢ ⊙ xⱼ vⱼ|")
    return figure


def short(name: str, length: int) -> str:
    """A name on one line, cut where it would not fit."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length - 1]}…"
