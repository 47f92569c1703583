"""The picture of the model: from one row's features, at the bottom, to its score."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from nfm.config.train import Model
from nfm.contract.schema import Spec
from nfm.training.report.pictures import BAND, INK, LINE, MUTED, PAPER, picture, short


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


@picture
def architecture(spec: Spec, settings: Model, parameters: Mapping[str, int]) -> Figure:
    """The model from one row's features, at the bottom, to its score. Takes each layer's parameters by its name."""
    classes = max(1, len(spec.classes))
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
        for text, above, points, color in ((short(name, int(width / 0.083)), 0.28, 8, INK), (size, 0.12, 7, MUTED)):
            axes.text(x + width / 2 - 0.04, y + above, text, fontsize=points, color=color, ha="center", va="center")
    if spec.dense:
        _box(axes, 3.9, 0.15, 2.15, band - 0.38)
        names = list(spec.dense) if len(spec.dense) <= 5 else [*spec.dense[:4], f"{len(spec.dense) - 4} more"]
        axes.text(4.0, band - 0.36, f"Dense numbers ({len(spec.dense)})", fontsize=8, va="center")
        for i, name in enumerate(names):
            axes.text(4.0, band - 0.53 - 0.15 * i, short(name, 29), fontsize=7, color=MUTED, va="center")

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
    _draw(axes, _score(settings, classes), _LEFT, _RIGHT, y)

    left, center, right = _LINEAR
    dense = parameters.get("dense_linear", 0)
    counted = f"{classes:,} + {classes * spec.rows:,}" + (f" + {dense:,}" if dense else "")
    linear = ["w₀ + Σ wᵢ xᵢ", counted, f"= {parameters['linear'] + dense:,} parameters"]
    y = _arrow(axes, (center, band + 0.05), (center, band + 0.05 + _GAP))
    y = _draw(axes, _Card("Linear part", f"B × {classes:,}", linear), left, right, y)
    _arrow(axes, (center, y), (center, plus), (_CENTER + 0.15, plus))
    return figure


def _features(spec: Spec, most: int) -> list[tuple[str, str]]:
    """Name and size of what enters the pooling; many fields are summed up."""
    found = [(f.name, f"{f.size:,} ids{', bag' * (f.bag is not None)}") for f in spec.fields] + [
        (n, "number") for n in spec.field_numbers
    ]
    if len(found) <= most:
        return found
    rest = sum(field.size for field in spec.fields[most - 1 :])
    return [*found[: most - 1], (f"{len(found) - most + 1} more", f"{rest:,} ids" if rest else "numbers")]


def _cards(spec: Spec, settings: Model, parameters: Mapping[str, int]) -> list[_Card]:
    """The boxes from the embeddings up to h."""
    dim, dense, classes = settings.embedding_dim, len(spec.dense), max(1, len(spec.classes))
    bags = sum(field.bag is not None for field in spec.fields)
    single = len(spec.fields) + len(spec.field_numbers) - bags
    features = f"({single:,} + members of bags)" if bags else f"{single:,}"

    def pills(norm: str, dropout: float, *between: str) -> list[str]:
        first = [f"batch norm · {parameters[norm]:,}"] if norm in parameters else []
        return [*first, *between, *[f"dropout {dropout:g}"] * bool(dropout)]

    table = [f"table {spec.rows:,} × {dim:,} = {parameters['embedding']:,} parameters"]
    formula = ["½ [ (Σ xᵢ vᵢ)² − Σ (xᵢ vᵢ)² ], no parameters"]
    cards = [
        _Card("Embeddings xᵢ vᵢ", f"B × {features} × {dim:,}", table),
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
    return [*cards, _Card("Output weights h", f"B × {classes:,}", [f"{parameters['output']:,} parameters{ones}"])]


def _score(settings: Model, classes: int) -> _Card:
    """What becomes of the sum."""
    if settings.task == "regression":
        return _Card("Score", "B × 1", ["the number that is predicted"])
    if settings.task == "multiclass":
        return _Card("Softmax", f"B × {classes:,}", ["a probability for each class"])
    return _Card("Sigmoid", "B × 1", ["probability of label 1"])


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
