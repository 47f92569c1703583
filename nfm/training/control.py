"""Decisions between steps or epochs: the learning rate, the best epoch, the end of the training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nfm.config.train import EarlyStopping, Train
from nfm.contract.errors import DataError
from nfm.training.data.batches import Fold
from nfm.training.metrics.names import METRICS

_MAXIMIZED = {metric.key for metrics in METRICS.values() for metric in metrics if metric.higher_is_better}


@dataclass
class Progress:
    """Progress of a training: everything besides the arrays that its next step depends on."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the current epoch
    step: int = 0  # finished steps of all epochs
    loss: float = 0.0  # Σ weight · loss over the samples of the current epoch
    weight: float = 0.0  # Σ weight over the same samples
    best_epoch: int = 0
    best_value: float | None = None  # best value for early stopping, times -1 if lower is better
    plateau_value: float | None = None  # best value for the schedule, likewise
    plateau_wait: int = 0
    factor: float = 1.0  # factor of the learning rate on a plateau
    finished: bool = False
    history: dict[str, list[float]] = field(default_factory=dict)


def compute_rate(progress: Progress, settings: Train, steps: int) -> float:
    """Return the learning rate of the next step; an epoch has `steps` steps."""
    schedule = settings.schedule
    learning_rate, warmup = settings.learning_rate * progress.factor, schedule.warmup_steps
    if progress.step < warmup:
        return learning_rate * (progress.step + 1) / warmup
    if schedule.kind == "cosine":
        done = min(1.0, (progress.step - warmup) / max(1, steps * settings.epochs - warmup))
        learning_rate *= schedule.final_share + (1 - schedule.final_share) * 0.5 * (1 + math.cos(math.pi * done))
    return learning_rate


def list_monitors(settings: Train) -> list[tuple[str, str]]:
    """Return (key of the setting, metric) for each setting that watches a metric after every epoch."""
    stopping = settings.early_stopping
    monitors = [("early_stopping", stopping.monitor)] if stopping else []
    return monitors + ([("schedule", _schedule_monitor(settings)[0])] if settings.schedule.kind == "plateau" else [])


def _schedule_monitor(settings: Train) -> tuple[str, str]:
    """Return the metric that a plateau schedule watches, and its mode."""
    stopping = settings.early_stopping
    return (stopping.monitor, stopping.mode) if stopping else ("val_loss", "auto")


def choose_shown(values: Mapping[str, float], settings: Train) -> dict[str, float]:
    """Return the metrics to log after an epoch: of lists, only that which is watched, and HR at the same length."""
    watched = [name for _, name in list_monitors(settings)]
    watched += [f"val_hr@{name.partition('@')[2]}" for name in watched]
    return {name: value for name, value in values.items() if "@" not in name or name in watched}


def check_watched(settings: Train, folds: Mapping[str, Fold]) -> None:
    """Raise DataError if a setting watches a metric of the validation fold, but the fold has no rows."""
    for key, monitor in list_monitors(settings):
        if monitor.startswith("val_") and not folds["valid"].rows:
            other = "early_stopping: null" if key == "early_stopping" else "schedule: {kind: constant}"
            raise DataError(
                f"train.{key} watches {monitor}, but the validation fold has no rows. Give it a larger share "
                "(split.valid), monitor the train loss instead (train.early_stopping.monitor: loss), or set "
                f"train.{other}."
            )


def choose_measured_folds(settings: Train, folds: Mapping[str, Fold]) -> list[str]:
    """Return the folds to evaluate after each epoch.

    The train fold needs an extra pass, so it is evaluated only if a monitored metric requires it.
    """
    needs_train = any(not name.startswith("val_") and name != "loss" for _, name in list_monitors(settings))
    return [fold for fold in ("train", "valid") if folds[fold].rows and (fold == "valid" or needs_train)]


def check_defined(progress: Progress, settings: Train) -> None:
    """Raise DataError if a setting watches a metric that is not defined."""
    for key, monitor in list_monitors(settings):
        if monitor not in progress.history:
            if "@" in monitor:
                raise DataError(
                    f"train.{key} watches {monitor}, which is not defined: in the validation fold, no user has an item "
                    "without an earlier interaction. Give the fold more rows (split), or set "
                    "train.early_stopping: null."
                )
            fold = "validation" if monitor.startswith("val_") else "train"
            raise DataError(
                f"train.{key} watches {monitor}, which is not defined: in the {fold} fold, no row has a positive "
                "weight, or all rows with a positive weight have the same class. Watch another metric, or give the "
                "fold more rows (split)."
            )


def record_epoch(
    progress: Progress, learning_rate: float, measured: Mapping[str, Mapping[str, Any]], stopping: EarlyStopping | None
) -> bool:
    """Add an epoch to `progress`, and return whether it was the best; without early stopping, each epoch is.

    `learning_rate`: the rate at the end of the epoch; `measured`: metrics by fold, for the folds that were measured.
    The validation fold's `loss` is the loss that the training minimizes.
    """
    history = {"loss": progress.loss / progress.weight if progress.weight else 0.0, "learning_rate": learning_rate}
    for fold, metrics in measured.items():
        defined = {name: value for name, value in metrics.items() if isinstance(value, float)}
        history |= {f"val_{name}" if fold == "valid" else name: value for name, value in defined.items()}
    for name, value in history.items():
        progress.history.setdefault(name, []).append(float(value))
    progress.epoch, progress.batch, progress.loss, progress.weight = progress.epoch + 1, 0, 0.0, 0.0
    if stopping is None:
        progress.best_epoch = progress.epoch
        return True
    value = choose_sign(stopping.monitor, stopping.mode) * _last_value(progress, stopping.monitor)
    best = -math.inf if progress.best_value is None else progress.best_value
    if progress.best_epoch and not value - stopping.min_delta > best:
        return False
    progress.best_epoch, progress.best_value = progress.epoch, None if math.isnan(value) else value
    return True


def choose_sign(monitor: str, mode: str = "auto") -> int:
    """Return 1 if a higher value is better, -1 if a lower one is; `mode` auto decides by the name of the metric.

    >>> choose_sign("val_auc"), choose_sign("loss"), choose_sign("loss", "max")
    (1, -1, 1)
    """
    if mode == "auto":
        is_of_lists = "@" in monitor
        mode = "max" if is_of_lists or monitor.removeprefix("val_") in _MAXIMIZED else "min"
    return 1 if mode == "max" else -1


def _last_value(progress: Progress, monitor: str) -> float:
    """Return the last epoch's value; NaN, which is never better than another, if it is not defined."""
    values = progress.history.get(monitor, [])
    return values[-1] if len(values) == progress.epoch else math.nan


def decide_next(progress: Progress, settings: Train) -> None:
    """Decide whether the training is finished, and lower the rate on a plateau."""
    stopping, schedule = settings.early_stopping, settings.schedule
    waited = progress.epoch - progress.best_epoch
    progress.finished = progress.epoch >= settings.epochs or (stopping is not None and waited >= stopping.patience)
    if schedule.kind != "plateau":
        return
    monitor, mode = _schedule_monitor(settings)
    value = choose_sign(monitor, mode) * _last_value(progress, monitor)
    if progress.plateau_value is None or value > progress.plateau_value:
        progress.plateau_value, progress.plateau_wait = value, 0
        return
    progress.plateau_wait += 1
    if progress.plateau_wait >= schedule.patience:
        progress.factor, progress.plateau_wait = progress.factor * schedule.factor, 0
