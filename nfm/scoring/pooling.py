"""Gather and pool in one loop: a row's embeddings are read where they lie, and summed up as they come.

NumPy would copy all of them, (B, F, K), before it adds the first two.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_REBIAS = 2.0**112  # exponents of float16 count from 15, of float32 from 127
_SIGN_EXPONENT_FRACTION = 0x8FFFE000 - (1 << 32)  # bits of a float16, in their places in a float32
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)
_TABLES = {"float32": types.float32, "float16": types.uint16}  # numba has no float16: it is told of the bits


def _array(dtype: Any, dimensions: int, layout: Literal["C", "A"] = "A") -> Any:
    return types.Array(dtype, dimensions, layout, readonly=True)  # what is memory-mapped may not be written


@cache
def linear_and_pooled(dtype: str) -> Callable[..., None]:
    """The loop over the rows of a tile, compiled for a table of this type (float16 seen as uint16).

    Returns:
        A function that lets other threads run, and returns nothing. Its arguments:
            embedding (R, K), linear (R, C), bias (C,): the weights.
            offsets (F,): the first row of each field's block; first_number: that of the numbers.
            ids_BF, values_BN, bag_rows (P,), bag_values (P,), bag_splits (B + 1,): as `contract.encoder.Inputs` has
                them. Rows `start` to `stop` are looked at.
            sums (2, K): scratch.
            linear_TC, pooled_TK: receive w_0 + Σ w_i x_i and the Bi-Interaction pooling (paper, eq. 2 and 4). A row's
                features are added one by one, in one order: equal rows have equal sums, bit for bit.
    """
    out, scratch = types.Array(types.float32, 2, "A"), types.Array(types.float32, 2, "C")
    return compiled(types.void(*_weights_and_rows(dtype), types.int64, types.int64, scratch, out, out), _pool)


@cache
def variants(dtype: str) -> Callable[..., tuple[int, int]]:
    """The loop that makes a row's variants while its embeddings are in the cache. In each, one reason is missing: a
    field, or a number with its flag. Where it is missing already, there is no variant.

    Returns:
        A function that lets other threads run. Its arguments: those of `linear_and_pooled` up to bag_splits, and
            dense_BD: as `contract.encoder.Inputs` has it.
            bags (A, 2): the first row of each bag's block, and the one behind its last.
            number_splits (G + 1,), number_missing (N,): which of the numbers in the pooling are one reason, and what
                they are where it is missing; dense_splits (H + 1,), dense_missing (D,): of the dense ones.
            start, stop: of the rows; filled: how many variants wait already; wanted: no further row is begun when there
                are so many.
            sums (4, K): scratch.
            linear_MC, inputs_MX: receive each variant's linear part, but for the dense numbers', and its pooled vector
                with the dense numbers behind it.
            owners_M2: receives its row, and which reason is missing: those that are no bags are counted first, then
                bags, numbers in the pooling, dense numbers. -1: none, this is the row itself, before its variants, as
                `linear_and_pooled` has it, bit for bit.
        It returns the first row that it has not begun, and how many variants wait now.
    """
    ints, floats = _array(types.int64, 1, "C"), _array(types.float32, 1, "C")
    scratch = types.Array(types.float32, 2, "C")
    return compiled(
        types.UniTuple(types.int64, 2)(  # type: ignore[no-untyped-call]
            *(*_weights_and_rows(dtype), _array(types.float32, 2), _array(types.int64, 2, "C")),
            *(ints, floats, ints, floats, *[types.int64] * 4),
            *(scratch, scratch, scratch, types.Array(types.int64, 2, "C")),
        ),
        _variants,
    )


def _weights_and_rows(dtype: str) -> list[Any]:
    table, floats, ints = _array(_TABLES[dtype], 2, "C"), _array(types.float32, 1, "C"), _array(types.int64, 1, "C")
    rows = [_array(types.int32, 2), _array(types.float32, 2), _array(types.int32, 1, "C"), floats, ints]
    return [table, _array(types.float32, 2, "C"), floats, ints, types.int64, *rows]


def compiled(signature: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A loop in machine code, which lets other threads run."""
    machine_code: Callable[..., Any]
    # On the disk for the next worker: to compile takes a second, and memory that is not given back. An archive lies
    # elsewhere in each run, and each would leave files of its own behind in the user's home.
    if Path(__file__).exists():
        with suppress(RuntimeError, OSError):  # no place to write to, or no room
            machine_code = njit(signature, nogil=True, error_model="numpy", cache=True)(function)
            return machine_code
    machine_code = njit(signature, nogil=True, error_model="numpy")(function)
    return machine_code


