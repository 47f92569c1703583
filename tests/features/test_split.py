"""Folds by hash, by time and by column; a row's fold depends on the row only."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.errors import DataError
from nfm.features.split import LEFT_OUT, Split, assign_by_hash, assign_folds

BY_HASH = Split(("k",), 0.2, 0.3, 1, None, None, None, None, 1.0, ("k",))
BY_TIME = replace(BY_HASH, time="t", by=())

KEYS = st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62)), min_size=1, max_size=50)


@given(KEYS, st.randoms(use_true_random=False), st.integers(0, 5))
def test_folds_do_not_depend_on_the_order_of_rows(keys: list[int | None], random: object, seed: int) -> None:
    folds = dict(zip(keys, assign_by_hash([pa.array(keys, pa.int64())], 0.2, 0.3, seed).tolist(), strict=True))
    shuffled = sorted(keys, key=lambda _: random.random())  # type: ignore[attr-defined]
    again = assign_by_hash([pa.array(shuffled, pa.int64())], 0.2, 0.3, seed).tolist()
    assert again == [folds[key] for key in shuffled]


@given(KEYS)
def test_folds_do_not_depend_on_the_type_of_the_key(keys: list[int | None]) -> None:
    as_text = pa.array([None if key is None else str(key) for key in keys], pa.string())
    folds = assign_by_hash([pa.array(keys, pa.int64())], 0.2, 0.3, 1).tolist()
    assert assign_by_hash([as_text], 0.2, 0.3, 1).tolist() == folds
    assert assign_by_hash([as_text.dictionary_encode()], 0.2, 0.3, 1).tolist() == folds


def test_shares_equal_the_settings() -> None:
    folds = assign_by_hash([pa.array(range(200_000))], 0.1, 0.2, 1)
    shares = np.bincount(folds, minlength=3) / len(folds)
    # standard deviation of a share: at most √(0.25 / 200,000) = 0.0011
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.005)


def test_another_seed_gives_an_independent_split() -> None:
    keys = [pa.array(range(100_000))]
    first, second = assign_by_hash(keys, 0.0, 0.5, 1), assign_by_hash(keys, 0.0, 0.5, 2)
    # Independent halves agree on half of the rows.
    assert abs(np.mean(first == second) - 0.5) < 0.01


def test_the_test_fold_does_not_depend_on_the_validation_share() -> None:
    keys = [pa.array(range(1000))]
    with_valid, without = assign_by_hash(keys, 0.3, 0.2, 1), assign_by_hash(keys, 0.0, 0.2, 1)
    assert ((with_valid == 2) == (without == 2)).all()
    assert not (without == 1).any()


def test_several_key_columns_are_hashed_in_order() -> None:
    a, b = pa.array(["x", "y"] * 500), pa.array([str(i) for i in range(1000)])
    in_order, swapped = assign_by_hash([a, b], 0.0, 0.5, 1), assign_by_hash([b, a], 0.0, 0.5, 1)
    assert (in_order != swapped).any()
    assert (in_order != assign_by_hash([b], 0.0, 0.5, 1)).any()


def test_a_timestamp_can_be_a_key() -> None:
    times = pa.array([0, 1, None], pa.timestamp("us", "UTC"))
    assert len(assign_by_hash([times], 0.0, 0.5, 1)) == 3


def test_no_rows() -> None:
    assert assign_by_hash([pa.array([], pa.int64())], 0.1, 0.2, 1).tolist() == []


def split_rows(split: Split, positive: list[bool] | None = None, **columns: pa.Array) -> list[int]:
    batch = pa.record_batch(columns)
    return [int(fold) for fold in assign_folds(split, batch, ~np.array(positive or [False] * len(batch)))]


DAYS = [date(2026, 9, 30), date(2026, 10, 1), date(2026, 10, 31), date(2026, 11, 1)]
STAMPS = [
    datetime(2026, 9, 30, 23, 59, 59, tzinfo=UTC),
    *(datetime(d.year, d.month, d.day, tzinfo=UTC) for d in DAYS[1:]),
]


@pytest.mark.parametrize(
    "times",
    [
        pa.array(DAYS),
        pa.array(STAMPS, pa.timestamp("us", "UTC")),
        pa.array([s.replace(tzinfo=None) for s in STAMPS], pa.timestamp("ns")),
        pa.array(["2026-09-30T23:59", "2026-10-01", "2026-10-31 12:00", "2026-11-01"]),
        pa.array(["2026-09-30T23:59", "2026-10-01", "2026-10-31 12:00", "2026-11-01"]).dictionary_encode(),
    ],
    ids=str,
)
def test_a_fold_starts_at_its_bound(times: pa.Array) -> None:
    split = replace(BY_TIME, valid_from="2026-10-01", test_from="2026-11-01")
    assert split_rows(split, t=times) == [0, 1, 1, 2]
    assert split_rows(replace(BY_TIME, test_from="2026-10-31"), t=times) == [0, 0, 2, 2]
    assert split_rows(replace(BY_TIME, valid_from="2026-11-01"), t=times) == [0, 0, 0, 1]


def test_whole_numbers_can_be_times() -> None:
    split = replace(BY_TIME, valid_from=20261001, test_from=20261101)
    assert split_rows(split, t=pa.array([20260930, 20261001, 20261101], pa.int32())) == [0, 1, 2]


@pytest.mark.parametrize(
    ("times", "bound"),
    [
        (pa.array([1.5]), "2026-10-01"),
        (pa.array([3]), "2026-10-01"),
        (pa.array(DAYS), 20261001),
        (pa.array(DAYS), "October"),
        (pa.array([True]), "2026-10-01"),
    ],
    ids=str,
)
def test_a_time_that_cannot_be_compared_is_refused(times: pa.Array, bound: Any) -> None:
    with pytest.raises(DataError, match=r"Column 't' decides the fold \(split.time\) and is .*, to which .* cannot be"):
        split_rows(replace(BY_TIME, valid_from=bound), t=times)


def test_a_row_without_a_time_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"'t' decides the fold .* but has nulls \(1 of the 2 rows in one batch\), so these rows have no fold\.",
    ):
        split_rows(replace(BY_TIME, valid_from="2026-10-01"), t=pa.array([DAYS[0], None]))


def test_folds_from_a_column() -> None:
    folds = pa.array(["test", "train", "valid", "train"])
    split = replace(BY_HASH, column="f", by=())
    assert split_rows(split, f=folds) == [2, 0, 1, 0]
    assert split_rows(split, f=folds.dictionary_encode()) == [2, 0, 1, 0]


@pytest.mark.parametrize(("wrong", "shown"), [("Train", "'Train'"), ("", "''"), (None, "None")])
def test_a_value_that_is_not_a_fold_is_refused(wrong: str | None, shown: str) -> None:
    message = (
        f"must be one of train, valid, test, but 2 of the 3 rows in one batch have another value, for example {shown}"
    )
    with pytest.raises(DataError, match=message):
        split_rows(replace(BY_HASH, column="f", by=()), f=pa.array(["test", wrong, wrong]))


def test_only_negatives_of_the_train_fold_are_left_out() -> None:
    n = 40_000
    keys, positive = pa.array(range(n)), [i % 4 == 0 for i in range(n)]
    all_folds = np.array(split_rows(BY_HASH, positive, k=keys))
    reduced = np.array(split_rows(replace(BY_HASH, negative_rate=0.25), positive, k=keys))
    dropped = reduced == LEFT_OUT
    assert (reduced[~dropped] == all_folds[~dropped]).all()
    assert not np.array(positive)[dropped].any()
    assert (all_folds[dropped] == 0).all()
    negatives = np.count_nonzero((all_folds == 0) & ~np.array(positive))
    assert abs(np.count_nonzero(dropped) / negatives - 0.75) < 0.015  # of 15,000: the standard deviation is 0.0035


def test_the_choice_of_negatives_depends_on_the_key_only() -> None:
    keys = list(range(999))
    split = replace(BY_HASH, negative_rate=0.5)
    kept = dict(zip(keys, split_rows(split, k=pa.array(keys)), strict=True))
    assert split_rows(split, k=pa.array(keys[::-1])) == [kept[key] for key in keys[::-1]]
    by_time = replace(BY_TIME, valid_from=500, negative_rate=0.5)
    assert split_rows(by_time, k=pa.array([3, 4, 5]), t=pa.array([1, 600, 1]))[1] == 1
    assert by_time.columns == ("t", "k")
    assert split.columns == ("k",)


def test_description_of_a_split() -> None:
    assert str(BY_HASH) == "train 50%, valid 20%, test 30%, by hash of k"
    assert str(replace(BY_TIME, test_from=7, negative_rate=0.1)) == (
        "by t: test from 7; keeps 0.1 of the train fold's negatives"
    )
    assert str(replace(BY_HASH, column="f", by=())) == "by column f"
