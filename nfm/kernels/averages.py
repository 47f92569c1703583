"""Compiled loop for the moving average of the embedding tables (`train.average`).

    average ← w + decay · (average − w)             after each step, with the new weights w
    decay of step n = min(d, (1 + n) / (10 + n))    n from 0: the first weights, which are random, soon have no share

A row keeps its weights from one batch that it is in to the next one. All steps in between, the first of these batches
among them, are therefore included at once, just before its weights change again: average ← w + P · (average − w), where
P is the product of their decays. A training step then reads and writes the averages of the batch's rows only.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import compile_when_called

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class Averages(NamedTuple):
    """Moving averages of the tables."""

    embedding: Floats  # (R, K); without rows: no averages
    linear: Floats  # (R, C)
    steps_R: Ints  # number of steps that the averages of each row include
    log_decay: float  # log d, below 0
    warm_up: int  # number of first steps whose decay is (1 + n) / (10 + n)


NO_AVERAGES = Averages(np.empty((0, 1), np.float32), np.empty((0, 1), np.float32), np.empty(0, np.int32), -1.0, 0)


@compile_when_called
def multiply_decays(start: int, stop: int, log_decay: float, warm_up: int) -> Any:
    """Return the product of the decays of the steps from `start` to before `stop`, counted from 0.

    In the warm-up it is a ratio of factorials: (1 + s)/(10 + s) · … · t/(9 + t) = Π (s + j)/(t + j), j from 1 to 9.
    """
    product = np.exp(log_decay * np.float64(max(stop - max(start, warm_up), 0)))
    first, last = min(start, warm_up), min(stop, warm_up)
    if first < last:
        for j in range(1, 10):
            product *= np.float64(first + j) / np.float64(last + j)
    return product


@compile_when_called
def catch_up(start: int, stop: int, rows_D: Ints, tables: Any, averages: Averages, step: int) -> None:
    """Include the first `step` steps in the averages of some rows, which kept their weights since the last included.

    Args:
        start, stop: range of `rows_D`.
        rows_D: rows of the tables.
        tables: weights of the embeddings and of the linear part.
        averages: changed in place.
        step: number of steps that the averages then include.
    """
    embedding, linear = tables
    of_embedding, of_linear, steps_R, log_decay, warm_up = averages
    dim, width = np.uint64(embedding.shape[1]), np.uint64(linear.shape[1])
    for d in range(np.uint64(start), np.uint64(stop)):
        row = np.uint64(rows_D[d])
        if steps_R[row] != step:
            share = np.float32(multiply_decays(steps_R[row], step, log_decay, warm_up))
            steps_R[row] = step
            for k in range(dim):
                of_embedding[row, k] = embedding[row, k] + share * (of_embedding[row, k] - embedding[row, k])
            for c in range(width):
                of_linear[row, c] = linear[row, c] + share * (of_linear[row, c] - linear[row, c])
