"""Write report.html of a trained model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from nfm.config.settings import Config
from nfm.config.train import MONITORS
from nfm.contract.schema import FOLDS, Spec
from nfm.reports import page
from nfm.reports.charts import Chart
from nfm.reports.data import CLASSES, data_tables
from nfm.training.metrics.binary import BinaryTally
from nfm.training.metrics.multiclass import MulticlassTally
from nfm.training.metrics.names import Metric, choose_judged_fold, list_metrics
from nfm.training.metrics.regression import RegressionTally
from nfm.training.model import describe
from nfm.training.ranking.evaluate import RankingTally
from nfm.training.ranking.pictures import draw_ranking, show_lists
from nfm.training.report import pictures
from nfm.training.report.parameters import count_parameters
from nfm.training.report.verdict import list_warnings
from nfm.training.result import Trained

_MOST_METRICS = 6  # of a table: of a ranking, those at its first length


def write(path: Path, config: Config, trained: Trained) -> None:
    """Write the HTML report of a trained model: metrics, architecture, curves, data, configuration."""
    name = "training/report/report.html.jinja" if config.ranking is None else "training/ranking/report.html.jinja"
    page.write(path, name, _make_content(config, trained), metric=format_metric)


def _make_content(config: Config, trained: Trained) -> dict[str, Any]:
    spec = trained.spec
    metrics = {fold: trained.metrics[fold] for fold in FOLDS if trained.metrics.get(fold, {}).get("rows")}
    judged = choose_judged_fold(metrics)
    tally = trained.tallies.get(judged)  # None for the train fold of a ranking
    every_metric = list_metrics(config.model.task, config.ranking.k if config.ranking else ())
    shown = [metric for metric in every_metric if metric.key in metrics[judged]][:_MOST_METRICS]
    by_rows = sorted(metrics[judged].get("classes", {}).items(), key=lambda item: -item[1]["rows"])
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
        "constant": None if tally is None else tally.constant,
        "warnings": list_warnings(config, metrics, trained.fitted),
        "beaten": [metric.name for metric in shown[:3] if _is_beaten(metric, metrics[judged])],
        "parameters": count_parameters(trained.model),
        "network": describe(spec, config.model),
        "field_rows": count_field_rows(spec, trained.statistics),
        "dim": config.model.embedding_dim,
        "curves": _draw_curves(config, trained),
        "pairs": trained.pairs,
        "lists": show_lists(tally) if isinstance(tally, RankingTally) else None,
        "charts": _draw_charts(trained, metrics, judged),
        "class_metrics": by_rows[:CLASSES],
        "confusion": tally.confusion() if isinstance(tally, MulticlassTally) else None,
        "yaml": yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True),
    }


def _is_beaten(metric: Metric, values: Mapping[str, Any]) -> bool:
    model, constant = values[metric.key], values.get("constant", values.get("popularity", {})).get(metric.key)
    if model is None or constant is None:
        return False
    return bool(model <= constant if metric.higher_is_better else model >= constant)


def count_field_rows(spec: Spec, statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Count the rows of the embedding table for each field, then for each number with bins, or in the pooling.

    `values` are rows of the vocabulary's values, `reserved` rows for missing and out-of-vocabulary values. Publications
    count each `distinct` value of the whole table, missing as one of them, and one reserved row.
    """
    counts = []
    for field in spec.fields:
        bucketed = field.edges is not None
        facts = statistics["numbers" if bucketed else "fields"][field.name]
        # The values of a hashed field are not known: count its buckets instead.
        counted = facts["distinct"]["table"] if facts.get("distinct") else field.values
        distinct = field.values if bucketed else field.oov_buckets if field.hashed else counted
        distinct += any(facts["missing"].values())
        counts.append((field.name, field.values, 1 + field.oov_buckets, distinct, distinct + 1))
    edges = [(number.name, len(number.edges or ())) for number in spec.binned]
    counts += [(name, count, 1, count, count + 1) for name, count in edges]
    counts += [(name, 1, 0, 1, 1) for name in spec.field_numbers]
    return [
        {"name": name, "values": values, "reserved": reserved, "rows": values + reserved}
        | {"distinct": distinct, "literature_rows": literature_rows}
        for name, values, reserved, distinct, literature_rows in counts
    ]


def _draw_curves(config: Config, trained: Trained) -> dict[str, Chart]:
    """Draw the values of each epoch, by the name of the metric."""
    history, best = trained.fitted.history, trained.fitted.best_epoch
    metrics = list_metrics(config.model.task, config.ranking.k if config.ranking else ())
    names = {metric.key: metric.name for metric in metrics}
    monitors = MONITORS[config.model.task] if config.ranking is None else list(names)[:2]
    charts = {"loss": pictures.draw_curve(history, "loss", "loss", best)}
    for key in monitors:
        if key in history or f"val_{key}" in history:
            charts[names[key]] = pictures.draw_curve(history, key, names[key], best)
    if len(set(history.get("learning_rate", ()))) > 1:
        charts["learning rate"] = pictures.draw_curve(history, "learning_rate", "learning rate", best)
    return charts


def _draw_charts(trained: Trained, metrics: Mapping[str, Any], judged: str) -> dict[str, Chart | None]:
    """Draw the charts of the scores; the value is None if a chart has no data."""
    tally = trained.tallies.get(judged)
    if isinstance(tally, RankingTally):
        return draw_ranking(tally)
    if isinstance(tally, RegressionTally):
        label, predicted, weight = tally.sample()
        if not weight.any():
            return {"predicted_and_actual": None, "residuals": None}
        return {
            "predicted_and_actual": pictures.draw_predicted_and_actual(label, predicted, weight),
            "residuals": pictures.draw_residuals(label - predicted, weight),
        }
    if not isinstance(tally, BinaryTally):
        return {}
    tallies = {fold: counted for fold in metrics if isinstance(counted := trained.tallies[fold], BinaryTally)}
    rocs = {fold: roc for fold, counted in tallies.items() if (roc := counted.roc()) is not None}
    ranked = {fold: curve for fold, counted in tallies.items() if (curve := counted.precision_recall()) is not None}
    bins, (scores, ones, zeros) = tally.calibration(), tally.scores()
    return {
        "roc": pictures.draw_roc(rocs, tally.linear_roc()) if rocs else None,
        "precision_recall": pictures.draw_precision_recall(ranked) if ranked else None,
        "calibration": pictures.draw_calibration(bins, judged) if bins is not None else None,
        "scores": pictures.draw_scores_by_label(scores, ones, zeros) if len(scores) else None,
    }


def format_metric(value: float | None, key: str, digits: int = 4) -> str:
    """Format a metric: shares of 1 with fixed digits, errors in the label's unit with significant digits."""
    return page.compact(value) if key in ("rmse", "mae") else page.number(value, digits)
