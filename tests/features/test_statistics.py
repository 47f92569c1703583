"""Quantiles and moments compared with NumPy; transformations compared with values computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.config.columns import Numeric
from nfm.contract.cells import count_cells
from nfm.features.statistics import (
    Distribution,
    choose_bin_edges,
    compute_bucket_edges,
    describe_number,
    learn_transformation,
)


def distribution(numbers: list[float]) -> Distribution:
    values, counts = np.unique(np.array(numbers, np.float64), return_counts=True)
    return Distribution(values, counts)


def numeric(**settings: object) -> Numeric:
    return Numeric.model_validate(settings)


NUMBERS = st.lists(st.integers(-1000, 1000).map(float), min_size=1, max_size=60)


@given(NUMBERS, st.sampled_from([0.0, 0.001, 0.1, 0.25, 0.3, 0.5, 0.9, 0.999, 1.0]))
def test_quantiles_equal_those_of_numpy(numbers: list[float], q: float) -> None:
    assert distribution(numbers).quantile(q) == pytest.approx(np.quantile(numbers, q), rel=1e-12, abs=1e-12)


@given(NUMBERS)
def test_mean_and_standard_deviation_equal_those_of_numpy(numbers: list[float]) -> None:
    assert distribution(numbers).mean == pytest.approx(np.mean(numbers), abs=1e-9)
    assert distribution(numbers).std == pytest.approx(np.std(numbers), abs=1e-9)


def test_standard_scale_after_clipping() -> None:
    # 1 … 10 and an outlier. The 0.1 and 0.9 quantiles of 11 rows are exactly the 2nd and the 10th row.
    train = distribution([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1000])
    made = learn_transformation("x", numeric(clip=(0.1, 0.9), missing_flag=True, impute="median"), train)
    clipped = [2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]
    assert made.clip == (2.0, 10.0)
    assert made.impute == 6.0
    assert made.shift == pytest.approx(np.mean(clipped))
    assert made.divisor == pytest.approx(np.std(clipped))
    assert made.outputs == ("x", "x_missing")


def test_minmax_log1p_and_none() -> None:
    train = distribution([-2, 0, 6])
    minmax = learn_transformation("x", numeric(scale="minmax", impute=7), train)
    assert (minmax.shift, minmax.divisor, minmax.impute, minmax.curve) == (-2.0, 8.0, 7.0, "none")
    log = learn_transformation("x", numeric(scale="log1p"), train)
    assert (log.shift, log.divisor, log.curve) == (0.0, 1.0, "log1p")
    assert log.impute == pytest.approx(4 / 3)
    plain = learn_transformation("x", numeric(scale="none", **{"as": "field"}), train)
    assert (plain.shift, plain.divisor, plain.curve, plain.placement) == (0.0, 1.0, "none", "field")


def test_a_constant_has_divisor_one() -> None:
    assert learn_transformation("x", numeric(), distribution([3, 3])).divisor == 1.0
    assert learn_transformation("x", numeric(scale="minmax"), distribution([3, 3])).divisor == 1.0


def test_a_number_that_is_always_missing_becomes_zero() -> None:
    made = learn_transformation("x", numeric(clip=(0.1, 0.9)), distribution([]))
    assert (made.clip, made.impute, made.shift, made.divisor) == (None, 0.0, 0.0, 1.0)


def test_bucket_edges() -> None:
    assert compute_bucket_edges(4, distribution(list(range(8)))) == (1.75, 3.5, 5.25)
    # Most rows share the lowest value, so there are fewer buckets than requested, and none below that value.
    assert compute_bucket_edges(8, distribution([0, 0, 0, 0, 0, 0, 1, 2])) == (0.25, 1.125)
    assert compute_bucket_edges(4, distribution([5, 5])) == ()
    assert compute_bucket_edges(4, distribution([])) == ()


def test_edges_of_bins() -> None:
    assert choose_bin_edges(3, distribution([5, 5, 1, 9])) == (1, 5, 9)  # few values: each is an edge
    assert choose_bin_edges(3, distribution([5, 5])) == (5,)
    assert choose_bin_edges(3, distribution([])) == ()
    # 0 in 10,000 rows, and 1 … 99 once: square roots of the rows are 100 and 99 times 1. The middles of the values'
    # intervals are 50, 100.5, 101.5, …, 198.5; five places from 50 to 198.5 are 37.125 apart.
    assert choose_bin_edges(5, distribution([0.0] * 10_000 + [float(x) for x in range(1, 100)])) == (0, 1, 25, 62, 99)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(2, 40))
def test_edges_of_bins_are_values_from_minimum_to_maximum(numbers: list[float], most: int) -> None:
    edges = choose_bin_edges(most, distribution(numbers))
    assert set(edges) <= set(np.array(numbers) + 0.0)
    assert (edges[0], edges[-1]) == (min(numbers), max(numbers))
    assert list(edges) == sorted(set(edges))
    assert len(edges) == most if len(set(numbers)) > 50 * most else len(edges) <= most


def test_bins_keep_the_dense_number_and_do_not_depend_on_clip() -> None:
    made = learn_transformation("x", numeric(clip=(0.1, 0.9), bins=4, **{"as": "bins"}), distribution([1, 2, 3, 1000]))
    assert (made.placement, made.edges) == ("dense", (1, 2, 3, 1000))


def test_describe_number() -> None:
    # Train: 1, 2, 2, 9. Valid and test: 1 and 2 with label 0, 9 with label 1: larger numbers mean 1.
    x = np.array([1.0, 2, 2, 9, 1, 2, 9])
    groups = np.array([0, 0, 1, 1, 2, 4, 5])  # fold × 2 + label
    by_group = count_cells(x, groups, 6)
    by_fold = by_group.counts.reshape(-1, 3, 2)
    counts = np.column_stack([by_fold.sum(2), by_fold[:, 0, 1], by_fold[:, 1:, 1].sum(1)])
    counted = type(by_group)(by_group.bits, by_group.keys, counts)
    facts = describe_number(counted, Distribution.of_fold(counted, "train"), {"train": 3, "valid": 0, "test": 1})
    assert (facts["mean"], facts["median"], facts["min"], facts["max"]) == (3.5, 2.0, 1.0, 9.0)
    assert facts["std"] == pytest.approx(np.std([1, 2, 2, 9]))
    assert (facts["exact"], facts["auc"], facts["log"]) == (True, 1.0, False)
    assert facts["histogram"] == {"edges": [1.0, 1.5, 5.5, 9.0], "counts": [1, 2, 1]}
    assert facts["missing"] == {"train": 3, "valid": 0, "test": 1}
