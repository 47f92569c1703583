"""The layers above the tables for pairs of users and items: the derivatives of a ranking's loss."""

from typing import Any

import numpy as np
import tensorflow as tf

from nfm.config.ranking import Ranking
from nfm.config.train import Model, Train
from nfm.contract.schema import Spec
from nfm.forward.sides import find_columns
from nfm.training.network import Network
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
