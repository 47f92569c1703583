"""The layers above the tables in TensorFlow: the loss of a batch with its derivatives, and the logits of any rows.

The weights are arrays, which the optimizer changes between two steps. A call takes them as one vector and returns their
gradient as one vector, because each tensor of a call costs some microseconds.

In a long training XLA compiles the step for full batches, which takes a second. A step of 4,096 rows (K 64, hidden
layers 128-128, two cores) then takes 7.6 ms instead of 17.7 ms; a step of 256 rows takes the same time.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.kernels.tables import Pooled
from nfm.training.data.rows import Rows
from nfm.training.losses import choose_loss
from nfm.training.model import BIAS, apply_interactions, build_layers, describe, keep_all

Floats = NDArray[np.float32]
SQUARE = -1  # columns of a sum that has as many columns as the batch has rows
_MIN_XLA_ROWS = 500_000  # rows that a training learns from: with fewer, XLA saves less time than compiling takes


class Derivatives(NamedTuple):
    """Derivatives of the objective: mean or sum of the losses, plus the penalty on the hidden layers."""

    loss: float  # Σ weight · loss of the samples, without penalties
    pooled_BK: Floats  # with respect to the pooled vectors
    linear_BC: Floats  # with respect to the sums of the linear weights
    weights: dict[str, Floats]  # with respect to the trained weights of the network, by path


class Network:
    """The layers above the tables, for one model and its training settings."""

    def __init__(self, spec: Spec, settings: Model, train: Train, rows: int = 0) -> None:
        """Build the Keras layers; functions are traced when they are first needed.

        Args:
            spec: specification of the encoding.
            settings: model settings.
            train: training settings: the reduction of the losses, the batch size and the seed of the dropout.
            rows: number of rows that the training learns from, counted again in each epoch.
        """
        self._settings, self._train, self._loss = settings, train, choose_loss(settings).per_sample
        self._layers, outputs = build_layers(spec, settings), describe(spec, settings).outputs
        bias = keras.Variable(np.zeros(outputs, np.float32), name="bias")
        variables = [(BIAS, bias), *((v.path, v) for layer in self._layers.values() for v in layer.variables)]
        self.trained = {path: variable for path, variable in variables if variable.trainable}
        self._fixed = {path: variable for path, variable in variables if not variable.trainable}
        if settings.activation == "relu":
            self._layers |= {name: relu for name in self._layers if name.endswith("_relu")}
        self._row_sums = settings.embedding_dim, outputs, describe(spec, settings).dense_columns(spec)
        # Sums that a step takes: the columns of each, and its rows for one label. Those with derivatives. Samples of a
        # label.
        self._step_sums = [(columns, 1) for columns in self._row_sums]
        self._differentiated, self._samples = [0, 1], 1
        # Batches that a moving average stands for. An older model's moving averages are those of its batches.
        self._averaged = 1 / (1 - settings.batch_norm_momentum) if train.init_from is None else 1.0
        self._full_batch = train.batch_size if rows >= _MIN_XLA_ROWS else None

    def step(self, weights: dict[str, Floats], pooled: Pooled, rows: Rows, number: int) -> Derivatives:
        """Return the loss of a batch and its derivatives; update the moving averages of the batch norms in `weights`.

        Args:
            weights: weights of the network, by path.
            pooled: pooled vectors and linear sums of the batch.
            rows: the batch, for its dense numbers, labels and weights.
            number: number of the step; the seed and this number determine which units are dropped.
        """
        sums = pooled.pooled_BK, pooled.linear_BC, rows.inputs.dense_BD
        loss, of_sums, gradients = self.differentiate(weights, sums, rows.label, rows.weight, number)
        return Derivatives(loss, of_sums[0], of_sums[1], gradients)

    def differentiate(
        self, weights: dict[str, Floats], sums: Sequence[Floats], label: Floats, weight: Floats, number: int
    ) -> tuple[float, list[Floats], dict[str, Floats]]:
        """Return the loss of a batch and its derivatives with respect to the sums, without dense numbers, and weights.

        Arguments as for `step`; `sums` are the pooled vectors, the linear sums and the dense numbers.
        """
        seeds = np.random.SeedSequence([self._train.seed, number]).generate_state(
            2 + 2 * len(self._settings.hidden_units)
        )
        step = self._full_batch_step if len(label) == self._full_batch else self._any_batch_step
        loss, trained_gradient, *sums_gradients, fixed = step(
            *self._vectors(weights), [*map(tf.constant, sums)], *map(tf.constant, (label, weight, seeds))
        )
        # Average the first batches equally: otherwise the initial averages, which no batch had, would have a share.
        share = np.float32(max(1.0, self._averaged / number))
        with np.errstate(invalid="ignore", over="ignore"):  # after a divergence, which the caller finds
            for path, array in _split(fixed.numpy(), self._fixed).items():
                weights[path] += share * (array - weights[path])
        gradients = _split(trained_gradient.numpy(), self.trained)
        return float(loss), [gradient.numpy() for gradient in sums_gradients], gradients

    def logits(self, weights: Mapping[str, Floats], pooled: Pooled, dense_BD: Floats) -> tuple[Floats, Floats]:
        """Return (B, C) logits of the model and of its linear part alone, without dropout and with moving averages."""
        sums = [*map(tf.constant, (pooled.pooled_BK, pooled.linear_BC, dense_BD))]
        model, linear = (logits.numpy() for logits in self._traced_logits(*self._vectors(weights), sums))
        return model, linear

    def _vectors(self, weights: Mapping[str, Floats]) -> list[Any]:
        """Concatenate the weights of the network into two vectors: the trained weights, and all others."""
        return [
            tf.constant(np.concatenate([np.empty(0, np.float32), *(weights[path].ravel() for path in paths)]))
            for paths in (self.trained, self._fixed)
        ]

    @cached_property
    def _full_batch_step(self) -> Any:
        return self._trace(self._step, self._full_batch, jit_compile=True)

    @cached_property
    def _any_batch_step(self) -> Any:
        return self._trace(self._step, None)

    @cached_property
    def _traced_logits(self) -> Any:
        return self._trace(self._logits, None)

    def _trace(self, function: Any, rows: int | None, **options: Any) -> Any:
        """Trace a function before its first call: TensorFlow warns when calls trace a function for each training."""
        vectors = [tf.TensorSpec((None,), tf.float32)] * 2
        is_step = function == self._step
        sums = self._step_sums if is_step else [(columns, 1) for columns in self._row_sums]
        shapes = [
            (None if rows is None else rows * times, rows if columns == SQUARE else columns) for columns, times in sums
        ]
        signature = [*vectors, [tf.TensorSpec(shape, tf.float32) for shape in shapes]]
        if is_step:
            seeds = tf.TensorSpec((2 + 2 * len(self._settings.hidden_units),), tf.uint32)
            signature += [*[tf.TensorSpec((rows,), tf.float32)] * 2, seeds]
        return tf.function(function, signature, autograph=False, **options).get_concrete_function()

    def _step(self, trained: Any, fixed: Any, sums: Any, label: Any, weight: Any, seeds: Any) -> tuple[Any, ...]:
        pairs = iter([(seeds[i], seeds[i + 1]) for i in range(0, seeds.shape[0], 2)])

        def drop(_: str, rate: float, x: Any) -> Any:
            pair = next(pairs)
            return dropout(x, rate, *pair, self._samples) if rate else x

        watched = [trained, *(sums[i] for i in self._differentiated)]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            pooled, linear, dense = self._combine(sums)
            with self._use_weights(trained, fixed) as scope:
                logits = self._linear(linear, dense) + self._interactions(pooled, dense, drop, training=True)
                penalties = [x for layer in self._layers.values() for x in getattr(layer, "losses", ())]
                averages = [tf.reshape(scope.get_current_value(v), [-1]) for v in self._fixed.values()]
            loss = tf.reduce_sum(weight * self._loss(label, logits))  # each label has a loss
            count, penalty = tf.cast(tf.size(label), tf.float32), tf.add_n([tf.zeros(()), *penalties])
            mean = self._train.loss_reduction == "mean"
            objective = loss / count + penalty if mean else loss + count * penalty
        gradients = tape.gradient(objective, watched, unconnected_gradients="zero")
        return loss, *gradients, tf.concat([tf.zeros(0), *averages], 0)

    def _combine(self, sums: Any) -> Any:
        """Return the pooled vectors, the linear sums and the dense numbers of the samples of a step."""
        return sums

    def _logits(self, trained: Any, fixed: Any, sums: Any) -> tuple[Any, Any]:
        pooled, linear, dense = sums
        with self._use_weights(trained, fixed):
            linear_logits = self._linear(linear, dense)
            return linear_logits + self._interactions(pooled, dense, keep_all, training=False), linear_logits

    def _interactions(self, pooled: Any, dense: Any, drop: Any, training: bool) -> Any:
        return apply_interactions(self._layers, self._settings, pooled, dense, drop, training)

    def _linear(self, linear: Any, dense: Any) -> Any:
        bias = keras.ops.convert_to_tensor(self.trained[BIAS])
        return linear + bias + (self._layers["dense_linear"](dense) if dense.shape[1] else 0.0)

    def _use_weights(self, trained: Any, fixed: Any) -> Any:
        """Return a context in which the layers use these weights instead of the values of their variables."""
        pairs = []
        for vector, variables in ((trained, self.trained), (fixed, self._fixed)):
            parts = tf.split(vector, [int(np.prod(v.shape)) for v in variables.values()]) if variables else []
            pairs += [(v, tf.reshape(part, v.shape)) for v, part in zip(variables.values(), parts, strict=True)]
        return keras.StatelessScope(state_mapping=pairs)


def relu(x: Any) -> Any:
    """Return max(x, 0), and NaN for NaN: on some processors `tf.nn.relu` returns 0 instead, which hides divergence."""
    return tf.where(x <= 0, tf.zeros_like(x), x)


def dropout(x: Any, rate: float, seed: Any, other: Any, samples: int = 1) -> Any:
    """Set a random share of the units to 0, and scale up the others, so that the expected value stays the same.

    A unit is kept if 32 random bits are at least rate · 2³². The bits are a hash of the unit's place and of two seeds
    (the finalizer of github.com/skeeto/hash-prospector). XLA compiles it to a few vector instructions, while
    TensorFlow's counter-based generator takes several milliseconds a step.

    Args:
        x: units (B, U).
        rate: share of the units that is dropped, at least 0 and below 1.
        seed, other: two uint32 seeds.
        samples: number of equal parts of the rows, of which the i-th rows lose the same units.
    """

    def mix(bits: Any, shift: int, factor: int) -> Any:
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint32)))
        return bits * tf.constant(factor, tf.uint32)

    places = tf.range(tf.size(x)) if samples == 1 else tf.range(tf.size(x)) % (tf.size(x) // samples)
    places = tf.reshape(places, tf.shape(x))
    bits = tf.cast(places, tf.uint32) * tf.constant(0x9E3779B9, tf.uint32) + seed
    bits = mix(mix(bits, 16, 0x21F0AAAD) + other, 15, 0xD35A2D97)
    bits = mix(bits, 15, 1)
    return tf.where(bits >= tf.constant(round(rate * 2**32), tf.uint32), x / (1 - rate), 0.0)


def _split(vector: Floats, variables: Mapping[str, Any]) -> dict[str, Floats]:
    sizes = [int(np.prod(variable.shape)) for variable in variables.values()]
    parts = np.split(vector, np.cumsum(sizes)[:-1]) if sizes else []
    return {path: part.reshape(v.shape) for (path, v), part in zip(variables.items(), parts, strict=True)}
