"""Fields and numbers derived from times: the same in the feature job, both scans, SQL and tables in memory."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import nfm.scoring
from nfm.config.settings import Config
from nfm.contract.encoder import Encoding
from nfm.contract.errors import DataError
from nfm.features.dataset import Growth, build, prepare
from nfm.features.summary import plan
from nfm.scoring.score import score_table
from tests.features.examples import dataset_rows
from tests.scoring.examples import save_model

BERLIN = ZoneInfo("Europe/Berlin")
ZONE = "spark.sql.session.timeZone"
TIME: dict[str, Any] = {
    "pickup": ("hour", "weekday", "month", "day", "year", {"age": "booked"}),
    "local": ("hour",),
    "birthday": ("year", {"age": "pickup"}),
}
COLUMNS: dict[str, Any] = {
    "key": ("id",),
    "label": "label",
    "categorical": {"city": {}, "rush": {"cross": ("pickup_hour", "city")}, "pickup_hour": {"min_count": 4}},
    "numeric": {"pickup_month": {"as": "bins"}},
    "time": TIME,
}


def table(rows: int, first: datetime) -> pa.Table:
    """Return rows with nulls in every column, an hour and a half apart, over a change of the clock."""
    instants = [None if i % 11 == 3 else first + i * timedelta(minutes=95, microseconds=i) for i in range(rows)]
    since = [None if i % 13 == 5 else first - i * timedelta(hours=7) for i in range(rows)]
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "city": pa.array([["Bonn", "Ulm", None][i % 3] for i in range(rows)]),
            "pickup": pa.array(instants, pa.timestamp("us", "UTC")),
            "booked": pa.array(since, pa.timestamp("us", "UTC")),
            "local": pa.array([None if t is None else t.replace(tzinfo=None) for t in instants], pa.timestamp("us")),
            "birthday": pa.array([None if i % 7 == 2 else date(1950 + i % 40, 2, 1 + i % 28) for i in range(rows)]),
            "label": pa.array([i % 2 for i in range(rows)], pa.int32()),
        }
    )


TRAINED = table(80, datetime(2026, 3, 28, 20, tzinfo=UTC))
TONIGHT = table(70, datetime(2026, 10, 23, 1, 30, tzinfo=UTC)).drop_columns(["label"])


def config(workdir: Path, source: Path | dict[str, Any], columns: Mapping[str, Any] = COLUMNS, **more: Any) -> Config:
    if isinstance(source, Path):
        source = {"path": str(source), "format": source.suffix.removeprefix(".")}
    content = {
        "name": "rides",
        "workdir": str(workdir),
        "source": source,
        "columns": columns,
        "split": {"valid": 0.0, "test": 0.0},
        "train": {"early_stopping": None},
    }
    return Config.model_validate(content | more)


@contextmanager
def zone(spark: SparkSession, name: str) -> Iterator[None]:
    before = spark.conf.get(ZONE)
    spark.conf.set(ZONE, name)
    try:
        yield
    finally:
        spark.conf.set(ZONE, str(before))


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with an encoding that a session in Berlin made, and a model with random weights."""
    folder = tmp_path_factory.mktemp("rides")
    pq.write_table(TRAINED, folder / "trained.parquet")
    pq.write_table(TONIGHT, folder / "tonight.parquet", row_group_size=32)
    with zone(spark, "Europe/Berlin"):
        build(spark, config(folder, folder / "trained.parquet"))
    save_model(folder, 1)
    return folder


def scored(
    spark: SparkSession, made: Path, source: dict[str, Any], workdir: Path, encoded: bool = False
) -> list[np.float32]:
    """Return the scores of the job by the rows' ids."""
    settings = {"model": str(made / "model"), "source": source, "output": str(workdir / "scores"), "encoded": encoded}
    score_table(spark, config(workdir, made / "trained.parquet", score=settings))
    read = pa.concat_tables([pq.ParquetFile(path).read() for path in (workdir / "scores").glob("*.parquet")])
    return list(read.sort_by("id")["score"].to_numpy())


