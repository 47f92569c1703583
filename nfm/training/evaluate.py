"""Metrics of a fold in one pass: what is kept does not grow with its rows, except for an AUC within groups.

Every metric is weighted by the sample weights, and None where it is not defined: without rows, without weight, or with
one class only. Two baselines stand beside the model: a constant, and the linear part of the same model alone.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.hashing import hash64
from nfm.training import curves
from nfm.training.control import DivergedError
from nfm.training.curves import Calibration, PrecisionRecall, Roc, ScoreCells
from nfm.training.scores import sigmoid

Task = Literal["binary", "regression", "multiclass"]
BINS = 15  # of a calibration
MOST_CLASSES = 30  # of which a confusion matrix is kept
MOST_RANKED = 100  # classes of which an AUC is measured: each costs a sort of the fold
SAMPLED_ROWS = 20_000  # of a regression, for its pictures
_MOST_CELLS = 1 << 22  # of all classes together
_TINY = 1e-15  # no constant is surer than this


class Metric(NamedTuple):
    """How people are shown a metric."""

    key: str
    name: str
    higher_is_better: bool = False


METRICS: dict[str, tuple[Metric, ...]] = {  # of each task; the first three say most
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


class _BinaryScores:
    """Sums of one predictor's logits."""

    def __init__(self) -> None:
        self.loss = self.right = 0.0
        self.bins = np.zeros((BINS, 2))  # Σ weight · probability, Σ weight · label
        # Σ weight of label 1, of label 0; Σ weight · probability; Σ weight²
        self.scores = ScoreCells(4)

    def add(self, label: NDArray[np.float64], weight: NDArray[np.float64], logit: NDArray[np.float64]) -> None:
        probability = sigmoid(logit)
        self.loss += float(weight @ np.logaddexp(0.0, np.where(label > 0, -logit, logit)))
        self.right += float(weight @ ((logit > 0) == (label > 0)))
        place = np.minimum((probability * BINS).astype(int), BINS - 1)
        sums = np.stack([weight * label, weight * (1 - label), weight * probability, weight**2], axis=1)
        for column, of_rows in enumerate((sums[:, 2], sums[:, 0])):
            self.bins[:, column] += np.bincount(place, of_rows, BINS)
        self.scores.add(logit, sums)

    def metrics(self, weight: float) -> dict[str, float | None]:
        cells = self.scores.cells()
        ranked = curves.precision_recall(cells[:, 0], cells[:, 1])
        return {
            "auc": curves.auc(cells[:, 0], cells[:, 1]),
            "log_loss": _share(self.loss, weight),
            "accuracy": _share(self.right, weight),
            "pr_auc": None if ranked is None else ranked.average_precision,
            "ece": _share(float(np.abs(self.bins[:, 0] - self.bins[:, 1]).sum()), weight),
        }


