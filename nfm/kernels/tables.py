"""Compiled loops that update the embedding tables in a training step. Formulas:

    f_BI = ½ [(Σ x v)² − Σ (x v)²]                     Bi-Interaction pooling, see `pooling` (He & Chua 2017, eq. 4)
    ∂ f_BI / ∂ v_i = x_i (Σ_j x_j v_j − x_i v_i)       (eq. 5)
    ∂ f_BI / ∂ v_a = x_a (Σ_j x_j v_j − x_a v_a − x_b v_b)     for an interpolated feature x_a v_a + x_b v_b

A step reads and writes only the rows that occur in the batch, so its cost does not depend on the vocabulary's size.
With tables of 1 M rows (K 64, ten fields, batch 4096, two cores), a whole step takes 156 ms with Keras's Adagrad, which
reads and writes every row, and 16 ms with these loops. TensorFlow's kernel for sparse rows uses one thread, and takes
55 ms for the update alone. Prefetching rows would save 3 % of a step here.

Each loop takes a range of samples or rows, so that threads can share the work. Each row is processed by one thread, in
a fixed order, so results are bitwise equal for any number of threads. Fused multiply-adds are off, because they would
make x v − x v of a sample's only feature differ from 0.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.averages import Averages, catch_up
from nfm.kernels.compile import compile_when_called
from nfm.kernels.pooling import Features

# Formulas of `update_rows`
SGD, MOMENTUM, ADAGRAD, ADAM, FTRL = range(5)

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
_BLOCK = 16  # rows that are updated together
_DIGIT_BITS = 11  # of the radix sort


class Tables(NamedTuple):
    """Weights of all features, or one optimizer slot for them: (R, K) and (R, C)."""

    embedding: Floats
    linear: Floats


class Pooled(NamedTuple):
    """Sums over the features of B samples."""

    sum_BK: Floats  # Σ x v
    pooled_BK: Floats
    linear_BC: Floats  # Σ x w, without the bias


class ByRow(NamedTuple):
    """The P features of a batch, grouped by row of the tables."""

    distinct_D: Ints  # distinct rows, ascending
    starts: Ints  # (D + 1,) first feature of each row
    samples_P: Ints  # sample of each feature
    x_P: Floats
    others_P: Ints  # the other row of a pair, and its x; empty if there are no pairs
    other_x_P: Floats  # 0 for a feature that is not in a pair


class Upstream(NamedTuple):
    """Derivatives with respect to the pooled vectors and linear parts, and what equation 5 needs."""

    sum_BK: Floats  # Σ x v
    pooled_BK: Floats
    linear_BC: Floats
    first_bin: int  # first row of the bins in the tables
    bins_RK: Floats  # embeddings of the bins before the update, because rows of a pair need each other's
    of_sum_BK: Floats = np.empty((0, 1), np.float32)  # with respect to Σ x v itself, in a ranking; empty: none


class Rule(NamedTuple):
    """Step of an optimizer, for the embeddings and for the linear weights.

    `hyperparameters` contains for each formula: SGD (rate,); MOMENTUM (rate, momentum); ADAGRAD (rate, ε);
    ADAM (rate · √(1 − β₂ᵗ) / (1 − β₁ᵗ), 1 − β₁, 1 − β₂, ε); FTRL (rate, l1, l2).
    """

    formulas: tuple[int, int]
    hyperparameters: tuple[Floats, Floats]
    scale: np.float32  # factor of all gradients
    decays: Floats  # (2,) twice the L2 factor, for embeddings and linear weights
    step: int  # number of the step, counted from 1


@compile_when_called
def group_by_row(features: Features, table_rows: int) -> ByRow:
    """Group a batch's features by row with a radix sort, which keeps the order of the samples within a row.

    Args:
        features: features of the batch.
        table_rows: number of rows of the tables, R.
    """
    rows_P, x_P, splits, pairs = features
    count = len(rows_P)
    order, next_order = np.arange(count, dtype=np.int32), np.empty(count, np.int32)
    first, digits = np.empty((1 << _DIGIT_BITS) + 1, np.int64), (1 << _DIGIT_BITS) - 1
    shift = 0
    while (table_rows - 1) >> shift:
        first[:] = 0
        for i in range(count):
            first[((rows_P[order[i]] >> shift) & digits) + 1] += 1
        for digit in range(1 << _DIGIT_BITS):
            first[digit + 1] += first[digit]
        for i in range(count):
            digit = (rows_P[order[i]] >> shift) & digits
            next_order[first[digit]] = order[i]
            first[digit] += 1
        order, next_order = next_order, order
        shift += _DIGIT_BITS
    sample_of_P = np.empty(count, np.int32)
    for b in range(len(splits) - 1):
        sample_of_P[splits[b] : splits[b + 1]] = b
    distinct, starts = np.empty(count, np.int32), np.empty(count + 1, np.int32)
    size = 0
    for i in range(count):
        if i == 0 or rows_P[order[i]] != distinct[size - 1]:
            distinct[size], starts[size] = rows_P[order[i]], i
            size += 1
    starts[size] = count
    others, other_x = np.empty(count if pairs else 0, np.int32), np.zeros(count if pairs else 0, np.float32)
    for i in range(len(others)):
        p = order[i]
        place = p - (splits[sample_of_P[p] + 1] - 2 * pairs)  # among the entries of the sample's pairs
        if place >= 0:
            other = p + 1 - 2 * (place % 2)
            others[i], other_x[i] = rows_P[other], x_P[other]
    return ByRow(distinct[:size].copy(), starts[: size + 1].copy(), sample_of_P[order], x_P[order], others, other_x)


@compile_when_called
def _sum_gradients(
    start: int, stop: int, by_row: ByRow, upstream: Upstream, tables: Tables, decays: Floats, out: Tables
) -> None:
    """Fill `out` with the gradients of the distinct rows in the range [start, stop).

    A row's gradient is Σ x (Σ x_j v_j − x v) · upstream (eq. 5), or Σ x · upstream, plus the derivative of its penalty,
    plus Σ x · `of_sum_BK`.
    """
    # Tuples are unpacked and rows indexed without views, because numba counts each new reference to an array.
    distinct_D, starts, samples_P, x_P, others_P, other_x_P = by_row
    sum_BK, upstream_BK, upstream_BC, first_bin, bins_RK, of_sum_BK = upstream
    embedding, linear = tables
    of_embedding_DK, of_linear_DC = out
    dim, width = np.uint64(embedding.shape[1]), np.uint64(linear.shape[1])
    for n in range(np.uint64(stop - start)):
        d = np.uint64(start) + n
        row, count = np.uint64(distinct_D[d]), np.float32(starts[d + np.uint64(1)] - starts[d])
        for k in range(dim):
            of_embedding_DK[n, k] = count * decays[0] * embedding[row, k]
        for c in range(width):
            of_linear_DC[n, c] = count * decays[1] * linear[row, c]
        for p in range(np.uint64(starts[d]), np.uint64(starts[d + np.uint64(1)])):
            b, x = np.uint64(samples_P[p]), x_P[p]
            if len(others_P) and other_x_P[p]:
                other, other_x = np.uint64(others_P[p] - first_bin), other_x_P[p]
                for k in range(dim):
                    own = x * embedding[row, k] + other_x * bins_RK[other, k]
                    of_embedding_DK[n, k] += x * (upstream_BK[b, k] * (sum_BK[b, k] - own))
            else:
                for k in range(dim):
                    of_embedding_DK[n, k] += x * (upstream_BK[b, k] * (sum_BK[b, k] - x * embedding[row, k]))
            if len(of_sum_BK):
                for k in range(dim):
                    of_embedding_DK[n, k] += x * of_sum_BK[b, k]
            for c in range(width):
                of_linear_DC[n, c] += x * upstream_BC[b, c]


@compile_when_called
def update_rows(
    rows_D: Ints,
    formula: int,
    hyperparameters: Floats,
    table: Floats,
    first: Floats,
    second: Floats,
    gradients_DK: Floats,
    scale: np.float32,
) -> None:
    """Apply an optimizer's formula to some rows of a table and of its slots; `training.optimizers` cites the formulas.

    Args:
        rows_D: rows of the table.
        formula: such as ADAGRAD.
        hyperparameters: see `Rule`.
        table: changed in place.
        first, second: slots, changed in place; empty if unused.
        gradients_DK: gradients of the rows.
        scale: factor of the gradients.
    """
    one, width = np.float32(1), np.uint64(table.shape[1])
    for d in range(np.uint64(rows_D.size)):
        row = np.uint64(rows_D[d])
        if formula == SGD:
            rate = hyperparameters[0]
            for k in range(width):
                table[row, k] -= rate * (scale * gradients_DK[d, k])
        elif formula == MOMENTUM:
            rate, momentum = hyperparameters[0], hyperparameters[1]
            for k in range(width):
                m = momentum * first[row, k] + scale * gradients_DK[d, k]
                first[row, k] = m
                table[row, k] -= rate * m
        elif formula == ADAGRAD:
            rate, epsilon = hyperparameters[0], hyperparameters[1]
            for k in range(width):
                g = scale * gradients_DK[d, k]
                a = first[row, k] + g * g
                first[row, k] = a
                table[row, k] -= rate * g / (np.sqrt(a) + epsilon)
        elif formula == ADAM:
            rate, one_minus_beta_1 = hyperparameters[0], hyperparameters[1]
            one_minus_beta_2, epsilon = hyperparameters[2], hyperparameters[3]
            for k in range(width):
                g = scale * gradients_DK[d, k]
                m = first[row, k] + (g - first[row, k]) * one_minus_beta_1
                v = second[row, k] + (g * g - second[row, k]) * one_minus_beta_2
                first[row, k], second[row, k] = m, v
                table[row, k] -= rate * m / (np.sqrt(v) + epsilon)
        else:
            rate, l1, l2 = hyperparameters[0], hyperparameters[1], hyperparameters[2]
            for k in range(width):
                g, n = scale * gradients_DK[d, k], first[row, k]
                root = np.sqrt(n + g * g)
                z = second[row, k] + g - (root - np.sqrt(n)) / rate * table[row, k]
                first[row, k], second[row, k] = n + g * g, z
                shrunk = (np.sign(z) * l1 - z) / (root / rate + (one + one) * l2)
                table[row, k] = shrunk if np.abs(z) > l1 else np.float32(0)


@compile_when_called
def update(
    start: int,
    stop: int,
    by_row: ByRow,
    upstream: Upstream,
    tables: Tables,
    slots: tuple[Tables, Tables],
    averages: Averages,
    rule: Rule,
) -> None:
    """Update the distinct rows in the range [start, stop) in both tables, their slots and averages, in place.

    Args:
        start, stop: range of the distinct rows.
        by_row: from `group_by_row`.
        upstream: derivatives with respect to the pooled vectors and the linear parts.
        tables: embeddings and linear weights.
        slots: first and second slots of both; empty if unused.
        averages: moving averages of both; empty if unused.
        rule: the optimizer's step.
    """
    gradients = Tables(
        np.empty((_BLOCK, tables.embedding.shape[1]), np.float32),
        np.empty((_BLOCK, tables.linear.shape[1]), np.float32),
    )
    rows_D, averaged = by_row.distinct_D, averages.steps_R.size > 0
    # In blocks of rows, because each call updates numba's reference counts of the arrays, which threads share.
    for a in range(start, stop, _BLOCK):
        b = min(a + _BLOCK, stop)
        _sum_gradients(a, b, by_row, upstream, tables, rule.decays, gradients)
        rows = rows_D[a:b]
        if averaged:  # this step is included later, with the weights after it
            catch_up(a, b, rows_D, tables, averages, rule.step - 1)
        for i in range(2):
            formula, hyperparameters = rule.formulas[i], rule.hyperparameters[i]
            first, second = slots[0][i], slots[1][i]
            update_rows(rows, formula, hyperparameters, tables[i], first, second, gradients[i], rule.scale)


@compile_when_called
def square_norms(
    start: int, stop: int, by_row: ByRow, upstream: Upstream, tables: Tables, decays: Floats, norms_D: Any
) -> None:
    """Fill norms_D with the squared gradient norm of each distinct row in the range [start, stop)."""
    dim, width = tables.embedding.shape[1], tables.linear.shape[1]
    gradients = Tables(np.empty((1, dim), np.float32), np.empty((1, width), np.float32))
    for d in range(start, stop):
        _sum_gradients(d, d + 1, by_row, upstream, tables, decays, gradients)
        norms_D[d] = np.float64(0)
        for k in range(dim):
            norms_D[d] += np.float64(gradients.embedding[0, k]) ** 2
        for c in range(width):
            norms_D[d] += np.float64(gradients.linear[0, c]) ** 2
