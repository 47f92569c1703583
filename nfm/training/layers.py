"""The layers of the paper that Keras does not have (He & Chua, "Neural Factorization Machines", SIGIR 2017)."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


def table_rows(ids_BF: Any, offsets: Sequence[int], numbers: int, table_size: int) -> Any:
    """Rows of the shared table: each field's ids moved to its block, then one row a number.

    Returns:
        (B, F + N) int32; the N numbers have the table's last N rows.
    """
    rows_BF = ids_BF + tf.constant(offsets, tf.int32)[tf.newaxis, :]
    number_rows = tf.range(table_size - numbers, table_size, dtype=tf.int32)
    batch = tf.shape(ids_BF)[0]
    return tf.concat([rows_BF, tf.tile(number_rows[tf.newaxis, :], [batch, 1])], axis=1)


def feature_values(ids_BF: Any, values_BN: Any) -> Any:
    """x of every feature: 1 for a category, the value for a number. Returns (B, F + N) float32."""
    return tf.concat([tf.ones_like(ids_BF, tf.float32), values_BN], axis=1)


class _SharedTable(keras.layers.Layer):
    """A layer whose weights have one row for each id of every field, and one for each number."""

    def __init__(self, offsets: Sequence[int], numbers: int, table_size: int, l2: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.offsets, self.numbers, self.table_size, self.l2 = tuple(offsets), numbers, table_size, l2

    def _rows_and_values(self, ids_BF: Any, values_BN: Any) -> tuple[Any, Any]:
        rows = table_rows(ids_BF, self.offsets, self.numbers, self.table_size)
        return rows, feature_values(ids_BF, values_BN)

    def _penalize(self, gathered: Any) -> None:
        if self.l2:  # the rows of the batch only: the whole table would be read at every step
            batch = tf.cast(tf.shape(gathered)[0], tf.float32)
            self.add_loss(self.l2 * tf.reduce_sum(tf.square(gathered)) / batch)

    def get_config(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            "offsets": self.offsets,
            "numbers": self.numbers,
            "table_size": self.table_size,
            "l2": self.l2,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("nfm")
class FeatureEmbedding(_SharedTable):
    """x_i v_i of every feature (the set V_x of the paper's section 3.1).

    Call with ids_BF (B, F) int32, local to their fields, and values_BN (B, N) float32; returns (B, F + N, K).

    Args:
        dim: K.
        offsets: first row of each field's block (F).
        numbers: N, the numbers that enter the pooling.
        table_size: R rows: all fields' ids, then the numbers.
        l2: factor of Σ v² over the batch's rows, divided by B, that is added to the loss.
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:  # noqa: D107 (the arguments stand above)
        super().__init__(**kwargs)
        self.dim = dim

    def build(self, *_: Any) -> None:
        """Make the table (R, K)."""
        # 0.05 rather than the paper's 0.01: products of two embeddings start above the noise of the batch norm.
        normal = keras.initializers.RandomNormal(stddev=0.05)
        self.table = self.add_weight(shape=(self.table_size, self.dim), initializer=normal, name="table")

    def call(self, ids_BF: Any, values_BN: Any) -> Any:
        """Gather and scale."""
        rows, x = self._rows_and_values(ids_BF, values_BN)
        gathered = tf.gather(self.table, rows)  # (B, F + N, K)
        self._penalize(gathered)
        return gathered * x[:, :, tf.newaxis]

    def get_config(self) -> dict[str, Any]:
        """What the layer is made anew from."""
        return {**super().get_config(), "dim": self.dim}


@keras.saving.register_keras_serializable("nfm")
class FirstOrder(_SharedTable):
    """w_0 + Σ w_i x_i (paper, eq. 2): a weight for each feature, and the global bias.

    Call with ids_BF (B, F) and values_BN (B, N); returns (B, 1). Arguments as of `FeatureEmbedding`.
    """

    def build(self, *_: Any) -> None:
        """Make the weights (R, 1) and the bias (1,)."""
        self.table = self.add_weight(shape=(self.table_size, 1), initializer="zeros", name="table")
        self.bias = self.add_weight(shape=(1,), initializer="zeros", name="bias")

    def call(self, ids_BF: Any, values_BN: Any) -> Any:
        """Gather, scale and sum."""
        rows, x = self._rows_and_values(ids_BF, values_BN)
        gathered = tf.gather(self.table, rows)[:, :, 0]  # (B, F + N)
        self._penalize(gathered)
        return tf.reduce_sum(gathered * x, axis=1, keepdims=True) + self.bias


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
        sum_of_squares = tf.reduce_sum(tf.square(vectors_BMK), axis=1)
        return 0.5 * (square_of_sum - sum_of_squares)  # (B, K)