def test_the_dataset_has_what_pandas_derives(made: Path) -> None:
    frame = TRAINED.to_pandas().set_index("id")
    local = frame["pickup"].dt.tz_convert(BERLIN)
    birth = pd.to_datetime(frame["birthday"])
    expected = pd.DataFrame(
        {
            "hour": local.dt.hour,
            "weekday": local.dt.dayofweek + 1,
            "city_hour": frame["city"],
            "local_hour": frame["local"].dt.hour,
            "month": local.dt.month,
            "day": local.dt.day,
            "age": (frame["pickup"] - frame["booked"]) / pd.Timedelta(days=1),
            "birth_year": birth.dt.year,
            "birth_age": (birth - local.dt.tz_localize(None)) / pd.Timedelta(days=1),
        }
    )
    spec = Encoding.load(made / "encoding").spec
    assert spec.columns == ("city", "pickup", "local", "booked", "birthday")
    vocabulary = pd.read_parquet(made / "encoding/vocabulary.parquet").set_index(["field", "id"])["value"]
    numbers = {number.name: number for number in spec.numbers}

    hours = expected["hour"].value_counts()
    assert 0 < (hours < 4).sum() < len(hours)

    def value(row: dict[str, Any], field: str) -> str | None:
        return None if row[field] == 0 else "unseen" if row[field] == 1 else vocabulary[field, row[field]]

    def number(row: dict[str, Any], name: str) -> float:
        return float(row[name] * numbers[name].divisor + numbers[name].shift)

    rows = dataset_rows(made / "dataset")
    assert len(rows) == 80
    for row in rows:
        wanted = expected.loc[row["id"]]

        def text(name: str, wanted: Any = wanted) -> str | None:
            return None if pd.isna(wanted[name]) else str(int(wanted[name]))

        hour, city = text("hour"), wanted["city_hour"]
        assert value(row, "pickup_hour") == (hour if hour is None or hours[int(hour)] >= 4 else "unseen")
        assert value(row, "pickup_weekday") == text("weekday")
        assert value(row, "local_hour") == text("local_hour")
        assert value(row, "rush") == (None if hour is None or pd.isna(city) else f"{hour}|{city}")
        for name, column in (
            ("pickup_month", "month"),
            ("pickup_day", "day"),
            ("pickup_age", "age"),
            ("birthday_year", "birth_year"),
            ("birthday_age", "birth_age"),
        ):
            imputed = numbers[name].impute if pd.isna(wanted[column]) else wanted[column]
            assert number(row, name) == pytest.approx(imputed, rel=1e-5, abs=1e-3), name


