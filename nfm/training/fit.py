"""Fit the model: epochs, learning rate, early stopping, and resuming a killed training."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.errors import DivergedError
from nfm.contract.schema import Spec
from nfm.training import checkpoint
from nfm.training.control import (
    Progress,
    check_defined,
    check_watched,
    choose_measured_folds,
    choose_shown,
    compute_rate,
    decide_next,
    record_epoch,
)
from nfm.training.data.batches import Fold
from nfm.training.data.labels import TrainLabels, check_labels, describe_train_labels
from nfm.training.data.rates import compute_rates
from nfm.training.data.rows import Rows
from nfm.training.data.unknown import compute_shares
from nfm.training.losses import choose_loss
from nfm.training.metrics.tally import make_tally
from nfm.training.model import BIAS, Weights, describe, initial_weights
from nfm.training.network import Network
from nfm.training.optimizers import Optimizer, list_arrays
from nfm.training.ranking.evaluate import EPOCH_PAIRS, RankingTally
from nfm.training.ranking.step import make_pair_parts
from nfm.training.report.progress_bar import Bar
from nfm.training.report.tensorboard import open_writer
from nfm.training.result import Fitted
from nfm.training.step import Measure, Step, make_measure, make_step
from nfm.training.tables import TableReader
from nfm.training.unit import Unit

log = logging.getLogger(__name__)

EachEpoch = Callable[[int, Mapping[str, list[float]]], None]


class Start(NamedTuple):
    """Weights that a training starts from, instead of random ones."""

    set_weights: Callable[[Weights, Unit], None]  # sets those of a training with this unit
    name: str  # a training resumes only from a checkpoint with the same start


@dataclass(frozen=True)
class Places:
    """Folders that a training writes to while it runs; None: not written."""

    checkpoint: Path | None = None
    logs: Path | None = None  # TensorBoard's event files

    def below(self, name: str) -> "Places":
        """Return the places of another training, in subfolders of this name."""
        return Places(*(folder and folder / name for folder in (self.checkpoint, self.logs)))


@dataclass
class _Training:
    """State of a running training."""

    spec: Spec
    model: Model
    settings: Train
    folds: Mapping[str, Fold]
    folder: Path | None  # of the checkpoint
    depends_on: Mapping[str, Any]  # as `checkpoint.list_dependencies` returns it
    optimizer: Optimizer
    step: Step
    measure: Measure
    labels: TrainLabels
    last_epoch: int
    progress: Progress = field(default_factory=Progress)
    best: list[NDArray[np.float32]] | None = None  # arrays of the weights at the best epoch


def fit(
    spec: Spec,
    model: Model,
    settings: Train,
    folds: Mapping[str, Fold],
    places: Places = Places(),
    start: Start | None = None,
    each_epoch: EachEpoch | None = None,
    last_epoch: int | None = None,
) -> Fitted:
    """Fit a model; the same seed on the same machine gives the same weights, even if it was killed and resumed.

    Initial weights are random unless `start` is given. `each_epoch` is called with the number of finished epochs
    and their history; an exception that it raises ends the training. The training ends after `last_epoch`, by default
    the last one of the settings, to which the schedule refers in any case. Raises DataError if the metric that early
    stopping or the schedule watches is not defined or a label is not valid for the task, and DivergedError if the loss
    or a weight is not finite.
    """
    spec = replace(spec, uses_bins=model.use.bins)
    check_watched(settings, folds)
    # Check labels first: an invalid one would otherwise stop the run at the first evaluation.
    for fold in ("valid", "test"):
        for _ in check_labels(spec, model.task, fold, folds[fold]):
            pass
    training = _prepare(spec, model, settings, folds, places.checkpoint, start, last_epoch or settings.epochs)
    resumed = _resume(training)
    progress = training.progress
    with (
        Bar(training.last_epoch, folds["train"].rows, training.settings.batch_size) as bar,
        open_writer(places.logs, fresh=not resumed) as write,
    ):
        while not progress.finished:
            _train_epoch(training, bar)
            _finish_epoch(training)
            last_values = {name: values[-1] for name, values in progress.history.items()}
            bar.end(choose_shown(last_values, settings), progress.finished)
            write(progress.epoch, last_values)
            _save(training)
            if each_epoch is not None:
                each_epoch(progress.epoch, progress.history)
    weights = training.optimizer.evaluated
    if training.best is not None:
        _assign(list_arrays(weights), training.best)
    constant, unit = training.labels.constant, training.labels.unit
    return Fitted(weights, unit, progress.history, progress.best_epoch, constant, training.measure)


def _prepare(
    spec: Spec,
    model: Model,
    settings: Train,
    folds: Mapping[str, Fold],
    folder: Path | None,
    start: Start | None,
    last_epoch: int,
) -> _Training:
    tf.config.experimental.enable_op_determinism()
    labels = describe_train_labels(spec, model, settings, folds["train"])
    weights = initial_weights(spec, model, settings.seed)
    weights.network[BIAS][:] = labels.bias
    if start is not None:
        start.set_weights(weights, labels.unit)
    dependencies = checkpoint.list_dependencies(spec, model, settings, folds, start.name if start else None)
    if last_epoch != settings.epochs:
        dependencies["the last epoch"] = last_epoch
    settings = settings.model_copy(update={"batch_size": folds["train"].even(settings.batch_size)})
    make_parts = make_row_parts if folds["train"].ranked is None else make_pair_parts
    optimizer, step, measure = make_parts(spec, model, settings, folds["train"], labels, weights)
    return _Training(spec, model, settings, folds, folder, dependencies, optimizer, step, measure, labels, last_epoch)


def make_row_parts(
    spec: Spec, model: Model, settings: Train, train: Fold, labels: TrainLabels, weights: Weights
) -> tuple[Optimizer, Step, Measure]:
    """Make the optimizer, the step and the measure of a task whose rows have labels."""
    network = Network(spec, model, settings, train.rows * settings.epochs)
    shares, rates = compute_shares(spec, settings.unknown_dropout, train), None
    if (described := describe(spec, model)).rates:
        rates = compute_rates(spec, described, labels, train)
        weights = weights._replace(rates=rates.table_RPC[:, -1].copy())
    reader = TableReader(spec, weights.tables, rates=rates)
    optimizer = Optimizer(settings, weights, list(network.trained), reader)
    evaluated = optimizer.evaluated
    step = make_step(spec, model, settings, reader, network, optimizer, shares)
    return optimizer, step, make_measure(TableReader(spec, evaluated.tables, rates=rates), network, evaluated)


def _resume(training: _Training) -> bool:
    """Resume from a matching checkpoint; return whether there was one."""
    if training.folder is None:
        return False
    arrays = training.optimizer.list_arrays()
    saved = checkpoint.load(training.folder, training.depends_on, [array.shape for array in arrays])
    if saved is None:
        return False
    training.progress, training.best = Progress(**saved.progress), saved.best
    training.optimizer.restore(saved.arrays)
    step, epoch = training.progress.step, training.progress.epoch + 1
    log.info("resuming from the checkpoint after %s steps, in epoch %d", f"{step:,}", epoch)
    return True


def _save(training: _Training) -> None:
    """Write a checkpoint, if there is a folder for it; the arrays are not copied."""
    if training.folder is not None:
        state = asdict(training.progress)
        checkpoint.save(training.folder, training.depends_on, state, training.optimizer.list_arrays(), training.best)


def _train_epoch(training: _Training, bar: Bar) -> None:
    """Train to the end of the epoch, and write a checkpoint every `checkpoint_seconds`."""
    settings, progress, fold = training.settings, training.progress, training.folds["train"]
    steps, saved_at = fold.steps(settings.batch_size), time.monotonic()
    loss_unit = training.labels.unit.size ** choose_loss(training.model).power
    bar.epoch(progress.epoch, progress.batch)
    for rows in _batches(training):
        total = float(np.sum(rows.weight))
        loss = training.step(rows, compute_rate(progress, settings, steps), progress.step + 1)
        if not math.isfinite(loss):
            raise _make_divergence_error(f"The loss was {loss} at step {progress.step + 1}", training)
        loss *= loss_unit
        progress.loss, progress.weight = progress.loss + loss, progress.weight + total
        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        bar.step(len(rows.label), loss / total if total else 0.0)
        if training.folder is not None and time.monotonic() - saved_at >= settings.checkpoint_seconds:
            _check_finite(training)
            _save(training)
            saved_at = time.monotonic()


def _batches(training: _Training) -> Iterator[Rows]:
    """Yield the remaining batches of the epoch, with standardized labels and with class weights in the weights."""
    settings, progress, fold = training.settings, training.progress, training.folds["train"]
    unit, class_weights = training.labels.unit, training.labels.class_weights
    for rows in fold.batches(
        settings.batch_size,
        seed=settings.seed,
        epoch=progress.epoch,
        skip=progress.batch,
        shuffle_rows=settings.shuffle_rows,
    ):
        if training.model.task == "regression":
            rows = rows._replace(label=unit.standardize(rows.label))
        elif class_weights is not None:
            rows = rows._replace(weight=rows.weight * class_weights[rows.label.astype(np.int64)])
        yield rows


def _finish_epoch(training: _Training) -> None:
    """Measure the folds, keep the weights of the best epoch, and decide whether the training is finished."""
    settings, progress, weights = training.settings, training.progress, training.optimizer.evaluated
    _check_finite(training)
    training.optimizer.finish_epoch(progress.step)
    metrics = {fold: _measure_fold(training, fold) for fold in choose_measured_folds(settings, training.folds)}
    if "valid" in metrics:
        metrics["valid"] = {"loss": choose_loss(training.model).from_metrics(metrics["valid"]), **metrics["valid"]}
    steps = training.folds["train"].steps(settings.batch_size)
    is_best = record_epoch(progress, compute_rate(progress, settings, steps), metrics, settings.early_stopping)
    if is_best and settings.early_stopping is not None:
        if training.best is None:
            training.best = [np.empty_like(array) for array in list_arrays(weights)]
        _assign(training.best, list_arrays(weights))
    check_defined(progress, settings)
    decide_next(progress, settings)
    progress.finished |= progress.epoch >= training.last_epoch


def _measure_fold(training: _Training, fold: str) -> Mapping[str, Any]:
    """Return the metrics of a fold, in the published unit."""
    if training.model.task == "ranking":
        return training.measure(training.folds[fold], RankingTally(EPOCH_PAIRS)).metrics()
    tally = make_tally(training.model.task, training.spec.classes, training.labels.constant)
    return training.measure(training.folds[fold], tally, unit=training.labels.unit).metrics()


def _assign(targets: Iterable[NDArray[np.float32]], arrays: Iterable[NDArray[np.float32]]) -> None:
    for target, array in zip(targets, arrays, strict=True):
        target[:] = array


def _check_finite(training: _Training) -> None:
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        # Testing a sum for finiteness needs no array of the table's size.
        sums = [float(np.sum(array, dtype=np.float64)) for array in list_arrays(training.optimizer.weights)]
    if not all(map(math.isfinite, sums)):
        raise _make_divergence_error(f"A weight was not finite after step {training.progress.step}", training)


def _make_divergence_error(symptom: str, training: _Training) -> DivergedError:
    folder, settings = training.folder, training.settings
    has_checkpoint = folder is not None and (folder / checkpoint.FILE).exists()
    kept = f" The last good checkpoint stays in {folder}." if has_checkpoint else ""
    return DivergedError(
        f"{symptom}, in epoch {training.progress.epoch + 1}: the training diverged, and no model was written.{kept} "
        f"Lower train.learning_rate (it is {settings.learning_rate:g}), or set train.clip_norm; also look for extreme "
        "numbers in the table, and limit them with scale and clip under columns.numeric."
    )
