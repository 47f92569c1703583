"""Optimizers whose step costs what the batch costs: of a table, only the rows of the batch are read or written.

All weights are moved by the loops of `kernels`, in arrays of their own; the model's variables take them over when it is
measured or written. A table's other rows stay as they are (Adam is lazy: a row's moments do not decay while it is not
seen).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.config.train import Train
from nfm.kernels import tables as kernels
from nfm.kernels.tables import Floats
from nfm.training.tables import RowTables, Rule, started

_BETA_1, _BETA_2 = 0.9, 0.999  # of Adam, as its authors have them
_EPSILON = {"adagrad": 1e-10, "adam": 1e-7}
_FTRL_ACCUMULATOR = 0.1
TABLES = ("embedding/table", "linear/table")
LINEAR = ("linear/table", "dense_linear/kernel")  # what `linear_optimizer` is for


def _adagrad(accumulator: float) -> Rule:
    """a += g²; w −= rate · g / (√a + ε) (Duchi et al. 2011)."""
    return Rule(kernels.ADAGRAD, (accumulator,), lambda rate, _: (rate, _EPSILON["adagrad"]))


def _adam() -> Rule:
    """m, v ← moments; w −= rate · √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε) (Kingma & Ba 2015, section 2)."""

    def numbers(rate: float, step: int) -> tuple[float, ...]:
        corrected = rate * (1 - _BETA_2**step) ** 0.5 / (1 - _BETA_1**step)
        return corrected, 1 - _BETA_1, 1 - _BETA_2, _EPSILON["adam"]

    return Rule(kernels.ADAM, (0.0, 0.0), numbers)


def _sgd(momentum: float) -> Rule:
    """w −= rate · g; with momentum, m ← momentum · m + g and w −= rate · m."""
    if not momentum:
        return Rule(kernels.SGD, (), lambda rate, _: (rate,))
    return Rule(kernels.MOMENTUM, (0.0,), lambda rate, _: (rate, momentum))


def _ftrl(rate: float, l1: float, l2: float) -> Rule:
    """FTRL-proximal with a rate of its own (McMahan et al. 2013, algorithm 1).

    w follows from the slots alone; so z starts with the value that has the variable's weights for its w, or those of a
    model that the training starts from would be lost at their first step.
    """

    def of_weights(w: Any) -> Any:
        return -w * (_FTRL_ACCUMULATOR**0.5 / rate + 2 * l2) - np.sign(w) * l1

    return Rule(kernels.FTRL, (_FTRL_ACCUMULATOR, of_weights), lambda *_: (rate, l1, l2))


def _rule(settings: Train, path: str) -> Rule:
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
    """A model's weights with their slots, and the steps that move both: the tables' rows, and all other weights."""

    def __init__(self, settings: Train, variables: Sequence[Any], threads: int | None = None) -> None:
        """Take over the values of the variables, and make the slots.

        Args:
            settings: which optimizer.
            variables: the model's, both tables among them.
            threads: that share the work; one for each core unless set. The weights do not depend on it.
        """
        tables = [next(variable for variable in variables if variable.path == path) for path in TABLES]
        self._clip = settings.clip_norm
        self.tables = RowTables(tables, [_rule(settings, path) for path in TABLES], threads)
        # What is drawn at random from is no weight.
        self._others = {v.path: v for v in variables if v.path not in TABLES and v.dtype == "float32"}
        #: of the variables that are no tables, by path
        self.weights: dict[str, Floats] = {path: np.array(v.numpy()) for path, v in self._others.items()}
        self._rules = {path: _rule(settings, path) for path, v in self._others.items() if v.trainable}
        #: of each of these that is trained
        self.slots = [
            [started(start, self.weights[path]) for start in rule.slots] for path, rule in self._rules.items()
        ]

    def apply(self, gradients: Mapping[str, Floats], scale: float, rate: float, step: int) -> None:
        """Move the weights that are no tables.

        Args:
            gradients: of each one that is trained, by path; there may be others.
            scale: of the gradients.
            rate: the learning rate.
            step: counted from 1.
        """
        for (path, rule), slots in zip(self._rules.items(), self.slots, strict=True):
            weights = self.weights[path]
            shape = (-1, weights.shape[-1])
            first, second = [*(slot.reshape(shape) for slot in slots), *[np.empty((0, 1), np.float32)] * 2][:2]
            whole, gradient = weights.reshape(shape), np.ascontiguousarray(gradients[path], np.float32).reshape(shape)
            numbers = np.array(rule.numbers(rate, step), np.float32)
            every = np.arange(len(whole), dtype=np.int32)
            kernels.moved(every, rule.formula, numbers, whole, first, second, gradient, np.float32(scale))

    def square_norm(self, gradients: Mapping[str, Floats]) -> float:
        """Σ g² over the weights that `apply` moves."""
        return sum(float(np.sum(np.square(gradients[path]), dtype=np.float64)) for path in self._rules)

    def factor(self, square_norm: float) -> float:
        """What a step's gradients are multiplied by, given the sum of the squares of all of them."""
        if self._clip is None:
            return 1.0
        norm = math.sqrt(square_norm)
        return self._clip / max(norm, self._clip) if math.isfinite(norm) else math.nan

    def publish(self) -> None:
        """Give the model's variables the values of now; later ones they may show or not."""
        self.tables.publish()
        for path, variable in self._others.items():
            variable.assign(self.weights[path])

    def arrays(self) -> list[NDArray[np.float32]]:
        """All slots, which are no copies: those of the tables, and those of the other weights."""
        return [slot for slots in (*self.tables.slots, *self.slots) for slot in slots]

    def restore(self, arrays: Sequence[NDArray[np.float32]]) -> None:
        """Go on from slots, in the order of `arrays`, and from the model's variables as they are now."""
        self.tables.adopt()
        for path, variable in self._others.items():
            self.weights[path][:] = variable.numpy()
        for slot, array in zip(self.arrays(), arrays, strict=True):
            slot[:] = array
