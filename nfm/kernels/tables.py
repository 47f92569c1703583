"""The loops of a training step that go over the features: gather and pool, and move each row of the batch once.

A feature of a sample is a row of the tables and its x. The (B, M, K) vectors of a batch are never made: a row is read
where it lies, pooled, and later read again, moved and written. What a step waits for is memory at random addresses: so
rows are asked for (prefetched) some samples or rows ahead.

Every function takes a range of samples or rows, so that threads can share the work; each sample and each row is the
work of one thread, with its sums in one order: the bits are the same for any number of threads. Fused multiply-adds
stay off: with them x v − x v of a sample's only feature would not be exactly 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.kernels.compile import when_called
from nfm.kernels.prefetch import prefetch

# Formulas of `moved`, and how many slots they have
SGD, MOMENTUM, ADAGRAD, ADAM, FTRL = range(5)

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
_SAMPLES_AHEAD, _ROWS_AHEAD = 2, 16  # so early is memory asked for
_BLOCK = 16  # rows that are moved together
_DIGITS = 11  # bits of a digit in `order`


class Tables(NamedTuple):
    """The weights of every row: (R + 1, K) and (R + 1, C)."""

    embedding: Floats
    linear: Floats


class ByRow(NamedTuple):
    """The features of a batch, row by row."""

    distinct_D: Ints  # rows of the tables, ascending
    starts: Ints  # (D + 1), where a row's features start
    places: Ints  # of the features in the flat (B, M)


class Batch(NamedTuple):
    """What the gradients of the rows follow from."""

    x_BM: Floats
    sum_BK: Floats  # Σ x v, as `pool` fills it
    upstream_BK: Floats  # derivative of the objective with respect to the pooled vectors
    upstream_BC: Floats  # and to the sums of the first-order weights


@when_called
def pool(
    start: int,
    stop: int,
    rows_BM: Ints,
    x_BM: Floats,
    tables: Tables,
    pooled_BK: Floats,
    sum_BK: Floats,
    linear_BC: Floats,
) -> None:
    """Fill the samples start … stop − 1: pooled ½ [(Σ x v)² − Σ (x v)²], Σ x v, and Σ x w of the first-order weights.

    Args:
        start: first sample.
        stop: behind the last one.
        rows_BM: of the tables; padding has the last one.
        x_BM: each feature's x.
        tables: embeddings and first-order weights.
        pooled_BK: filled (paper, eq. 4).
        sum_BK: filled.
        linear_BC: filled.
    """
    embedding, linear = tables
    features, dim, width = rows_BM.shape[1], embedding.shape[1], linear.shape[1]
    squares = np.empty(dim, np.float32)
    for b in range(start, stop):
        ahead = min(b + _SAMPLES_AHEAD, stop - 1)
        for m in range(features):
            prefetch(embedding, rows_BM[ahead, m])
            prefetch(linear, rows_BM[ahead, m])
        for k in range(dim):
            sum_BK[b, k] = squares[k] = np.float32(0)
        for c in range(width):
            linear_BC[b, c] = np.float32(0)
        for m in range(features):
            row, x = np.uint64(rows_BM[b, m]), x_BM[b, m]
            for k in range(dim):
                xv = x * embedding[row, k]
                sum_BK[b, k] += xv
                squares[k] += xv * xv
            for c in range(width):
                linear_BC[b, c] += x * linear[row, c]
        for k in range(dim):
            pooled_BK[b, k] = np.float32(0.5) * (sum_BK[b, k] * sum_BK[b, k] - squares[k])


@when_called
def order(rows_BM: Ints, x_BM: Floats, padding: int) -> ByRow:
    """The batch's features by their rows: a radix sort, which keeps the features of a row in the samples' order.

    Args:
        rows_BM: of the tables.
        x_BM: each feature's x.
        padding: the row of padding; its features are left out unless their x is not 0.
    """
    rows, x = rows_BM.ravel(), x_BM.ravel()
    places = np.empty(rows.size, np.int32)
    count = 0
    for i in range(rows.size):
        if rows[i] != padding or x[i] != 0:
            places[count] = i
            count += 1
    places = places[:count]
    other, first = np.empty(count, np.int32), np.empty((1 << _DIGITS) + 1, np.int64)
    shift = 0
    while padding >> shift:
        first[:] = 0
        for i in range(count):
            first[((rows[places[i]] >> shift) & ((1 << _DIGITS) - 1)) + 1] += 1
        for digit in range(1 << _DIGITS):
            first[digit + 1] += first[digit]
        for i in range(count):
            digit = (rows[places[i]] >> shift) & ((1 << _DIGITS) - 1)
            other[first[digit]] = places[i]
            first[digit] += 1
        places, other = other, places
        shift += _DIGITS
    distinct, starts = np.empty(count, np.int32), np.empty(count + 1, np.int32)
    found = 0
    for i in range(count):
        if i == 0 or rows[places[i]] != distinct[found - 1]:
            distinct[found], starts[found] = rows[places[i]], i
            found += 1
    starts[found] = count
    return ByRow(distinct[:found].copy(), starts[: found + 1].copy(), places)


@when_called
def _gradients(
    start: int,
    stop: int,
    end: int,
    by_row: ByRow,
    batch: Batch,
    tables: Tables,
    first_slots: Tables,
    second_slots: Tables,
    decays: Floats,
    of_embedding_DK: Floats,
    of_linear_DC: Floats,
) -> None:
    """Fill the gradients of the distinct rows start … stop − 1, and ask for later rows and their slots, up to the end.

    A row's gradient is Σ x (Σ x_j v_j − x v) · upstream (paper, eq. 5) or Σ x · upstream, and what the penalty adds.
    """
    # Out of their tuples, and two indices rather than views of rows: who refers to an array would be counted each time.
    distinct_D, starts, places = by_row
    x_BM, sum_BK, upstream_BK, upstream_BC = batch
    embedding, linear = tables
    first, first_linear = first_slots
    second, second_linear = second_slots
    features, dim, width = np.uint64(x_BM.shape[1]), np.uint64(embedding.shape[1]), np.uint64(linear.shape[1])
    for n in range(np.uint64(stop - start)):
        d = np.uint64(start) + n
        ahead = distinct_D[min(d + np.uint64(_ROWS_AHEAD), np.uint64(end - 1))]
        prefetch(embedding, ahead)
        prefetch(linear, ahead)
        if first.shape[0]:
            prefetch(first, ahead)
        if first_linear.shape[0]:
            prefetch(first_linear, ahead)
        if second.shape[0]:
            prefetch(second, ahead)
        if second_linear.shape[0]:
            prefetch(second_linear, ahead)
        row, often = np.uint64(distinct_D[d]), np.float32(starts[d + np.uint64(1)] - starts[d])
        if row == np.uint64(embedding.shape[0] - 1):
            often = np.float32(0)  # padding has no penalty
        for k in range(dim):
            of_embedding_DK[n, k] = often * decays[0] * embedding[row, k]
        for c in range(width):
            of_linear_DC[n, c] = often * decays[1] * linear[row, c]
        for i in range(np.uint64(starts[d]), np.uint64(starts[d + np.uint64(1)])):
            place = np.uint64(places[i])
            b, m = place // features, place % features
            x = x_BM[b, m]
            for k in range(dim):
                of_embedding_DK[n, k] += x * (upstream_BK[b, k] * (sum_BK[b, k] - x * embedding[row, k]))
            for c in range(width):
                of_linear_DC[n, c] += x * upstream_BC[b, c]


@when_called
def moved(
    rows_D: Ints,
    formula: int,
    numbers: Floats,
    table: Floats,
    first: Floats,
    second: Floats,
    gradients_DK: Floats,
    scale: np.float32,
) -> None:
    """Move rows of a table; `optimizers` says the formulas.

    numbers are: SGD (rate,); MOMENTUM (rate, momentum); ADAGRAD (rate, ε); ADAM (rate · √(1 − β₂ᵗ) / (1 − β₁ᵗ), 1 − β₁,
    1 − β₂, ε); FTRL (rate, l1, l2).
    """
    one, width = np.float32(1), np.uint64(table.shape[1])
    if formula == SGD:
        rate = numbers[0]
        for d in range(np.uint64(rows_D.size)):
            row = np.uint64(rows_D[d])
            for k in range(width):
                table[row, k] -= rate * (scale * gradients_DK[d, k])
    elif formula == MOMENTUM:
        rate, momentum = numbers[0], numbers[1]
        for d in range(np.uint64(rows_D.size)):
            row = np.uint64(rows_D[d])
            for k in range(width):
                m = momentum * first[row, k] + scale * gradients_DK[d, k]
                first[row, k] = m
                table[row, k] -= rate * m
    elif formula == ADAGRAD:
        rate, epsilon = numbers[0], numbers[1]
        for d in range(np.uint64(rows_D.size)):
            row = np.uint64(rows_D[d])
            for k in range(width):
                g = scale * gradients_DK[d, k]
                a = first[row, k] + g * g
                first[row, k] = a
                table[row, k] -= rate * g / (np.sqrt(a) + epsilon)
    elif formula == ADAM:
        rate, rest_1, rest_2, epsilon = numbers[0], numbers[1], numbers[2], numbers[3]
        for d in range(np.uint64(rows_D.size)):
            row = np.uint64(rows_D[d])
            for k in range(width):
                g = scale * gradients_DK[d, k]
                m = first[row, k] + (g - first[row, k]) * rest_1
                v = second[row, k] + (g * g - second[row, k]) * rest_2
                first[row, k], second[row, k] = m, v
                table[row, k] -= rate * m / (np.sqrt(v) + epsilon)
    else:
        rate, l1, l2 = numbers[0], numbers[1], numbers[2]
        for d in range(np.uint64(rows_D.size)):
            row = np.uint64(rows_D[d])
            for k in range(width):
                g, n = scale * gradients_DK[d, k], first[row, k]
                root = np.sqrt(n + g * g)
                z = second[row, k] + g - (root - np.sqrt(n)) / rate * table[row, k]
                first[row, k], second[row, k] = n + g * g, z
                shrunk = (np.sign(z) * l1 - z) / (root / rate + (one + one) * l2)
                table[row, k] = shrunk if np.abs(z) > l1 else np.float32(0)


@when_called
def move(
    start: int,
    stop: int,
    by_row: ByRow,
    batch: Batch,
    tables: Tables,
    decays: Floats,
    scale: np.float32,
    formulas: tuple[int, int],
    numbers: tuple[Floats, Floats],
    first_slots: Tables,
    second_slots: Tables,
    norms_D: NDArray[np.float64],
) -> None:
    """Move the distinct rows start … stop − 1 of both tables, and of their slots, by the optimizer's formula.

    Args:
        start: first of the distinct rows.
        stop: behind the last one.
        by_row: as `order` returns it.
        batch: what the gradients follow from.
        tables: are changed in place.
        decays: (2,), twice the factors of the penalties on a feature's squared weights, of both tables.
        scale: of all gradients.
        formulas: of the embeddings and of the first-order weights, such as ADAGRAD.
        numbers: what each formula takes, see `moved`.
        first_slots: of the tables' shapes; without rows where the formula has none. They are changed in place.
        second_slots: likewise.
        norms_D: where it has elements, nothing moves: the sums of the squares of the rows' gradients are put there.
    """
    embedding, linear = tables
    of_embedding = np.empty((_BLOCK, embedding.shape[1]), np.float32)
    of_linear = np.empty((_BLOCK, linear.shape[1]), np.float32)
    # Some rows at a time: at each call numba counts who refers to the arrays, in counters that the threads share.
    for a in range(start, stop, _BLOCK):
        b = min(a + _BLOCK, stop)
        _gradients(a, b, stop, by_row, batch, tables, first_slots, second_slots, decays, of_embedding, of_linear)
        if norms_D.size:
            for n in range(b - a):
                for k in range(of_embedding.shape[1]):
                    norms_D[a + n] += np.float64(of_embedding[n, k]) ** 2
                for c in range(of_linear.shape[1]):
                    norms_D[a + n] += np.float64(of_linear[n, c]) ** 2
            continue
        rows, first, second = by_row.distinct_D[a:b], first_slots, second_slots
        moved(rows, formulas[0], numbers[0], embedding, first.embedding, second.embedding, of_embedding, scale)
        moved(rows, formulas[1], numbers[1], linear, first.linear, second.linear, of_linear, scale)
