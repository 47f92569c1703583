"""Labels: check them against the model task, and compute the constant baseline and class weights from them."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Train
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.training.data.batches import Fold
from nfm.training.metrics.names import Task
from nfm.training.metrics.tally import compute_constant


def compute_constant_and_class_weights(
    spec: Spec, task: Task, settings: Train, train: Fold
) -> tuple[tuple[float, ...], NDArray[np.float32] | None]:
    """Return the constant baseline of the train fold, and a weight for each class, or None without class weights.

    The constant is corrected for negatives that were left out. Raises DataError if a label is not valid for the task,
    or if `train.class_weights` names a class that does not exist.
    """
    counts: NDArray[np.float64] = np.zeros(max(2, len(spec.classes)))

    def pieces() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        for label, weight in check_labels(spec, task, "train", train):
            if task != "regression":
                counts[:] += np.bincount(label.astype(np.int64), weight, len(counts))
            yield label, weight

    constant = compute_constant(task, spec.classes, pieces())
    if task == "binary":  # only this share of the negatives was kept
        ones, zeros = constant[0] * spec.negative_rate, 1 - constant[0]
        constant = (ones / (ones + zeros),)
    if settings.class_weights is None:
        return constant, None
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
    return constant, weights.astype(np.float32)


def check_labels(
    spec: Spec, task: Task, name: str, fold: Fold
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield the labels and weights of a fold, in pieces; at the end, raise DataError if a label is not valid."""
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


def correct_bias(bias: NDArray[np.float32], negative_rate: float) -> None:
    """Correct the bias of a model that was fitted to this share of the negatives, in place.

    Down-sampling divides the odds by the rate, which adds -log(rate) to the logit (King & Zeng 2001, section 4.1). With
    the corrected bias, probabilities are those for all rows.
    """
    bias += np.float32(math.log(negative_rate))