def _pool(
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
    start: Any,
    stop: Any,
    sums: Any,
    linear_TC: Any,
    pooled_TK: Any,
) -> None:
    sum_K, squares_K = sums[0], sums[1]
    for t in range(np.uint64(stop - start)):
        b = np.uint64(start) + t
        rows = (ids_BF, values_BN, bag_rows, bag_values, bag_splits)
        _sum_up(embedding, linear, bias, offsets, first_number, rows, b, sum_K, squares_K, linear_TC[t])
        for k in range(np.uint64(embedding.shape[1])):
            pooled_TK[t, k] = _HALF * (sum_K[k] * sum_K[k] - squares_K[k])


@njit(inline="always")
def _sum_up(
    embedding: Any,
    linear: Any,
    bias: Any,
    offsets: Any,
    first_number: Any,
    rows: Any,
    b: Any,
    sum_K: Any,
    squares_K: Any,
    linear_C: Any,
) -> None:
    ids_BF, values_BN, bag_rows, bag_values, bag_splits = rows
    # Indices have no sign: one with a sign may count from the end, and is looked at each time.
    # Loops rather than slices: numba takes three seconds to compile what it has for an assignment to a slice.
    for c in range(np.uint64(linear.shape[1])):
        linear_C[c] = bias[c]
    for k in range(np.uint64(embedding.shape[1])):
        sum_K[k], squares_K[k] = 0, 0
    for f in range(np.uint64(len(offsets))):
        _add(np.uint64(offsets[f] + ids_BF[b, f]), _ONE, embedding, linear, sum_K, squares_K, linear_C)
    for n in range(np.uint64(values_BN.shape[1])):
        _add(np.uint64(first_number) + n, values_BN[b, n], embedding, linear, sum_K, squares_K, linear_C)
    for p in range(np.uint64(bag_splits[b]), np.uint64(bag_splits[b + np.uint64(1)])):
        _add(np.uint64(bag_rows[p]), bag_values[p], embedding, linear, sum_K, squares_K, linear_C)


