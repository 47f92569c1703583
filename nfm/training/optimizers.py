"""Optimizers whose step costs what the batch costs: of a table, only the rows of the batch are read or written.

A table's gradient comes as rows (`tf.IndexedSlices`), some of them several times. They are added up by row; the rows of
the table and of its slots are gathered, TensorFlow's dense kernel is applied to these, and they are put back. So a
touched row moves by the very formula that moves a kernel or a bias, and all others stay as they are (Adam is lazy: a
row's moments do not decay while it is not seen). TensorFlow's own kernel for sparse rows, ResourceSparseApplyAdagradV2,
takes four times as long for the same: it goes through the rows one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from nfm.config_train import Train

_BETA_1, _BETA_2 = 0.9, 0.999  # of Adam, as its authors have them
_EPSILON = {"adagrad": 1e-10, "adam": 1e-7}
_FTRL_ACCUMULATOR = 0.1
LINEAR = ("linear/table", "dense_linear/kernel")  # what `linear_optimizer` is for


class _Rule(NamedTuple):
    """How a variable moves: what its slots start with (a number, or a function of the variable), and the kernel."""

    slots: tuple[float | Callable[[Any], Any], ...]
    apply: Callable[[Any, Sequence[Any], Any, Any, Any], None]  # variable, slots, gradient, rate, step from 1 on


def _adagrad(accumulator: float) -> _Rule:
    """a += g²; w −= rate · g / (√a + ε) (Duchi et al. 2011)."""

    def apply(var: Any, slots: Sequence[Any], gradient: Any, rate: Any, _: Any) -> None:
        tf.raw_ops.ResourceApplyAdagradV2(
            var=var.handle, accum=slots[0].handle, lr=rate, epsilon=_EPSILON["adagrad"], grad=gradient
        )

    return _Rule((accumulator,), apply)


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

    return _Rule((0.0, 0.0), apply)


def _sgd(momentum: float) -> _Rule:
    """w −= rate · g; with momentum, m ← momentum · m + g and w −= rate · m."""

    def plain(var: Any, _: Sequence[Any], gradient: Any, rate: Any, __: Any) -> None:
        tf.raw_ops.ResourceApplyGradientDescent(var=var.handle, alpha=rate, delta=gradient)

    def with_momentum(var: Any, slots: Sequence[Any], gradient: Any, rate: Any, _: Any) -> None:
        tf.raw_ops.ResourceApplyMomentum(
            var=var.handle, accum=slots[0].handle, lr=rate, grad=gradient, momentum=momentum
        )

    return _Rule((0.0,), with_momentum) if momentum else _Rule((), plain)


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
        return -w * (_FTRL_ACCUMULATOR**0.5 / rate + 2 * l2) - tf.sign(w) * l1

    return _Rule((_FTRL_ACCUMULATOR, of_weights), apply)


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
    """The slots of a model's variables, and the step that moves both."""

    def __init__(self, settings: Train, variables: Sequence[Any]) -> None:
        """Make the slots.

        Args:
            settings: which optimizer.
            variables: the model's trainable ones.
        """
        self._variables, self._clip = list(variables), settings.clip_norm
        self._rules = [_rule(settings, variable.path) for variable in variables]
        self.slots = [
            [tf.Variable(_started(start, variable), trainable=False) for start in rule.slots]
            for rule, variable in zip(self._rules, self._variables, strict=True)
        ]
        # The touched rows of a table and of its slots, while the kernel is at them.
        self._touched = [
            [
                tf.Variable(tf.zeros((0, variable.shape[-1])), shape=(None, variable.shape[-1]), trainable=False)
                for _ in range(1 + len(rule.slots))
            ]
            for rule, variable in zip(self._rules, self._variables, strict=True)
        ]

    def apply(self, gradients: Sequence[Any], rate: Any, step: Any) -> None:
        """Move the variables; inside a tf.function.

        Args:
            gradients: one for each variable, a tensor or `tf.IndexedSlices`. All that come as rows are of the same
                rows, in the same order: every table is read at the batch's features.
            rate: the learning rate.
            step: counted from 1.
        """
        rows, gradients = _added_up(gradients)
        if self._clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip)
        for i, (variable, rule, gradient) in enumerate(zip(self._variables, self._rules, gradients, strict=True)):
            if rows[i] is None:
                rule.apply(variable.value, self.slots[i], gradient, rate, step)
                continue
            whole = [variable.value, *self.slots[i]]
            for touched, all_rows in zip(self._touched[i], whole, strict=True):
                touched.assign(tf.gather(all_rows, rows[i]))
            rule.apply(self._touched[i][0], self._touched[i][1:], gradient, rate, step)
            for touched, all_rows in zip(self._touched[i], whole, strict=True):
                tf.raw_ops.ResourceScatterUpdate(resource=all_rows.handle, indices=rows[i], updates=touched)


def _started(start: float | Callable[[Any], Any], variable: Any) -> Any:
    return start(variable.value) if callable(start) else tf.fill(variable.shape, start)


def _added_up(gradients: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Each table's rows, each once (None for what is no table); and the gradients by row."""
    is_table = [isinstance(gradient, tf.IndexedSlices) for gradient in gradients]
    indices = next((g.indices for g, table in zip(gradients, is_table, strict=True) if table), None)
    if indices is None:
        return [None] * len(is_table), list(gradients)
    rows, place = tf.unique(indices)
    count = tf.size(rows)
    added = [
        tf.math.unsorted_segment_sum(g.values, place, count) if table else g
        for g, table in zip(gradients, is_table, strict=True)
    ]
    return [rows if table else None for table in is_table], added
