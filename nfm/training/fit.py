"""Fit the model: epochs, learning rate, early stopping, and going on where a killed training was."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import nfm
from nfm.config.train import Model, Train
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.training import checkpoint
from nfm.training.control import DivergedError, Progress, after_epoch, end_epoch, measured_monitors, rate
from nfm.training.data.batches import Fold, read_errors
from nfm.training.data.labels import checked, constant_and_weights, correct
from nfm.training.metrics.tally import tally
from nfm.training.model import build
from nfm.training.optimizers import Optimizer
from nfm.training.progress_bar import Bar
from nfm.training.result import Fitted
from nfm.training.step import make_measure, make_step
from nfm.training.tensorboard import events

log = logging.getLogger(__name__)


Initial = Callable[[keras.Model], None]
EachEpoch = Callable[[int, Mapping[str, list[float]]], None]


def fit(
    spec: Spec,
    model_settings: Model,
    settings: Train,
    folds: Mapping[str, Fold],
    folder: Path | None = None,
    initial: Initial | None = None,
    started_from: str | None = None,
    logs: Path | None = None,
    each_epoch: EachEpoch | None = None,
) -> Fitted:
    """Train; the same seed on the same machine gives the same weights, however often the training was killed.

    Args:
        spec: of the encoding.
        model_settings: the model.
        settings: how it is fitted.
        folds: train, valid and test.
        folder: of the checkpoint; none is written without it.
        initial: sets the new model's weights, where they are not to start at random.
        started_from: tells that `initial` from others.
        logs: of TensorBoard's event files; none are written without it.
        each_epoch: is told how many epochs are done, and their history; what it raises ends the training.

    Raises:
        DataError: what early stopping or the schedule watches is not defined, labels are not of the task, or the
            loss or a weight is not finite.
    """
    stopping, task = settings.early_stopping, model_settings.task
    _check_watched(settings, folds)
    for fold in ("valid", "test"):
        for _ in checked(spec, task, fold, folds[fold]):
            pass  # a label that the training never meets would end it in the measuring
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    model = build(spec, model_settings)
    if initial is not None:
        initial(model)
    optimizer = Optimizer(settings, model.variables)
    constant, class_weights = constant_and_weights(spec, task, settings, folds["train"])
    step, measure = make_step(spec, model_settings, settings, optimizer), make_measure(model, spec)
    on = depends_on(spec, model_settings, settings, folds, started_from)

    progress, best = Progress(), None
    shapes = [tuple(variable.shape) for variable in model.variables] + [a.shape for a in optimizer.arrays()]
    saved = checkpoint.load(folder, on, shapes) if folder else None
    if saved is not None:
        progress, best = Progress(**saved.progress), saved.best
        _assign(model.variables, saved.arrays[: len(model.variables)])
        optimizer.restore(saved.arrays[len(model.variables) :])
        log.info("going on from the checkpoint after %s steps, in epoch %d", f"{progress.step:,}", progress.epoch + 1)

    def save() -> None:
        if folder is not None:
            optimizer.publish()
            arrays = [variable.numpy() for variable in model.variables]
            _check_finite(arrays, progress, settings, folder)
            checkpoint.save(folder, on, asdict(progress), [*arrays, *optimizer.arrays()], best)

    def measured(fold: str) -> Mapping[str, Any]:
        # Of the model that will be kept: its bias counts the negatives that were left out.
        bias = model.get_layer("linear").bias
        trained = bias.numpy()
        correct(model, spec.negative_rate)
        metrics = measure(folds[fold], tally(task, spec.classes, constant)).metrics()
        bias.assign(trained)
        return metrics

    train, size = folds["train"], settings.batch_size
    steps = train.steps(size)
    with Bar(settings.epochs, train.rows, size) as bar, events(logs, fresh=saved is None) as write:
        while not progress.finished:
            bar.epoch(progress.epoch, progress.batch)
            saved_at = time.monotonic()
            batches = train.batches(
                size,
                seed=settings.seed,
                epoch=progress.epoch,
                skip=progress.batch,
                shuffle_rows=settings.shuffle_rows,
            )
            with read_errors([train]):
                for features, label, weight in batches:
                    if class_weights is not None:
                        weight = weight * tf.gather(class_weights, tf.cast(label[:, 0], tf.int32))
                    now, total = rate(progress, settings, steps), float(np.sum(weight))
                    loss = step(features, label, weight, now, progress.step + 1)
                    if not math.isfinite(loss):
                        raise _diverged(f"The loss was {loss} at step {progress.step + 1}", progress, settings, folder)
                    progress.loss, progress.weight = progress.loss + loss, progress.weight + total
                    progress.batch, progress.step = progress.batch + 1, progress.step + 1
                    bar.step(len(label), loss / total if total else 0.0)
                    if time.monotonic() - saved_at >= settings.checkpoint_seconds:
                        save()
                        saved_at = time.monotonic()
            optimizer.publish()
            _check_finite((variable.numpy() for variable in model.variables), progress, settings, folder)
            metrics = {fold: measured(fold) for fold in _measured(settings, folds)}
            if end_epoch(progress, rate(progress, settings, steps), metrics, stopping) and stopping is not None:
                best = [variable.numpy() for variable in model.variables]
            _check_defined(progress, settings)
            after_epoch(progress, settings)
            now_told = {name: values[-1] for name, values in progress.history.items()}
            bar.end(now_told)
            write(progress.epoch, now_told)
            save()
            if each_epoch is not None:
                each_epoch(progress.epoch, progress.history)
    if best is not None:
        _assign(model.variables, best)
    return Fitted(model, progress.history, progress.best_epoch, constant)


def depends_on(
    spec: Spec, model_settings: Model, settings: Train, folds: Mapping[str, Fold], started_from: str | None
) -> dict[str, Any]:
    """What the weights follow from, by the names that people know it by."""
    # The others are of what is measured or written, not of what is learned.
    model = model_settings.model_dump(mode="json", exclude={"embedding_dtype"})
    train = settings.model_dump(mode="json", exclude={"checkpoint_seconds", "group"})
    return {
        "encoding": spec.fingerprint,
        **{f"{name} fold": folds[name].digest() for name in ("train", "valid")},
        **{f"model.{key}": value for key, value in model.items()},
        **{f"train.{key}": value for key, value in train.items()},
        "what it started from": started_from,
        "the version of TensorFlow": tf.__version__,
        "the version of nfm": nfm.__version__,
    }


def _assign(variables: Any, arrays: Any) -> None:
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _measured(settings: Train, folds: Mapping[str, Fold]) -> list[str]:
    """The folds that are measured after each epoch; the train fold costs a pass, and is only where it is watched."""
    watched = any(not name.startswith("val_") and name != "loss" for _, name in measured_monitors(settings))
    return [fold for fold in ("train", "valid") if folds[fold].rows and (fold == "valid" or watched)]


def _check_watched(settings: Train, folds: Mapping[str, Fold]) -> None:
    for key, monitor in measured_monitors(settings):
        if monitor.startswith("val_") and not folds["valid"].rows:
            other = "early_stopping: null" if key == "early_stopping" else "schedule: {kind: constant}"
            raise DataError(
                f"train.{key} watches {monitor}, but no row of the dataset fell to the validation fold. Give it a "
                f"larger share (split.valid), watch the train fold's loss, or set train.{other}."
            )


def _check_defined(progress: Progress, settings: Train) -> None:
    for key, monitor in measured_monitors(settings):
        if monitor not in progress.history:
            fold = "validation" if monitor.startswith("val_") else "train"
            raise DataError(
                f"train.{key} watches {monitor}, which is not defined: the rows of the {fold} fold that have a weight "
                "are none, or all of one class. Watch another metric, or give the fold more rows (split)."
            )


def _check_finite(arrays: Iterable[Any], progress: Progress, settings: Train, folder: Path | None) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise _diverged(f"A weight was no finite number after step {progress.step}", progress, settings, folder)


def _diverged(what: str, progress: Progress, settings: Train, folder: Path | None) -> DivergedError:
    there = folder is not None and (folder / checkpoint.FILE).exists()
    kept = f" The last good checkpoint stays in {folder}." if there else ""
    return DivergedError(
        f"{what}, in epoch {progress.epoch + 1}: the training diverged, and no model was written.{kept} Lower "
        f"train.learning_rate (it is {settings.learning_rate:g}), or set train.clip_norm; and look for extreme numbers "
        "in the table: scale and clip under columns.numeric tame them."
    )
