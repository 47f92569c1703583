"""The layers above the tables for pairs of users and items: the derivatives of a ranking's loss."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nfm.config.ranking import Ranking
from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.forward.sides import find_columns
from nfm.training.network import SQUARE, Network, dropout
from nfm.training.ranking.losses import choose_pair_loss


class PairNetwork(Network):
    """The layers for B users and (1 + n) B items: the chosen ones, then the negatives of the first draw, and so on.

    The sums of a step are Σ x v, the pooled vectors, the linear sums and the dense numbers of the users, then those of
    the items. Batch norm sees all pairs together; the pairs of a user lose the same units by dropout.
    """

    def __init__(
        self, spec: Spec, settings: Model, train: Train, rows: int, ranking: Ranking, sides: tuple[Spec, Spec]
    ) -> None:
        """Build the layers; `sides`: the specifications of the users and of the items. Others as for `Network`."""
        super().__init__(spec, settings, train, rows)
        self._loss = choose_pair_loss(ranking)
        dim, samples = settings.embedding_dim, 1 + ranking.negatives
        users, items = (
            [(dim, n), (dim, n), (1, n), (len(s.dense), n)] for s, n in zip(sides, (1, samples), strict=True)
        )
        self._step_sums, self._samples = [*users, *items], samples
        self._differentiated = [0, 1, 2, 4, 5, 6]
        # Places of the model's dense columns among those of the users and the items.
        self._dense = np.argsort(np.concatenate([find_columns(spec, side) for side in sides])).astype(np.int32)

    def _combine(self, sums: Any) -> tuple[Any, Any, Any]:
        """Return f_BI of the pairs, p_u + p_i + s_u ⊙ s_i (`forward.sides`), their linear sums and dense numbers."""
        *users, dense_BD = sums[:4]
        *items, dense_SD = sums[4:]
        samples, dim = self._samples, sums[0].shape[1]
        sum_u, pooled_u = (x[tf.newaxis] for x in users[:2])
        sum_i, pooled_i = (tf.reshape(x, (samples, -1, dim)) for x in items[:2])
        pooled = tf.reshape(pooled_u + pooled_i + sum_u * sum_i, (-1, dim))
        linear = tf.tile(users[2], (samples, 1)) + items[2]
        dense = tf.concat([tf.tile(dense_BD, (samples, 1)), dense_SD], axis=1)
        return pooled, linear, tf.gather(dense, self._dense, axis=1)


class BatchNetwork(PairNetwork):
    """Softmax over all items of a batch, for a model without hidden layers and batch norm.

    The scores of all B users and B items are then two matrix products, with h the output vector and m_u the dropout of
    a user's pairs: (h ⊙ m_u ⊙ s_u) · s_i + (h ⊙ m_u) · p_i, and terms of one side. The sums of a step are those of
    `PairNetwork` for B items, and (B, B) what is added to each score before the softmax.
    """

    def __init__(self, spec: Spec, settings: Model, train: Train, rows: int, sides: tuple[Spec, Spec]) -> None:
        """Build the layers; arguments as for `PairNetwork`."""
        super().__init__(spec, settings, train, rows, Ranking(user="u", item="i", negatives=1), sides)
        self._step_sums, self._samples = [(columns, 1) for columns, _ in self._step_sums] + [(SQUARE, 1)], 1
        self._columns = [find_columns(spec, side).astype(np.int32) for side in sides]

    def _step(self, trained: Any, fixed: Any, sums: Any, label: Any, weight: Any, seeds: Any) -> tuple[Any, ...]:
        watched = [trained, *(sums[i] for i in self._differentiated)]
        rate = self._settings.pooling_dropout
        with tf.GradientTape() as tape:
            tape.watch(watched)
            sum_u, pooled_u, linear_u, dense_u, sum_i, pooled_i, linear_i, dense_i, added = sums
            with self._use_weights(trained, fixed):
                h_K = tf.reshape(keras.ops.convert_to_tensor(self._layers["output"].kernel), [-1])
                linear_u, linear_i = (
                    linear + self._dense_linear(dense, columns)
                    for linear, dense, columns in ((linear_u, dense_u, 0), (linear_i, dense_i, 1))
                )
            h_BK = tf.ones_like(pooled_u) * h_K
            h_BK = dropout(h_BK, rate, seeds[0], seeds[1]) if rate else h_BK
            of_user = linear_u + tf.reduce_sum(h_BK * pooled_u, axis=1, keepdims=True)
            products = tf.matmul(h_BK * sum_u, sum_i, transpose_b=True) + tf.matmul(h_BK, pooled_i, transpose_b=True)
            scores = of_user + tf.transpose(linear_i) + products + added
            loss = tf.reduce_sum(weight * (tf.reduce_logsumexp(scores, axis=1) - tf.linalg.diag_part(scores)))
            objective = loss / tf.cast(tf.size(label), tf.float32) if self._train.loss_reduction == "mean" else loss
        gradients = tape.gradient(objective, watched, unconnected_gradients="zero")
        return loss, *gradients, fixed  # there are no moving averages

    def _dense_linear(self, dense: Any, side: int) -> Any:
        if not dense.shape[1]:
            return 0.0
        kernel = keras.ops.convert_to_tensor(self._layers["dense_linear"].kernel)
        return tf.matmul(dense, tf.gather(kernel, self._columns[side]))
