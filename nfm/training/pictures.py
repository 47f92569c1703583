"""The report's pictures: numbers in, an SVG element out. The same numbers give the same text, byte for byte."""

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from nfm.config import Model
from nfm.contract.schema import Spec

INK, MUTED, LINE, PAPER, BAND = "#1f2a37", "#5f6b7a", "#9aa7b6", "#ffffff", "#f1f4f8"
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
_P = ParamSpec("_P")


class Roc(NamedTuple):
    """A receiver operating characteristic."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    auc: float


class Calibration(NamedTuple):
    """Bins of rows with about equal weight, by score ascending."""

    predicted: NDArray[np.float64]  # mean score
    observed: NDArray[np.float64]  # label rate
    low: NDArray[np.float64]  # 95 % interval of the label rate
    high: NDArray[np.float64]


def _picture(draw: Callable[_P, Figure]) -> Callable[_P, str]:
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


@_picture
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


@_picture
def roc(curves: Mapping[str, Roc]) -> Figure:
    """The ROC of each fold; the train fold's is thin."""
    figure, axes = _axes(3.8, 3.8)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1, linestyle=(0, (2, 2)))
    for fold, points in curves.items():
        axes.plot(*points[:2], color=FOLD_COLORS[fold], label=f"{fold}, AUC {points.auc:.3f}")
        axes.lines[-1].set_linewidth(0.9 if fold == "train" else 1.8)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    return figure


def _end_of_scores(largest: float) -> float:
    """A rare label has small scores only: the axis ends where they do."""
    return largest if 0 < largest <= 0.5 else 1.0


@_picture
def calibration(bins: Calibration, scores: NDArray[np.float64], fold: str) -> Figure:
    """Label rate by mean score with its intervals and the diagonal; below it, how many rows have which score."""
    figure = Figure(figsize=(3.8, 3.8), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top = _end_of_scores(1.1 * max(bins.predicted.max(), bins.observed.max()))
    axes.plot([0, top], [0, top], color=LINE, linewidth=1, linestyle=(0, (2, 2)), label="perfectly calibrated")
    axes.vlines(bins.predicted, bins.low, bins.high, color=FOLD_COLORS[fold], linewidth=1, alpha=0.45)
    axes.plot(bins.predicted, bins.observed, "o-", color=FOLD_COLORS[fold], markersize=4, label=fold)
    axes.set(ylabel="label rate", xlim=(-0.02 * top, 1.02 * top), ylim=(-0.02 * top, 1.02 * top))
    axes.legend(loc="upper left")
    counts.hist(np.minimum(scores, top), bins=np.linspace(0, top, 26), color=FOLD_COLORS[fold], alpha=0.6, zorder=2)
    counts.set(xlabel="score", ylabel="rows")
    counts.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    return figure


@_picture
def scores_by_label(scores: NDArray[np.float64], label: NDArray[np.float32], weight: NDArray[np.float32]) -> Figure:
    """How the scores of each label are spread."""
    figure, axes = _axes(3.8, 3.8)
    end = _end_of_scores(float(np.quantile(scores, 0.999)))
    shown, edges = np.minimum(scores, end), np.linspace(0, end, 26)
    for value, color in enumerate(("#8a97a6", "#2b6cb0")):
        rows = label == value
        if weight[rows].sum() > 0:
            share = np.histogram(shown[rows], edges, weights=weight[rows])[0] / weight[rows].sum()
            axes.stairs(share, edges, fill=True, color=color, alpha=0.35)
            axes.stairs(share, edges, color=color, linewidth=1.2, label=f"label {value}")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="score", ylabel="share of the rows with this label")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


class _Card(NamedTuple):
    """A box of the architecture: what it is, the shape it hands on, its parameters, what is applied to its output."""

    title: str
    shape: str
    details: Sequence[str] = ()
    pills: Sequence[str] = ()
    takes_dense: bool = False

    @property
    def height(self) -> float:
        return 0.36 + 0.2 * len(self.details) + 0.33 * bool(self.pills)


