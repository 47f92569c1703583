"""report.html of a trained model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from nfm.config.settings import Config
from nfm.config.train import MONITORS, Model
from nfm.contract.schema import FOLDS, Spec
from nfm.reports import page
from nfm.reports.charts import Chart
from nfm.reports.data import CLASSES, data_tables
from nfm.training.metrics.binary import BinaryTally
from nfm.training.metrics.multiclass import MulticlassTally
from nfm.training.metrics.names import METRICS, Metric, judged_fold
from nfm.training.metrics.regression import RegressionTally
from nfm.training.parameters import layers, parameter_counts
from nfm.training.report import pictures
from nfm.training.result import Trained


def write(path: Path, config: Config, trained: Trained) -> None:
    """Write the report of a trained model: metrics, layers, curves, data, configuration."""
    page.write(path, "training/report/report.html.jinja", _content(config, trained), metric=metric_text)


def _content(config: Config, trained: Trained) -> dict[str, Any]:
    model, spec = trained.fitted.model, trained.spec
    metrics = {fold: trained.metrics[fold] for fold in FOLDS if trained.metrics.get(fold, {}).get("rows")}
    judged = judged_fold(metrics)
    tally = trained.tallies[judged]
    shown = [metric for metric in METRICS[config.model.task] if metric.key in metrics[judged]]
    by_rows = sorted(metrics[judged].get("classes", {}).items(), key=lambda one: -one[1]["rows"])
    return {
        "config": config,
        "task": config.model.task,
        "created": datetime.now(UTC).isoformat(),
        "spec": spec,
        "data": data_tables(trained.statistics),
        "fitted": trained.fitted,
        "metrics": metrics,
        "shown": shown,
        "judged": judged,
        "constant": tally.constant,
        "beaten": [metric.name for metric in shown[:3] if _is_beaten(metric, metrics[judged])],
        "layers": layers(model),
        "parameters": parameter_counts(model),
        "field_rows": field_rows(spec, trained.statistics),
        "dim": config.model.embedding_dim,
        "curves": _curves(config.model, trained),
        "pairs": trained.pairs,
        "charts": _charts(trained, metrics, judged),
        "without_curves": [fold for fold in FOLDS if not _has_curve(trained, fold)],
        "class_metrics": by_rows[:CLASSES],
        "confusion": confusion(tally) if isinstance(tally, MulticlassTally) else None,
        "entrances": entrances(spec),
        "yaml": yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True),
    }


def _is_beaten(metric: Metric, values: Mapping[str, Any]) -> bool:
    model, constant = values[metric.key], values["constant"].get(metric.key)
    if model is None or constant is None:
        return False
    return bool(model <= constant if metric.higher_is_better else model >= constant)


def confusion(tally: MulticlassTally) -> list[tuple[str, list[tuple[float, float]]]] | None:
    """Return for each class the weight of its rows by predicted class, and the share of them that it is."""
    matrix = tally.confusion()
    if matrix is None:
        return None
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    return [
        (name, [(float(weight), float(share)) for weight, share in zip(*row, strict=True)])
        for name, *row in zip(tally.classes, matrix, shares, strict=True)
    ]


class FieldRows(NamedTuple):
    """Rows of the embedding table for a field, or for a number in the pooling."""

    name: str
    values: int
    reserved: int  # for missing and unseen values
    rows: int
    distinct: int  # in the whole table; a missing value is one of them
    literature_rows: int  # every distinct value and one reserved row


def field_rows(spec: Spec, statistics: Mapping[str, Any]) -> list[FieldRows]:
    """Return the rows of each field, then those of each number in the pooling."""
    found = []
    for field in spec.fields:
        bucketed = field.edges is not None
        facts = statistics["numbers" if bucketed else "fields"][field.name]
        # The values of a hashed field are not known: its buckets take their place.
        distinct = field.values if bucketed else field.oov_buckets if field.hashed else facts["distinct"]["table"]
        distinct += any(facts["missing"].values())
        reserved = 1 + field.oov_buckets
        found.append(FieldRows(field.name, field.values, reserved, field.values + reserved, distinct, distinct + 1))
    return found + [FieldRows(name, 1, 0, 1, 1, 1) for name in spec.field_numbers]


def entrances(spec: Spec) -> dict[str, str]:
    """Describe how each number enters the model."""
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
        steps += ["a column that marks missing values"] * number.missing_flag
        place = "beside the pooled vector" if number.placement == "dense" else "a feature in the pooling"
        found[number.name] = f"{place}: {'; '.join(steps)}"
    return found


def _has_curve(trained: Trained, fold: str) -> bool:
    tally = trained.tallies.get(fold)
    return isinstance(tally, BinaryTally) and tally.roc() is not None


def _curves(settings: Model, trained: Trained) -> dict[str, Chart]:
    """Draw what is measured after each epoch, by the name of the metric."""
    history, best = trained.fitted.history, trained.fitted.best_epoch
    names = {metric.key: metric.name for metric in METRICS[settings.task]}
    found = {"loss": pictures.curve(history, "loss", "loss", best)}
    for key in MONITORS[settings.task]:
        if key in history:
            found[names[key]] = pictures.curve(history, key, names[key], best)
    if len(set(history.get("learning_rate", ()))) > 1:
        found["learning rate"] = pictures.curve(history, "learning_rate", "learning rate", best)
    return found


def _charts(trained: Trained, metrics: Mapping[str, Any], judged: str) -> dict[str, Chart | None]:
    """Draw the scores of the judged fold; None where there is nothing to draw."""
    tally = trained.tallies[judged]
    if isinstance(tally, RegressionTally):
        label, predicted, weight = tally.sample()
        if not weight.any():
            return {"predicted_and_actual": None, "residuals": None}
        return {
            "predicted_and_actual": pictures.predicted_and_actual(label, predicted, weight),
            "residuals": pictures.residuals(label - predicted, weight),
        }
    if not isinstance(tally, BinaryTally):
        return {}
    tallies = {fold: one for fold in metrics if isinstance(one := trained.tallies[fold], BinaryTally)}
    rocs = {fold: points for fold, one in tallies.items() if (points := one.roc()) is not None}
    ranked = {fold: found for fold, one in tallies.items() if (found := one.precision_recall()) is not None}
    bins, (scores, ones, zeros) = tally.calibration(), tally.scores()
    return {
        "roc": pictures.roc(rocs, tally.linear_roc()) if rocs else None,
        "precision_recall": pictures.precision_recall(ranked) if ranked else None,
        "calibration": pictures.calibration(bins, judged) if bins is not None else None,
        "scores": pictures.scores_by_label(scores, ones, zeros) if len(scores) else None,
    }


def metric_text(value: float | None, key: str, digits: int = 4) -> str:
    """Format a metric: shares of 1 with fixed digits, errors in the label's unit with significant ones."""
    return page.compact(value) if key in ("rmse", "mae") else page.number(value, digits)
