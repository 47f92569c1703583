"""What nfm init derives from times; expected parts are written by hand."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nfm.contract.errors import DataError
from tests.init.test_init_roles import RNG, N, comment, load_configured, write_table

START = dt.datetime(2026, 1, 1, 22)


MICROSECONDS = pa.timestamp("us")


def every(hours: float, type_: pa.DataType = MICROSECONDS, start: dt.datetime = START) -> pa.Array:
    times = [None if i % 9 == 4 else start + dt.timedelta(hours=hours * i) for i in range(N)]
    return pa.array(times, MICROSECONDS).cast(type_, safe=False)


DAYS = [START + dt.timedelta(hours=30 * i) for i in range(N)]


def rides(**times: Any) -> pa.Table:
    plain = {"id": np.arange(N), "city": RNG.choice(["a", "b", "c"], N), "y": RNG.integers(0, 2, N)}
    return pa.table(plain | times)


@pytest.mark.parametrize(
    ("times", "parts"),
    [
        (every(30), ("hour", "weekday", "month")),
        (every(5), ("hour", "weekday")),  # 83 days: the next month is a new value
        (every(0.1), ("hour",)),
        (every(24), ("weekday", "month")),
        (every(30, pa.date32()), ("weekday", "month")),
        (every(24 * 7), ("month",)),
        (pa.array([str(time)[: 10 + i % 2 * 9] for i, time in enumerate(DAYS)]), ("weekday", "month")),  # some dates
        (every(30, pa.timestamp("ms", "Europe/Berlin")), ("hour", "weekday", "month")),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_parts_that_repeat_are_derived(tmp_path: Path, times: pa.Array, parts: tuple[str, ...], ending: str) -> None:
    config, text = load_configured(write_table(rides(pickup=times), tmp_path / f"rides.{ending}"), "y")
    assert config.columns.time == {"pickup": parts}
    assert comment(text, "pickup").startswith("a time: ")
    is_instant = pa.types.is_timestamp(times.type) and times.type.tz is not None and ending == "parquet"
    assert ("time_zone: UTC  # or the zone in which people read these times" in text) == is_instant


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (every(0.001), "nothing in it repeats"),
        (pa.array([f"{1 + i % 12}/{1 + i % 28}/2026" for i in range(N)]), "not in the form of ISO 8601; source.types"),
        (pa.array([f"{i % 24}:30" for i in range(N)]), "not in the form of ISO 8601"),
    ],
)
def test_other_times_are_left_out(tmp_path: Path, times: pa.Array, reason: str) -> None:
    config, text = load_configured(write_table(rides(pickup=times), tmp_path / "rides.csv"), "y")
    assert config.columns.time == {}
    assert reason in comment(text, "pickup")


def test_a_later_time_has_the_age_since_an_earlier_one(tmp_path: Path) -> None:
    """Names of columns that the table has are not used."""
    early = every(30, start=START - dt.timedelta(days=2))
    table = rides(pickup=every(30), booked=early, pickup_hour=np.arange(N) % 24, Booked_month=RNG.integers(0, 2, N))
    config, _ = load_configured(write_table(table, tmp_path / "rides.parquet"), "y")
    assert config.columns.time == {"pickup": ("weekday", "month", {"age": "booked"}), "booked": ("hour", "weekday")}


def test_a_time_that_reveals_the_label_is_not_derived_from(tmp_path: Path) -> None:
    y = np.arange(N) % 2
    times = every(30)
    returned = pa.array([time if label else None for time, label in zip(times.to_pylist(), y, strict=True)])
    table = rides(returned_at=returned, pickup=times).set_column(2, "y", pa.array(y))
    config, text = load_configured(write_table(table, tmp_path / "rides.parquet"), "y")
    assert config.columns.time == {"pickup": ("hour", "weekday", "month")}
    assert "reveals the label" in comment(text, "returned_at")


def test_a_time_alone_is_an_input(tmp_path: Path) -> None:
    table = rides(pickup=every(30)).drop_columns(["city"])
    config, _ = load_configured(write_table(table, tmp_path / "rides.parquet"), "y")
    assert list(config.columns.categorical) == ["pickup_hour", "pickup_weekday", "pickup_month"]
    table = rides(pickup=every(0.001)).drop_columns(["city"])
    with pytest.raises(DataError, match=r"No column of .* can be an input"):
        load_configured(write_table(table, tmp_path / "other.parquet"), "y")
