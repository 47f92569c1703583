"""report.html of a trained model: one page that needs nothing beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import yaml
from markupsafe import Markup

from nfm.config.settings import Config
from nfm.config.train import MONITORS, Model
from nfm.contract.schema import FOLDS, Spec
from nfm.reports import page
from nfm.training.metrics.binary import BinaryTally
from nfm.training.metrics.multiclass import MulticlassTally
from nfm.training.metrics.names import METRICS, Metric
from nfm.training.metrics.regression import RegressionTally
from nfm.training.metrics.tally import Tally
from nfm.training.report import pictures
from nfm.training.report.architecture import architecture
from nfm.training.result import Trained

MOST_CLASSES = 50  # that are told of one by one


def write(path: Path, config: Config, trained: Trained) -> None:
    """Write the report of a trained model: metrics, architecture, parameters, curves, data, configuration."""
    page.write(path, "training/report/report.html.jinja", _content(config, trained), metric=metric_text)


def judged_fold(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The fold that says most of new rows: the first of test, valid and train that has rows."""
    return next(fold for fold in reversed(FOLDS) if metrics.get(fold, {}).get("rows"))


def _content(config: Config, trained: Trained) -> dict[str, Any]:
    model, spec = trained.fitted.model, trained.spec
    metrics = {fold: trained.metrics[fold] for fold in FOLDS if trained.metrics.get(fold, {}).get("rows")}
    judged = judged_fold(metrics)
    tally = trained.tallies[judged]
    shown = [metric for metric in METRICS[config.model.task] if metric.key in metrics[judged]]
    by_rows = sorted(metrics[judged].get("classes", {}).items(), key=lambda one: -one[1]["rows"])
    label_classes = sorted(trained.statistics["label"].get("classes", []), key=lambda one: -one.get("train", 0))
    return {
        "config": config,
        "task": config.model.task,
        "created": datetime.now(UTC),
        "spec": spec,
        "statistics": trained.statistics,
        "fitted": trained.fitted,
        "folds": FOLDS,
        "metrics": metrics,
        "shown": shown,
        "judged": judged,
        "constant": tally.constant,
        "beaten": [metric.name for metric in shown[:3] if _is_beaten(metric, metrics[judged])],
        "layers": layers(model),
        "parts": parts(model),
        "total": sum(parameter_counts(model).values()),
        "field_rows": field_rows(spec, trained.statistics),
        "dim": config.model.embedding_dim,
        "monitors": [name for name in MONITORS[config.model.task] if name in trained.fitted.history],
        "pictures": _pictures(config.model, trained, metrics, judged),
        "without_curves": [fold for fold in FOLDS if not _has_curve(trained.tallies.get(fold))],
        "class_metrics": by_rows[:MOST_CLASSES],
        "confusion": confusion(tally) if isinstance(tally, MulticlassTally) else None,
        "label_classes": label_classes[:MOST_CLASSES],
        "all_classes": len(spec.classes),
        "entrances": entrances(spec),
        "yaml": yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True),
    }


def _is_beaten(metric: Metric, values: Mapping[str, Any]) -> bool:
    model, constant = values[metric.key], values["constant"].get(metric.key)
    if model is None or constant is None:
        return False
    return bool(model <= constant if metric.higher_is_better else model >= constant)


def confusion(tally: MulticlassTally) -> list[tuple[str, list[tuple[float, float]]]] | None:
    """For each class: the weight of its rows by predicted class, and what share of them that is."""
    matrix = tally.confusion()
    if matrix is None:
        return None
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    return [
        (name, [(float(weight), float(share)) for weight, share in zip(*row, strict=True)])
        for name, *row in zip(tally.classes, matrix, shares, strict=True)
    ]


def parameter_counts(model: keras.Model) -> dict[str, int]:
    """Parameters of each layer by its name, as the artifact has them: without the padding row of the tables."""
    padding = {name: model.get_layer(name).width for name in ("embedding", "linear")}
    return {layer.name: layer.count_params() - padding.get(layer.name, 0) for layer in model.layers}


class Layer(NamedTuple):
    """A layer of the network."""

    name: str
    kind: str
    shape: str
    parameters: int
    trainable: int


