"""Pooling, compared with equations 2 to 4 over pairs of features in double precision."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from nfm.kernels.pooling import Features, Offsets, Rows, Weights, as_float32, pool, pool_rows

FIRST = np.array([0, 6], np.int64)  # two fields of six rows; a bag of four rows; bins of two numbers; two numbers
FIRST_OF_BAG, FIRST_OF_BINS, FIRST_NUMBER, TABLE_ROWS = 12, np.array([16, 20], np.int64), 23, 25
OFFSETS = Offsets(FIRST, FIRST_OF_BINS, FIRST_NUMBER)
BAGS = [0, 1, 3, 0, 64, 65, 2, 130, 1, 4]  # members in each row


def weights_of(dim: int, dtype: str, outputs: int = 2) -> Weights:
    random = np.random.default_rng(1)
    embedding = random.normal(size=(TABLE_ROWS, dim)).astype(dtype)
    return Weights(
        embedding,
        random.normal(size=(TABLE_ROWS, outputs)).astype(np.float32),
        random.normal(size=outputs).astype(np.float32),
    )


def rows_of(bags: list[int], numbers: int = 2) -> Rows:
    """Return rows in which some ids and bins are 0 (missing), some weights are 0 or negative, and some fractions 0."""
    random, count = np.random.default_rng(2), len(bags)
    bins = random.integers(0, [4, 3], (count, 2)).astype(np.int32)
    fractions = np.where((bins == 0) | (bins == [3, 2]), 0, random.choice([0, 0.3, 0.99], (count, 2)))
    return Rows(
        random.integers(0, 6, (count, 2)).astype(np.int32),
        random.normal(size=(count, numbers)).astype(np.float32),
        np.empty((count, 0), np.float32),
        bins,
        fractions.astype(np.float32),
        random.integers(FIRST_OF_BAG, FIRST_OF_BINS[0], sum(bags)).astype(np.int32),
        random.choice(np.array([0, 1, 0.5, -2], np.float32), sum(bags)),
        np.cumsum([0, *bags]).astype(np.int64),
    )


Feature = list[tuple[int, float]]  # rows of the tables with their x: two for an interpolated feature


def features_of(rows: Rows, b: int) -> list[Feature]:
    members = range(rows.bag_splits[b], rows.bag_splits[b + 1])
    bins = zip(FIRST_OF_BINS, rows.bins_BQ[b], rows.fractions_BQ[b].astype(np.float64), strict=True)
    return [
        *([(int(first + i), 1.0)] for first, i in zip(FIRST, rows.ids_BF[b], strict=True)),
        *([(FIRST_NUMBER + n, float(x))] for n, x in enumerate(rows.values_BN[b])),
        *([(int(rows.bag_rows[p]), float(rows.bag_values[p]))] for p in members),
        *([(int(first + i), 1 - t), *([(int(first + i + 1), t)] if t else [])] for first, i, t in bins),
    ]


def by_pairs(weights: Weights, features: list[Feature]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the linear part and the pooled vector of a row."""
    v, w = weights.embedding.astype(np.float64), weights.linear.astype(np.float64)
    vectors = [sum((x * v[i] for i, x in feature), np.zeros(v.shape[1])) for feature in features]
    pooled = sum((first * second for first, second in combinations(vectors, 2)), np.zeros(v.shape[1]))
    terms = [x * w[i] for feature in features for i, x in feature]
    return weights.bias + sum(terms, np.zeros(w.shape[1])), pooled


