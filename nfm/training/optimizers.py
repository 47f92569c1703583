"""Optimizers whose step costs what the batch costs: of a table, only the rows of the batch are read or written.

Kernels and biases are moved by TensorFlow's own operations, rows of the tables by the loops of `kernels`, which do the
same with the same numbers. All other rows stay as they are (Adam is lazy: a row's moments do not decay while it is not
seen).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config_train import Train
from nfm.training import kernels
from nfm.training.tables import RowTables, Rule

_BETA_1, _BETA_2 = 0.9, 0.999  # of Adam, as its authors have them
_EPSILON = {"adagrad": 1e-10, "adam": 1e-7}
_FTRL_ACCUMULATOR = 0.1
TABLES = ("embedding/table", "linear/table")
LINEAR = ("linear/table", "dense_linear/kernel")  # what `linear_optimizer` is for


class _Rule(NamedTuple):
    """How a variable moves."""

    of_rows: Rule
    apply: Callable[[Any, Sequence[Any], Any, Any, Any], None]  # variable, slots, gradient, rate, step from 1 on


def _adagrad(accumulator: float) -> _Rule:
    """a += g²; w −= rate · g / (√a + ε) (Duchi et al. 2011)."""

    def apply(var: Any, slots: Sequence[Any], gradient: Any, rate: Any, _: Any) -> None:
        tf.raw_ops.ResourceApplyAdagradV2(
            var=var.handle, accum=slots[0].handle, lr=rate, epsilon=_EPSILON["adagrad"], grad=gradient
        )

    return _Rule(Rule(kernels.ADAGRAD, (accumulator,), lambda rate, _: (rate, _EPSILON["adagrad"])), apply)


def _adam() -> _Rule:
    """m, v ← moments; w −= rate · √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε) (Kingma & Ba 2015, section 2)."""

    def apply(var: Any, slots: Sequence[Any], gradient: Any, rate: Any, step: Any) -> None:
        t = tf.cast(step, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=var.handle,
            m=slots[0].handle,
            v=slots[1].handle,
            beta1_power=tf.pow(_BETA_1, t),
            beta2_power=tf.pow(_BETA_2, t),
            lr=rate,
            beta1=_BETA_1,
            beta2=_BETA_2,
            epsilon=_EPSILON["adam"],
            grad=gradient,
        )

    def numbers(rate: float, step: int) -> tuple[float, ...]:
        corrected = rate * (1 - _BETA_2**step) ** 0.5 / (1 - _BETA_1**step)
        return corrected, 1 - _BETA_1, 1 - _BETA_2, _EPSILON["adam"]

    return _Rule(Rule(kernels.ADAM, (0.0, 0.0), numbers), apply)


def _sgd(momentum: float) -> _Rule:
    """w −= rate · g; with momentum, m ← momentum · m + g and w −= rate · m."""

    def plain(var: Any, _: Sequence[Any], gradient: Any, rate: Any, __: Any) -> None:
        tf.raw_ops.ResourceApplyGradientDescent(var=var.handle, alpha=rate, delta=gradient)

    def with_momentum(var: Any, slots: Sequence[Any], gradient: Any, rate: Any, _: Any) -> None:
        tf.raw_ops.ResourceApplyMomentum(
            var=var.handle, accum=slots[0].handle, lr=rate, grad=gradient, momentum=momentum
        )

    if not momentum:
        return _Rule(Rule(kernels.SGD, (), lambda rate, _: (rate,)), plain)
    return _Rule(Rule(kernels.MOMENTUM, (0.0,), lambda rate, _: (rate, momentum)), with_momentum)


def _ftrl(rate: float, l1: float, l2: float) -> _Rule:
    """FTRL-proximal with a rate of its own (McMahan et al. 2013, algorithm 1).

    w follows from the slots alone; so z starts with the value that has the variable's weights for its w, or those of a
    model that the training starts from would be lost at their first step.
    """

    def apply(var: Any, slots: Sequence[Any], gradient: Any, _: Any, __: Any) -> None:
        tf.raw_ops.ResourceApplyFtrl(
            var=var.handle,
            accum=slots[0].handle,
            linear=slots[1].handle,
            grad=gradient,
            lr=rate,
            l1=l1,
            l2=l2,
            lr_power=-0.5,
        )

    def of_weights(w: Any) -> Any:
        return -w * (_FTRL_ACCUMULATOR**0.5 / rate + 2 * l2) - np.sign(w) * l1

    return _Rule(Rule(kernels.FTRL, (_FTRL_ACCUMULATOR, of_weights), lambda *_: (rate, l1, l2)), apply)


def _rule(settings: Train, path: str) -> _Rule:
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
    """The slots of a model's variables, and the steps that move both: the tables' rows, and all other variables."""

    def __init__(self, settings: Train, variables: Sequence[Any], threads: int | None = None) -> None:
        """Make the slots.

        Args:
            settings: which optimizer.
            variables: the model's trainable ones, both tables among them.
            threads: for the tables' rows; one for each core unless set.
        """
        tables = [next(variable for variable in variables if variable.path == path) for path in TABLES]
        rules, self._clip = [_rule(settings, path) for path in TABLES], settings.clip_norm
        self.tables = RowTables(tables, [rule.of_rows for rule in rules], threads)
        self.variables = [variable for variable in variables if variable.path not in TABLES]
        self._rules = [_rule(settings, variable.path) for variable in self.variables]
        #: of each of `variables`
        self.slots = [
            [tf.Variable(_started(start, variable), trainable=False) for start in rule.of_rows.slots]
            for rule, variable in zip(self._rules, self.variables, strict=True)
        ]

    def apply(self, gradients: Sequence[Any], rate: Any, step: Any) -> None:
        """Move the variables that are no tables; inside a tf.function.

        Args:
            gradients: one for each of `variables`.
            rate: the learning rate.
            step: counted from 1.
        """
        for variable, rule, slots, gradient in zip(self.variables, self._rules, self.slots, gradients, strict=True):
            rule.apply(variable.value, slots, gradient, rate, step)

    def factor(self, square_norm: float) -> float:
        """What a step's gradients are multiplied by, given the sum of the squares of all of them."""
        if self._clip is None:
            return 1.0
        norm = math.sqrt(square_norm)
        return self._clip / max(norm, self._clip) if math.isfinite(norm) else math.nan

    def arrays(self) -> list[NDArray[np.float32]]:
        """All slots: those of the tables, which are no copies, and those of the other variables."""
        of_tables = [slot for slots in self.tables.slots for slot in slots]
        return [*of_tables, *(slot.numpy() for slots in self.slots for slot in slots)]

    def restore(self, arrays: Sequence[NDArray[np.float32]]) -> None:
        """Go on from slots, in the order of `arrays`, and from the model's weights as they are now."""
        self.tables.adopt()
        of_tables = [slot for slots in self.tables.slots for slot in slots]
        for slot, array in zip(of_tables, arrays, strict=False):
            slot[:] = array
        others = [slot for slots in self.slots for slot in slots]
        for slot, array in zip(others, arrays[len(of_tables) :], strict=True):
            slot.assign(array)


def _started(start: float | Callable[[Any], Any], variable: Any) -> Any:
    return start(variable.numpy()) if callable(start) else tf.fill(variable.shape, start)
