"""Reason codes: make variants of each row, each with one reason missing, and find the largest effects.

A reason is a field, or a number with its missing flag and bins. If x' v' replaces the x v of one feature, the pooled
vector ½ [(Σ x v)² − Σ (x v)²] (He & Chua 2017, eq. 4) changes by

    (x' v' − x v) ⊙ (Σ x v − x v)

so that a variant costs one feature instead of all. The target rate of a missing field is that of its row 0. The effect
of a reason is the score of the row minus the score of the variant. These loops take a tenth of the score job with
`explain: 3` (26 fields and 13 numbers, K 64, hidden layers 128-128); the layers take nearly all the rest.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from nfm.kernels.compile import compile_now, compile_when_called
from nfm.kernels.pooling import (
    Offsets,
    Rows,
    Weights,
    as_float32,
    list_argument_types,
    list_features,
    pool,
    read_only_array,
    view_as_bits,
)

_ZERO, _ONE = np.float32(0), np.float32(1)
_1 = np.uint64(1)


class Missing(NamedTuple):
    """Columns of the reasons other than plain fields, with the encoded values of a missing reason.

    A missing plain field or bag has one feature: row 0 of its block with x = 1.
    """

    bags: NDArray[np.int64]  # (A, 2) first row of each bag's block, and the row after the last one
    number_splits: NDArray[np.int64]  # (G + 1,) reason g has the columns splits[g] … splits[g + 1] − 1 of values_BN
    numbers: NDArray[np.float32]  # (N,) values of missing numbers
    dense_splits: NDArray[np.int64]  # (H + 1,) the same for dense_BD
    dense: NDArray[np.float32]  # (D,)
    dense_bins: NDArray[np.int64]  # (H,) column of bins_BQ of the same number; −1: no bins


class Variants(NamedTuple):
    """Inputs of the layers for rows and their variants; M is at least the number of rows and all variants."""

    linear_MC: NDArray[np.float32]  # linear parts, without those of the dense numbers
    inputs_MX: NDArray[np.float32]  # pooled vectors, then the dense numbers, then the rates
    # The row and the missing reason (numbered: fields, bags, numbers, dense), or −1 for the row itself.
    owners_M2: NDArray[np.int64]


def make_variants(
    weights: Weights, offsets: Offsets, rows: Rows, missing: Missing, start: int, stop: int, variants: Variants
) -> int:
    """Fill `variants` with the rows from start up to stop, followed by all their variants.

    A row has no variant for a reason that is already missing. Releases the GIL.

    Args:
        weights: the model's tables.
        offsets: first row of each field in the tables.
        rows: a batch.
        missing: the reasons.
        start: first row.
        stop: row after the last one.
        variants: receives the result.

    Returns:
        The number of rows and variants.
    """
    tables, loop = view_as_bits(weights), _compiled_variants(weights.embedding.dtype.name)
    count: int = loop(tables, tuple(offsets), tuple(rows), tuple(missing), start, stop, tuple(variants))
    return count


@cache
def _compiled_variants(dtype: str) -> Any:
    ints, floats = read_only_array(types.int64, 1), read_only_array(types.float32, 1)
    missing = types.Tuple([read_only_array(types.int64, 2), ints, floats, ints, floats, ints])
    variants = types.Tuple([types.Array(type_, 2, "C") for type_ in (types.float32, types.float32, types.int64)])
    arguments = [*list_argument_types(dtype), missing, types.int64, types.int64, variants]
    return compile_now(types.int64(*arguments), _make_variants)


def _make_variants(weights: Any, offsets: Any, rows: Any, missing: Any, start: Any, stop: Any, variants: Any) -> Any:
    embedding, linear, bias = weights
    offsets, rows, missing = Offsets(*offsets), Rows(*rows), Missing(*missing)
    linear_MC, inputs_MX, owners_M2 = variants
    count, dim, dense_BD = stop - start, embedding.shape[1], rows.dense_BD
    sum_BK = np.empty((count, dim), np.float32)
    linear_MC[:count] = bias
    pool(0, count, list_features(offsets, rows, start, stop), embedding, linear, inputs_MX, sum_BK, linear_MC)
    for own in range(count):
        owners_M2[own, 0], owners_M2[own, 1] = start + own, -1
        for d in range(dense_BD.shape[1]):
            inputs_MX[own, dim + d] = dense_BD[start + own, d]
    reason = len(offsets.fields)
    count = _append_fields(weights, offsets, rows, sum_BK, variants, count)
    count = _append_bags(weights, reason, rows, missing, sum_BK, variants, count)
    reason += len(missing.bags)
    no_bins = np.full(len(missing.number_splits) - 1, -1)
    groups = missing.number_splits, missing.numbers, no_bins
    bins = offsets.bins, rows.bins_BQ, rows.fractions_BQ
    count = _append_numbers(weights, (reason, offsets.numbers), rows.values_BN, groups, bins, sum_BK, variants, count)
    reason, groups = reason + len(no_bins), (missing.dense_splits, missing.dense, missing.dense_bins)
    return _append_numbers(weights, (reason, -1), dense_BD, groups, bins, sum_BK, variants, count)


# Each of these functions appends the variants of some reasons, numbered from `reason`, and returns the new count. They
# unpack tuples before the loops, because numba counts a reference each time that an array is taken from a tuple.


@compile_when_called
def _append_fields(weights: Any, offsets: Any, rows: Any, sum_BK: Any, variants: Any, count: Any) -> Any:
    embedding, linear, _ = weights
    linear_MC, inputs_MX, owners_M2 = variants
    first_F, ids_BF, dim, m = offsets.fields, rows.ids_BF, np.uint64(sum_BK.shape[1]), np.uint64(count)
    for own in range(np.uint64(len(sum_BK))):
        b = np.uint64(owners_M2[own, 0])
        for f in range(np.uint64(len(first_F))):
            if ids_BF[b, f] == 0:
                continue
            row, missing_row = np.uint64(first_F[f] + ids_BF[b, f]), np.uint64(first_F[f])
            owners_M2[m, 0], owners_M2[m, 1] = b, f
            for k in range(dim):
                old = as_float32(embedding[row, k])
                difference = as_float32(embedding[missing_row, k]) - old
                inputs_MX[m, k] = inputs_MX[own, k] + difference * (sum_BK[own, k] - old)
            for d in range(dim, np.uint64(inputs_MX.shape[1])):
                inputs_MX[m, d] = inputs_MX[own, d]
            for c in range(np.uint64(linear.shape[1])):
                linear_MC[m, c] = linear_MC[own, c] + (linear[missing_row, c] - linear[row, c])
            m += _1
    return m


@compile_when_called
def _append_bags(weights: Any, reason: Any, rows: Any, missing: Any, sum_BK: Any, variants: Any, count: Any) -> Any:
    embedding, linear, _ = weights
    linear_MC, inputs_MX, owners_M2 = variants
    bag_rows, bag_values, bag_splits, bags = rows.bag_rows, rows.bag_values, rows.bag_splits, missing.bags
    dim, changed_K, m = np.uint64(sum_BK.shape[1]), np.empty(sum_BK.shape[1], np.float32), np.uint64(count)
    for own in range(np.uint64(len(sum_BK))):
        b = np.uint64(owners_M2[own, 0])
        end, last = np.uint64(bag_splits[b]), np.uint64(bag_splits[b + _1])
        for bag in range(np.uint64(len(bags))):
            first, missing_row = end, np.uint64(bags[bag, 0])
            while end < last and bag_rows[end] < bags[bag, 1]:
                end += _1
            if end == first + _1 and np.uint64(bag_rows[first]) == missing_row and bag_values[first] == _ONE:
                continue
            _copy_row(linear_MC, inputs_MX, owners_M2, own, m, reason + bag)
            for k in range(dim):
                changed_K[k] = sum_BK[own, k]
            for p in range(first, end):
                change = np.uint64(bag_rows[p]), bag_values[p], missing_row, _ZERO
                _replace_feature(embedding, linear, change, changed_K, linear_MC, inputs_MX, m)
            _replace_feature(
                embedding, linear, (missing_row, _ZERO, missing_row, _ONE), changed_K, linear_MC, inputs_MX, m
            )
            m += _1
    return m


@compile_when_called
def _append_numbers(
    weights: Any, first: Any, values_BN: Any, groups: Any, bins: Any, sum_BK: Any, variants: Any, count: Any
) -> Any:
    embedding, linear, _ = weights
    linear_MC, inputs_MX, owners_M2 = variants
    (reason, first_row), (splits, missing_N, bins_of_group), (first_Q, bins_BQ, fractions_BQ) = first, groups, bins
    dim, changed_K, m = np.uint64(sum_BK.shape[1]), np.empty(sum_BK.shape[1], np.float32), np.uint64(count)
    for own in range(np.uint64(len(sum_BK))):
        b = np.uint64(owners_M2[own, 0])
        for group in range(np.uint64(len(splits) - 1)):
            columns, q = range(np.uint64(splits[group]), np.uint64(splits[group + _1])), bins_of_group[group]
            is_present = q >= 0 and bins_BQ[b, np.uint64(q)] != 0
            for n in columns:
                is_present = is_present or values_BN[b, n] != missing_N[n]
            if not is_present:
                continue
            _copy_row(linear_MC, inputs_MX, owners_M2, own, m, reason + group)
            for k in range(dim):
                changed_K[k] = sum_BK[own, k]
            for n in columns:
                if first_row < 0:  # dense numbers have no rows in the tables
                    inputs_MX[m, dim + n] = missing_N[n]
                else:
                    row = np.uint64(first_row) + n
                    change = row, values_BN[b, n], row, missing_N[n]
                    _replace_feature(embedding, linear, change, changed_K, linear_MC, inputs_MX, m)
            if q >= 0:
                pair = first_Q[q], bins_BQ[b, np.uint64(q)], fractions_BQ[b, np.uint64(q)]
                _replace_pair(embedding, linear, pair, changed_K, linear_MC, inputs_MX, m)
            m += _1
    return m


@njit(inline="always")
def _copy_row(linear_MC: Any, inputs_MX: Any, owners_M2: Any, own: Any, m: Any, reason: Any) -> None:
    """Copy the row into variant m."""
    owners_M2[m, 0], owners_M2[m, 1] = owners_M2[own, 0], reason
    for i in range(np.uint64(inputs_MX.shape[1])):
        inputs_MX[m, i] = inputs_MX[own, i]
    for c in range(np.uint64(linear_MC.shape[1])):
        linear_MC[m, c] = linear_MC[own, c]


@njit(inline="always")
def _replace_feature(
    embedding: Any, linear: Any, change: Any, changed_K: Any, linear_MC: Any, inputs_MX: Any, m: Any
) -> None:
    """Replace the feature x v of variant m by x' v'; changed_K is the variant's Σ x v, which is updated."""
    row, x, other, other_x = change
    for k in range(np.uint64(embedding.shape[1])):
        old = x * as_float32(embedding[row, k])
        difference = other_x * as_float32(embedding[other, k]) - old
        inputs_MX[m, k] += difference * (changed_K[k] - old)
        changed_K[k] += difference
    for c in range(np.uint64(linear.shape[1])):
        linear_MC[m, c] += other_x * linear[other, c] - x * linear[row, c]


