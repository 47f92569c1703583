"""The counts are those of pandas, and rounded numbers are near."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.features.count import HashSplit, Part, count_batches, round_significantly

ALL_TRAIN = HashSplit(("k",), 0.0, 0.0, 1)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_moves_a_number_by_at_most_one_part_in_4096(x: float) -> None:
    rounded = float(round_significantly(np.array([x]))[0])
    # Subnormal numbers have fewer bits to begin with.
    assert abs(rounded - x) <= max(abs(x) * 2.0**-12, 5e-324)
    assert math.isfinite(rounded)
    assert float(round_significantly(np.array([rounded]))[0]) == rounded


@pytest.mark.parametrize("x", [0.0, 1.0, -3.0, 0.5, 28.5, 4095.0, 4096.0, -2.25])
def test_numbers_of_twelve_bits_stay_as_they_are(x: float) -> None:
    assert round_significantly(np.array([x])).tolist() == [x]


def test_missing_stays_missing_and_minus_zero_is_zero() -> None:
    rounded = round_significantly(np.array([np.nan, -0.0]))
    assert np.isnan(rounded[0])
    assert not np.signbit(rounded[1])


TEXTS = st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "ä", "3"])), max_size=30)


@given(st.lists(TEXTS, max_size=4))
def test_texts_are_counted_as_by_hand(batches: list[list[str | None]]) -> None:
    records = [
        pa.RecordBatch.from_pydict({"k": pa.array(range(len(texts)), pa.int64()), "c": pa.array(texts, pa.string())})
        for texts in batches
    ]
    counted: Counter[str | None] = Counter()
    for batch in count_batches(records, [Part("field:c", "c", "text")], ALL_TRAIN):
        for row in batch.to_pylist():
            assert (row["part"], row["fold"], row["number"]) == ("field:c", 0, None)
            counted[row["text"]] += row["count"]
    assert counted == Counter(text for texts in batches for text in texts)


def test_folds_are_counted_apart_and_missing_numbers_together() -> None:
    keys = list(range(400))
    numbers = [None, float("nan"), float("inf"), -float("inf"), 1.5, 2.0, 2.0, 0.0] * 50
    split = HashSplit(("k",), 0.2, 0.3, 1)
    batch = pa.RecordBatch.from_pydict({"k": pa.array(keys), "x": pa.array(numbers, pa.float64())})
    folds = split.folds(batch).tolist()
    expected = Counter(
        (fold, None if x is None or not math.isfinite(x) else x) for fold, x in zip(folds, numbers, strict=True)
    )
    rows = [row for part in count_batches([batch], [Part("number:x", "x", None)], split) for row in part.to_pylist()]
    assert {(row["fold"], row["number"]): row["count"] for row in rows} == expected
    assert all(row["text"] is None for row in rows)
