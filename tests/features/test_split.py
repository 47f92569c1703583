"""A row's fold depends on the row alone."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nfm.features.split import fold_of

KEYS = st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62)), min_size=1, max_size=50)


@given(KEYS, st.randoms(use_true_random=False), st.integers(0, 5))
def test_reordering_moves_no_row(keys: list[int | None], random: object, seed: int) -> None:
    folds = dict(zip(keys, fold_of([pa.array(keys, pa.int64())], 0.2, 0.3, seed).tolist(), strict=True))
    shuffled = sorted(keys, key=lambda _: random.random())  # type: ignore[attr-defined]
    again = fold_of([pa.array(shuffled, pa.int64())], 0.2, 0.3, seed).tolist()
    assert again == [folds[key] for key in shuffled]


@given(KEYS)
def test_the_type_of_the_key_moves_no_row(keys: list[int | None]) -> None:
    as_text = pa.array([None if key is None else str(key) for key in keys], pa.string())
    folds = fold_of([pa.array(keys, pa.int64())], 0.2, 0.3, 1).tolist()
    assert fold_of([as_text], 0.2, 0.3, 1).tolist() == folds
    assert fold_of([as_text.dictionary_encode()], 0.2, 0.3, 1).tolist() == folds


def test_shares_are_those_asked_for() -> None:
    folds = fold_of([pa.array(range(200_000))], 0.1, 0.2, 1)
    shares = np.bincount(folds, minlength=3) / len(folds)
    # standard deviation of a share: at most √(0.25 / 200,000) = 0.0011
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.005)


def test_another_seed_is_another_split() -> None:
    keys = [pa.array(range(100_000))]
    first, second = fold_of(keys, 0.0, 0.5, 1), fold_of(keys, 0.0, 0.5, 2)
    # Independent halves agree on half of the rows.
    assert abs(np.mean(first == second) - 0.5) < 0.01


def test_another_validation_share_leaves_the_test_fold() -> None:
    keys = [pa.array(range(1000))]
    with_valid, without = fold_of(keys, 0.3, 0.2, 1), fold_of(keys, 0.0, 0.2, 1)
    assert ((with_valid == 2) == (without == 2)).all()
    assert not (without == 1).any()


def test_several_columns_decide_together_and_in_order() -> None:
    a, b = pa.array(["x", "y"] * 500), pa.array([str(i) for i in range(1000)])
    both, swapped = fold_of([a, b], 0.0, 0.5, 1), fold_of([b, a], 0.0, 0.5, 1)
    assert (both != swapped).any()
    assert (both != fold_of([b], 0.0, 0.5, 1)).any()


def test_a_timestamp_can_be_a_key() -> None:
    times = pa.array([0, 1, None], pa.timestamp("us", "UTC"))
    assert len(fold_of([times], 0.0, 0.5, 1)) == 3


def test_no_rows() -> None:
    assert fold_of([pa.array([], pa.int64())], 0.1, 0.2, 1).tolist() == []
