"""Optimizers whose steps read and write only the rows of the batch.

Each formula is implemented once, in `kernels.tables.update_rows`, for the rows of the tables and for all other weights.
The formulas differ slightly from those of Keras, whose Adagrad has ε inside the root and whose momentum includes the
rate. Rows that do not occur in the batch do not change. Adam is therefore lazy: the moments of such rows do not decay.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Train
from nfm.kernels import tables as kernels
from nfm.kernels.averages import NO_AVERAGES
from nfm.training.average import Average
from nfm.training.model import TABLES, Floats, Weights
from nfm.training.tables import Formula, TableReader, TableUpdater, make_slot

_BETA_1, _BETA_2 = 0.9, 0.999  # of Adam, the defaults of its authors
_EPSILON = {"adagrad": 1e-10, "adam": 1e-7}
_FTRL_ACCUMULATOR = 0.1
LINEAR = ("linear/table", "dense_linear/kernel")  # weights that `linear_optimizer` updates


def _adagrad(accumulator: float) -> Formula:
    """Return a += g²; w −= rate · g / (√a + ε) (Duchi et al. 2011)."""
    return Formula(kernels.ADAGRAD, (accumulator,), lambda rate, _: (rate, _EPSILON["adagrad"]))


def _adam() -> Formula:
    """Return m, v ← moments; w −= rate · √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε) (Kingma & Ba 2015, section 2)."""

    def numbers(rate: float, step: int) -> tuple[float, ...]:
        corrected = rate * (1 - _BETA_2**step) ** 0.5 / (1 - _BETA_1**step)
        return corrected, 1 - _BETA_1, 1 - _BETA_2, _EPSILON["adam"]

    return Formula(kernels.ADAM, (0.0, 0.0), numbers)


def _sgd(momentum: float) -> Formula:
    """Return w −= rate · g; or, with momentum, m ← momentum · m + g and w −= rate · m."""
    if not momentum:
        return Formula(kernels.SGD, (), lambda rate, _: (rate,))
    return Formula(kernels.MOMENTUM, (0.0,), lambda rate, _: (rate, momentum))


def _ftrl(rate: float, l1: float, l2: float) -> Formula:
    """Return FTRL-proximal with its own learning rate (McMahan et al. 2013, algorithm 1).

    FTRL computes w from the slots alone. z therefore starts with the value that gives the initial weights: otherwise a
    warm start's weights would be lost at the first step.
    """

    def compute_z(w: Any) -> Any:
        return -w * (_FTRL_ACCUMULATOR**0.5 / rate + 2 * l2) - np.sign(w) * l1

    return Formula(kernels.FTRL, (_FTRL_ACCUMULATOR, compute_z), lambda *_: (rate, l1, l2))


def _choose_formula(settings: Train, path: str) -> Formula:
    if settings.linear_optimizer is not None and path in LINEAR:
        ftrl = settings.linear_optimizer
        return _ftrl(ftrl.learning_rate, ftrl.l1, ftrl.l2)
    match settings.optimizer:
        case "adagrad":
            return _adagrad(settings.initial_accumulator)
        case "adam":
            return _adam()
        case "sgd":
            return _sgd(settings.momentum)


class Optimizer:
    """Weights of a model with their optimizer slots and moving average, and the steps that update them."""

    def __init__(self, settings: Train, weights: Weights, trained: Sequence[str], reader: TableReader) -> None:
        """Make the slots and the average.

        Args:
            settings: training settings: the optimizer and its parameters, the average and the batch size.
            weights: weights of the model, which are changed in place.
            trained: paths of the network's weights that have gradients.
            reader: reader of the tables in `weights`.
        """
        self._clip, self.weights = settings.clip_norm, weights
        self.average = None if settings.average is None else Average(weights, settings.average, settings.batch_size)
        averages = NO_AVERAGES if self.average is None else self.average.tables
        self.tables = TableUpdater(reader, [_choose_formula(settings, path) for path in TABLES], averages)
        self._formulas = {path: _choose_formula(settings, path) for path in trained}
        #: slots of each trained weight of the network
        self.slots = [
            [make_slot(start, weights.network[path]) for start in formula.slots]
            for path, formula in self._formulas.items()
        ]

    def update_network(self, gradients: Mapping[str, Floats], scale: float, rate: float, step: int) -> None:
        """Update the weights of the network, their slots and their averages, in place.

        Args:
            gradients: gradients by path.
            scale: factor of the gradients.
            rate: the learning rate.
            step: number of the step, counted from 1.
        """
        for (path, formula), slots in zip(self._formulas.items(), self.slots, strict=True):
            weights, none = self.weights.network[path], np.empty((0, 1), np.float32)
            shape = (-1, weights.shape[-1])
            first, second = [*(slot.reshape(shape) for slot in slots), none, none][:2]
            table, gradient = weights.reshape(shape), np.ascontiguousarray(gradients[path]).reshape(shape)
            numbers = np.array(formula.numbers(rate, step), np.float32)
            all_rows = np.arange(len(table), dtype=np.int32)
            kernels.update_rows(all_rows, formula.kind, numbers, table, first, second, gradient, np.float32(scale))
        if self.average is not None:
            self.average.include(self.weights.network, self._formulas, step)

    @property
    def evaluated(self) -> Weights:
        """Weights that are measured and published: the average if there is one; `finish_epoch` brings it up to date."""
        return self.weights if self.average is None else self.average.weights

    def finish_epoch(self, step: int) -> None:
        """Bring the average up to date after step number `step`: rows of past batches, and what is not averaged."""
        if self.average is not None:
            self.tables.finish_averages(step)
            for path in self.weights.network.keys() - self._formulas.keys():  # moving averages of the batch norms
                self.average.weights.network[path][:] = self.weights.network[path]

    def square_norm(self, gradients: Mapping[str, Floats]) -> float:
        """Return Σ g² over the weights that `update_network` changes."""
        return sum(float(np.sum(np.square(gradients[path]), dtype=np.float64)) for path in self._formulas)

    def clip_factor(self, square_norm: float) -> float:
        """Return the factor that clips the gradients of a step to `clip_norm`; NaN if `square_norm` is not finite.

        `square_norm`: Σ g² over all gradients of the step.
        """
        if self._clip is None:
            return 1.0
        norm = math.sqrt(square_norm)
        return self._clip / max(norm, self._clip) if math.isfinite(norm) else math.nan

    def list_arrays(self) -> list[NDArray[Any]]:
        """Return all weights, then all slots, then the average, without copying them."""
        slots = [slot for slots in (*self.tables.slots, *self.slots) for slot in slots]
        average = [] if self.average is None else [*list_arrays(self.average.weights), self.average.tables.steps_R]
        return [*list_arrays(self.weights), *slots, *average]

    def restore(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Set weights, slots and average from arrays in the order of `list_arrays`."""
        for array, saved in zip(self.list_arrays(), arrays, strict=True):
            array[:] = saved


def list_arrays(weights: Weights) -> list[NDArray[np.float32]]:
    """Return all arrays of a model's weights, in a fixed order."""
    return [*weights.tables, *weights.network.values()]
