"""Columns that are derived from times, compared with pandas and with Python's own datetimes."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.contract.errors import DataError
from nfm.contract.times.derive import check_derived, derive, learn_kinds
from nfm.contract.times.derived import Derived, TimePart, derived_name
from nfm.contract.times.local import find_zone

PARTS: tuple[TimePart, ...] = ("hour", "weekday", "month", "day", "year")
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "UTC")
EARLY, LATE = datetime(1, 1, 3), datetime(9999, 12, 29)
LOCAL, INSTANT = pa.timestamp("us"), pa.timestamp("ms", "Europe/Berlin")


def derive_all(times: pa.Array, zone: str = "UTC", since: pa.Array | None = None) -> dict[str, list[Any]]:
    """Derive every part of a column `t`, as in a table that the encoding was made from."""
    columns = {"t": times} | ({} if since is None else {"s": since})
    batch = pa.RecordBatch.from_pydict(columns)
    wanted = [
        Derived(derived_name("t", p), p, ("t",)) for p in PARTS if p != "hour" or not pa.types.is_date(times.type)
    ]
    wanted += [] if since is None else [Derived("t_age", "age", ("t", "s"))]
    learned = learn_kinds(wanted, batch.schema, "the table", zone)
    schema = check_derived(learned, batch.schema, "the table")
    rows = derive(batch, learned)
    for one in learned:
        assert rows.column(one.name).type == schema.field(one.name).type
    return {one.part: rows.column(one.name).to_pylist() for one in learned}


def by_part(times: list[Any]) -> dict[str, list[Any]]:
    """Return what Python says about dates or datetimes."""
    read: dict[str, Any] = {
        "hour": lambda time: time.hour,
        "weekday": lambda time: time.isoweekday(),
        "month": lambda time: time.month,
        "day": lambda time: time.day,
        "year": lambda time: time.year,
    }
    return {part: [None if time is None else get(time) for time in times] for part, get in read.items()}


@pytest.mark.parametrize("zone", ZONES)
def test_instants_are_read_in_the_zone_as_by_pandas(zone: str) -> None:
    recent = pd.date_range("2025-01-01", "2027-01-01", freq="90min", tz="UTC")
    early = pd.date_range("1953-01-01", "1954-03-01", freq="5h", tz="UTC")
    times = pd.Series(recent.append(early)).shift(1)  # the first one is missing
    local = times.dt.tz_convert(ZoneInfo(zone)).dt  # the same database
    expected = {
        "hour": local.hour,
        "weekday": local.dayofweek + 1,
        "month": local.month,
        "day": local.day,
        "year": local.year,
    }
    for unit in ("s", "ms", "us", "ns"):
        found = derive_all(pa.array(times, pa.timestamp(unit, "UTC")), zone)
        for part, values in expected.items():
            np.testing.assert_array_equal(np.array(found[part], float), values, f"{part} in {unit}")


@given(
    st.lists(st.none() | st.datetimes(EARLY, LATE), min_size=1, max_size=9),
    st.sampled_from(ZONES),
    st.sampled_from(["us", "dictionary", "text"]),
)
def test_instants_of_all_years_are_read_in_the_zone(times: list[datetime | None], zone: str, form: str) -> None:
    """Python is the reference: pandas has no daylight saving time after 2037."""
    instants = [None if time is None else time.replace(tzinfo=UTC) for time in times]
    array = pa.array(instants, pa.timestamp("us", "UTC"))
    if form == "dictionary":
        array = array.dictionary_encode()
    elif form == "text":
        array = pa.array([None if time is None else time.isoformat() for time in instants], pa.string())
    expected = [None if time is None else time.astimezone(ZoneInfo(zone)) for time in instants]
    assert derive_all(array, zone) == by_part(expected)


@given(st.lists(st.none() | st.datetimes(), min_size=1, max_size=9), st.sampled_from(["us", "text", "categories"]))
def test_times_without_a_zone_are_taken_as_they_are(times: list[datetime | None], form: str) -> None:
    array = pa.array(times, pa.timestamp("us"))
    if form != "us":
        array = pa.array([None if time is None else time.isoformat(" ") for time in times], pa.large_string())
    if form == "categories":
        array = array.dictionary_encode()
    assert derive_all(array, "Asia/Kathmandu") == by_part(times)


@given(st.lists(st.none() | st.dates(), min_size=1, max_size=9))
def test_dates_have_no_hour(days: list[date | None]) -> None:
    expected = by_part([None if day is None else datetime(day.year, day.month, day.day) for day in days])
    del expected["hour"]
    for type_ in (pa.date32(), pa.date64()):
        assert derive_all(pa.array(days, type_), "Asia/Kathmandu") == expected


@pytest.mark.parametrize(
    ("instant", "hour"),
    [
        ("2026-03-29T00:59:59.999999Z", 1),  # the last second of winter time in Berlin
        ("2026-03-29T01:00:00Z", 3),
        ("2026-10-25T00:59:59Z", 2),
        ("2026-10-25T01:00:00Z", 2),  # the clock shows this hour twice
        ("2026-10-25T02:00:00Z", 3),
        ("2050-07-01T12:00:00Z", 14),  # daylight saving time after 2037
        ("9999-07-01T12:00:00Z", 14),
        ("1969-12-31T23:30:00Z", 0),
        ("1893-03-31T23:06:31Z", 23),  # local mean time, 53 minutes and 28 seconds before Greenwich
        ("1893-03-31T23:06:32Z", 0),  # the zone begins
        ("0001-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999999Z", 0),  # the first hour of the year 10000
    ],
)
def test_the_hour_changes_at_the_second_of_the_zones_change(instant: str, hour: int) -> None:
    assert derive_all(pa.array([instant]), "Europe/Berlin")["hour"] == [hour]
    typed = pa.array([instant]).cast(pa.timestamp("us", "America/New_York"))  # the zone of the type does not matter
    assert derive_all(typed, "Europe/Berlin")["hour"] == [hour]


def test_missing_times() -> None:
    frame = pd.DataFrame({"t": pd.Series([pd.Timestamp("2026-02-03 04:05"), pd.NaT])})
    array = pa.Table.from_pandas(frame)["t"].combine_chunks()
    assert derive_all(array)["hour"] == [4, None]
    assert derive_all(pa.array(["2026-02-03T04", "", "  ", None]))["hour"] == [4, None, None, None]
    for empty in (pa.nulls(2), pa.nulls(2, pa.timestamp("us", "UTC")), pa.nulls(2, pa.string()).dictionary_encode()):
        assert derive_all(empty, since=empty)["age"] == [None, None]
    assert derive_all(pa.array([], pa.timestamp("ns", "UTC")), "Europe/Berlin")["hour"] == []
    assert derive_all(pa.array([], pa.string()))["hour"] == []


def test_slices_are_read_from_their_start() -> None:
    times = pa.array([datetime(2026, 1, 1 + day, 20 + day) for day in range(4)])
    for array in (times, times.cast(pa.string()), times.dictionary_encode(), times.cast(pa.date32(), safe=False)):
        assert derive_all(array[2:])["day"] == [3, 4]
    assert derive_all(times[2:])["hour"] == [22, 23]


@given(
    st.lists(st.tuples(st.datetimes(EARLY, LATE), st.datetimes(EARLY, LATE)), min_size=1, max_size=5),
    st.sampled_from(["instants", "local", "texts"]),
)
def test_an_age_is_the_number_of_days(pairs: list[tuple[datetime, datetime]], form: str) -> None:
    """Two instants differ by the elapsed time, whatever the zone."""
    columns = [pa.array(times, pa.timestamp("us")) for times in zip(*pairs, strict=True)]
    if form == "instants":
        columns = [times.cast(pa.timestamp("us", "UTC")) for times in columns]
    elif form == "texts":
        columns = [pa.array([f"{time.isoformat()}Z" for time in times]) for times in zip(*pairs, strict=True)]
    expected = [(time - since) / timedelta(days=1) for time, since in pairs]
    found = derive_all(columns[0], "America/New_York", columns[1])["age"]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_an_age_over_a_change_of_the_clock() -> None:
    """In Berlin, the 29th of March 2026 has 23 hours."""
    zone = ZoneInfo("Europe/Berlin")
    time, since = (pa.array([datetime(2026, 3, day, 12, tzinfo=zone)]) for day in (29, 28))
    local_time, local_since = (pa.array([datetime(2026, 3, day, 12)]) for day in (29, 28))
    day = pa.array([date(2026, 3, 28)])
    ages = {
        "elapsed": derive_all(time, "Europe/Berlin", since),
        "local": derive_all(local_time, "Europe/Berlin", local_since),
        "clock": derive_all(time, "Europe/Berlin", local_since),
        "date": derive_all(time, "Europe/Berlin", day),
    }
    assert {name: found["age"] for name, found in ages.items()} == {
        "elapsed": [23 / 24],
        "local": [1.0],
        "clock": [1.0],
        "date": [1.5],
    }


@pytest.mark.parametrize(
    ("type_", "part", "problem"),
    [
        (pa.int64(), "hour", "Column 't' of orders is int64, but 't_hour' .* needs a date, a timestamp or ISO 8601"),
        (pa.time64("us"), "day", r"is time64\[us\], but"),
        (pa.duration("s"), "day", r"is duration\[s\], but"),
        (pa.bool_(), "day", "is bool, but"),
        (pa.list_(pa.date32()), "day", "is list<.*>, but"),
        (
            pa.date32(),
            "hour",
            r"is date32.*: a date has no hour, which 't_hour' .* Provide timestamps, or remove hour",
        ),
        (pa.dictionary(pa.int8(), pa.date32()), "hour", "a date has no hour"),
    ],
)
def test_other_types_are_refused(type_: pa.DataType, part: TimePart, problem: str) -> None:
    wanted = [Derived(derived_name("t", part), part, ("t",))]
    with pytest.raises(DataError, match=problem):
        learn_kinds(wanted, pa.schema([("t", type_)]), "orders", "UTC")


@pytest.mark.parametrize("name", ["t_hour", "T_Hour"])
def test_a_column_of_the_table_with_the_same_name_is_refused(name: str) -> None:
    schema = pa.schema([("t", LOCAL), (name, pa.int64())])
    problem = rf"columns.time.t: hour makes the column 't_hour', but orders has a column '{name}' already"
    with pytest.raises(DataError, match=problem):
        learn_kinds([Derived("t_hour", "hour", ("t",))], schema, "orders", "UTC")


@pytest.mark.parametrize(
    ("trained", "arrived", "problem"),
    [
        (LOCAL, INSTANT, "with a zone, but the encoding was made from times without a zone"),
        (pa.date32(), INSTANT, "with a zone, but the encoding was made from times without a zone"),
        (INSTANT, LOCAL, r"without a zone, .* made from times with a zone.*\.dt\.tz_localize\(ZONE\)"),
        (LOCAL, pa.date32(), None),
        (LOCAL, pa.string(), None),
        (INSTANT, pa.string(), None),
        (pa.string(), LOCAL, None),
        (pa.string(), INSTANT, None),
        (LOCAL, pa.null(), None),
    ],
)
def test_times_with_a_zone_and_without_one_are_not_exchanged(
    trained: pa.DataType, arrived: pa.DataType, problem: str | None
) -> None:
    learned = learn_kinds([Derived("t_day", "day", ("t",))], pa.schema([("t", trained)]), "orders", "UTC")
    schema = pa.schema([("t", arrived)])
    if problem is None:
        check_derived(learned, schema, "tonight")
    else:
        with pytest.raises(DataError, match=f"Column 't' of tonight now contains times {problem}"):
            check_derived(learned, schema, "tonight")


@pytest.mark.parametrize(
    ("trained", "text", "problem"),
    [
        (LOCAL, "2026-01-01T00:00Z", "contained times without a zone .* '2026-01-01T00:00Z', which has a zone offset"),
        (INSTANT, "2026-01-01T00:00", "contained times with a zone .* '2026-01-01T00:00', which has no zone offset"),
        (pa.string(), "01/02/2026", r"'01/02/2026' is not an ISO 8601 .*source\.types: \{t: timestamp_ntz\}"),
        (pa.string(), "2026-02-30", "'2026-02-30' is not a possible time"),
        (pa.string(), "2026-02-03T25:00Z", "'2026-02-03T25:00Z' is not a possible time"),
    ],
)
def test_texts_that_are_not_such_times_are_refused(trained: pa.DataType, text: str, problem: str) -> None:
    learned = learn_kinds([Derived("t_day", "day", ("t",))], pa.schema([("t", trained)]), "orders", "UTC")
    with pytest.raises(DataError, match=f"Column 't' .*{problem}"):
        derive(pa.RecordBatch.from_pydict({"t": pa.array([None, text])}), learned).column("t_day")


def test_texts_of_dates_have_no_hour() -> None:
    texts = pa.array([None, "2026-01-01T05", "2026-01-01"])
    with pytest.raises(DataError, match="Column 't' contains '2026-01-01', which has no time of day, but 't_hour'"):
        derive_all(texts)
    assert derive_all(texts[:2])["hour"] == [None, 5]
    learned = learn_kinds([Derived("t_day", "day", ("t",))], pa.schema([("t", pa.string())]), "orders", "UTC")
    assert derive(pa.RecordBatch.from_pydict({"t": texts}), learned).column("t_day").to_pylist() == [None, 1, 1]


def test_the_zone_is_stored_only_where_it_matters() -> None:
    schema = pa.schema([("a", LOCAL), ("b", INSTANT), ("c", pa.string()), ("d", pa.date32())])
    wanted = [Derived(f"{name}_day", "day", (name,)) for name in "abcd"]
    wanted.append(Derived("a_age", "age", ("a", "b")))
    zones = [one.zone for one in learn_kinds(wanted, schema, "orders", "Europe/Berlin")]
    assert zones == [None, "Europe/Berlin", "Europe/Berlin", None, "Europe/Berlin"]


@pytest.mark.parametrize(
    ("name", "hours"),
    [("UTC", 0), ("Z", 0), ("+02:00", 2), ("-03:30", -3.5), ("UTC+5", 5), ("GMT-08:00", -8), ("Etc/GMT+1", -1)],
)
def test_zones_as_spark_writes_them(name: str, hours: float) -> None:
    assert datetime(2026, 7, 1, tzinfo=find_zone(name)).utcoffset() == timedelta(hours=hours)
    assert derive_all(pa.array(["2026-07-01T12:00Z"]), name)["hour"] == [int((12 + hours) // 1)]


@pytest.mark.parametrize("name", ["Europe/Bonn", "", "../etc", "+25:00", "Berlin", "/etc/passwd", "America"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone that this machine knows, such as Europe/Berlin"):
        find_zone(name)


def test_a_zone_that_a_machine_lacks_is_refused() -> None:
    """The encoding may come from another machine."""
    one = Derived("t_day", "day", ("t",), ("instant",), "Europe/Bonn")
    batch = pa.RecordBatch.from_pydict({"t": pa.array([0], pa.timestamp("s", "UTC"))})
    problem = "'Europe/Bonn' is not a time zone that this machine knows.* Install tzdata on every machine"
    with pytest.raises(DataError, match=problem):
        check_derived([one], batch.schema, "tonight")
    with pytest.raises(DataError, match=problem):
        derive(batch, [one]).column("t_day")
