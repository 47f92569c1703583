"""Interpolated bins of a number, compared with NumPy's linear interpolation, and with values by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nfm.contract.dataset import check_and_arrange
from nfm.contract.encoder import find_bins
from nfm.contract.errors import DataError
from nfm.contract.schema import Number, Spec

FINITE = st.floats(-1e9, 1e9)


def number(edges: tuple[float, ...]) -> Number:
    return Number("x", "x", "dense", 0.0, False, None, "none", 0.0, 1.0, edges)


def found(edges: list[float], x: list[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    columns = find_bins(number(tuple(edges)), np.array(x, np.float64))
    assert [(name, str(column.dtype)) for name, column in columns.items()] == [
        ("x_bin", "int32"),
        ("x_fraction", "float32"),
    ]
    return columns["x_bin"], columns["x_fraction"]


def test_bins_by_hand() -> None:
    bins, fractions = found([10, 20, 40], [np.nan, -5, 10, 12.5, 20, 39, 40, 1e30])
    assert bins.tolist() == [0, 1, 1, 1, 2, 2, 3, 3]
    assert fractions.tolist() == [0, 0, 0, 0.25, 0, np.float32(0.95), 0, 0]


def test_numbers_without_a_range() -> None:
    assert [array.tolist() for array in found([7], [np.nan, 6, 7, 8])] == [[0, 1, 1, 1], [0] * 4]
    assert [array.tolist() for array in found([], [np.nan, 6])] == [[0, 0], [0, 0]]  # always missing in training


def test_a_fraction_that_rounds_to_1_is_the_next_edge() -> None:
    just_below = float(np.nextafter(20, 0))
    assert [array.tolist() for array in found([10, 20, 40], [just_below])] == [[2], [0]]


@given(st.lists(FINITE, min_size=1, max_size=255, unique=True).map(sorted), st.lists(FINITE | st.just(np.nan)))
def test_positions_equal_linear_interpolation(edges: list[float], x: list[float]) -> None:
    bins, fractions = found(edges, x)
    missing = np.isnan(np.array(x, np.float64))
    assert (bins[missing] == 0).all()
    assert not fractions[missing].any()
    assert ((fractions >= 0) & (fractions < 1)).all()
    assert not fractions[bins == len(edges)].any()
    expected = np.interp(np.array(x)[~missing], edges, np.arange(1.0, len(edges) + 1))
    np.testing.assert_allclose((bins + fractions.astype(np.float64))[~missing], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("bins", "fractions"), [(-1, 0), (4, 0), (3, 0.5), (1, 1.0), (1, -0.25), (1, np.nan)], ids=str)
def test_damaged_bins_are_refused(bins: int, fractions: float) -> None:
    spec = Spec(("id",), (), (number((1.0, 2.0, 4.0)),), ())
    columns = {
        "x": np.zeros(2, np.float32),
        "x_bin": np.array([3, bins], np.int32),
        "x_fraction": np.array([0, fractions], np.float32),
    }
    with pytest.raises(DataError, match="has bins of the number 'x' that its encoding does not have"):
        check_and_arrange(spec, columns, "the table")
