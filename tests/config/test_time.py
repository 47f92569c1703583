"""Settings of `columns.time`."""

from typing import Any

import pytest
from pydantic import ValidationError

import nfm
from nfm.config.columns import Columns
from nfm.config.settings import Config
from nfm.contract.errors import ConfigError
from nfm.contract.times.derived import Derived


def columns(**more: Any) -> Columns:
    return Columns.model_validate({"key": ("id",), "label": "y", "categorical": {"city": {}}} | more)


def config(time: dict[str, Any], **more: Any) -> Config:
    content = {"name": "rides", "workdir": "build", "source": {"path": "raw"}, **more}
    return nfm.load_config(content | {"columns": {"key": ["id"], "label": "y", "time": time}})


def test_each_part_is_a_field_or_a_number() -> None:
    time = {"pickup": ("hour", "weekday", "month", "day", "year", {"age": "booked"})}
    found = columns(time=time)
    assert list(found.categorical) == ["city", "pickup_hour", "pickup_weekday", "pickup_month"]
    assert list(found.numeric) == ["pickup_day", "pickup_year", "pickup_age"]
    assert found.inputs == ("city", "pickup", "booked")
    assert Columns.model_validate(found.model_dump(by_alias=True)) == found


def test_settings_of_a_derived_column_apply() -> None:
    found = columns(
        time={"pickup": ("hour", "weekday", "day"), "dropoff": ("hour",)},
        categorical={"pickup_weekday": {"oov_buckets": 3}, "rush": {"cross": ("dropoff_hour", "city")}},
        numeric={"clock": {"column": "pickup_hour", "as": "bins"}, "pickup_day": None},
    )
    assert list(found.categorical) == ["pickup_weekday", "rush", "dropoff_hour"]
    assert found.categorical["pickup_weekday"].oov_buckets == 3
    assert list(found.numeric) == ["clock", "pickup_day"]
    assert found.inputs == ("pickup", "dropoff", "city")


def test_times_alone_are_inputs() -> None:
    assert columns(categorical={}, time={"t": ("hour",)}).inputs == ("t",)


def test_an_age_counts_from_the_column_of_the_split() -> None:
    split = {"time": "day", "valid_from": "2026-01-01"}
    found = config({"signup": ["month", "age"], "paid": [{"age": "signup"}]}, split=split).derived
    assert found == (
        Derived("signup_month", "month", ("signup",)),
        Derived("signup_age", "age", ("signup", "day")),
        Derived("paid_age", "age", ("paid", "signup")),
    )


@pytest.mark.parametrize(
    ("time", "problem"),
    [
        ({"t": ["hour", "age"]}, "columns.time.t: age counts .* no column is named: write {age: COLUMN}, such as"),
        ({"t": ["hour", {"age": "t"}]}, "columns.time.t: age counts .* 't' is the column itself: write {age: COLUMN}"),
        ({"t": ["minute"]}, r"columns\.time\.t: 'minute' given; allowed in the list: hour, .*, age, {age: COLUMN}"),
        ({"t": [{"age": 3}]}, r"columns\.time\.t: {'age': 3} given; allowed"),
        ({"t": [{"hour": "x"}]}, r"columns\.time\.t: {'hour': 'x'} given; allowed"),
        ({"t": [{}]}, r"columns\.time\.t: {} given; allowed"),
        ({"t": [None]}, r"columns\.time\.t: None given; allowed"),
        ({"t": []}, r"columns\.time\.t: nothing given; write a list such as \[hour, weekday\], of: hour"),
        ({"t": None}, r"columns\.time\.t: nothing given; write a list"),
        ({"t": "hour"}, r"columns\.time\.t: 'hour' given; write a list"),
        ({"t": {"age": "s"}}, r"columns\.time\.t: {'age': 's'} given; write a list"),
        ({"t": ["hour", "day", "hour"]}, r"columns\.time\.t: hour is in the list twice"),
        ({"t": ["hour", "age", {"age": "s"}]}, r"columns\.time\.t: age is in the list twice"),
        ({"y": ["hour"]}, "the label 'y' is also an input"),
        ({"t": ["hour", {"age": "y"}]}, "the label 'y' is also an input"),
        ([], "columns.time: "),
        ("t", "columns.time: "),
    ],
)
def test_mistakes_are_named(time: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(time)


def test_an_age_from_a_label_that_splits_the_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"columns\.time: an age counts from the label 'y'"):
        config({"t": ["hour", "age"]}, split={"time": "y", "valid_from": "2026-01-01"})


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (
            {"categorical": {"t_hour": {"column": "x"}}},
            "hour makes the column 't_hour', but the field or number of this",
        ),
        ({"categorical": {"t_hour": {}}, "numeric": {"t_hour": {}}}, "'t_hour' is in both categorical and numeric"),
        ({"categorical": ("city",)}, "categorical"),
        ({"time_zone": "Europe/Bonn"}, "time_zone\n.*'Europe/Bonn' is not a time zone that this machine knows"),
        ({"time": {}, "time_zone": "UTC"}, "time_zone is only for columns.time: add time"),
        ({"time_zone": 2}, "2 given; a time zone is a string such as Europe/Berlin"),
    ],
)
def test_mistakes_of_other_settings_are_named(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        columns(**{"time": {"t": ("hour",)}} | more)