def test_both_scans_and_tables_in_memory_have_the_same_scores(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    """In sessions of any zone; the encoding has the zone."""
    path = made / "tonight.parquet"
    model = nfm.scoring.load(made / "model")
    expected = model.score(TONIGHT).to_numpy()
    assert len({*expected.tolist()}) > 30
    with zone(spark, "America/New_York"):
        by_parquet = scored(spark, made, {"path": str(path), "scan": "parquet"}, tmp_path / "parquet")
    with zone(spark, "Asia/Tokyo"):
        by_spark = scored(spark, made, {"path": str(path), "scan": "spark"}, tmp_path / "spark")
        udf = nfm.scoring.score_udf(made / "model")
        read = spark.read.parquet(str(path))
        called = read.select("id", udf(F.struct(*TONIGHT.column_names)).alias("score")).toPandas().sort_values("id")
    frame = TONIGHT.to_pandas()
    frame["pickup"] = frame["pickup"].dt.tz_convert("Asia/Kolkata")
    nanoseconds = TONIGHT.set_column(2, "pickup", TONIGHT["pickup"].cast(pa.timestamp("ns", "Europe/Paris")))
    results = {
        "parquet": by_parquet,
        "spark": by_spark,
        "udf": called["score"],
        "pandas": model.score(frame),
        "polars": model.score(pl.from_arrow(TONIGHT)),
        "nanoseconds": model.score(nanoseconds),
    }
    for name, scores in results.items():
        np.testing.assert_array_equal(np.asarray(scores, np.float32), expected, name)


def test_csv_files_have_the_same_scores_in_any_session(spark: SparkSession, tmp_path: Path) -> None:
    """Times without an offset are those that the file shows."""
    without_zone = {name: TRAINED[name].cast(pa.timestamp("us")) for name in ("pickup", "booked")}
    for name, source in (("trained.csv", TRAINED), ("tonight.csv", TONIGHT)):
        times = {column: source[column].cast(pa.timestamp("us")) for column in without_zone}
        pv.write_csv(
            pa.table({**dict(zip(source.column_names, source.columns, strict=True)), **times}), tmp_path / name
        )
    with zone(spark, "Europe/Berlin"):
        build(spark, config(tmp_path, tmp_path / "trained.csv"))
    save_model(tmp_path, 1)
    spec = Encoding.load(tmp_path / "encoding").spec
    assert {one.kinds for one in spec.derived} == {("text",), ("text", "text")}
    with zone(spark, "Asia/Tokyo"):
        source = {"path": str(tmp_path / "tonight.csv"), "format": "csv"}
        by_job = scored(spark, tmp_path, source, tmp_path / "tokyo")
    model = nfm.scoring.load(tmp_path / "model")
    texts = pd.read_csv(tmp_path / "tonight.csv")
    parsed = pd.read_csv(tmp_path / "tonight.csv", parse_dates=["pickup", "booked", "local", "birthday"])
    assert texts["pickup"].dtype == object
    assert parsed["pickup"].dtype == "datetime64[ns]"
    assert by_job == model.score(texts).tolist() == model.score(parsed).tolist()
    hours = {row["id"]: row["pickup_hour"] for row in dataset_rows(tmp_path / "dataset")}
    values = pd.read_parquet(tmp_path / "encoding/vocabulary.parquet").set_index(["field", "id"])["value"]
    shown = TRAINED.to_pandas()["pickup"].dt.hour
    frequent = shown.map(shown.value_counts()) >= 4
    found = [None if hours[i] == 0 else values.get(("pickup_hour", hours[i])) for i in range(80)]
    expected = [
        None if pd.isna(hour) or not known else str(int(hour)) for hour, known in zip(shown, frequent, strict=True)
    ]
    assert found == expected


def test_json_files_with_offsets_have_the_same_scores(spark: SparkSession, tmp_path: Path) -> None:
    lines = [
        json.dumps({name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()})
        for row in TRAINED.to_pylist()
    ]
    (tmp_path / "trained.json").write_text("\n".join(lines))
    source = {"path": str(tmp_path / "trained.json"), "format": "json"}
    columns = COLUMNS | {"time_zone": "Europe/Berlin"}
    build(spark, config(tmp_path, source, columns))
    save_model(tmp_path, 1)
    model = nfm.scoring.load(tmp_path / "model")
    with zone(spark, "Asia/Tokyo"):
        by_job = scored(spark, tmp_path, source, tmp_path / "tokyo")
    assert (
        by_job
        == model.score(TRAINED).to_pylist()
        == model.score(pd.read_json(tmp_path / "trained.json", lines=True, convert_dates=False)).tolist()
    )


def test_times_in_another_form_can_be_read_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    times = pd.Series(pd.date_range("2026-03-28", periods=60, freq="95min"))
    frame = pd.DataFrame(
        {"id": range(60), "t": times.dt.strftime("%d.%m.%Y %H:%M"), "label": [i % 2 for i in range(60)]}
    )
    frame.loc[7, "t"] = None
    frame.to_csv(tmp_path / "rides.csv", index=False)
    form = {"types": {"t": "timestamp_ntz"}, "options": {"timestampNTZFormat": "dd.MM.yyyy HH:mm"}}
    source = {"path": str(tmp_path / "rides.csv"), "format": "csv"}
    columns = {"key": ("id",), "label": "label", "time": {"t": ("hour", "day")}}
    with pytest.raises(DataError, match=r"'t' is in columns\.time, but '28\.03\.2026 00:00' .*timestampNTZFormat"):
        build(spark, config(tmp_path, source, columns))
    with zone(spark, "America/New_York"):
        build(spark, config(tmp_path, source | form, columns))
    save_model(tmp_path, 1)
    with zone(spark, "Asia/Tokyo"):
        by_job = scored(spark, tmp_path, source, tmp_path / "tokyo")
    in_memory = pd.DataFrame({"t": times.where(frame["t"].notna())})
    assert by_job == nfm.scoring.load(tmp_path / "model").score(in_memory).tolist()


def test_reasons_encoded_tables_and_columns_without_times(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    model = nfm.scoring.load(made / "model")
    reasons = model.score(TONIGHT, explain=9)
    names = {reason for i in range(1, 10) for reason in reasons[f"reason_{i}"].to_pylist()}
    assert {"pickup_hour", "pickup_weekday", "pickup_age", "local_hour", "birthday_year"} <= names
    by_id = dict(zip(TRAINED["id"].to_pylist(), model.score(TRAINED).to_pylist(), strict=True))
    encoded = scored(spark, made, {"path": str(made / "dataset")}, tmp_path, encoded=True)
    assert encoded == [by_id[i] for i in range(80)]
    typed = TONIGHT.set_column(2, "pickup", pa.nulls(70, pa.timestamp("us", "UTC")))
    untyped = TONIGHT.set_column(2, "pickup", pa.nulls(70))
    pq.write_table(untyped, tmp_path / "untyped.parquet")
    expected = model.score(typed).to_pylist()
    assert model.score(untyped.to_pandas()).tolist() == expected
    assert scored(spark, made, {"path": str(tmp_path / "untyped.parquet")}, tmp_path / "untyped") == expected


def test_a_missing_column_names_what_is_derived_from_it(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    needs = r"Columns? 'booked' is missing from .*'booked' is needed for pickup_age \(columns\.time\)\."
    table_without = TONIGHT.drop_columns(["booked"])
    pq.write_table(table_without, tmp_path / "tonight.parquet")
    with pytest.raises(DataError, match=needs):
        nfm.scoring.load(made / "model").score(table_without.to_pandas())
    with pytest.raises(DataError, match=needs):
        scored(spark, made, {"path": str(tmp_path / "tonight.parquet")}, tmp_path)
    pq.write_table(TRAINED.drop_columns(["booked"]), tmp_path / "trained.parquet")
    with pytest.raises(DataError, match=needs):
        prepare(spark, config(tmp_path, tmp_path / "trained.parquet"))


def test_a_grown_encoding_keeps_the_zone(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    growth = Growth(made / "encoding", refresh_numbers=False)
    old = Encoding.load(made / "encoding").spec
    assert {one.zone for one in old.derived} == {None, "Europe/Berlin"}
    later = config(tmp_path, made / "trained.parquet")
    assert prepare(spark, later, growth).derived == old.derived
    for changes, problem in (
        ({"time_zone": "UTC"}, "derived columns differ .*time_zone.*Europe/Berlin.*UTC"),
        ({"time": {**TIME, "local": ("hour", "day")}}, "derived columns differ .*local_day"),
    ):
        changed = config(tmp_path, made / "trained.parquet", COLUMNS | changes)
        with pytest.raises(DataError, match=problem):
            prepare(spark, changed, growth)


def test_the_plan_shows_derived_columns_and_their_zone(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    settings = config(tmp_path, made / "trained.parquet", COLUMNS | {"time_zone": "Asia/Tokyo"})
    shown = plan(settings, prepare(spark, settings))
    assert (
        "  times     pickup_hour, pickup_weekday, pickup_month, pickup_day, pickup_year, pickup_age, local_hour"
        in shown
    )
    assert "; times with a zone are read in Asia/Tokyo" in shown


def test_the_specification_of_other_encodings_is_unchanged(made: Path) -> None:
    content = json.loads((made / "encoding/spec.json").read_text())
    assert content["derived"][0] == {
        "name": "pickup_hour",
        "part": "hour",
        "columns": ["pickup"],
        "kinds": ["instant"],
        "zone": "Europe/Berlin",
    }
