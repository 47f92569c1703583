"""Times of a split by time: strings are compared by their time, and every row is in the fold of its time or refused."""

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nfm.contract.errors import DataError
from nfm.contract.times.compare import FoldTimes, check_times
from nfm.features.split import assign_folds
from tests.features.test_split import BY_TIME

BY_DAY = replace(BY_TIME, valid_from="2024-08-01", test_from="2025-01-01")


def folds(times: list[Any], format_: str | None = None, type_: pa.DataType | None = None) -> list[int]:
    batch = pa.record_batch({"t": pa.array(times, type_)})
    return [int(fold) for fold in assign_folds(replace(BY_DAY, format=format_), batch, np.zeros(len(batch), np.bool_))]


@pytest.mark.parametrize(
    ("format_", "texts"),
    [
        (None, ["2024-07-31", "2024-08-01", "2024-12-31", "2025-01-01"]),
        (None, ["2024-07-31T23:59:59.999999999", "2024-08-01 00:00", "2024-12-31T23", "2025-01-01 00:00:00.000"]),
        (None, ["2024-07-31T23:59:59Z", "2024-08-01T02:00+02:00", "2024-12-31T23:59-0000", "2024-12-31T20:00:00-04"]),
        ("%m/%d/%Y", ["07/31/2024", "8/1/2024", "12/31/2024", "01/01/2025"]),
        ("%d.%m.%y", ["31.07.24", "01.08.24", "31.12.24", "1.1.25"]),
        ("%d%b%Y", ["31JUL2024", "1aug2024", "31Dec2024", "01JAN2025"]),
        ("%Y%m%d", ["20240731", "20240801", "20241231", "20250101"]),
        ("%Y%m%d", [20240731, 20240801, 20241231, 20250101]),
        ("%m%d%Y", [7312024, 8012024, 12312024, 1012025]),
        (
            "%d.%m.%Y %I %p %z",
            ["31.07.2024 11 PM +0000", "01.08.2024 02 AM +0200", "1.1.2025 01 AM +0200", "31.12.2024 08 PM -0400"],
        ),
    ],
)
def test_a_fold_starts_at_its_bound(format_: str | None, texts: list[Any]) -> None:
    assert folds(texts, format_) == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("bound", "times", "wrong"),
    [
        (20240801, [20240731, 202407], "202407"),
        (20240801, [20240731, 0], "0"),
        (20240801, [20240731, 1722384000], "1722384000"),
        (20240801, [20240731, 20240832], "20240832"),
        (20240801, [20240731, 7312024], "7312024"),
        (1722470400, [1722384000, 1722384000000], "1722384000000"),
        (1722470400000, [1722384000, 1722384000000], "1722384000"),
        (1722470400000, [1722384000000, 1722384000000000000], "1722384000000000000"),
    ],
)
def test_integers_in_two_forms_are_refused(bound: int, times: list[int], wrong: str) -> None:
    split = replace(BY_DAY, valid_from=bound, test_from=None)
    with pytest.raises(
        DataError, match=rf"'t' decides the fold .*has the integer {wrong}, but the bound {bound} (is|seems)"
    ):
        assign_folds(split, pa.record_batch({"t": pa.array(times)}), np.zeros(2, np.bool_))


@pytest.mark.parametrize(
    ("bound", "times"),
    [
        (20240801, [19991231, 20240801, 99991231]),
        (20240800, [1, 20240800, 2**40]),  # not a date: any counter
        (1722470400, [0, -86400, 1722384, 1722470400, 4102444800]),
        (1722470400000, [0, 86400000, 1722470400000]),
        (2024, [1999, 2024, 20240801]),
    ],
)
def test_integers_that_may_be_in_one_form(bound: int, times: list[int]) -> None:
    split = replace(BY_DAY, valid_from=bound, test_from=None)
    found = assign_folds(split, pa.record_batch({"t": pa.array(times)}), np.zeros(len(times), np.bool_))
    assert found.tolist() == [int(time >= bound) for time in times]


def test_every_form_gives_the_folds_of_the_dates() -> None:
    rng = random.Random(1)
    days = [date(2023, 11, 1) + timedelta(rng.randrange(600)) for _ in range(300)]
    expected = [0 if day < date(2024, 8, 1) else 1 if day < date(2025, 1, 1) else 2 for day in days]
    assert folds(days) == expected
    for format_ in ("%m/%d/%Y", "%d %B %Y", "%Y%m%d", "%y-%j", "%m%d%Y"):
        texts = [day.strftime(format_) for day in days]
        assert folds(texts, format_) == expected
        assert folds(pa.array(texts).dictionary_encode(), format_) == expected
    assert folds([int(day.strftime("%m%d%Y")) for day in days], "%m%d%Y", pa.int32()) == expected


