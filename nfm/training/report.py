"""report.html of a trained model: one page that needs nothing beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import keras
import numpy as np
import yaml
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from nfm.config import Config, Model
from nfm.contract.schema import FOLDS, Spec
from nfm.training import pictures
from nfm.training.data import Fold

if TYPE_CHECKING:
    from nfm.training.train import Trained

MOST_POINTS = 400  # of a curve: more cannot be told apart, and a large fold has millions


def write(path: Path, config: Config, trained: "Trained") -> None:
    """Write the report of a trained model: metrics, architecture, parameters, curves, data, configuration."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "number": _number, "percent": _percent, "compact": _compact}
    page = environment.get_template("report.html.jinja").render(_content(config, trained))
    path.write_text(page, encoding="utf-8")


def _content(config: Config, trained: "Trained") -> dict[str, Any]:
    model, spec, folds = trained.fitted.model, trained.spec, trained.folds
    judged = next(fold for fold in ("test", "valid", "train") if folds[fold].rows)
    rate = _mean(folds["train"].label, folds["train"].weight)
    auc = {fold: values["auc"] for fold, values in trained.metrics.items()}
    drawn = {fold: roc(folds[fold], trained.scores[fold], auc[fold]) for fold in auc}
    curves = {fold: points for fold, points in drawn.items() if points is not None}
    return {
        "config": config,
        "created": datetime.now(UTC),
        "spec": spec,
        "statistics": trained.statistics,
        "fitted": trained.fitted,
        "folds": FOLDS,
        "metrics": trained.metrics,
        "judged": judged,
        "rate": rate,
        "constant": {fold: constant(folds[fold], rate) for fold in trained.metrics},
        "layers": layers(model),
        "parts": parts(model),
        "total": model.count_params(),
        "field_rows": field_rows(spec, trained.statistics),
        "dim": config.model.embedding_dim,
        "curves": curves,
        "pictures": _pictures(config.model, trained, curves, judged),
        "entrances": entrances(spec),
        "yaml": yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True),
    }


class Layer(NamedTuple):
    """A layer of the network."""

    name: str
    kind: str
    shape: str
    parameters: int
    trainable: int


def layers(model: keras.Model) -> list[Layer]:
    """The layers in the order of the paper: inputs, interactions, linear part, sum."""
    operations = list(model.operations)
    last = operations[-1]

    def order(operation: Any) -> int:
        if operation is last or isinstance(operation, keras.layers.InputLayer):
            return 3 if operation is last else 0
        interactions = isinstance(operation, keras.layers.Layer) and "linear" not in operation.name
        return 1 if interactions else 2

    found = []
    for operation in sorted(operations, key=order):
        is_layer = isinstance(operation, keras.layers.Layer)
        shape = operation.output.shape
        if shape[-1]:  # an input without columns is none
            found.append(
                Layer(
                    # A sum's own name counts the models of the process.
                    operation.name if is_layer else ("score" if operation is last else "linear_sum"),
                    type(operation).__name__,
                    " × ".join(["B", *(f"{size:,}" for size in shape[1:])]),
                    operation.count_params() if is_layer else 0,
                    sum(int(np.prod(w.shape)) for w in operation.trainable_weights) if is_layer else 0,
                )
            )
    return found


def parts(model: keras.Model) -> dict[str, int]:
    """Parameters by what they are for; their sum is the model's."""
    found: dict[str, int] = dict.fromkeys(
        [
            "embedding table",
            "first-order weights w_i and bias w_0",
            "first-order weights of the dense numbers",
            "hidden layers (kernels and biases)",
            "batch norm (γ, β, moving mean and variance)",
            "h",
        ],
        0,
    )
    table, first_order, first_order_dense, hidden, norm, h = found
    named = {"embedding": table, "linear": first_order, "dense_linear": first_order_dense, "output": h}
    for layer in model.layers:
        if layer.weights:
            of_norm = isinstance(layer, keras.layers.BatchNormalization)
            found[named.get(layer.name, norm if of_norm else hidden)] += layer.count_params()
    return found


@dataclass(frozen=True)
class FieldRows:
    """Rows of the embedding table that a field, or a number in the pooling, has; and what the literature counts."""

    name: str
    values: int
    missing: int
    out_of_vocabulary: int
    distinct: int  # in the whole table
    has_missing: int  # 1 where any row of the table misses it
    reserved: int  # rows that the literature's count reserves

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.values + self.missing + self.out_of_vocabulary

    @property
    def literature_rows(self) -> int:
        """Every distinct value, a missing value as one of them, and one reserved row."""
        return self.distinct + self.has_missing + self.reserved


def field_rows(spec: Spec, statistics: Mapping[str, Any]) -> list[FieldRows]:
    """Each field's rows in the embedding table, then each number's in the pooling."""
    found = []
    for field in spec.fields:
        bucketed = field.edges is not None
        facts = statistics["numbers" if bucketed else "fields"][field.name]
        # Of a hashed field nobody knows the values: its buckets stand for them.
        distinct = field.values if bucketed else field.oov_buckets if field.hashed else facts["distinct"]["table"]
        has_missing = int(any(facts["missing"].values()))
        found.append(FieldRows(field.name, field.values, 1, field.oov_buckets, distinct, has_missing, 1))
    return found + [FieldRows(name, 1, 0, 0, 1, 0, 0) for name in spec.field_numbers]


