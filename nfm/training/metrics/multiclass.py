"""Metrics of a fold whose labels are classes (`names` describes how to add a metric)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.cells import CellTable, auc
from nfm.training.metrics import curves
from nfm.training.metrics.names import TINY, Array, Floats, check_finite, share

MOST_CLASSES = 30  # most classes with a confusion matrix
MOST_RANKED = 100  # most classes with AUCs: each AUC costs a sort of the fold
_MOST_CELLS = 1 << 22  # cells of all classes together


class _ClassScores:
    """Sums over the logits of one predictor, for C classes."""

    def __init__(self, classes: int) -> None:
        self.loss = 0.0
        self.right, self.predicted = np.zeros(classes), np.zeros(classes)
        limit = int(np.clip(_MOST_CELLS // classes, 1 << 12, curves.LIMIT))
        # Σ weight of the rows of the class, of the others
        self.scores = [CellTable(2, limit, limit) for _ in range(classes if classes <= MOST_RANKED else 0)]

    def add(self, label: NDArray[np.int64], weight: Floats, logits: Floats) -> NDArray[np.int64]:
        """Add B rows and return the predicted classes."""
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        self.loss -= float(weight @ np.take_along_axis(log_p, label[:, np.newaxis], axis=1)[:, 0])
        guess: NDArray[np.int64] = log_p.argmax(axis=1)
        size = len(self.right)
        self.predicted += np.bincount(guess, weight, size)
        self.right += np.bincount(label, weight * (guess == label), size)
        for number, scores in enumerate(self.scores):
            is_class = label == number
            scores.add(log_p[:, number], np.stack([weight * is_class, weight * ~is_class], axis=1))
        return guess

    def areas(self) -> list[float | None]:
        """Return the AUC of each class against all others; None for each if there are more than MOST_RANKED classes."""
        return [auc(*scores.cells().counts.T) for scores in self.scores] or [None] * len(self.right)

    def metrics(self, weight: float, areas: list[float | None]) -> dict[str, float | None]:
        defined = [area for area in areas if area is not None]
        return {
            "log_loss": share(self.loss, weight),
            "accuracy": share(float(self.right.sum()), weight),
            "macro_auc": float(np.mean(defined)) if defined else None,
        }


class MulticlassTally:
    """Metrics of a multiclass model.

    log_loss, accuracy, and macro_auc: the unweighted mean of the defined AUCs of one class against the rest, None for
    more than MOST_RANKED classes. The baselines `constant` and `linear` have the same. `classes` has precision, recall,
    f1, auc and rows of each class, by its name.
    """

    def __init__(self, classes: Sequence[str], constant: Sequence[float]) -> None:  # noqa: D107 (see `tally`)
        size = len(classes)
        self.classes, self.constant = tuple(classes), np.asarray(constant, np.float64)
        self.rows, self.weight = 0, 0.0
        self._class_rows, self._actual = np.zeros(size, np.int64), np.zeros(size)
        self._model, self._linear = _ClassScores(size), _ClassScores(size)
        self._confusion = np.zeros((size, size)) if size <= MOST_CLASSES else None

    def add(self, label_B: Array, weight_B: Array, logits_BC: Array, linear_BC: Array, group_B: Any = None) -> None:
        """Add B rows: class numbers, weights, and (B, C) logits of the model and of its linear part."""
        label, weight = check_finite(label_B, weight_B, logits_BC, linear_BC)
        number, size = label.astype(np.int64), len(self.classes)
        self.rows += len(number)
        self.weight += float(weight.sum())
        self._class_rows += np.bincount(number, minlength=size)
        self._actual += np.bincount(number, weight, size)
        guess = self._model.add(number, weight, logits_BC.astype(np.float64))
        self._linear.add(number, weight, linear_BC.astype(np.float64))
        if self._confusion is not None:
            self._confusion += np.bincount(number * size + guess, weight, size**2).reshape(size, size)

    def metrics(self) -> dict[str, Any]:
        """Return the metrics by name, with those of the baselines under `constant` and `linear`."""
        areas, right, predicted = self._model.areas(), self._model.right, self._model.predicted
        return {
            "rows": self.rows,
            **self._model.metrics(self.weight, areas),
            "constant": self._constant_metrics(),
            "linear": self._linear.metrics(self.weight, self._linear.areas()),
            "classes": {
                name: {
                    "rows": int(self._class_rows[i]),
                    "precision": share(right[i], predicted[i]),
                    "recall": share(right[i], self._actual[i]),
                    "f1": share(2 * right[i], predicted[i] + self._actual[i]),
                    "auc": areas[i],
                }
                for i, name in enumerate(self.classes)
            },
        }

    def _constant_metrics(self) -> dict[str, float | None]:
        if not self.weight:
            return dict.fromkeys(("log_loss", "accuracy", "macro_auc"))
        rates = self._actual / self.weight
        p = np.clip(self.constant, TINY, 1)
        return {
            "log_loss": -float(rates @ np.log(p)),
            "accuracy": float(rates[self.constant.argmax()]),
            "macro_auc": 0.5 if (rates > 0).sum() > 1 else None,
        }

    def confusion(self) -> Floats | None:
        """Return (C, C) weight of rows by actual (first axis) and predicted class; None for more than MOST_CLASSES."""
        return self._confusion
