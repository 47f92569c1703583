"""Labels: check them against the model task, and compute from them what a training needs before its first step."""

import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.errors import DataError
from nfm.contract.scaling import describe_lost_precision
from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold
from nfm.training.metrics.moments import Moments
from nfm.training.metrics.names import Task
from nfm.training.metrics.tally import compute_constant
from nfm.training.unit import PUBLISHED, Unit

log = logging.getLogger(__name__)


class TrainLabels(NamedTuple):
    """Results of a pass over the labels of the train fold."""

    constant: tuple[float, ...]  # baseline, as `compute_constant` returns it, counting the negatives left out
    class_weights: NDArray[np.float32] | None  # weight of each class, by number; None without class weights
    unit: Unit
    bias: NDArray[np.float32]  # (C,) outputs in training that are best without any input: the bias of a new model
    rate_C: NDArray[np.float64]  # (C,) mean label in training, or share of each class; without class weights
    weight: float  # Σ weight
    largest: float  # no |weight| and no |weight · label| in training is larger


def describe_train_labels(spec: Spec, model: Model, settings: Train, train: Fold) -> TrainLabels:
    """Compute the baseline, the class weights, the unit and the first bias from the train fold's labels and weights.

    A regression whose labels are all equal, or vary too little for 32-bit numbers, is logged. Raises DataError if a
    label is not valid for the task, or if `train.class_weights` names a class that does not exist.
    """
    task = model.task
    if task == "ranking":  # has no labels, and no bias, which would not change an order
        zero = np.zeros(1)
        return TrainLabels((0.0,), None, PUBLISHED, zero.astype(np.float32), zero, 0.0, 1.0)
    counts: NDArray[np.float64] = np.zeros((2, max(2, len(spec.classes))))  # Σ weight and rows of each class
    weighted, plain = Moments(), Moments()  # of the labels of a regression
    largest = 0.0

    def pieces() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        nonlocal largest
        for label, weight in check_labels(spec, task, "train", train):
            largest = max(largest, float(weight.max(initial=0)))
            for i, counted in enumerate((weight, np.ones_like(weight))):
                if task == "regression":
                    (weighted, plain)[i].add(label.astype(np.float64), counted.astype(np.float64))
                else:
                    counts[i] += np.bincount(label.astype(np.int64), counted, counts.shape[1])
            yield label, weight

    constant = compute_constant(task, spec.classes, pieces())
    if task == "regression":
        moments = weighted if weighted.weight else plain
        unit, bias = (_choose_unit(moments), 0.0) if model.standardize_label else (Unit(), moments.mean)
        ends = unit.standardize(np.array([moments.low, moments.high], np.float32))
        rate_C = (np.array([moments.mean]) - unit.shift) / (unit.size or 1.0)
        largest *= max(1.0, float(np.abs(ends).max()))
        return TrainLabels(constant, None, unit, np.array([bias], np.float32), rate_C, weighted.weight, largest)
    class_weights = _compute_class_weights(spec, task, settings, counts[0])
    trained = counts[0] * (1 if class_weights is None else class_weights)
    trained = trained if trained.any() else counts[1]
    # A class without weight, of an older encoding for example, counts as half a row: log 0 is not finite.
    shares = np.where(trained > 0, trained / trained.sum(), 0.5 / train.rows)
    weight = float(counts[0].sum())
    rate_C = counts[0] / weight if weight else shares
    if task == "multiclass":
        return TrainLabels(constant, class_weights, Unit(), np.log(shares).astype(np.float32), rate_C, weight, largest)
    ones, zeros = constant[0] * spec.negative_rate, 1 - constant[0]  # only this share of the negatives was kept
    unit, log_odds = Unit(shift=math.log(spec.negative_rate)), np.log(shares[1:] / shares[:1])
    constant, first = (ones / (ones + zeros),), log_odds.astype(np.float32)
    return TrainLabels(constant, class_weights, unit, first, rate_C[1:], weight, largest)


def _choose_unit(labels: Moments) -> Unit:
    if not labels.deviation:
        log.warning(
            "all labels of the train fold are %.9g: the model can only predict this number. Check columns.label, "
            "source.where and split",
            labels.low,
        )
        return Unit(0.0, labels.low)
    if (reason := describe_lost_precision(labels.mean, labels.deviation)) is not None:
        log.warning("the labels of the train fold %s", reason)
    return Unit(labels.deviation, labels.mean)


def _compute_class_weights(
    spec: Spec, task: Task, settings: Train, counts: NDArray[np.float64]
) -> NDArray[np.float32] | None:
    if settings.class_weights is None:
        return None
    names = list(spec.classes) if task == "multiclass" else ["0", "1"]
    if settings.class_weights == "balanced":
        weights = np.divide(counts.sum(), len(names) * counts, out=np.zeros_like(counts), where=counts > 0)
    else:
        unknown = sorted(set(settings.class_weights) - set(names))
        if unknown:
            raise DataError(
                f"train.class_weights names {', '.join(map(repr, unknown))}, but the label's classes are "
                f"{', '.join(map(repr, names[:20]))}. Use these names, or leave train.class_weights out."
            )
        weights = np.array([settings.class_weights.get(name, 1.0) for name in names])
    return np.asarray(weights, np.float32)


def check_labels(
    spec: Spec, task: Task, name: str, fold: Fold
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the labels and weights of a fold, in pieces; at the end, raise DataError if a label is not valid."""
    if task == "ranking":
        return
    if task == "regression":
        allowed = "numbers"
    else:
        most = len(spec.classes) if task == "multiclass" else 2
        allowed = "0 and 1" if task == "binary" else f"the numbers of its classes, 0 to {most - 1}"
    wrong, example = 0, 0.0
    for rows in fold.pieces():
        is_right = np.isfinite(rows.label) if task == "regression" else np.isin(rows.label, np.arange(most))
        if not is_right.all():
            wrong, example = wrong + int((~is_right).sum()), float(rows.label[~is_right][0])
        yield rows.label[is_right], rows.weight[is_right]
    if wrong:
        raise DataError(
            f"The labels of a {task} task are {allowed}, but {wrong:,} of the {fold.rows:,} rows of the {name} fold "
            f"have other labels, for example {example:g}. Set model.task to match the label, and run nfm features "
            "again."
        )