class BinaryTally:
    """Metrics of probabilities.

    auc, log_loss, accuracy (at ½), pr_auc (average precision), ece (expected calibration error over bins of equal
    width, Guo et al. 2017), gauc where groups are given; and all but the last one of `constant` and `linear`.
    """

    def __init__(self, constant: float) -> None:  # noqa: D107 (see `tally`)
        self.rows, self.constant = 0, float(np.clip(constant, 0, 1))
        self.weight, self._positive = 0.0, 0.0
        self._model, self._linear = _BinaryScores(), _BinaryScores()
        self._groups: list[tuple[NDArray[Any], ...]] = []

    def add(
        self,
        label_B: NDArray[Any],
        weight_B: NDArray[Any],
        logits_BC: NDArray[Any],
        linear_BC: NDArray[Any],
        group_B: Any = None,
    ) -> None:
        """Add B rows: labels 0 and 1, (B, 1) logits of the model and of its linear part, and their groups, if any."""
        label, weight = _finite(label_B, weight_B, logits_BC, linear_BC)
        self.rows += len(label)
        self.weight += float(weight.sum())
        self._positive += float(weight @ label)
        for scores, logits in ((self._model, logits_BC), (self._linear, linear_BC)):
            scores.add(label, weight, logits[:, 0].astype(np.float64))
        if group_B is not None:
            arrived = group_B if isinstance(group_B, pa.Array | pa.ChunkedArray) else pa.array(group_B)
            texts = arrived.cast(pa.large_string())
            texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
            self._groups.append((hash64(texts), logits_BC[:, 0], label > 0, weight.astype(np.float32)))

    def metrics(self) -> dict[str, Any]:
        """The metrics by name."""
        grouped = {}
        if self._groups:
            group, score, positive, weight = (np.concatenate(part) for part in zip(*self._groups, strict=True))
            grouped = {"gauc": curves.grouped_auc(group, score, positive, weight.astype(np.float64))}
        return {
            "rows": self.rows,
            **self._model.metrics(self.weight),
            **grouped,
            "constant": self._of_constant(),
            "linear": self._linear.metrics(self.weight),
        }

    def _of_constant(self) -> dict[str, float | None]:
        share = _share(self._positive, self.weight)
        if share is None:
            return dict.fromkeys(("auc", "log_loss", "accuracy", "pr_auc", "ece"))
        p = float(np.clip(self.constant, _TINY, 1 - _TINY))
        both = 0 < share < 1
        return {
            "auc": 0.5 if both else None,
            "log_loss": -share * float(np.log(p)) - (1 - share) * float(np.log1p(-p)),
            "accuracy": share if self.constant > 0.5 else 1 - share,
            "pr_auc": share if both else None,
            "ece": abs(self.constant - share),
        }

    def roc(self) -> Roc | None:
        """The model's ROC."""
        return curves.roc(*self._by_score()[:2])

    def linear_roc(self) -> Roc | None:
        """The ROC of the linear part alone."""
        return curves.roc(*self._linear.scores.cells().T[:2])

    def precision_recall(self) -> PrecisionRecall | None:
        """The model's precision by recall."""
        return curves.precision_recall(*self._by_score()[:2])

    def calibration(self) -> Calibration | None:
        """Label rate by score in up to BINS bins of about equal weight and 10 rows."""
        positive, negative, predicted, squares = self._by_score()
        bins = max(1, min(BINS, self.rows // 10))
        return curves.calibration(predicted, positive, positive + negative, squares, bins)

    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(C,) probability, weight of label 1 and of label 0 for each cell of scores that has weight, ascending."""
        positive, negative, predicted, _ = self._by_score()
        some = positive + negative > 0
        return predicted[some] / (positive + negative)[some], positive[some], negative[some]

    def _by_score(self) -> NDArray[np.float64]:
        return self._model.scores.cells().T


class _Errors:
    """Sums of one predictor's errors."""

    def __init__(self) -> None:
        self.squared = self.absolute = 0.0

    def add(self, error: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        self.squared += float(weight @ error**2)
        self.absolute += float(weight @ np.abs(error))

    def metrics(self, weight: float, spread: float | None) -> dict[str, float | None]:
        mean = _share(self.squared, weight)
        return {
            "rmse": None if mean is None else mean**0.5,
            "mae": _share(self.absolute, weight),
            "r2": None if spread is None else 1 - self.squared / spread,
        }


class RegressionTally:
    """Metrics of numbers: rmse, mae, r2 (None where all labels are equal); and the same of `constant` and `linear`."""

    def __init__(self, constant: float) -> None:  # noqa: D107 (see `tally`)
        self.rows, self.weight, self.constant = 0, 0.0, constant
        self._predictors = {"model": _Errors(), "constant": _Errors(), "linear": _Errors()}
        self._mean = self._spread = 0.0  # of the labels: mean, Σ weight · (label - mean)²
        self._low, self._high = np.inf, -np.inf
        self._random, self._sample = np.random.default_rng(0), np.empty((0, 4))

    def add(
        self,
        label_B: NDArray[Any],
        weight_B: NDArray[Any],
        logits_BC: NDArray[Any],
        linear_BC: NDArray[Any],
        group_B: Any = None,
    ) -> None:
        """Add B rows: labels, and (B, 1) predictions of the model and of its linear part."""
        label, weight = _finite(label_B, weight_B, logits_BC, linear_BC)
        predicted = logits_BC[:, 0].astype(np.float64)
        self.rows += len(label)
        of_batch = float(weight.sum())
        if of_batch:  # two means and spreads are one (Chan, Golub & LeVeque 1979)
            mean = float(weight @ label) / of_batch
            apart, self.weight = mean - self._mean, self.weight + of_batch
            self._spread += float(weight @ (label - mean) ** 2)
            self._spread += apart**2 * of_batch * (self.weight - of_batch) / self.weight
            self._mean += apart * of_batch / self.weight
            counted = label[weight > 0]
            self._low, self._high = min(self._low, counted.min()), max(self._high, counted.max())
        linear = linear_BC[:, 0].astype(np.float64)
        for name, value in (("model", predicted), ("constant", self.constant), ("linear", linear)):
            self._predictors[name].add(value - label, weight)
        # The rows with the smallest random numbers are a sample in which every row is as likely.
        drawn = np.stack([self._random.random(len(label)), label, predicted, weight], axis=1)
        sample = np.concatenate([self._sample, drawn])
        if len(sample) > SAMPLED_ROWS:
            sample = sample[np.argpartition(sample[:, 0], SAMPLED_ROWS)[:SAMPLED_ROWS]]
        self._sample = sample

    def metrics(self) -> dict[str, Any]:
        """The metrics by name."""
        spread = self._spread if self._low < self._high else None
        found = {name: errors.metrics(self.weight, spread) for name, errors in self._predictors.items()}
        return {"rows": self.rows, **found.pop("model"), **found}

    def sample(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(S,) label, prediction and weight of up to SAMPLED_ROWS rows, drawn at random."""
        label, predicted, weight = self._sample[:, 1:].T
        return label, predicted, weight


class _ClassScores:
    """Sums of one predictor's logits of C classes."""

    def __init__(self, classes: int) -> None:
        self.loss = 0.0
        self.right, self.predicted = np.zeros(classes), np.zeros(classes)
        limit = int(np.clip(_MOST_CELLS // classes, 1 << 12, curves.LIMIT))
        # Σ weight of the rows of the class, of the others
        self.scores = [ScoreCells(2, limit) for _ in range(classes if classes <= MOST_RANKED else 0)]

    def add(
        self, label: NDArray[np.int64], weight: NDArray[np.float64], logits: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Returns the predicted classes."""
        logits = logits - logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        self.loss -= float(weight @ np.take_along_axis(log_p, label[:, np.newaxis], axis=1)[:, 0])
        guess: NDArray[np.int64] = log_p.argmax(axis=1)
        size = len(self.right)
        self.predicted += np.bincount(guess, weight, size)
        self.right += np.bincount(label, weight * (guess == label), size)
        for number, scores in enumerate(self.scores):
            mine = label == number
            scores.add(log_p[:, number], np.stack([weight * mine, weight * ~mine], axis=1))
        return guess

    def areas(self) -> list[float | None]:
        """AUC of each class against all others."""
        return [curves.auc(*one.cells().T) for one in self.scores] or [None] * len(self.right)

    def metrics(self, weight: float, areas: list[float | None]) -> dict[str, float | None]:
        defined = [area for area in areas if area is not None]
        return {
            "log_loss": _share(self.loss, weight),
            "accuracy": _share(float(self.right.sum()), weight),
            "macro_auc": float(np.mean(defined)) if defined else None,
        }


class MulticlassTally:
    """Metrics of C classes.

    log_loss, accuracy, macro_auc (one against the rest, the plain mean over the classes that have one; None beyond
    MOST_RANKED classes), the same of `constant` and `linear`; and `classes`: precision, recall, f1, auc and rows of
    each, by its text.
    """

    def __init__(self, classes: Sequence[str], constant: Sequence[float]) -> None:  # noqa: D107 (see `tally`)
        size = len(classes)
        self.classes, self.constant = tuple(classes), np.asarray(constant, np.float64)
        self.rows, self.weight = 0, 0.0
        self._class_rows, self._actual = np.zeros(size, np.int64), np.zeros(size)
        self._model, self._linear = _ClassScores(size), _ClassScores(size)
        self._confusion = np.zeros((size, size)) if size <= MOST_CLASSES else None

    def add(
        self,
        label_B: NDArray[Any],
        weight_B: NDArray[Any],
        logits_BC: NDArray[Any],
        linear_BC: NDArray[Any],
        group_B: Any = None,
    ) -> None:
        """Add B rows: the classes' numbers, and (B, C) logits of the model and of its linear part."""
        label, weight = _finite(label_B, weight_B, logits_BC, linear_BC)
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
        """The metrics by name."""
        areas, right, predicted = self._model.areas(), self._model.right, self._model.predicted
        return {
            "rows": self.rows,
            **self._model.metrics(self.weight, areas),
            "constant": self._of_constant(),
            "linear": self._linear.metrics(self.weight, self._linear.areas()),
            "classes": {
                name: {
                    "rows": int(self._class_rows[i]),
                    "precision": _share(right[i], predicted[i]),
                    "recall": _share(right[i], self._actual[i]),
                    "f1": _share(2 * right[i], predicted[i] + self._actual[i]),
                    "auc": areas[i],
                }
                for i, name in enumerate(self.classes)
            },
        }

    def _of_constant(self) -> dict[str, float | None]:
        if not self.weight:
            return dict.fromkeys(("log_loss", "accuracy", "macro_auc"))
        share = self._actual / self.weight
        p = np.clip(self.constant, _TINY, 1)
        return {
            "log_loss": -float(share @ np.log(p)),
            "accuracy": float(share[self.constant.argmax()]),
            "macro_auc": 0.5 if (share > 0).sum() > 1 else None,
        }

    def confusion(self) -> NDArray[np.float64] | None:
        """(C, C) weight of the rows of each class (down) that each class was predicted for; None where C is large."""
        return self._confusion


Tally = BinaryTally | RegressionTally | MulticlassTally


def tally(task: Task, classes: Sequence[str], constant: Sequence[float]) -> Tally:
    """A fold's metrics, still without rows.

    Args:
        task: decides which metrics there are.
        classes: the texts of a multiclass label, by number.
        constant: what the constant baseline predicts, as `train_mean` returns it.
    """
    if task == "multiclass":
        return MulticlassTally(classes, constant)
    return BinaryTally(constant[0]) if task == "binary" else RegressionTally(constant[0])


def train_mean(
    task: Task, classes: Sequence[str], pieces: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[float, ...]:
    """The best constant of the train fold, from pieces of its labels and weights.

    Returns:
        One number: the weighted mean label; for multiclass one a class: its share of the weight. A fold without any
        weight counts as evenly weighted, one without rows has 0.
    """
    size = len(classes) if task == "multiclass" else 1
    sums, weight, rows_sums, rows = np.zeros(size), 0.0, np.zeros(size), 0
    for label_B, weight_B in pieces:
        label, weights = label_B.astype(np.float64), weight_B.astype(np.float64)
        for total, counted in ((sums, weights), (rows_sums, np.ones_like(weights))):
            if task == "multiclass":
                total += np.bincount(label.astype(np.int64), counted, size)
            else:
                total += counted @ label
        weight, rows = weight + float(weights.sum()), rows + len(label)
    means = sums / weight if weight else rows_sums / max(rows, 1)
    return tuple(float(mean) for mean in means)


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _finite(
    label_B: NDArray[Any], weight_B: NDArray[Any], *outputs: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    for output_BC in outputs:
        bad = ~np.isfinite(output_BC).all(axis=1)
        if bad.any():
            raise DivergedError(
                f"Every output of the model must be a number, but those of {int(bad.sum())} of {len(bad)} rows are "
                f"not, {output_BC[bad][0].tolist()} for one: its weights grew too large, or the fold has numbers far "
                "beyond those of the train fold. Lower train.learning_rate, or scale and clip under columns.numeric."
            )
    return np.asarray(label_B, np.float64), np.asarray(weight_B, np.float64)