class Constant(NamedTuple):
    """Metrics of always predicting the same probability."""

    log_loss: float
    accuracy: float


def constant(fold: Fold, rate: float) -> Constant:
    """What always predicting `rate` reaches on a fold, weighted as the model's metrics are."""
    share = _mean(fold.label, fold.weight)
    p = float(np.clip(rate, 1e-15, 1 - 1e-15))
    return Constant(
        -share * float(np.log(p)) - (1 - share) * float(np.log(1 - p)),
        share if rate > 0.5 else 1 - share,
    )


def roc(fold: Fold, score: NDArray[np.float64], auc: float | None) -> pictures.Roc | None:
    """The fold's ROC; None where it has no rows or one label only."""
    weighted = fold.weight > 0
    if auc is None or not isfinite(auc) or len(np.unique(fold.label[weighted])) < 2:
        return None
    false_positive, true_positive, _ = roc_curve(fold.label, score, sample_weight=fold.weight)
    few = np.unique(np.linspace(0, len(false_positive) - 1, MOST_POINTS).round().astype(int))
    return pictures.Roc(false_positive[few], true_positive[few], auc)


def calibration(fold: Fold, score: NDArray[np.float64], bins: int = 10) -> pictures.Calibration:
    """Mean score and label rate of bins with about equal weight; rows with one score share a bin.

    The intervals are Wilson's, for the number of equally weighted rows that tell as much.
    """
    weight = fold.weight.astype(np.float64)
    place = np.unique(score, return_inverse=True)[1]
    of_score = np.bincount(place, weight)
    middle = (np.cumsum(of_score) - of_score / 2) / weight.sum()
    bins = max(1, min(bins, fold.rows // 10))
    row_bin = np.minimum((middle * bins).astype(int), bins - 1)[place]

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(row_bin, values, bins).astype(np.float64)

    weights, squares = total(weight), total(weight**2)
    some = weights > 0
    predicted, observed = (total(weight * x)[some] / weights[some] for x in (score, fold.label))
    n, z = weights[some] ** 2 / squares[some], 1.96
    center = (observed + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2))
    return pictures.Calibration(predicted, observed, center - half, center + half)


def entrances(spec: Spec) -> dict[str, str]:
    """How each number enters the model, in words."""
    found = {}
    for field in spec.fields:
        if field.edges is not None:
            edges = ", ".join(f"{edge:,.4g}" for edge in field.edges)
            found[field.name] = f"a field of {field.values} buckets" + (f" with edges at {edges}" if edges else "")
    for number in spec.numbers:
        steps = [] if number.clip is None else [f"clipped to {number.clip[0]:,.4g} … {number.clip[1]:,.4g}"]
        steps.append(f"{number.impute:,.4g} where missing")
        steps += ["log(1 + |x|) with its sign"] * number.log1p
        if (number.shift, number.divisor) != (0, 1):
            steps.append(f"(x − {number.shift:,.4g}) / {number.divisor:,.4g}")
        steps += ["a column that says where it is missing"] * number.missing_flag
        place = "beside the pooled vector" if number.placement == "dense" else "a feature in the pooling"
        found[number.name] = f"{place}: {'; '.join(steps)}"
    return found


def _pictures(
    settings: Model, trained: "Trained", curves: Mapping[str, pictures.Roc], judged: str
) -> dict[str, Markup | None]:
    """SVG elements by name; None where there is nothing to draw."""
    fitted = trained.fitted
    parameters = {layer.name: layer.count_params() for layer in fitted.model.layers}
    fold, score = trained.folds[judged], trained.scores[judged]
    drawn = {
        "architecture": pictures.architecture(trained.spec, settings, parameters),
        "loss": pictures.curve(fitted.history, "loss", "loss", fitted.best_epoch),
        "auc": pictures.curve(fitted.history, "auc", "AUC", fitted.best_epoch),
        "roc": pictures.roc(curves) if curves else None,
        "calibration": pictures.calibration(calibration(fold, score), score, judged) if fold.weight.any() else None,
        "scores": pictures.scores_by_label(score, fold.label, fold.weight) if fold.weight.any() else None,
    }
    # What matplotlib writes has every text escaped.
    return {name: None if svg is None else Markup(svg) for name, svg in drawn.items()}  # noqa: S704


def _mean(values: NDArray[np.float32], weight: NDArray[np.float32]) -> float:
    return float(np.average(values, weights=weight)) if weight.any() else float(values.mean())


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or not isfinite(value) else f"{value:,.{digits}f}"


def _percent(part: float | None, whole: float = 1) -> str:
    return "–" if part is None or not whole or not isfinite(part / whole) else f"{part / whole:.1%}"


def _compact(value: float | None) -> str:
    return "–" if value is None or not isfinite(value) else f"{value:,.4g}"
