"""Metrics of each model task, and functions that their tallies share.

To add a metric, add it to `METRICS`, with its direction, and compute it, as a float, in `metrics()` of its task's tally
(`binary`, `regression`, `multiclass`); add it to `config.train.MONITORS` if early stopping may watch it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.errors import DivergedError
from nfm.contract.schema import FOLDS

Task = Literal["binary", "regression", "multiclass", "ranking"]
Array = NDArray[Any]
Floats = NDArray[np.float64]
TINY = 1e-15  # least probability of a constant prediction in the log loss


class Metric(NamedTuple):
    """Name and direction of a metric."""

    key: str
    name: str
    higher_is_better: bool = False


METRICS: dict[str, tuple[Metric, ...]] = {  # by task; the first three are the most important
    "binary": (
        Metric("auc", "AUC", True),
        Metric("log_loss", "log loss"),
        Metric("accuracy", "accuracy", True),
        Metric("pr_auc", "PR-AUC", True),
        Metric("ece", "ECE"),
        Metric("gauc", "gAUC", True),
    ),
    "regression": (Metric("rmse", "RMSE"), Metric("mae", "MAE"), Metric("r2", "R²", True)),
    "multiclass": (
        Metric("accuracy", "accuracy", True),
        Metric("log_loss", "log loss"),
        Metric("macro_auc", "macro AUC", True),
    ),
}


BASELINES = {  # name in `metrics()` → name in summaries
    "linear": "linear part",
    "constant": "constant",
    "popularity": "popularity",
    "neighbours": "item-kNN",
}


def list_metrics(task: str, k: Sequence[int] = ()) -> tuple[Metric, ...]:
    """Return the metrics of a task; for ranking at these lengths of lists, that which early stopping watches first."""
    if task != "ranking":
        return METRICS[task]
    first = 10 if 10 in k else min(k)
    names = {"ndcg": "NDCG", "hr": "HR", "recall": "recall", "map": "MAP", "mrr": "MRR", "coverage": "coverage"}
    lengths = [first, *(other for other in k if other != first)]
    return tuple(Metric(f"{key}@{n}", f"{name}@{n}", True) for n in lengths for key, name in names.items())


def share(part: float, whole: float) -> float | None:
    """Return part / whole; None if the whole is 0."""
    return float(part / whole) if whole > 0 else None


def check_finite(label_B: Array, weight_B: Array, *outputs: Array) -> tuple[Floats, Floats]:
    """Return labels and weights of B rows as float64; raises DivergedError if a (B, C) output is not finite."""
    for output_BC in outputs:
        bad = ~np.isfinite(output_BC).all(axis=1)
        if bad.any():
            raise DivergedError(
                f"Every output of the model must be finite, but the outputs of {int(bad.sum())} of {len(output_BC)} "
                f"rows are not, for example {output_BC[bad][0].tolist()}: its weights grew too large, or the fold has "
                "numbers far beyond those of the train fold. Lower train.learning_rate, or set scale and clip under "
                "columns.numeric."
            )
    return np.asarray(label_B, np.float64), np.asarray(weight_B, np.float64)


def choose_judged_fold(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the fold whose metrics best predict those of new rows: test, else valid, else train."""
    return next(fold for fold in reversed(FOLDS) if metrics.get(fold, {}).get("rows"))
