"""Cells of a number: exact for few values, and independent of order and partitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from nfm.contract import cells as module
from nfm.contract.cells import EXACT, LIMIT, Cells, CellTable, auc, count_cells, grouped_auc, merge

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def count(x: list[float] | NDArray[np.float64]) -> Cells:
    return count_cells(np.array(x, np.float64), np.zeros(len(x), np.int64), 1)


def same(a: Cells, b: Cells) -> bool:
    return a.bits == b.bits and np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)


@given(st.lists(FLOATS, max_size=50))
def test_few_values_are_counted_exactly(x: list[float]) -> None:
    found = count(x)
    values, counts = np.unique(np.array(x, np.float64) + 0.0, return_counts=True)  # -0.0 is 0.0
    assert found.bits == EXACT
    assert found.values.tolist() == values.tolist()
    assert found.counts[:, 0].tolist() == counts.tolist()


@given(st.lists(FLOATS, min_size=1, max_size=120), st.data())
def test_cells_do_not_depend_on_order_or_partitions(x: list[float], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIMIT", 8)  # so that few numbers exceed it
        expected = count(x)
        shuffled = data.draw(st.permutations(x))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
        parts = [count(part) for part in np.split(np.array(shuffled), cuts) if len(part)]
        while len(parts) > 1:  # merged in any grouping
            i = data.draw(st.integers(0, len(parts) - 2))
            parts[i : i + 2] = [merge(parts[i : i + 2])]
        assert same(parts[0], expected)
        assert len(expected.keys) <= 8


@pytest.mark.parametrize("shift", [0.0, 1.7e9, -5.0])
def test_the_error_of_many_values_is_bounded_as_documented(shift: float) -> None:
    x = np.sort(np.random.default_rng(1).lognormal(3, 1, 100_000)) + shift
    found = count(x)
    assert LIMIT / 4 < len(found.keys) <= LIMIT
    read = np.repeat(found.values, found.counts[:, 0])  # sorted like x
    assert (np.abs(read - x) <= np.abs(x) * 2.0 ** -(found.bits + 1)).all()
    # Cells are as fine as the limit allows, so moments and quantiles are close for any offset.
    spread = x.std()
    assert abs(read.mean() - x.mean()) < 1e-3 * spread
    assert abs(read.std() - spread) < 1e-3 * spread
    assert abs(np.median(read) - np.median(x)) < 1e-2 * spread


def test_zero_stays_zero_and_the_largest_float_stays_finite() -> None:
    x = np.concatenate([[0.0, -0.0, 1e308, 1.7976931348623157e308], np.random.default_rng(0).normal(size=100_000)])
    found = count(x)
    assert found.bits < EXACT
    assert 0.0 in found.values
    assert math.isfinite(found.values.max())
    assert (np.diff(found.values) > 0).all()


def test_groups_are_counted_separately() -> None:
    found = count_cells(np.array([1.0, 2.0, 1.0, 1.0]), np.array([0, 1, 2, 2]), 3)
    assert found.values.tolist() == [1.0, 2.0]
    assert found.counts.tolist() == [[1, 0, 2], [0, 1, 0]]


def test_no_numbers() -> None:
    assert count([]).keys.tolist() == []


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2), st.integers(0, 9)), max_size=60), st.data())
def test_a_table_filled_in_batches_equals_one_pass(rows: list[tuple[float, int, int]], data: st.DataObject) -> None:
    x, groups, weights = (np.array([row[i] for row in rows], kind) for i, kind in ((0, float), (1, int), (2, float)))
    counted, summed = CellTable(3, limit=5, at_once=7), CellTable(2, limit=5, at_once=7)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    order = np.array(data.draw(st.permutations(range(len(rows)))), int)
    for piece in np.split(order, cuts):
        counted.add(x[piece], groups[piece])
        summed.add(x[piece], np.stack([weights[piece], np.ones(len(piece))], axis=1))
    expected = count_cells(x, groups, 3, limit=5)
    assert same(counted.cells(), expected)
    assert np.array_equal(summed.cells().keys, expected.keys)
    assert summed.cells().counts[:, 1].tolist() == expected.counts.sum(axis=1).tolist()
    # Sums of integers are exact: compare with the sums over the values that share a cell.
    keys = [count_cells(x[i : i + 1], groups[:1], 3).keys >> (EXACT - expected.bits) for i in range(len(x))]
    at = [int(np.flatnonzero(key == expected.keys)[0]) for key in keys]
    assert summed.cells().counts[:, 0].tolist() == [weights[np.array(at) == c].sum() for c in range(len(expected.keys))]


def test_values_of_one_exponent_are_distinguished_by_their_leading_bits() -> None:
    table = CellTable(1, limit=2)
    table.add(np.array([1.0, 1.25, 1.5, 1.75, -3.0]), np.ones((5, 1)))
    assert not table.cells().exact  # 5 values in 2 cells: only the sign distinguishes them
    assert table.cells().counts[:, 0].tolist() == [1, 4]


SCORED = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=60)


def by_score(rows: list[tuple[int, bool, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the weights of positive and of negative rows for each score from 0 to 5."""
    score, positive, weight = (np.array(part) for part in zip(*rows, strict=True))
    return tuple(np.bincount(score, weight * selected, 6).astype(np.int64) for selected in (positive, ~positive))  # type: ignore[return-value]


@given(SCORED)
def test_auc_equals_scikit_learn(rows: list[tuple[int, bool, int]]) -> None:
    positive, negative = by_score(rows)
    found = auc(positive, negative)
    if not positive.any() or not negative.any():
        assert found is None
        return
    score, label, weight = zip(*rows, strict=True)
    assert found == pytest.approx(roc_auc_score(label, score, sample_weight=weight), abs=1e-12)


@given(st.lists(SCORED, min_size=1, max_size=5))
def test_auc_of_each_group_equals_brute_force_over_pairs(groups: list[list[tuple[int, bool, int]]]) -> None:
    positive, negative = zip(*map(by_score, groups), strict=True)
    found = grouped_auc(np.concatenate(positive), np.concatenate(negative), np.arange(len(groups)) * 6)
    for area, rows in zip(found, groups, strict=True):
        pairs = [(a[0] - b[0], a[2] * b[2]) for a in rows for b in rows if a[1] and not b[1]]
        total = sum(weight for _, weight in pairs)
        in_order = sum(weight * (1.0 if gap > 0 else 0.5 if gap == 0 else 0.0) for gap, weight in pairs)
        assert area == pytest.approx(in_order / total if total else math.nan, abs=1e-12, nan_ok=True)


def test_auc_of_no_cells() -> None:
    assert auc(np.empty(0), np.empty(0)) is None