def pooled(weights: Weights, rows: Rows, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    linear = np.full((stop - start + 1, len(weights.bias)), 7, np.float32)
    inputs = np.full((stop - start + 1, weights.embedding.shape[1] + 3), 7, np.float32)
    pool_rows(weights, OFFSETS, rows, start, stop, linear, inputs)
    assert (linear[-1] == 7).all()
    assert (inputs[-1] == 7).all()
    assert (inputs[:, -3:] == 7).all()  # where the dense numbers are
    return linear[:-1], inputs[:-1, :-3]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dim", [1, 2, 7, 31, 32, 64, 70, 130])
def test_pooling_equals_the_equations(dim: int, dtype: str) -> None:
    for numbers in (0, 1, 2):  # from four features to more than a multiple of four
        weights, rows = weights_of(dim, dtype), rows_of(BAGS, numbers)
        linear, vectors = pooled(weights, rows, 0, len(BAGS))
        for b in range(len(BAGS)):
            expected = by_pairs(weights, features_of(rows, b))
            np.testing.assert_allclose(linear[b], expected[0], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(vectors[b], expected[1], rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_results_are_bitwise_equal_in_any_range_of_rows(dtype: str) -> None:
    bags = [i % 7 for i in range(300)]
    weights, rows = weights_of(33, dtype), rows_of(bags)
    all_rows = pooled(weights, rows, 0, 300)
    for start, stop in ((0, 1), (299, 300), (5, 5), (63, 66), (100, 300)):
        for part, expected in zip(pooled(weights, rows, start, stop), all_rows, strict=True):
            np.testing.assert_array_equal(part, expected[start:stop])
    by_column = rows._replace(ids_BF=np.asfortranarray(rows.ids_BF), values_BN=np.asfortranarray(rows.values_BN))
    read_only = [array.copy() for array in weights]
    for array in read_only:
        array.flags.writeable = False
    for part, expected in zip(pooled(Weights(*read_only), by_column, 0, 300), all_rows, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_no_rows_and_no_features() -> None:
    weights, no_rows = weights_of(3, "float32"), rows_of([], 0)
    assert pooled(weights, no_rows, 0, 0)[0].shape == (0, 2)
    empty = rows_of([0, 0], 0)._replace(ids_BF=np.empty((2, 0), np.int32))
    none = np.empty(0, np.int64)
    linear, inputs = np.empty((2, 2), np.float32), np.empty((2, 3), np.float32)
    pool_rows(weights, Offsets(none, none, FIRST_NUMBER), empty, 0, 2, linear, inputs)
    np.testing.assert_array_equal(linear, [weights.bias] * 2)
    np.testing.assert_array_equal(inputs, np.zeros((2, 3)))


def test_one_feature_pools_to_exactly_zero() -> None:
    """½ [(x v)² − (x v)²] is exactly 0 only without fused multiply-adds."""
    weights = weights_of(64, "float32")
    members = Features(np.array([3], np.int32), np.array([0.3], np.float32), np.array([0, 1], np.int64), 0)
    vectors, sums, linear = (np.full((1, size), 7, np.float32) for size in (64, 64, 2))
    pool(0, 1, members, weights.embedding, weights.linear, vectors, sums, linear)
    assert not vectors.any()
    np.testing.assert_array_equal(sums[0], np.float32(0.3) * weights.embedding[3])
    np.testing.assert_array_equal(linear[0], 7 + np.float32(0.3) * weights.linear[3])


def test_pooling_the_papers_example_by_hand() -> None:
    """[3,0,1,0], [1,2,3,4] and [4,5,6,1] pool to [19,10,27,4]."""
    table = np.array([[3, 0, 1, 0], [1, 2, 3, 4], [4, 5, 6, 1]], np.float32)
    linear = np.array([[0.5], [0.25], [0.125]], np.float32)
    rows = np.array([0, 1, 2, 2, 1, 1], np.int32)
    x = np.array([1, 1, 1, 1, 0, 2], np.float32)
    features = Features(
        rows, x, np.array([0, 3, 3, 6], np.int64), 0
    )  # three features; none; [4,5,6,1], 0·[1,2,3,4] and 2·[1,2,3,4]
    vectors, sums, linear_SC = np.empty((3, 4), np.float32), np.empty((3, 4), np.float32), np.zeros((3, 1), np.float32)
    pool(0, 3, features, table, linear, vectors, sums, linear_SC)
    assert vectors.tolist() == [[19, 10, 27, 4], [0, 0, 0, 0], [8, 20, 36, 8]]
    assert sums.tolist() == [[8, 7, 10, 5], [0, 0, 0, 0], [6, 9, 12, 9]]
    assert linear_SC.tolist() == [[0.875], [0], [0.625]]


def test_every_finite_float16_is_widened_exactly() -> None:
    finite = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)]
    assert len(finite) == 2**16 - 2 * 2**10
    widen: Any = njit(lambda bits: as_float32(bits))
    widened = np.array([widen(bits) for bits in finite.view(np.uint16)], np.float32)
    np.testing.assert_array_equal(widened, finite.astype(np.float32), strict=True)
    np.testing.assert_array_equal(np.signbit(widened), np.signbit(finite))


def test_an_interpolated_feature_is_squared_once_by_hand() -> None:
    """¾ [4, 8] + ¼ [8, 0] = [5, 6] is one feature beside [2, 1]: it pools to [10, 6], without products of its own."""
    table = np.array([[2, 1], [4, 8], [8, 0]], np.float32)
    linear = np.array([[1], [10], [100]], np.float32)
    features = Features(np.array([0, 1, 2], np.int32), np.array([1, 0.75, 0.25], np.float32), np.array([0, 3]), 1)
    vectors, sums, linear_SC = np.empty((1, 2), np.float32), np.empty((1, 2), np.float32), np.zeros((1, 1), np.float32)
    pool(0, 1, features, table, linear, vectors, sums, linear_SC)
    assert vectors.tolist() == [[10, 6]]
    assert sums.tolist() == [[7, 7]]
    assert linear_SC.tolist() == [[1 + 7.5 + 25]]
