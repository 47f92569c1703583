"""Bins of the profile and population stability index, compared with examples by hand, pandas and SciPy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nfm.contract.cells import count_cells
from nfm.contract.profile import Bins, Profile, cells_as_json, cells_from_json, make_id_bins, psi, psi_by_chance
from nfm.contract.schema import Field, Number, Spec

COLOUR = Field("colour", ("colour",), ("text",), 2, 4, "colour")  # ids: 0, 1 and 2, 3 … 6
HASHED = Field("hashed", ("hashed",), ("text",), 5, 0, None)
BUCKETED = Field("bucketed", ("x",), ("number",), 0, 3, None, (1.0, 2.0))
COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=12)


def cells_of(values: list[float]) -> Any:
    return count_cells(np.array(values), np.zeros(len(values), np.int64), 1)


def test_each_frequent_value_of_a_field_has_its_own_bin() -> None:
    assert make_id_bins(COLOUR, np.array([7, 1, 2, 40, 30, 20, 10.0])) == Bins((1, 3, 4, 5, 6), (7, 3, 40, 30, 20, 10))
    # With only missing values, there is still an edge at the first value of the vocabulary.
    assert make_id_bins(COLOUR, np.array([7, 0, 0, 0, 0, 0, 0.0])) == Bins((1, 3), (7, 0, 0))
    assert make_id_bins(HASHED, np.array([1, 5, 0, 5, 5, 5.0])) == Bins((1, 2, 4, 5), (1, 5, 5, 5, 5))
    assert make_id_bins(BUCKETED, np.array([1, 2, 3, 4.0])) == Bins((1, 2, 3), (1, 2, 3, 4))
    empty = Field("empty", ("empty",), ("text",), 1, 0, "empty")
    assert make_id_bins(empty, np.array([4, 6.0])) == Bins((1, 2), (4, 6, 0))


def test_rare_values_of_a_field_share_bins() -> None:
    long_tail = Field("tail", ("tail",), ("text",), 1, 1000, "tail")
    counts = np.sort(np.random.default_rng(1).zipf(1.3, 1000).clip(1, 5000))[::-1].astype(float)
    found = make_id_bins(long_tail, np.r_[3, 4, counts])
    assert found.edges[:2] == (1, 2)
    assert found.counts[:2] == (3, 4)
    assert len(found.counts) <= 22
    assert math.fsum(found.counts) == counts.sum() + 7
    for low, high, count in zip(found.edges[1:], (*found.edges[2:], 1002), found.counts[2:], strict=True):
        assert count == counts[int(low) - 2 : int(high) - 2].sum()
        # Without its first value, a bin has at most a twentieth of the rows.
        assert count - counts[int(low) - 2] <= counts.sum() / 20


def test_bins_of_a_number_are_deciles_with_edges_between_values() -> None:
    assert Bins.from_cells(cells_of([float(i) for i in range(100)])) == Bins(
        tuple(i * 10 - 0.5 for i in range(1, 10)), (10.0,) * 10
    )
    # A frequent value is not an edge itself: a score that differs in the last bit must stay in its bin.
    assert Bins.from_cells(cells_of([1.0] * 50 + [2.0] * 50)) == Bins((1.5,), (50.0, 50.0))
    assert Bins.from_cells(cells_of([5.0] * 9)) == Bins((), (9.0,))
    assert Bins.from_cells(cells_of([])) == Bins((), (0.0,))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_bins_of_cells_contain_every_value_once(values: list[float]) -> None:
    found = Bins.from_cells(cells_of(values))
    wanted = np.histogram(values, [-math.inf, *found.edges, math.inf])[0]
    assert found.counts == tuple(wanted)
    assert len(found.counts) <= 10
    assert list(found.edges) == sorted(set(found.edges))


@given(COUNTS, st.randoms())
def test_psi_equals_a_computation_with_pandas(expected: list[int], random: Any) -> None:
    actual = [random.randint(0, 1000) for _ in expected]
    got = psi(expected, actual)
    if not sum(expected) or not sum(actual):
        assert got is None
        return
    shares = pd.DataFrame({"e": expected, "a": actual}, dtype=float)
    shares = (shares.clip(lower=0.5) / shares.sum()).clip(lower=1e-4)
    assert got == pytest.approx(float(((shares.a - shares.e) * np.log(shares.a / shares.e)).sum()))
    assert got is not None
    assert got >= 0


def test_psi_by_hand() -> None:
    assert psi([50, 50], [50, 50]) == 0
    assert psi([50, 50], [75, 25]) == pytest.approx(0.25 * math.log(1.5) - 0.25 * math.log(0.5))
    # An empty bin counts as half a row, or as a ten-thousandth of the rows if that is more.
    assert psi([50, 50], [100, 0]) == pytest.approx(0.5 * math.log(2) - 0.495 * math.log(0.01))
    assert psi([50, 50], [10**6, 0]) == pytest.approx(0.5 * math.log(2) - 0.4999 * math.log(0.0002))


@pytest.mark.parametrize("bins", [2, 10, 22])
def test_psi_by_chance_equals_the_quantile_of_chi_squared(bins: int) -> None:
    wanted = (1 / 500 + 1 / 2000) * stats.chi2.ppf(0.999, bins - 1)
    assert psi_by_chance([2000 / bins] * bins, [500 / bins] * bins) == pytest.approx(wanted, rel=0.05)
    assert psi_by_chance([5.0], [7.0]) == 0
    assert psi_by_chance([0.0, 0.0], [7.0, 1.0]) is None
    random = np.random.default_rng(bins)
    shares = [1 / bins] * bins
    drawn = [
        psi(random.multinomial(2000, shares).tolist(), random.multinomial(500, shares).tolist()) for _ in range(2000)
    ]
    assert np.mean(np.array(drawn, float) > wanted) < 0.006  # the expected share is 0.001


def test_a_profile_is_loaded_as_saved(tmp_path: Path) -> None:
    number = Number("price", "price", "dense", 0.0, False, None, "none", 0.0, 1.0)
    spec = Spec(("id",), (COLOUR,), (number,), ("digest",))
    profile = Profile(
        {"colour": make_id_bins(COLOUR, np.array([7, 1, 2, 40, 30, 20, 10.5]))},
        {"price": Bins((0.5,), (1, 2))},
        "valid",
        (cells_of([-0.5, 0.0, 0.25, 0.25]), cells_of([])),
    )
    assert Profile.load(tmp_path, spec) is None
    profile.save(tmp_path)
    found = Profile.load(tmp_path, spec)
    assert found is not None
    assert (found.fields, found.numbers, found.fold) == (profile.fields, profile.numbers, "valid")
    assert [cells.values.tolist() for cells in found.scores] == [[-0.5, 0.0, 0.25], []]
    assert found.scores[0].counts.tolist() == [[1], [1], [2]]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50))
def test_cells_are_restored_from_json(values: list[float]) -> None:
    before = cells_of(values)
    after = cells_from_json(json.loads(json.dumps(cells_as_json(before))))
    assert (after.bits, after.keys.tolist(), after.counts.tolist()) == (
        before.bits,
        before.keys.tolist(),
        before.counts.tolist(),
    )
