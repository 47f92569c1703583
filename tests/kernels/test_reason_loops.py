"""Variants of rows, compared with pooling in double precision; effects, compared with NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.kernels.pooling import Offsets, Rows, Weights, pool_rows
from nfm.kernels.reasons import Missing, Variants, find_strongest, make_variants, record_scores
from tests.kernels.test_pooling import weights_of

# Rows of the table: two fields of six, bags 12–13 and 14–15, bins of a number 16–18, numbers 19 and 20. Dense reasons:
# a pair, and one column with bins.
OFFSETS = Offsets(np.array([0, 6], np.int64), np.array([16], np.int64), 19)
BAGS = np.array([[12, 14], [14, 16]], np.int64)
NUMBERS, DENSE = np.array([0.5, 0], np.float32), np.array([0, 1, -2], np.float32)
MISSING = Missing(BAGS, np.array([0, 1, 2]), NUMBERS, np.array([0, 2, 3]), DENSE, np.array([-1, 0]))
REASONS = 2 + 2 + 2 + 2
Row = list[tuple[int, float]]


def rows_by_hand() -> Rows:
    """Return rows with missing ids and numbers, and empty, single-member and missing bags (row 12 or 14, x = 1)."""
    members: list[Row] = [
        [],
        [(12, 1)],
        [(12, 1), (14, 1)],
        [(12, 0.5)],
        [(13, 1), (13, 2), (15, -1)],
        [(12, 1), (12, 1), (14, 0)],
        [(14, 1)],
    ]
    flat = [member for row in members for member in row]
    return Rows(
        np.array([[0, 0], [1, 0], [0, 5], [3, 4], [1, 1], [5, 5], [2, 3]], np.int32),
        np.array([[0.5, 0], [0.5, 1], [2, 0], [-1, -1], [0, 0], [3, 2], [0.5, 0]], np.float32),
        np.array([[0, 1, -2], [0, 2, -2], [1, 1, 3], [0, 1, 0], [5, 5, 5], [0, 1, -2], [0, 0, 0]], np.float32),
        np.array([[0], [1], [2], [1], [0], [1], [2]], np.int32),
        np.array([[0], [0.25], [0], [0.5], [0], [0], [0]], np.float32),
        np.array([row for row, _ in flat], np.int32),
        np.array([x for _, x in flat], np.float32),
        np.cumsum([0, *map(len, members)]).astype(np.int64),
    )


def with_missing(rows: Rows, b: int, reason: int) -> tuple[Row, NDArray[np.float32]]:
    """Return row b's features and dense numbers with one reason missing; with −1 unchanged. Feature −1: the bins."""
    interpolated = 16.0 + rows.bins_BQ[b, 0] + rows.fractions_BQ[b, 0]
    ids, values, dense = rows.ids_BF[b].copy(), rows.values_BN[b].copy(), rows.dense_BD[b].copy()
    span = slice(rows.bag_splits[b], rows.bag_splits[b + 1])
    bags = list(zip(rows.bag_rows[span].tolist(), rows.bag_values[span].tolist(), strict=True))
    if reason in (0, 1):
        ids[reason] = 0
    elif reason in (2, 3):
        first, end = BAGS[reason - 2].tolist()
        bags = [member for member in bags if not first <= member[0] < end] + [(first, 1.0)]
    elif reason in (4, 5):
        values[reason - 4] = NUMBERS[reason - 4]
    elif reason in (6, 7):
        columns = slice(0, 2) if reason == 6 else slice(2, 3)
        dense[columns] = DENSE[columns]
        interpolated = 16.0 if reason == 7 else interpolated
    fields = [(int(first + i), 1.0) for first, i in zip(OFFSETS.fields, ids, strict=True)]
    return fields + [(19 + n, float(x)) for n, x in enumerate(values)] + bags + [(-1, interpolated)], dense


def is_missing(rows: Rows, b: int, reason: int) -> bool:
    row, variant = with_missing(rows, b, -1), with_missing(rows, b, reason)
    return sorted(row[0]) == sorted(variant[0]) and (row[1] == variant[1]).all()


