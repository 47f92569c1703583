"""A row's variants, in each of which one reason is missing, made while its embeddings are in the cache."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from nfm.kernels.compile import compiled
from nfm.kernels.pooling import as_float32, ask_for, read_only, room, sum_up, weights_and_rows

_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@cache
def variants(dtype: str) -> Callable[..., tuple[int, int]]:
    """The loop that makes rows' variants: in each, one reason is missing, which is a field, or a number with its
    flag. Where it is missing already, there is no variant.

    Returns:
        A function that lets other threads run. Its arguments: those of `linear_and_pooled` up to bag_splits, and
            dense_BD: as `contract.encoder.Inputs` has it.
            bags (A, 2): the first row of each bag's block, and the one behind its last.
            number_splits (G + 1,), number_missing (N,): which of the numbers in the pooling are one reason, and what
                they are where it is missing; dense_splits (H + 1,), dense_missing (D,): of the dense ones.
            start, stop: of the rows. None is begun that might have more variants than there is room left for.
            sums (3, K): scratch.
            linear_MC, inputs_MX: receive each variant's linear part, but for the dense numbers', and its pooled vector
                with the dense numbers behind it.
            owners_M2: receives its row, and which reason is missing: those that are no bags are counted first, then
                bags, numbers in the pooling, dense numbers. -1: none, this is the row itself, before its variants, as
                `linear_and_pooled` has it, bit for bit.
        It returns the first row that it has not begun, and how many variants it has made.
    """
    ints, floats = read_only(types.int64, 1, "C"), read_only(types.float32, 1, "C")
    scratch = types.Array(types.float32, 2, "C")
    return compiled(
        types.UniTuple(types.int64, 2)(  # type: ignore[no-untyped-call]
            *(*weights_and_rows(dtype), read_only(types.float32, 2), read_only(types.int64, 2, "C")),
            *(ints, floats, ints, floats, types.int64, types.int64),
            *(scratch, scratch, scratch, types.Array(types.int64, 2, "C")),
        ),
        _variants,
    )


def _variants(
    embedding: Any,
    linear: Any,
    bias: Any,
    offsets: Any,
    first_number: Any,
    ids_BF: Any,
    values_BN: Any,
    bag_rows: Any,
    bag_values: Any,
    bag_splits: Any,
    dense_BD: Any,
    bags: Any,
    number_splits: Any,
    number_missing: Any,
    dense_splits: Any,
    dense_missing: Any,
    start: Any,
    stop: Any,
    sums: Any,
    linear_MC: Any,
    inputs_MX: Any,
    owners_M2: Any,
) -> Any:
    b, m, one, K = np.uint64(start), np.uint64(0), np.uint64(1), np.uint64(embedding.shape[1])
    sum_K, squares_K, changed_K = sums[0], sums[1], sums[2]
    listed = room(bag_splits, offsets, values_BN, start, stop)
    # Reasons are counted on from one kind to the next.
    first_bag = len(offsets)
    first_group = first_bag + len(bags)
    first_dense = first_group + len(number_splits) - 1
    most = np.uint64(1 + first_dense + len(dense_splits) - 1)
    while b < np.uint64(stop) and m + most <= np.uint64(len(owners_M2)):
        own = m
        rows = (ids_BF, values_BN, bag_rows, bag_values, bag_splits)
        ask_for(embedding, linear, offsets, rows, min(b + one, np.uint64(stop - 1)))
        sum_up(embedding, linear, bias, offsets, first_number, rows, b, listed, sum_K, squares_K, linear_MC, own)
        for k in range(K):
            inputs_MX[own, k] = _HALF * (sum_K[k] * sum_K[k] - squares_K[k])
        for d in range(np.uint64(dense_BD.shape[1])):
            inputs_MX[own, K + d] = dense_BD[b, d]
        owners_M2[own, 0], owners_M2[own, 1] = b, -1
        m += one

        for f in range(np.uint64(len(offsets))):
            if ids_BF[b, f] != 0:
                features = (np.uint64(offsets[f] + ids_BF[b, f]), _ONE, np.uint64(offsets[f]), _ONE)
                _exchange(embedding, linear, features, sum_K, linear_MC, inputs_MX, own, m)
                for d in range(K, np.uint64(inputs_MX.shape[1])):
                    inputs_MX[m, d] = inputs_MX[own, d]
                owners_M2[m, 0], owners_M2[m, 1] = b, f
                m += one

        end = np.uint64(bag_splits[b])
        for bag in range(np.uint64(len(bags))):
            first, missing = end, np.uint64(bags[bag, 0])
            while end < np.uint64(bag_splits[b + one]) and bag_rows[end] < bags[bag, 1]:
                end += one
            alone = end == first + one
            if not (alone and np.uint64(bag_rows[first]) == missing and bag_values[first] == _ONE):
                _copy(sum_K, changed_K, linear_MC, inputs_MX, own, m)
                for p in range(first, end):
                    features = (np.uint64(bag_rows[p]), bag_values[p], missing, _ZERO)
                    _exchange_again(embedding, linear, features, changed_K, linear_MC, inputs_MX, m)
                features = (missing, _ZERO, missing, _ONE)
                _exchange_again(embedding, linear, features, changed_K, linear_MC, inputs_MX, m)
                owners_M2[m, 0], owners_M2[m, 1] = b, first_bag + bag
                m += one

        for group in range(np.uint64(len(number_splits) - 1)):
            columns = range(np.uint64(number_splits[group]), np.uint64(number_splits[group + one]))
            if _differ(values_BN, b, number_missing, columns):
                _copy(sum_K, changed_K, linear_MC, inputs_MX, own, m)
                for n in columns:
                    row = np.uint64(first_number) + n
                    features = (row, values_BN[b, n], row, number_missing[n])
                    _exchange_again(embedding, linear, features, changed_K, linear_MC, inputs_MX, m)
                owners_M2[m, 0], owners_M2[m, 1] = b, first_group + group
                m += one

        for group in range(np.uint64(len(dense_splits) - 1)):
            columns = range(np.uint64(dense_splits[group]), np.uint64(dense_splits[group + one]))
            if _differ(dense_BD, b, dense_missing, columns):
                _copy(sum_K, changed_K, linear_MC, inputs_MX, own, m)
                for d in columns:
                    inputs_MX[m, K + d] = dense_missing[d]
                owners_M2[m, 0], owners_M2[m, 1] = b, first_dense + group
                m += one
        b += one
    return b, m


@njit(inline="always")
def _exchange(
    embedding: Any, linear: Any, features: Any, sum_K: Any, linear_MC: Any, inputs_MX: Any, own: Any, m: Any
) -> None:
    """Variant m has x' v' instead of x v: ½ ((Σ - x v + x' v')² - …) is larger by (x' v' - x v) (Σ - x v)."""
    row, x, other, other_x = features
    for k in range(np.uint64(embedding.shape[1])):
        less = x * as_float32(embedding[row, k])  # type: ignore[call-arg]
        more = other_x * as_float32(embedding[other, k])
        inputs_MX[m, k] = inputs_MX[own, k] + (more - less) * (sum_K[k] - less)
    for c in range(np.uint64(linear.shape[1])):
        linear_MC[m, c] = linear_MC[own, c] + (other_x * linear[other, c] - x * linear[row, c])


@njit(inline="always")
def _copy(sum_K: Any, changed_K: Any, linear_MC: Any, inputs_MX: Any, own: Any, m: Any) -> None:
    for k in range(np.uint64(len(sum_K))):
        changed_K[k] = sum_K[k]
    for i in range(np.uint64(inputs_MX.shape[1])):
        inputs_MX[m, i] = inputs_MX[own, i]
    for c in range(np.uint64(linear_MC.shape[1])):
        linear_MC[m, c] = linear_MC[own, c]


@njit(inline="always")
def _exchange_again(
    embedding: Any, linear: Any, features: Any, changed_K: Any, linear_MC: Any, inputs_MX: Any, m: Any
) -> None:
    """One more of several features; the sum is then without it, too."""
    row, x, other, other_x = features
    for k in range(np.uint64(embedding.shape[1])):
        less = x * as_float32(embedding[row, k])  # type: ignore[call-arg]
        change = other_x * as_float32(embedding[other, k]) - less
        inputs_MX[m, k] += change * (changed_K[k] - less)
        changed_K[k] += change
    for c in range(np.uint64(linear.shape[1])):
        linear_MC[m, c] += other_x * linear[other, c] - x * linear[row, c]


@njit(inline="always")
def _differ(values_BN: Any, b: Any, missing: Any, columns: Any) -> Any:
    differ = False
    for n in columns:
        differ = differ or values_BN[b, n] != missing[n]
    return differ
