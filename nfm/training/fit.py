"""Fit the model, and measure it on every fold."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from nfm.config import EarlyStopping, Model, Train
from nfm.contract.errors import DataError
from nfm.contract.schema import FOLDS, Spec
from nfm.training.data import Fold, features_of
from nfm.training.model import build

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it came to be."""

    model: keras.Model
    history: Mapping[str, list[float]]  # of each epoch: loss, auc, accuracy, and the same of the validation fold
    best_epoch: int  # counted from 1; its weights are the model's


def fit(spec: Spec, model_settings: Model, settings: Train, folds: Mapping[str, Fold]) -> Fitted:
    """Train with early stopping; the same seed on the same machine gives the same weights.

    Raises:
        DataError: early stopping has no validation rows to watch, or the loss is not finite.
    """
    stopping = settings.early_stopping
    if stopping is not None and stopping.monitor.startswith("val_") and not folds["valid"].rows:
        raise DataError(
            f"Early stopping watches {stopping.monitor}, but no row of the dataset fell to the validation fold. Give "
            "it a larger share (split.valid), or set train.early_stopping: null."
        )
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    model = build(spec, model_settings)
    optimizer = {"adagrad": keras.optimizers.Adagrad, "adam": keras.optimizers.Adam}[settings.optimizer]
    model.compile(
        optimizer=optimizer(learning_rate=settings.learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.AUC(from_logits=True, name="auc"),
            keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"),
        ],
    )
    terminal = sys.stdout.isatty()
    callbacks: list[keras.callbacks.Callback] = [] if terminal else [_LogLines(settings.epochs)]
    if stopping is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                monitor=stopping.monitor,
                mode=_mode(stopping),
                patience=stopping.patience,
                min_delta=stopping.min_delta,
                restore_best_weights=True,
            )
        )
    history = model.fit(
        folds["train"].batches(settings.batch_size, settings.seed),
        validation_data=folds["valid"].batches(settings.batch_size) if folds["valid"].rows else None,
        epochs=settings.epochs,
        shuffle=False,  # the batches are shuffled already
        callbacks=callbacks,
        verbose=1 if terminal else 0,
    ).history
    _check_finite(history, settings)
    return Fitted(model, history, _best_epoch(history, stopping))


def _check_finite(history: Mapping[str, list[float]], settings: Train) -> None:
    for epoch, loss in enumerate(history["loss"], start=1):
        if not np.isfinite(loss):
            raise DataError(
                f"The loss was {loss} in epoch {epoch}: the training diverged, and no model was written. Lower "
                f"train.learning_rate (it is {settings.learning_rate:g}), and look for extreme numbers in the table: "
                "scale and clip under columns.numeric tame them."
            )


def _mode(stopping: EarlyStopping) -> str:
    if stopping.mode != "auto":
        return stopping.mode
    return "min" if stopping.monitor.endswith("loss") else "max"


def _best_epoch(history: Mapping[str, list[float]], stopping: EarlyStopping | None) -> int:
    """The epoch whose weights early stopping keeps: the last one that improved by more than min_delta."""
    if stopping is None:
        return len(history["loss"])
    sign = -1 if _mode(stopping) == "min" else 1
    best, best_epoch = -np.inf, 1
    for epoch, value in enumerate(history[stopping.monitor], start=1):
        if sign * value - stopping.min_delta > best:
            best, best_epoch = sign * value, epoch
    return best_epoch


class _LogLines(keras.callbacks.Callback):
    """A log line for an epoch, every few seconds, where there is no terminal to draw a bar in."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs, self.next_line = epochs, 0.0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        if time.monotonic() < self.next_line and epoch + 1 < self.epochs:
            return
        self.next_line = time.monotonic() + 5
        values = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        log.info("epoch %d of at most %d  %s", epoch + 1, self.epochs, values)


def predict(model: keras.Model, fold: Fold, batch_size: int = 8192) -> NDArray[np.float64]:
    """(B,) probabilities."""
    if not fold.rows:
        return np.empty(0)
    logits = model.predict(features_of(fold.inputs), batch_size=batch_size, verbose=0)[:, 0].astype(np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def evaluate(model: keras.Model, folds: Mapping[str, Fold]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Metrics of each fold that has rows, and each fold's probabilities.

    Returns:
        rows, auc (None where all labels are equal), log_loss and accuracy at ½, weighted by the sample weights; and
        (B,) probabilities by fold.
    """
    scores = {fold: predict(model, folds[fold]) for fold in FOLDS}
    return {fold: _metrics(folds[fold], scores[fold]) for fold in FOLDS if folds[fold].rows}, scores


def _metrics(fold: Fold, score: NDArray[np.float64]) -> dict[str, float | int | None]:
    both = len(np.unique(fold.label)) == 2
    return {
        "rows": fold.rows,
        "auc": float(roc_auc_score(fold.label, score, sample_weight=fold.weight)) if both else None,
        "log_loss": float(log_loss(fold.label, score, sample_weight=fold.weight, labels=[0, 1])),
        "accuracy": float(accuracy_score(fold.label, score > 0.5, sample_weight=fold.weight)),
    }
