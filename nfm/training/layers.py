"""The layers of the paper that Keras does not have (He & Chua, "Neural Factorization Machines", SIGIR 2017)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.contract.dataset import Inputs
from nfm.contract.schema import Spec

BAG_FEATURES = ("bag_rows", "bag_values")


def make_keras_inputs(inputs: Inputs, spec: Spec) -> dict[str, NDArray[Any]]:
    """Make the inputs of the Keras model, by name, from encoded rows.

    Returns:
        ids (B, F) int32, values (B, N) and dense (B, D) float32. If numbers have bins, also bins (B, Q) int32 and
        fractions (B, Q) float32. If the specification has bags, also bag_rows (B, P)
        int32 and bag_values (B, P) float32. P is the largest number of members in a row, at least 1; shorter rows are
        padded with the table's padding row, R, and the value 0.
    """
    features: dict[str, NDArray[Any]] = {
        "ids": inputs.ids_BF,
        "values": inputs.values_BN,
        "dense": inputs.dense_BD,
    }
    if spec.binned:
        features |= {"bins": inputs.bins_BQ, "fractions": inputs.fractions_BQ}
    if any(field.bag is not None for field in spec.fields):
        lengths = np.diff(inputs.bag_splits)
        is_member = np.arange(lengths.max(initial=1)) < lengths[:, np.newaxis]
        padded = ((inputs.bag_rows, spec.rows), (inputs.bag_values, 0))
        for name, (members, padding) in zip(BAG_FEATURES, padded, strict=True):
            features[name] = np.full(is_member.shape, padding, members.dtype)
            features[name][is_member] = members
    return features


class _SharedTable(keras.layers.Layer):
    """Layer with one table: a row for each id of every field and for each number, and a last row for padding.

    Call with
        ids_BF (B, F) int32, local to their fields, and values_BN (B, N), the numbers in the pooling;
        if numbers have bins, also with bins_BQ (B, Q) int32 and fractions_BQ (B, Q), see `contract.encoder.find_bins`;
        if fields are bags, also with bag_rows_BP (B, P) int32, rows of the table padded with the padding row, and
        bag_values_BP (B, P), the members' weights padded with 0.

    `offsets`: first row of each of the F fields that are not bags. `bin_offsets`: first row of each number with bins.
    `table_size`: R, the rows without padding; the numbers have the last N of them, and padding has row R. `l2`: factor
    of Σ w² over the batch's features, divided by B, that is added to the loss.
    """

    def __init__(
        self,
        offsets: Sequence[int],
        numbers: int,
        table_size: int,
        width: int,
        initializer: Any = "zeros",
        l2: float = 0.0,
        bin_offsets: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.offsets, self.numbers, self.table_size = tuple(offsets), numbers, table_size
        self.bin_offsets = tuple(bin_offsets)
        self.width, self.l2, self.initializer = width, l2, keras.initializers.get(initializer)

    def build(self, *_: Any) -> None:
        """Create the table (R + 1, width)."""
        shape = (self.table_size + 1, self.width)
        self.table = self.add_weight(shape=shape, initializer=self.initializer, name="table")

    def _features(self, ids_BF: Any, values_BN: Any, others: Sequence[Any]) -> Any:
        """Return (B, F + N + P + Q, width): the row of each feature times its x; interpolated rows for bins."""
        parts, squares = [], []
        bins, bags = (others[:2], others[2:]) if self.bin_offsets else ((), others)
        if self.offsets:
            parts.append(self._gather(ids_BF + tf.constant(self.offsets, tf.int32)[tf.newaxis, :]))
            squares.append(tf.square(parts[-1]))
        if self.numbers:  # every sample has the same rows, so they are gathered once
            first = self.table_size - self.numbers
            weights_1NK = self._gather(tf.range(first, self.table_size, dtype=tf.int32))[tf.newaxis, :, :]
            parts.append(values_BN[:, :, tf.newaxis] * weights_1NK)
            squares.append(tf.square(weights_1NK) * tf.cast(tf.shape(ids_BF)[0], tf.float32))
        if bags:
            rows_BP, values_BP = bags
            weights_BPK = self._gather(rows_BP)
            parts.append(values_BP[:, :, tf.newaxis] * weights_BPK)
            is_member = tf.cast(rows_BP < self.table_size, tf.float32)[:, :, tf.newaxis]
            squares.append(tf.square(weights_BPK) * is_member)
        if bins:
            bins_BQ, fractions_BQ = bins
            low_BQ = bins_BQ + tf.constant(self.bin_offsets, tf.int32)[tf.newaxis, :]
            high_BQ = low_BQ + tf.cast(fractions_BQ > 0, tf.int32)
            low, high, t = self._gather(low_BQ), self._gather(high_BQ), fractions_BQ[:, :, tf.newaxis]
            parts.append((1 - t) * low + t * high)
            squares += [tf.square(low), tf.square(high)]
        if self.l2:  # of the batch's features only: a penalty on the table would read all of it at every step
            batch = tf.cast(tf.shape(ids_BF)[0], tf.float32)
            self.add_loss(self.l2 * tf.add_n([tf.reduce_sum(square) for square in squares]) / batch)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def _gather(self, rows: Any) -> Any:
        # Gather from the variable: only these rows are then read, and the gradient has only these rows.
        return tf.gather(self.table.value, rows)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "offsets": self.offsets,
            "numbers": self.numbers,
            "table_size": self.table_size,
            "width": self.width,
            "initializer": keras.initializers.serialize(self.initializer),
            "l2": self.l2,
            "bin_offsets": self.bin_offsets,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("nfm")
class FeatureEmbedding(_SharedTable):
    """Embeddings x_i v_i of every feature (V_x in section 3.1 of the paper); each member of a bag is a feature.

    Arguments and inputs as for `_SharedTable`; width is K. Returns (B, F + N + P + Q, K).
    """

    def call(self, ids_BF: Any, values_BN: Any, *others: Any) -> Any:
        """Gather the rows of the features and multiply them by x."""
        return self._features(ids_BF, values_BN, others)


@keras.saving.register_keras_serializable("nfm")
class FirstOrder(_SharedTable):
    """Linear part w_0 + Σ w_i x_i (paper, eq. 2): a weight for each feature, and the global bias.

    Arguments and inputs as for `_SharedTable`; width is C, the number of outputs. Returns (B, C).
    """

    def build(self, *_: Any) -> None:
        """Create the weights (R + 1, C) and the bias (C,)."""
        super().build()
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")

    def call(self, ids_BF: Any, values_BN: Any, *others: Any) -> Any:
        """Gather the weights of the features, multiply them by x, and sum."""
        return tf.reduce_sum(self._features(ids_BF, values_BN, others), axis=1) + self.bias


@keras.saving.register_keras_serializable("nfm")
class TargetRates(keras.layers.Layer):
    """Target rates of the values of a row, see `kernels.rates`: a table that is not trained.

    Call with ids_BF (B, F) int32, local to their fields, and with bags also with bag_rows_BP (B, P) int32. Returns
    (B, (J + A) · C). `fields`: for each of J fields, its column in ids_BF and the first row of its block. `bags`: for
    each of A bags, the first row of its block and the row after the last one. `table_size`: R; row R is padding.
    """

    def __init__(self, fields: Sequence[Any], bags: Sequence[Any], table_size: int, width: int, **kwargs: Any) -> None:
        """Create the layer; the table is created with its first call."""
        super().__init__(**kwargs)
        self.fields, self.bags = [tuple(place) for place in fields], [tuple(block) for block in bags]
        self.table_size, self.width = table_size, width

    def build(self, *_: Any) -> None:
        """Create the table (R + 1, C)."""
        shape = (self.table_size + 1, self.width)
        self.table = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="table")

    def call(self, ids_BF: Any, *bag_rows: Any) -> Any:
        """Look up the rates of the values; average those of a bag's members."""
        table = self.table.value
        rates = [tf.gather(table, ids_BF[:, column] + offset) for column, offset in self.fields]
        for start, stop in self.bags:
            is_member = (bag_rows[0] >= start) & (bag_rows[0] < stop)
            weight_BP1 = tf.cast(is_member, tf.float32)[:, :, tf.newaxis]
            total = tf.reduce_sum(weight_BP1 * tf.gather(table, bag_rows[0]), axis=1)
            rates.append(total / tf.maximum(tf.reduce_sum(weight_BP1, axis=1), 1.0))
        return tf.concat(rates, axis=1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for the saved file."""
        config: dict[str, Any] = {
            "fields": self.fields,
            "bags": self.bags,
            "table_size": self.table_size,
            "width": self.width,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("nfm")
class BiInteraction(keras.layers.Layer):
    """Bi-Interaction pooling (paper, eq. 3 and 4), in time linear in the number of features.

        f_BI(V_x) = Σ_{i<j} x_i v_i ⊙ x_j v_j = ½ [ (Σ x_i v_i)² − Σ (x_i v_i)² ]

    Call with (B, M, K) vectors x_i v_i; returns (B, K). Its derivative is ∂f_BI/∂v_i = x_i Σ_{j≠i} x_j v_j (eq. 5).

    >>> rows = tf.constant([[[3.0, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1]]])
    >>> BiInteraction()(rows).numpy().tolist()
    [[19.0, 10.0, 27.0, 4.0]]
    """

    def call(self, vectors_BMK: Any) -> Any:
        """Pool over the features."""
        square_of_sum = tf.square(tf.reduce_sum(vectors_BMK, axis=1))
        return 0.5 * (square_of_sum - tf.reduce_sum(tf.square(vectors_BMK), axis=1))  # (B, K)


@keras.saving.register_keras_serializable("nfm")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer under the name in files of older models, which warm starts and the parity check still load."""


@keras.saving.register_keras_serializable("nfm")
class Dropout(keras.layers.Dropout):
    """Keras's layer under the name in files of older models."""