@njit(inline="always")
def _replace_pair(
    embedding: Any, linear: Any, pair: Any, changed_K: Any, linear_MC: Any, inputs_MX: Any, m: Any
) -> None:
    """Replace the interpolated feature of variant m by the missing one."""
    first, own_bin, t = pair
    missing, low = np.uint64(first), np.uint64(first + own_bin)
    high, rest = low + np.uint64(t > 0), _ONE - t
    for k in range(np.uint64(embedding.shape[1])):
        old = rest * as_float32(embedding[low, k]) + t * as_float32(embedding[high, k])
        difference = as_float32(embedding[missing, k]) - old
        inputs_MX[m, k] += difference * (changed_K[k] - old)
        changed_K[k] += difference
    for c in range(np.uint64(linear.shape[1])):
        linear_MC[m, c] += linear[missing, c] - (rest * linear[low, c] + t * linear[high, c])


@compile_when_called
def record_scores(owners_M2: Any, scores_MC: Any, places_R: Any, scores_BC: Any, effects_BR: Any) -> None:
    """Write the scores of rows to scores_BC, and score(row) − score(variant) to effects_BR.

    With several classes, an effect is measured on the class with the row's highest score, the first one of equal ones.

    Args:
        owners_M2: from the `Variants`; rows come before their variants.
        scores_MC: float32 scores of rows and variants.
        places_R: int64 column of effects_BR for each reason.
        scores_BC: receives the scores of rows.
        effects_BR: receives the effects.
    """
    for m in range(len(owners_M2)):
        b, reason = owners_M2[m, 0], owners_M2[m, 1]
        if reason < 0:
            for c in range(scores_MC.shape[1]):
                scores_BC[b, c] = scores_MC[m, c]
        else:
            highest = 0
            for c in range(scores_MC.shape[1]):
                if scores_BC[b, c] > scores_BC[b, highest]:
                    highest = c
            effects_BR[b, places_R[reason]] = scores_BC[b, highest] - scores_MC[m, highest]


@compile_when_called
def find_strongest(effects_BR: Any, places_BE: Any) -> None:
    """Fill places_BE (int64) with the columns of each row's largest effects that are finite and not 0.

    Effects are ordered by size, then by column; −1 where a row has fewer than E.
    """
    for b in range(len(effects_BR)):
        before, size_before = -1, np.float32(np.inf)
        for e in range(places_BE.shape[1]):
            place, largest = -1, np.float32(0)
            for r in range(effects_BR.shape[1]):
                size = abs(effects_BR[b, r])
                follows = size < size_before or (size == size_before and r > before and before >= 0)
                if follows and size > largest:
                    place, largest = r, size
            places_BE[b, e] = place
            before, size_before = place, largest  # after −1 only −1 follows
