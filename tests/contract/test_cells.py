"""A number's cells: exact while there are few, and never dependent on order or partitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.contract import cells as module
from nfm.contract.cells import EXACT, LIMIT, Cells, cells, merge

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def count(x: list[float] | NDArray[np.float64]) -> Cells:
    return cells(np.array(x, np.float64), np.zeros(len(x), np.int64), 1)


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
def test_order_and_partitions_change_nothing(x: list[float], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LIMIT", 8)  # so that a few numbers are many
        whole = count(x)
        shuffled = data.draw(st.permutations(x))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
        parts = [count(part) for part in np.split(np.array(shuffled), cuts) if len(part)]
        while len(parts) > 1:  # merged in any grouping
            i = data.draw(st.integers(0, len(parts) - 2))
            parts[i : i + 2] = [merge(parts[i : i + 2])]
        assert same(parts[0], whole)
        assert len(whole.keys) <= 8


@pytest.mark.parametrize("shift", [0.0, 1.7e9, -5.0])
def test_many_values_are_off_by_no_more_than_is_said(shift: float) -> None:
    x = np.sort(np.random.default_rng(1).lognormal(3, 1, 100_000)) + shift
    found = count(x)
    assert LIMIT / 4 < len(found.keys) <= LIMIT
    read = np.repeat(found.values, found.counts[:, 0])  # in order, as x is
    assert (np.abs(read - x) <= np.abs(x) * 2.0 ** -(found.bits + 1)).all()
    # As the cells are as fine as what is there allows, moments and quantiles are near whatever the offset.
    spread = x.std()
    assert abs(read.mean() - x.mean()) < 1e-3 * spread
    assert abs(read.std() - spread) < 1e-3 * spread
    assert abs(np.median(read) - np.median(x)) < 1e-2 * spread


def test_zero_stays_zero_and_the_largest_float_finite() -> None:
    x = np.concatenate([[0.0, -0.0, 1e308, 1.7976931348623157e308], np.random.default_rng(0).normal(size=100_000)])
    found = count(x)
    assert found.bits < EXACT
    assert 0.0 in found.values
    assert math.isfinite(found.values.max())
    assert (np.diff(found.values) > 0).all()


def test_groups_are_counted_apart() -> None:
    found = cells(np.array([1.0, 2.0, 1.0, 1.0]), np.array([0, 1, 2, 2]), 3)
    assert found.values.tolist() == [1.0, 2.0]
    assert found.counts.tolist() == [[1, 0, 2], [0, 1, 0]]


def test_no_numbers() -> None:
    assert count([]).keys.tolist() == []
