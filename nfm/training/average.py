"""Exponential moving average of all trained weights (`train.average`).

Its first weights are those before the first step; `kernels.averages` describes the formula. The average of the last
steps is less noisy than the weights after any one of them, and usually predicts better.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from nfm.kernels.averages import Averages, multiply_decays
from nfm.kernels.tables import Tables
from nfm.training.model import Floats, Weights

_ROWS = 1024  # rows after which an average decays by the factor that is set
_MOST_STEPS = 2**31 - 1


class Average:
    """Averages of a model's trained weights; the other weights are copied at the end of an epoch."""

    def __init__(self, weights: Weights, decay: float, batch_rows: int) -> None:
        """Start with the current weights.

        Args:
            weights: weights of the model, which are copied.
            decay: `train.average`, for 1,024 rows.
            batch_rows: rows of a batch; the decay of a step is `decay` to the power of batch_rows / 1,024.
        """
        tables = Tables(*(table.copy() for table in weights.tables))
        self.weights = weights._replace(
            tables=tables, network={path: array.copy() for path, array in weights.network.items()}
        )
        log_decay = math.log(decay) * batch_rows / _ROWS
        # (1 + n) / (10 + n) < d for n < 9 / (1 − d) − 10
        warm_up = math.ceil(min(9 / -math.expm1(log_decay) - 10, _MOST_STEPS))
        self.tables = Averages(*tables, np.zeros(len(tables.embedding), np.int32), log_decay, max(warm_up, 0))

    def include(self, network: Mapping[str, Floats], paths: Iterable[str], step: int) -> None:
        """Include the weights of the network after step number `step`."""
        decay = np.float32(multiply_decays(step - 1, step, self.tables.log_decay, self.tables.warm_up))
        for path in paths:
            weights, average = network[path], self.weights.network[path]
            average[:] = weights + decay * (average - weights)