@njit(inline="always")
def _add(row: Any, x: Any, embedding: Any, linear: Any, sum_K: Any, squares_K: Any, linear_C: Any) -> None:
    vector_K = embedding[row]
    for k in range(np.uint64(embedding.shape[1])):
        value = x * _as_float32(vector_K[k])  # type: ignore[call-arg]
        sum_K[k] += value
        squares_K[k] += value * value
    for c in range(np.uint64(linear.shape[1])):
        linear_C[c] += x * linear[row, c]


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
    filled: Any,
    wanted: Any,
    sums: Any,
    linear_MC: Any,
    inputs_MX: Any,
    owners_M2: Any,
) -> Any:
    b, m, K = start, filled, np.uint64(embedding.shape[1])
    sum_K, squares_K, more_K, more_squares_K = sums[0], sums[1], sums[2], sums[3]
    rows = (ids_BF, values_BN, bag_rows, bag_values, bag_splits)
    # The first reason that is a bag, a number in the pooling, a dense one, nothing any more.
    first_bag = len(offsets)
    first_group = first_bag + len(bags)
    first_dense = first_group + len(number_splits) - 1
    reasons = first_dense + len(dense_splits) - 1
    while b < stop and m < wanted:
        own_C, own_X, u = linear_MC[m], inputs_MX[m], np.uint64(b)
        _sum_up(embedding, linear, bias, offsets, first_number, rows, u, sum_K, squares_K, own_C)
        for k in range(K):
            own_X[k] = _HALF * (sum_K[k] * sum_K[k] - squares_K[k])
        for d in range(np.uint64(dense_BD.shape[1])):
            own_X[K + d] = dense_BD[u, d]
        owners_M2[m, 0], owners_M2[m, 1] = b, -1
        m += 1
        end = bag_splits[b]
        for reason in range(reasons):
            # `missing`: the row of the feature that comes instead. `first` to `end`: what goes, or changes.
            missing, first, last = first_number, 0, 0
            if reason < first_bag:
                missing = offsets[reason]
                same = ids_BF[u, np.uint64(reason)] == 0
            elif reason < first_group:
                missing, first = bags[reason - first_bag, 0], end
                while end < bag_splits[b + 1] and bag_rows[end] < bags[reason - first_bag, 1]:
                    end += 1
                last = end
                same = last == first + 1 and bag_rows[first] == missing and bag_values[first] == _ONE
            elif reason < first_dense:
                first, last = number_splits[reason - first_group], number_splits[reason - first_group + 1]
                same = _equal(values_BN[u], number_missing, first, last)
            else:
                first, last = dense_splits[reason - first_dense], dense_splits[reason - first_dense + 1]
                same = _equal(dense_BD[u], dense_missing, first, last)
            if same:
                continue
            its_C, its_X = linear_MC[m], inputs_MX[m]
            for c in range(np.uint64(linear.shape[1])):
                its_C[c] = own_C[c]
            for d in range(K, np.uint64(inputs_MX.shape[1])):
                its_X[d] = own_X[d]
            for k in range(K):
                more_K[k], more_squares_K[k] = 0, 0
            if reason >= first_dense:
                for d in range(first, last):
                    its_X[K + np.uint64(d)] = dense_missing[d]
                last = first
            elif reason < first_group:
                last += 1  # of a bag, `missing` comes last, behind its members
            for i in range(first, last):
                row, x, other, other_x = missing, _ZERO, missing, _ZERO
                if reason < first_bag:
                    row, x, other_x = missing + ids_BF[u, np.uint64(reason)], _ONE, _ONE
                elif reason < first_group:
                    if i < end:
                        row, x = np.int64(bag_rows[i]), bag_values[i]
                    else:
                        other_x = _ONE
                else:
                    row = other = first_number + i
                    x, other_x = values_BN[u, np.uint64(i)], number_missing[i]
                features = (np.uint64(row), x, np.uint64(other), other_x)
                _exchange(embedding, linear, features, more_K, more_squares_K, its_C)
            for k in range(K):
                sum_ = sum_K[k] + more_K[k]
                its_X[k] = _HALF * (sum_ * sum_ - (squares_K[k] + more_squares_K[k]))
            owners_M2[m, 0], owners_M2[m, 1] = b, reason
            m += 1
        b += 1
    return b, m


@njit
def _equal(x: Any, others: Any, start: Any, stop: Any) -> Any:
    equal = True
    for i in range(start, stop):
        equal = equal and x[i] == others[i]
    return equal


@njit(inline="always")
def _exchange(
    embedding: Any,
    linear: Any,
    features: Any,
    more_K: Any,
    more_squares_K: Any,
    linear_C: Any,
) -> None:
    """Another feature instead of one: what the sums change by."""
    row, x, other, other_x = features
    vector_K, other_K = embedding[row], embedding[other]
    for k in range(np.uint64(embedding.shape[1])):
        less = x * _as_float32(vector_K[k])  # type: ignore[call-arg]
        more = other_x * _as_float32(other_K[k])
        more_K[k] += more - less
        more_squares_K[k] += more * more - less * less
    for c in range(np.uint64(linear.shape[1])):
        linear_C[c] += other_x * linear[other, c] - x * linear[row, c]


@intrinsic
def _as_float32(_: Any, value: Any) -> Any:
    """A float32 as it is; of the bits of a finite float16, the same number."""

    def same(__: Any, ___: Any, ____: Any, arguments: Any) -> Any:
        return arguments[0]

    def widened(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        bits = builder.shl(builder.sext(arguments[0], ir.IntType(32)), ir.IntType(32)(13))  # repeats the sign
        bits = builder.and_(bits, ir.IntType(32)(_SIGN_EXPONENT_FRACTION))
        return builder.fmul(builder.bitcast(bits, ir.FloatType()), ir.FloatType()(_REBIAS))

    return types.float32(value), same if value == types.float32 else widened