def layers(model: keras.Model) -> list[Layer]:
    """The layers in the order of the paper: inputs, interactions, linear part, sum."""
    operations, parameters = list(model.operations), parameter_counts(model)
    last = operations[-1]

    def order(operation: Any) -> int:
        if operation is last or isinstance(operation, keras.layers.InputLayer):
            return 3 if operation is last else 0
        interactions = isinstance(operation, keras.layers.Layer) and "linear" not in operation.name
        return 1 if interactions else 2

    found = []
    for operation in sorted(operations, key=order):
        is_layer = isinstance(operation, keras.layers.Layer)
        output = operation.output
        weights = operation.trainable_weights if is_layer else []
        trained = sum(int(np.prod(weight.shape)) for weight in weights)
        all_trained = is_layer and not operation.non_trainable_weights
        shape = (output[0] if isinstance(output, list | tuple) else output).shape
        if shape[-1] != 0:  # an input without columns is none
            found.append(
                Layer(
                    # A sum's own name counts the models of the process.
                    operation.name if is_layer else ("score" if operation is last else "linear_sum"),
                    type(operation).__name__,
                    " × ".join(["B", *("…" if size is None else f"{size:,}" for size in shape[1:])]),
                    parameters.get(operation.name, 0),
                    parameters.get(operation.name, 0) if all_trained else trained,
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
    counts = parameter_counts(model)
    for layer in model.layers:
        if layer.weights:
            of_norm = isinstance(layer, keras.layers.BatchNormalization)
            found[named.get(layer.name, norm if of_norm else hidden)] += counts[layer.name]
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


def _has_curve(tally: Tally | None) -> bool:
    return isinstance(tally, BinaryTally) and tally.roc() is not None


def _pictures(settings: Model, trained: Trained, metrics: Mapping[str, Any], judged: str) -> dict[str, Markup | None]:
    """SVG elements by name; None where there is nothing to draw."""
    fitted, tally = trained.fitted, trained.tallies[judged]
    parameters = parameter_counts(fitted.model)
    history = fitted.history
    rates = [float(rate) for rate in history.get("learning_rate", ())]
    drawn = {
        "architecture": architecture(trained.spec, settings, parameters),
        "loss": pictures.curve(history, "loss", "loss", fitted.best_epoch),
        "learning_rate": pictures.learning_rate(rates) if len(set(rates)) > 1 else None,
        "pairs": pictures.pairs(trained.pairs) if trained.pairs else None,
    }
    names = {metric.key: metric.name for metric in METRICS[settings.task]}
    for name in MONITORS[settings.task]:
        if name in history:
            drawn[name] = pictures.curve(history, name, names[name], fitted.best_epoch)
    if isinstance(tally, BinaryTally):
        of_folds = {fold: trained.tallies[fold] for fold in metrics}
        drawn |= _ranking({fold: one for fold, one in of_folds.items() if isinstance(one, BinaryTally)}, judged)
    if isinstance(tally, RegressionTally):
        label, predicted, weight = tally.sample()
        some = weight.any()
        of_rows = pictures.predicted_and_actual(label, predicted, weight, judged) if some else None
        drawn["predicted_and_actual"] = of_rows
        drawn["residuals"] = pictures.residuals(label - predicted, weight, judged) if some else None
    # What matplotlib writes has every text escaped.
    return {name: None if svg is None else Markup(svg) for name, svg in drawn.items()}  # noqa: S704


def _ranking(tallies: Mapping[str, BinaryTally], judged: str) -> dict[str, str | None]:
    """Of a binary task: how the scores rank the labels, and whether they are probabilities."""
    tally = tallies[judged]
    rocs = {fold: points for fold, one in tallies.items() if (points := one.roc()) is not None}
    ranked = {fold: found for fold, one in tallies.items() if (found := one.precision_recall()) is not None}
    bins, (scores, ones, zeros) = tally.calibration(), tally.scores()
    return {
        "roc": pictures.roc(rocs, tally.linear_roc()) if rocs else None,
        "precision_recall": pictures.precision_recall(ranked) if ranked else None,
        "calibration": None if bins is None else pictures.calibration(bins, scores, ones + zeros, judged),
        "scores": pictures.scores_by_label(scores, ones, zeros) if len(scores) else None,
    }


def metric_text(value: float | None, key: str, digits: int = 4) -> str:
    """A metric as people read it: shares of 1 with fixed digits, errors in the label's unit with significant ones."""
    return page.compact(value) if key in ("rmse", "mae") else page.number(value, digits)