# Inches. The interactions go up on the left; the dense numbers and the linear part on the right.
_WIDTH, _LEFT, _RIGHT, _GAP = 6.2, 0.15, 3.75, 0.24
_CENTER, _DENSE, _LINEAR = (_LEFT + _RIGHT) / 2, 4.05, (4.3, 5.2, 6.1)


@_picture
def architecture(spec: Spec, settings: Model, parameters: Mapping[str, int]) -> Figure:
    """The model from one row's features, at the bottom, to its score. Takes each layer's parameters by its name."""
    cards = _cards(spec, settings, parameters)
    columns = 3 if spec.dense else 5
    features = _features(spec, 2 * columns)
    lines = -(-len(features) // columns)
    columns = -(-len(features) // lines)
    band = 0.3 + max(0.5 * lines, 0.36 + 0.15 * min(len(spec.dense), 5) if spec.dense else 0)
    height = 0.1 + band + sum(card.height + _GAP for card in cards) + 1.35
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height))
    axes.set_axis_off()

    _box(axes, 0.05, 0.05, _WIDTH - 0.1, band, BAND)
    axes.text(_LEFT, band - 0.1, "One row's features x", fontsize=8, color=MUTED, va="center")
    width = ((_RIGHT if spec.dense else _WIDTH - 0.15) - _LEFT + 0.08) / columns
    for i, (name, size) in enumerate(features):
        x, y = _LEFT + width * (i % columns), band - 0.15 - 0.5 * (i // columns + 1)
        _box(axes, x, y, width - 0.08, 0.42)
        for text, above, points, color in ((_short(name, int(width / 0.083)), 0.28, 8, INK), (size, 0.12, 7, MUTED)):
            axes.text(x + width / 2 - 0.04, y + above, text, fontsize=points, color=color, ha="center", va="center")
    if spec.dense:
        _box(axes, 3.9, 0.15, 2.15, band - 0.38)
        names = list(spec.dense) if len(spec.dense) <= 5 else [*spec.dense[:4], f"{len(spec.dense) - 4} more"]
        axes.text(4.0, band - 0.36, f"Dense numbers ({len(spec.dense)})", fontsize=8, va="center")
        for i, name in enumerate(names):
            axes.text(4.0, band - 0.53 - 0.15 * i, _short(name, 29), fontsize=7, color=MUTED, va="center")

    y = band + 0.05
    for card in cards:
        y = _arrow(axes, (_CENTER, y), (_CENTER, y + _GAP))
        if card.takes_dense:
            _arrow(axes, (_DENSE, band - 0.23), (_DENSE, y + card.height / 2), (_RIGHT, y + card.height / 2))
        y = _draw(axes, card, _LEFT, _RIGHT, y)
    plus = 0.15 + _arrow(axes, (_CENTER, y), (_CENTER, y + _GAP))
    axes.add_patch(Circle((_CENTER, plus), 0.15, facecolor=PAPER, edgecolor=INK, linewidth=1))
    axes.text(_CENTER, plus - 0.01, "+", fontsize=13, ha="center", va="center")
    y = _arrow(axes, (_CENTER, plus + 0.15), (_CENTER, plus + 0.15 + _GAP))
    _draw(axes, _Card("Sigmoid", "B × 1", ["probability of label 1"]), _LEFT, _RIGHT, y)

    left, center, right = _LINEAR
    dense = parameters.get("dense_linear", 0)
    counted = f"1 + {spec.rows:,}" + (f" + {dense:,}" if dense else "")
    linear = ["w₀ + Σ wᵢ xᵢ", counted, f"= {parameters['linear'] + dense:,} parameters"]
    y = _arrow(axes, (center, band + 0.05), (center, band + 0.05 + _GAP))
    y = _draw(axes, _Card("Linear part", "B × 1", linear), left, right, y)
    _arrow(axes, (center, y), (center, plus), (_CENTER + 0.15, plus))
    return figure


def _features(spec: Spec, most: int) -> list[tuple[str, str]]:
    """Name and size of what enters the pooling; many fields are summed up."""
    found = [(f.name, f"{f.size:,} ids") for f in spec.fields] + [(n, "number") for n in spec.field_numbers]
    if len(found) <= most:
        return found
    rest = sum(field.size for field in spec.fields[most - 1 :])
    return [*found[: most - 1], (f"{len(found) - most + 1} more", f"{rest:,} ids" if rest else "numbers")]


def _cards(spec: Spec, settings: Model, parameters: Mapping[str, int]) -> list[_Card]:
    """The boxes from the embeddings up to h."""
    dim, features, dense = settings.embedding_dim, len(spec.fields) + len(spec.field_numbers), len(spec.dense)

    def pills(norm: str, dropout: float, *between: str) -> list[str]:
        first = [f"batch norm · {parameters[norm]:,}"] if norm in parameters else []
        return [*first, *between, *[f"dropout {dropout:g}"] * bool(dropout)]

    table = [f"table {spec.rows:,} × {dim:,} = {parameters['embedding']:,} parameters"]
    formula = ["½ [ (Σ xᵢ vᵢ)² − Σ (xᵢ vᵢ)² ], no parameters"]
    cards = [
        _Card("Embeddings xᵢ vᵢ", f"B × {features:,} × {dim:,}", table),
        _Card("Bi-Interaction pooling", f"B × {dim:,}", formula, pills("pooling_norm", settings.pooling_dropout)),
    ]
    width = dim + dense
    if dense and settings.hidden_units:
        cards.append(_Card("Join the dense numbers", f"B × ({dim:,} + {dense:,})", takes_dense=True))
    for i, units in enumerate(settings.hidden_units):
        detail = [f"{width:,} × {units:,} + {units:,} = {parameters[f'hidden_{i}']:,} parameters"]
        applied = pills(f"hidden_{i}_norm", settings.hidden_dropout, settings.activation)
        cards.append(_Card(f"Hidden layer {i + 1}", f"B × {units:,}", detail, applied))
        width = units
    ones = ", fixed at 1: a factorization machine" if settings.output == "ones" else ""
    return [*cards, _Card("Output weights h", "B × 1", [f"{parameters['output']:,} parameters{ones}"])]


def _draw(axes: Axes, card: _Card, left: float, right: float, y: float) -> float:
    """Draw a box upwards from y; returns its top."""
    top = y + card.height
    _box(axes, left, y, right - left, card.height)
    axes.text(left + 0.12, top - 0.19, card.title, weight="bold", va="center")
    axes.text(right - 0.12, top - 0.19, card.shape, fontsize=8, color=MUTED, ha="right", va="center")
    for i, detail in enumerate(card.details):
        axes.text(left + 0.12, top - 0.41 - 0.2 * i, detail, fontsize=8, color=MUTED, va="center")
    x = left + 0.12
    for i, pill in enumerate(card.pills):
        if i:
            axes.text(x - 0.09, y + 0.19, "›", color=MUTED, ha="center", va="center")
        width = 0.16 + 0.066 * len(pill)
        _box(axes, x, y + 0.08, width, 0.22, BAND)
        axes.text(x + width / 2, y + 0.185, pill, fontsize=8, ha="center", va="center")
        x += width + 0.18
    return top


def _box(axes: Axes, x: float, y: float, width: float, height: float, color: str = PAPER) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.06", fc=color, ec=LINE, lw=0.9))


def _arrow(axes: Axes, *points: tuple[float, float]) -> float:
    """Straight lines through the points, the last one with a head; returns the y where it ends."""
    *before, last, end = points
    xs, ys = zip(*before, last, strict=True)
    axes.plot(xs, ys, color=INK, linewidth=1)
    head = {"arrowstyle": "-|>", "color": INK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", end, last, arrowprops=head)
    return end[1]


def _short(name: str, length: int) -> str:
    """A name on one line, cut where it would not fit."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length - 1]}…"