def interpolate(table: NDArray[Any], feature: tuple[int, float]) -> NDArray[np.float64]:
    """Return x v of a feature; for the bins, x is the position between two rows."""
    row, x = feature
    if row >= 0:
        return np.asarray(x * table[row].astype(np.float64))
    low = int(x)
    return np.asarray((1 - (x - low)) * table[low].astype(np.float64) + (x - low) * table[low + 1].astype(np.float64))


def pool_in_float64(weights: Weights, features: Row) -> tuple[NDArray[Any], NDArray[Any]]:
    vectors = np.array([interpolate(weights.embedding, feature) for feature in features])
    linear = weights.bias + sum(interpolate(weights.linear, feature) for feature in features)
    return linear, 0.5 * (vectors.sum(axis=0) ** 2 - (vectors**2).sum(axis=0))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dim", [1, 8, 64, 130])
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (3, 4), (5, 5)])
def test_variants_equal_rows_with_one_reason_missing(dim: int, dtype: str, start: int, stop: int) -> None:
    weights, rows = weights_of(dim, dtype), rows_by_hand()
    capacity = (stop - start) * (1 + REASONS)
    variants = Variants(
        np.full((capacity + 1, 2), 7, np.float32),
        np.full((capacity + 1, dim + 3), 7, np.float32),
        np.empty((capacity, 2), np.int64),
    )
    count = make_variants(weights, OFFSETS, rows, MISSING, start, stop, variants)
    owners = [tuple(owner) for owner in variants.owners_M2[:count].tolist()]
    assert owners[: stop - start] == [(b, -1) for b in range(start, stop)]
    wanted = [(b, r) for b in range(start, stop) for r in range(REASONS) if not is_missing(rows, b, r)]
    assert sorted(owners[stop - start :]) == wanted
    for m, (b, reason) in enumerate(owners):
        features, dense = with_missing(rows, b, reason)
        linear, pooled = pool_in_float64(weights, features)
        np.testing.assert_allclose(variants.linear_MC[m], linear, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(variants.inputs_MX[m, :dim], pooled, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(variants.inputs_MX[m, dim:], dense)
    assert (variants.linear_MC[capacity] == 7).all()
    assert (variants.inputs_MX[capacity] == 7).all()
    own = np.empty((stop - start, 2), np.float32), np.empty((stop - start, dim), np.float32)
    pool_rows(weights, OFFSETS, rows, start, stop, *own)
    np.testing.assert_array_equal(variants.linear_MC[: stop - start], own[0])
    np.testing.assert_array_equal(variants.inputs_MX[: stop - start, :dim], own[1])


def test_effects_are_measured_on_the_class_with_the_highest_score() -> None:
    owners = np.array([[0, -1], [1, -1], [0, 1], [1, 0], [1, 1]], np.int64)
    scores = np.array([[0.2, 0.5, 0.5], [0.9, 0.1, 0], [0.1, 0.25, 0.65], [1, 0, 0], [0.5, 0.4, 0.1]], np.float32)
    scores_BC, effects_BR = np.empty((2, 3), np.float32), np.zeros((2, 3), np.float32)
    record_scores(owners, scores, np.array([2, 0], np.int64), scores_BC, effects_BR)
    np.testing.assert_array_equal(scores_BC, scores[:2])
    np.testing.assert_allclose(effects_BR, [[0.25, 0, 0], [0.4, 0, -0.1]], rtol=1e-6)


@given(
    st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(st.sampled_from([0, -1, 1, 2, -2, np.inf, np.nan]), min_size=columns, max_size=columns), min_size=1
        )
    ),
    st.integers(1, 5),
)
def test_strongest_effects_equal_a_stable_sort(effects: list[list[float]], count: int) -> None:
    places = np.empty((len(effects), count), np.int64)
    find_strongest(np.array(effects, np.float32), places)
    for found, row in zip(places.tolist(), effects, strict=True):
        some = [r for r, effect in enumerate(row) if np.isfinite(effect) and effect != 0]
        ordered = sorted(some, key=lambda r: -abs(row[r]))[:count]
        assert found == ordered + [-1] * (count - len(ordered))
