"""Metrics of a fold whose labels are 0 and 1 (`names` describes how to add a metric)."""

from typing import Any

import numpy as np
import pyarrow as pa

from nfm.contract.cells import CellTable, auc
from nfm.contract.hashing import hash64
from nfm.kernels.activations import sigmoid
from nfm.training.metrics import curves
from nfm.training.metrics.curves import Calibration, PrecisionRecall, Roc
from nfm.training.metrics.names import TINY, Array, Floats, check_finite, share

BINS = 15  # of the calibration curve and the calibration error


class _BinaryScores:
    """Sums over the logits of one predictor."""

    def __init__(self) -> None:
        self.loss = self.right = 0.0
        self.bins = np.zeros((BINS, 2))  # Σ weight · probability, Σ weight · label
        # Σ weight of label 1, of label 0; Σ weight · probability; Σ weight²
        self.scores = CellTable(4, curves.LIMIT)

    def add(self, label: Floats, weight: Floats, logit: Floats) -> None:
        probability = sigmoid(logit)
        self.loss += float(weight @ np.logaddexp(0.0, np.where(label > 0, -logit, logit)))
        self.right += float(weight @ ((logit > 0) == (label > 0)))
        place = np.minimum((probability * BINS).astype(int), BINS - 1)
        sums = np.stack([weight * label, weight * (1 - label), weight * probability, weight**2], axis=1)
        for column, weights in enumerate((sums[:, 2], sums[:, 0])):
            self.bins[:, column] += np.bincount(place, weights, BINS)
        self.scores.add(logit, sums)

    def metrics(self, weight: float) -> dict[str, float | None]:
        positive, negative, *_ = self.by_score()
        ranked = curves.precision_recall(positive, negative)
        return {
            "auc": auc(positive, negative),
            "log_loss": share(self.loss, weight),
            "accuracy": share(self.right, weight),
            "pr_auc": None if ranked is None else ranked.average_precision,
            "ece": share(float(np.abs(self.bins[:, 0] - self.bins[:, 1]).sum()), weight),
        }

    def by_score(self) -> Floats:
        """Return (4, C) sums of each of the C cells of scores, ascending."""
        return self.scores.cells().counts.T


class BinaryTally:
    """Metrics of a binary model.

    auc, log_loss, accuracy (at ½), pr_auc (average precision), ece (expected calibration error over bins of equal
    width, Guo et al. 2017), and gauc if rows have groups. The baselines `constant` and `linear` have all except gauc.
    """

    def __init__(self, constant: float) -> None:  # noqa: D107 (see `tally`)
        self.rows, self.constant = 0, float(np.clip(constant, 0, 1))
        self.weight, self._positive = 0.0, 0.0
        self._model, self._linear = _BinaryScores(), _BinaryScores()
        self._groups: list[tuple[Array, ...]] = []

    def add(self, label_B: Array, weight_B: Array, logits_BC: Array, linear_BC: Array, group_B: Any = None) -> None:
        """Add B rows: labels 0 and 1, weights, (B, 1) logits of the model and of its linear part, and groups."""
        label, weight = check_finite(label_B, weight_B, logits_BC, linear_BC)
        self.rows += len(label)
        self.weight += float(weight.sum())
        self._positive += float(weight @ label)
        for scores, logits in ((self._model, logits_BC), (self._linear, linear_BC)):
            scores.add(label, weight, logits[:, 0].astype(np.float64))
        if group_B is not None:
            groups = group_B if isinstance(group_B, pa.Array | pa.ChunkedArray) else pa.array(group_B)
            texts = groups.cast(pa.large_string())
            texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
            self._groups.append((hash64(texts), logits_BC[:, 0], label > 0, weight.astype(np.float32)))

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name, with those of the baselines under `constant` and `linear`."""
        grouped = {}
        if self._groups:
            group, score, positive, weight = (np.concatenate(arrays) for arrays in zip(*self._groups, strict=True))
            grouped = {"gauc": curves.gauc(group, score, positive, weight.astype(np.float64))}
        return {
            "rows": self.rows,
            **self._model.metrics(self.weight),
            **grouped,
            "constant": self._constant_metrics(),
            "linear": self._linear.metrics(self.weight),
        }

    def _constant_metrics(self) -> dict[str, float | None]:
        rate = share(self._positive, self.weight)
        if rate is None:
            return dict.fromkeys(("auc", "log_loss", "accuracy", "pr_auc", "ece"))
        p = float(np.clip(self.constant, TINY, 1 - TINY))
        has_both_labels = 0 < rate < 1
        return {
            "auc": 0.5 if has_both_labels else None,
            "log_loss": -rate * float(np.log(p)) - (1 - rate) * float(np.log1p(-p)),
            "accuracy": rate if self.constant > 0.5 else 1 - rate,
            "pr_auc": rate if has_both_labels else None,
            "ece": abs(self.constant - rate),
        }

    def roc(self) -> Roc | None:
        """Return the ROC of the model; None without both labels."""
        return curves.roc(*self._model.by_score()[:2])

    def linear_roc(self) -> Roc | None:
        """Return the ROC of the linear part alone; None without both labels."""
        return curves.roc(*self._linear.by_score()[:2])

    def precision_recall(self) -> PrecisionRecall | None:
        """Return the precision of the model by recall; None without both labels."""
        return curves.precision_recall(*self._model.by_score()[:2])

    def calibration(self) -> Calibration | None:
        """Return the label rate by score, in at most BINS bins of about equal weight and at least about 10 rows."""
        positive, negative, predicted, squares = self._model.by_score()
        bins = max(1, min(BINS, self.rows // 10))
        return curves.calibration(predicted, positive, positive + negative, squares, bins)

    def scores(self) -> tuple[Floats, Floats, Floats]:
        """Return (C,) probability, weight of label 1 and weight of label 0 of each cell that has weight, ascending."""
        positive, negative, predicted, _ = self._model.by_score()
        weighted = positive + negative > 0
        return predicted[weighted] / (positive + negative)[weighted], positive[weighted], negative[weighted]
