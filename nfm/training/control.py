"""Decisions between two steps or epochs: the learning rate, the best epoch, the end of the training."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nfm.config.train import EarlyStopping, Train
from nfm.training.metrics.names import METRICS

_MAXIMIZED = {metric.key for metrics in METRICS.values() for metric in metrics if metric.higher_is_better}


@dataclass
class Progress:
    """How far a training is: what its next step depends on, besides the arrays."""

    epoch: int = 0  # finished ones
    batch: int = 0  # of this epoch, done
    step: int = 0  # of all epochs, done
    loss: float = 0.0  # sum over the samples of this epoch, and their weights
    weight: float = 0.0
    best_epoch: int = 0
    best_value: float | None = None  # what early stopping has seen best
    plateau_value: float | None = None  # what the schedule has seen best
    plateau_wait: int = 0
    factor: float = 1.0  # of the learning rate, by the schedule
    finished: bool = False
    history: dict[str, list[float]] = field(default_factory=dict)


def rate(progress: Progress, settings: Train, steps: int) -> float:
    """Return the learning rate of the next step, in a training with `steps` of them an epoch."""
    schedule = settings.schedule
    now, warmup = settings.learning_rate * progress.factor, schedule.warmup_steps
    if progress.step < warmup:
        return now * (progress.step + 1) / warmup
    if schedule.kind == "cosine":
        part = min(1.0, (progress.step - warmup) / max(1, steps * settings.epochs - warmup))
        now *= schedule.final_share + (1 - schedule.final_share) * 0.5 * (1 + math.cos(math.pi * part))
    return now


def list_monitors(settings: Train) -> list[tuple[str, str]]:
    """The key of each setting that watches what is measured after an epoch, and the name of what it watches."""
    stopping = settings.early_stopping
    found = [("early_stopping", stopping.monitor)] if stopping else []
    return found + ([("schedule", _of_schedule(settings)[0])] if settings.schedule.kind == "plateau" else [])


def _of_schedule(settings: Train) -> tuple[str, str]:
    stopping = settings.early_stopping
    return (stopping.monitor, stopping.mode) if stopping else ("val_loss", "auto")


def end_epoch(
    progress: Progress, now: float, measured: Mapping[str, Mapping[str, Any]], stopping: EarlyStopping | None
) -> bool:
    """Add an epoch to `progress`, and return whether it was the best one; without early stopping every one counts.

    `now`: the learning rate at its end; `measured`: the metrics of the folds that were measured, by fold; the
    validation fold's `loss` is the one that the training minimizes.
    """
    history = {"loss": progress.loss / progress.weight if progress.weight else 0.0, "learning_rate": now}
    for fold, metrics in measured.items():
        found = {name: value for name, value in metrics.items() if isinstance(value, float)}
        history |= {f"val_{name}" if fold == "valid" else name: value for name, value in found.items()}
    for name, value in history.items():
        progress.history.setdefault(name, []).append(float(value))
    progress.epoch, progress.batch, progress.loss, progress.weight = progress.epoch + 1, 0, 0.0, 0.0
    if stopping is None:
        progress.best_epoch = progress.epoch
        return True
    value = sign(stopping.monitor, stopping.mode) * _watched(progress, stopping.monitor)
    best = -math.inf if progress.best_value is None else progress.best_value
    if progress.best_epoch and not value - stopping.min_delta > best:
        return False
    progress.best_epoch, progress.best_value = progress.epoch, None if math.isnan(value) else value
    return True


def sign(monitor: str, mode: str = "auto") -> int:
    """1 where a higher value is better, -1 where a lower one is; of loss or a metric, by its name or as `mode` says."""
    if mode == "auto":
        mode = "max" if monitor.removeprefix("val_") in _MAXIMIZED else "min"
    return 1 if mode == "max" else -1


def _watched(progress: Progress, monitor: str) -> float:
    """The last epoch's value; one that is not defined is no better than any other."""
    values = progress.history.get(monitor, [])
    return values[-1] if len(values) == progress.epoch else math.nan


def after_epoch(progress: Progress, settings: Train) -> None:
    """Decide whether the training is finished, and lower the rate on a plateau."""
    stopping, schedule = settings.early_stopping, settings.schedule
    waited = progress.epoch - progress.best_epoch
    progress.finished = progress.epoch >= settings.epochs or (stopping is not None and waited >= stopping.patience)
    if schedule.kind != "plateau":
        return
    monitor, mode = _of_schedule(settings)
    value = sign(monitor, mode) * _watched(progress, monitor)
    if progress.plateau_value is None or value > progress.plateau_value:
        progress.plateau_value, progress.plateau_wait = value, 0
        return
    progress.plateau_wait += 1
    if progress.plateau_wait >= schedule.patience:
        progress.factor, progress.plateau_wait = progress.factor * schedule.factor, 0
