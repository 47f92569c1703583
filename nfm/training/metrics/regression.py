"""Metrics of a fold whose labels are numbers (`names` describes how to add a metric)."""

from typing import Any

import numpy as np

from nfm.training.metrics.moments import Moments
from nfm.training.metrics.names import Array, Floats, check_finite, share

SAMPLED_ROWS = 20_000  # for the charts


class _Errors:
    """Sums over the errors of one predictor."""

    def __init__(self) -> None:
        self.squared = self.absolute = 0.0

    def add(self, error: Floats, weight: Floats) -> None:
        self.squared += float(weight @ error**2)
        self.absolute += float(weight @ np.abs(error))

    def metrics(self, weight: float, spread: float | None) -> dict[str, float | None]:
        mean = share(self.squared, weight)
        return {
            "rmse": None if mean is None else mean**0.5,
            "mae": share(self.absolute, weight),
            "r2": None if spread is None else 1 - self.squared / spread,
        }


class RegressionTally:
    """Metrics of a regression: rmse, mae, r2 (None if all labels are equal); the same for `constant` and `linear`."""

    def __init__(self, constant: float) -> None:  # noqa: D107 (see `tally`)
        self.rows, self.constant, self._labels = 0, constant, Moments()
        self._predictors = {"model": _Errors(), "constant": _Errors(), "linear": _Errors()}
        self._random, self._sample = np.random.default_rng(0), np.empty((0, 4))

    def add(self, label_B: Array, weight_B: Array, logits_BC: Array, linear_BC: Array, group_B: Any = None) -> None:
        """Add B rows: labels, weights, and (B, 1) predictions of the model and of its linear part."""
        label, weight = check_finite(label_B, weight_B, logits_BC, linear_BC)
        predicted = logits_BC[:, 0].astype(np.float64)
        self.rows += len(label)
        self._labels.add(label, weight)
        linear = linear_BC[:, 0].astype(np.float64)
        for name, value in (("model", predicted), ("constant", self.constant), ("linear", linear)):
            self._predictors[name].add(value - label, weight)
        # The rows with the smallest random numbers are a uniform sample.
        drawn = np.stack([self._random.random(len(label)), label, predicted, weight], axis=1)
        sample = np.concatenate([self._sample, drawn])
        if len(sample) > SAMPLED_ROWS:
            sample = sample[np.argpartition(sample[:, 0], SAMPLED_ROWS)[:SAMPLED_ROWS]]
        self._sample = sample

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name, with those of the baselines under `constant` and `linear`."""
        labels = self._labels
        spread = labels.spread if labels.deviation else None
        metrics = {name: errors.metrics(labels.weight, spread) for name, errors in self._predictors.items()}
        return {"rows": self.rows, **metrics.pop("model"), **metrics}

    def sample(self) -> tuple[Floats, Floats, Floats]:
        """Return (S,) label, prediction and weight of at most SAMPLED_ROWS rows, drawn at random."""
        label, predicted, weight = self._sample[:, 1:].T
        return label, predicted, weight
