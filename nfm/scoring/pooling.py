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

from nfm.prefetch import prefetch

_REBIAS = 2.0**112  # exponents of float16 count from 15, of float32 from 127
_SIGN_EXPONENT_FRACTION = 0x8FFFE000 - (1 << 32)  # bits of a float16, in their places in a float32
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
_TABLES = {"float32": types.float32, "float16": types.uint16}  # numba has no float16: it is told of the bits


def read_only(dtype: Any, dimensions: int, layout: Literal["C", "A"] = "A") -> Any:
    """The type of an array that is only read."""
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
    return compiled(types.void(*weights_and_rows(dtype), types.int64, types.int64, scratch, out, out), _pool)


def weights_and_rows(dtype: str) -> list[Any]:
    """The types of a loop's arguments, from embedding to bag_splits."""
    table, floats, ints = (
        read_only(_TABLES[dtype], 2, "C"),
        read_only(types.float32, 1, "C"),
        read_only(types.int64, 1, "C"),
    )
    rows = [read_only(types.int32, 2), read_only(types.float32, 2), read_only(types.int32, 1, "C"), floats, ints]
    return [table, read_only(types.float32, 2, "C"), floats, ints, types.int64, *rows]


def compiled(signature: Any, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A loop in machine code, which lets other threads run."""
    machine_code: Callable[..., Any]
    options |= {"nogil": True, "error_model": "numpy"}
    # On the disk for the next worker: to compile takes a second, and memory that is not given back. An archive lies
    # elsewhere in each run, and each would leave files of its own behind in the user's home.
    if Path(__file__).exists():
        with suppress(RuntimeError, OSError):  # no place to write to, or no room
            machine_code = njit(signature, cache=True, **options)(function)
            return machine_code
    machine_code = njit(signature, **options)(function)
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
        ask_for(embedding, linear, offsets, rows, min(b + np.uint64(1), np.uint64(stop - 1)))
        sum_up(embedding, linear, bias, offsets, first_number, rows, b, sum_K, squares_K, linear_TC, t)
        for k in range(np.uint64(embedding.shape[1])):
            pooled_TK[t, k] = _HALF * (sum_K[k] * sum_K[k] - squares_K[k])


@njit(inline="always")
def ask_for(embedding: Any, linear: Any, offsets: Any, rows: Any, b: Any) -> None:
    """Ask for the weights of row b's features, while another row is worked on: for loops to call."""
    ids_BF, _, bag_rows, _, bag_splits = rows
    for f in range(np.uint64(len(offsets))):
        prefetch(embedding, offsets[f] + ids_BF[b, f])
        prefetch(linear, offsets[f] + ids_BF[b, f])
    for p in range(np.uint64(bag_splits[b]), np.uint64(bag_splits[b + np.uint64(1)])):
        prefetch(embedding, bag_rows[p])
        prefetch(linear, bag_rows[p])


@njit(inline="always")
def sum_up(
    embedding: Any,
    linear: Any,
    bias: Any,
    offsets: Any,
    first_number: Any,
    rows: Any,
    b: Any,
    sum_K: Any,
    squares_K: Any,
    linear_TC: Any,
    t: Any,
) -> None:
    """The sums of row b's features, Σ x v and Σ (x v)² and, in row t, w_0 + Σ w x: for loops to call."""
    ids_BF, values_BN, bag_rows, bag_values, bag_splits = rows
    # Indices have no sign: one with a sign may count from the end, and is looked at each time.
    # Two indices rather than a view of a row: who looks on is counted, each time, by locking the counter. And loops
    # rather than slices: numba takes three seconds to compile what it has for an assignment to a slice.
    for c in range(np.uint64(linear.shape[1])):
        linear_TC[t, c] = bias[c]
    for k in range(np.uint64(embedding.shape[1])):
        sum_K[k], squares_K[k] = 0, 0
    for f in range(np.uint64(len(offsets))):
        _add(np.uint64(offsets[f] + ids_BF[b, f]), _ONE, embedding, linear, sum_K, squares_K, linear_TC, t)
    for n in range(np.uint64(values_BN.shape[1])):
        _add(np.uint64(first_number) + n, values_BN[b, n], embedding, linear, sum_K, squares_K, linear_TC, t)
    for p in range(np.uint64(bag_splits[b]), np.uint64(bag_splits[b + np.uint64(1)])):
        _add(np.uint64(bag_rows[p]), bag_values[p], embedding, linear, sum_K, squares_K, linear_TC, t)


@njit(inline="always")
def _add(row: Any, x: Any, embedding: Any, linear: Any, sum_K: Any, squares_K: Any, linear_TC: Any, t: Any) -> None:
    for k in range(np.uint64(embedding.shape[1])):
        value = x * as_float32(embedding[row, k])  # type: ignore[call-arg]
        sum_K[k] += value
        squares_K[k] += value * value
    for c in range(np.uint64(linear.shape[1])):
        linear_TC[t, c] += x * linear[row, c]


@intrinsic
def as_float32(_: Any, value: Any) -> Any:
    """A float32 as it is; of the bits of a finite float16, the same number."""

    def same(__: Any, ___: Any, ____: Any, arguments: Any) -> Any:
        return arguments[0]

    def widened(__: Any, builder: Any, ___: Any, arguments: Any) -> Any:
        bits = builder.shl(builder.sext(arguments[0], ir.IntType(32)), ir.IntType(32)(13))  # repeats the sign
        bits = builder.and_(bits, ir.IntType(32)(_SIGN_EXPONENT_FRACTION))
        return builder.fmul(builder.bitcast(bits, ir.FloatType()), ir.FloatType()(_REBIAS))

    return types.float32(value), same if value == types.float32 else widened