@pytest.mark.parametrize(
    ("times", "format_", "problem"),
    [
        (["07/24/2024"], None, "'07/24/2024' is not an ISO 8601 date or time such as"),
        (["2024-07-24", "24.07.2024"], None, r"'24\.07\.2024' is not an ISO 8601"),
        (["20240724"], None, "'20240724' is not an ISO 8601"),
        (["2024-7-4"], None, "'2024-7-4' is not an ISO 8601"),
        (["2024-07-24 "], None, "'2024-07-24 ' is not an ISO 8601"),
        ([""], None, "'' is not an ISO 8601"),
        (["2024-02-28", "2024-02-30"], None, "'2024-02-30' is not a possible time"),
        (["2024-02-28T25:00"], None, "'2024-02-28T25:00' is not a possible time"),
        (["02/28/2024", "02/30/2024"], "%m/%d/%Y", r"'02/30/2024' is not a possible time in the form %m/%d/%Y \(split"),
        (["24/07/2024"], "%m/%d/%Y", "'24/07/2024' is not a possible time"),
        (["07/24/24"], "%m/%d/%Y", "'07/24/24' is not a possible time"),
        (["07/24/2024 10:00"], "%m/%d/%Y", "'07/24/2024 10:00' is not a possible time"),
        (["1112024"], "%m%d%Y", "'1112024' lacks digits of the form %m%d%Y .*ambiguous"),
        ([7242024], "%Y%m%d", "'7242024' is not a possible time|'07242024' is not a possible time"),
        (["2024-07-24T10:00Z", "2024-07-24T10:00"], None, "only some of its times have a zone offset"),
    ],
)
def test_a_string_that_is_not_a_time_is_refused(times: list[Any], format_: str | None, problem: str) -> None:
    with pytest.raises(DataError, match=rf"Column 't' decides the fold \(split\.time\), but .*{problem}") as error:
        folds(times, format_)
    assert "split.format" in str(error.value) or "Write all of them in one form." in str(error.value)


@pytest.mark.parametrize(
    ("type_", "format_", "bound", "problem"),
    [
        (pa.int64(), None, 7242024, "7242024 looks like a date with the year at the end: .* Set split.format"),
        (pa.int64(), None, 24122024, "24122024 looks like a date with the year at the end"),
        (pa.int64(), None, "2024-08-01", "is int64, to which '2024-08-01' cannot be compared.*split.format: '%Y%m%d'"),
        (pa.string(), None, 20240801, "is string, to which 20240801 cannot be compared"),
        (pa.decimal128(8, 0), None, 20240801, r"is decimal128\(8, 0\), to which 20240801 cannot be compared"),
        (pa.date32(), None, "2024-08-01 12:00", "is date32.*, to which '2024-08-01 12:00' cannot be compared"),
        (pa.timestamp("us"), None, "2024-08-01T00:00Z", "to which '2024-08-01T00:00Z' cannot be compared"),
        (pa.date32(), "%Y", "2024-08-01", "is date32.*, but split.format describes strings and integers. Remove"),
    ],
)
def test_bounds_that_do_not_fit_the_column_are_refused(
    type_: pa.DataType, format_: str | None, bound: str | int, problem: str
) -> None:
    with pytest.raises(DataError, match=rf"^Column 't' decides the fold \(split\.time\) .*{problem}"):
        check_times("t", type_, format_, [bound])


@pytest.mark.parametrize(
    ("before", "bound"), [(20240731, 20240801), (16, 17), (1722470399, 1722470400), (202407, 202408)]
)
def test_integers_that_sort_by_time_are_accepted(before: int, bound: int) -> None:
    check_times("t", pa.int64(), None, [bound])
    batch = pa.record_batch({"t": pa.array([before, bound])})
    split = replace(BY_TIME, valid_from=bound)
    assert assign_folds(split, batch, np.zeros(2, np.bool_)).tolist() == [0, 1]


def test_a_bound_with_an_offset_is_an_instant() -> None:
    split = replace(BY_TIME, valid_from="2024-08-01T00:00:00-04:00")  # 04:00 in UTC
    times = [datetime(2024, 8, 1, hour, tzinfo=UTC) for hour in (3, 4)]
    batch = pa.record_batch({"t": pa.array(times, pa.timestamp("us", "America/New_York"))})
    assert assign_folds(split, batch, np.zeros(2, np.bool_)).tolist() == [0, 1]


def test_first_and_last_time_of_each_fold() -> None:
    merged = FoldTimes()
    for texts in (["12/31/2024", "07/24/2024"], ["01/02/2023", "01/01/2025"], ["03/04/2026"]):
        seen = FoldTimes()
        batch = pa.record_batch({"t": texts})
        assign_folds(replace(BY_DAY, format="%m/%d/%Y"), batch, np.zeros(len(texts), np.bool_), seen)
        merged.merge_rows(seen.to_rows())
    assert merged.facts("t") == {
        "column": "t",
        "folds": {
            "train": ["2023-01-02", "2024-07-24"],
            "valid": ["2024-12-31", "2024-12-31"],
            "test": ["2025-01-01", "2026-03-04"],
        },
    }


def test_times_with_and_without_offset_in_different_batches_are_refused() -> None:
    seen = FoldTimes()
    for text in ("2024-01-01T10:00Z", "2024-01-01 11:30"):
        assign_folds(BY_DAY, pa.record_batch({"t": [text]}), np.zeros(1, np.bool_), seen)
    with pytest.raises(DataError, match=r"only some of its times have a zone offset .*'2024-01-01 10:00:00 UTC' and"):
        seen.facts("t")
