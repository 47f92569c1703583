"""Counts in bins, compared with NumPy's histogram."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nfm.kernels.bins import count_in_bins


@given(
    st.lists(st.integers(0, 30), max_size=60),
    st.sets(st.integers(0, 31), max_size=25),
    st.sampled_from(["int32", "float32"]),
)
def test_counts_equal_numpys_histogram(values: list[int], edges: set[int], dtype: str) -> None:
    got = count_in_bins(np.array(values, dtype), np.array(sorted(edges), dtype))
    assert got == np.histogram(values, [-np.inf, *sorted(edges), np.inf])[0].tolist()


def test_counts_of_more_values_than_a_block() -> None:
    values = np.random.default_rng(1).normal(size=100_003).astype(np.float32)
    edges = np.quantile(values, np.arange(1, 10) / 10).astype(np.float32)
    assert count_in_bins(values, edges) == np.histogram(values, [-np.inf, *edges, np.inf])[0].tolist()


def test_missing_and_infinite_numbers() -> None:
    values, edges = np.array([np.nan, -np.inf, 0, np.inf, 1], np.float32), np.array([0, 1], np.float32)
    assert count_in_bins(values, edges) == [2, 1, 2]
    assert count_in_bins(values, edges[:0]) == [5]
