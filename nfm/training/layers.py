"""The layers of the paper that Keras does not have (He & Chua, "Neural Factorization Machines", SIGIR 2017)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from nfm.contract.encoder import Inputs
from nfm.contract.schema import Spec

BAG_FEATURES = ("bag_rows", "bag_values")


def features_of(arranged: Inputs, spec: Spec) -> dict[str, NDArray[Any]]:
    """Return the inputs of the Keras model by name.

    Returns:
        ids (B, F) int32, values (B, N) and dense (B, D) float32. Where the specification has bags, bag_rows (B, P)
        int32 and bag_values (B, P) float32, too: P is the largest number of members in a row, at least 1; shorter rows
        are filled with the row after the table's end, and 0.
    """
    features: dict[str, NDArray[Any]] = {
        "ids": arranged.ids_BF,
        "values": arranged.values_BN,
        "dense": arranged.dense_BD,
    }
    if any(one.bag is not None for one in spec.fields):
        lengths = np.diff(arranged.bag_splits)
        is_member = np.arange(lengths.max(initial=1)) < lengths[:, np.newaxis]
        parts = ((arranged.bag_rows, spec.rows), (arranged.bag_values, 0))
        for name, (members, padding) in zip(BAG_FEATURES, parts, strict=True):
            features[name] = np.full(is_member.shape, padding, members.dtype)
            features[name][is_member] = members
    return features


class _SharedTable(keras.layers.Layer):
    """A layer whose weights have a row for each id of every field and for each number, and a last one for padding.

    It is called with
        ids_BF (B, F) int32, local to their fields; values_BN (B, N), the numbers that enter the pooling;
        and where fields are bags, bag_rows_BP (B, P) int32, rows of the table, filled up with the padding row; and
        bag_values_BP (B, P), the members' weights, filled up with 0.

    `offsets`: first row of the block of each of the F fields that are not bags. The numbers have the last N of the
    `table_size` R rows; padding has row R. `l2`: factor of Σ w² over the batch's features, divided by B, that is added
    to the loss.
    """

    def __init__(
        self,
        offsets: Sequence[int],
        numbers: int,
        table_size: int,
        width: int,
        initializer: Any = "zeros",
        l2: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.offsets, self.numbers, self.table_size = tuple(offsets), numbers, table_size
        self.width, self.l2, self.initializer = width, l2, keras.initializers.get(initializer)

    def build(self, *_: Any) -> None:
        """Make the table (R + 1, width)."""
        shape = (self.table_size + 1, self.width)
        self.table = self.add_weight(shape=shape, initializer=self.initializer, name="table")

    def _features(self, ids_BF: Any, values_BN: Any, bags: Sequence[Any]) -> Any:
        """(B, F + N + P, width): the weights of each feature, times its x."""
        parts, squares = [], []
        if self.offsets:
            parts.append(self._gather(ids_BF + tf.constant(self.offsets, tf.int32)[tf.newaxis, :]))
            squares.append(tf.square(parts[-1]))
        if self.numbers:  # their rows are the same for every sample: gathered once
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
        if self.l2:  # of the batch's features only: the whole table would be read at every step
            batch = tf.cast(tf.shape(ids_BF)[0], tf.float32)
            self.add_loss(self.l2 * tf.add_n([tf.reduce_sum(square) for square in squares]) / batch)
        return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)

    def _gather(self, rows: Any) -> Any:
        # Of the variable, not of its value: so only these rows are read, and only they have a gradient.
        return tf.gather(self.table.value, rows)

    def get_config(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            "offsets": self.offsets,
            "numbers": self.numbers,
            "table_size": self.table_size,
            "width": self.width,
            "initializer": keras.initializers.serialize(self.initializer),
            "l2": self.l2,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("nfm")
class FeatureEmbedding(_SharedTable):
    """x_i v_i of every feature (the set V_x of the paper's section 3.1); each member of a bag is a feature.

    Arguments and call as of `_SharedTable`; width is K. Returns (B, F + N + P, K).
    """

    def call(self, ids_BF: Any, values_BN: Any, *bags: Any) -> Any:
        """Gather and scale."""
        return self._features(ids_BF, values_BN, bags)


@keras.saving.register_keras_serializable("nfm")
class FirstOrder(_SharedTable):
    """w_0 + Σ w_i x_i (paper, eq. 2): a weight for each feature, and the global bias.

    Arguments and call as of `_SharedTable`; width is C, the number of outputs. Returns (B, C).
    """

    def build(self, *_: Any) -> None:
        """Make the weights (R + 1, C) and the bias (C,)."""
        super().build()
        self.bias = self.add_weight(shape=(self.width,), initializer="zeros", name="bias")

    def call(self, ids_BF: Any, values_BN: Any, *bags: Any) -> Any:
        """Gather, scale and sum."""
        return tf.reduce_sum(self._features(ids_BF, values_BN, bags), axis=1) + self.bias


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
    """Keras's own, by the name that files of older models have: they are started from, and held against scores."""


@keras.saving.register_keras_serializable("nfm")
class Dropout(keras.layers.Dropout):
    """Likewise."""
