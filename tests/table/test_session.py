"""The settings of a user's session apply to the source; the encoding does not depend on them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import nfm
from nfm.config.settings import Config
from tests.conftest import ROOT
from tests.features.examples import dataset_rows
from tests.processes import bare
from tests.scoring.examples import NETWORK, save_model

TIME_ZONE = "spark.sql.session.timeZone"
TIMES = [datetime(2025, 12, 31, tzinfo=UTC) + timedelta(hours=3 * i, minutes=10) for i in range(20)]
COLOURS = ["red", "blue", None]


@pytest.fixture
def zone(spark: SparkSession, request: pytest.FixtureRequest) -> Iterator[str]:
    """Time zone of the session during the test."""
    spark.conf.set(TIME_ZONE, request.param)
    yield request.param
    spark.conf.set(TIME_ZONE, "UTC")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows as Parquet and as CSV; `size` is the number of the row."""
    folder = tmp_path_factory.mktemp("times")
    columns = {"ts": pa.array(TIMES, pa.timestamp("us", "UTC")), "colour": [COLOURS[i % 3] for i in range(20)]}
    columns |= {"size": list(range(20)), "price": [1.0] * 20, "label": [i % 2 for i in range(20)]}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    lines = [f"{time:%Y-%m-%dT%H:%M:%SZ},{COLOURS[i % 3] or ''},{i},1.0,{i % 2}" for i, time in enumerate(TIMES)]
    (folder / "rows.csv").write_text("\n".join(["ts,colour,size,price,label", *lines, ""]))
    return folder


def settings(workdir: Path, source: dict[str, Any], **changes: Any) -> Config:
    content: dict[str, Any] = {
        "name": "times",
        "workdir": str(workdir),
        "source": source,
        "columns": {
            "key": ("ts", "size"),
            "label": "label",
            "categorical": {"colour": {}, "size_id": {"column": "size", "oov_buckets": 2}},
            "numeric": {"price": {"as": "field", "scale": "none"}},
        },
        "split": {"valid": 0.2, "test": 0.2},
        "train": {"early_stopping": None},
    }
    return Config.model_validate(content | changes)


def source_of(tables: Path, scan: str) -> dict[str, Any]:
    if scan == "csv":
        return {"path": str(tables / "rows.csv"), "format": "csv", "options": {"header": True, "inferSchema": True}}
    return {"path": str(tables / "rows.parquet"), "scan": scan}


@pytest.mark.parametrize(
    ("zone", "scan", "where", "first", "last"),
    [
        ("America/New_York", "auto", "ts >= '2026-01-01'", 1, 9),
        ("Asia/Tokyo", "csv", "to_date(ts) = '2026-01-01'", 1, 1),
    ],
    indirect=["zone"],
)
def test_where_uses_the_zone_of_the_session(
    spark: SparkSession, tables: Path, tmp_path: Path, zone: str, scan: str, where: str, first: int, last: int
) -> None:
    local = [time.astimezone(ZoneInfo(zone)) for time in TIMES]
    expected = [i for i, time in enumerate(local) if time.year == 2026 and first <= time.day <= last]
    source = source_of(tables, scan) | {"where": where}
    features = nfm.build_features(settings(tmp_path, source, split={"valid": 0.0, "test": 0.0}), spark)
    rows = {(row["size"], row["ts"]) for row in dataset_rows(tmp_path / "dataset")}
    assert sorted(size for size, _ in rows) == expected
    assert rows == {(i, TIMES[i]) for i in expected}
    assert f"  time zone {zone} ({TIME_ZONE})" in features.summary
    assert spark.conf.get(TIME_ZONE) == zone


@pytest.mark.parametrize("zone", ["GMT+8"], indirect=True)
def test_the_encoding_and_the_folds_do_not_depend_on_the_zone(
    spark: SparkSession, tables: Path, tmp_path: Path, zone: str
) -> None:
    by_time = {"time": "ts", "valid_from": "2026-01-01", "test_from": "2026-01-02 00:00"}
    for split in ({"valid": 0.3, "test": 0.3}, by_time):
        found = []
        for name, scan in (("utc", "parquet"), (zone, "spark"), (zone, "csv")):
            spark.conf.set(TIME_ZONE, "UTC" if name == "utc" else zone)
            workdir = tmp_path / f"{len(split)}-{name}-{scan}"
            features = nfm.build_features(settings(workdir, source_of(tables, scan), split=split), spark)
            rows = sorted(dataset_rows(workdir / "dataset"), key=lambda row: int(row["size"]))
            types = {str(pq.read_schema(path).field("ts").type) for path in (workdir / "dataset").rglob("*.parquet")}
            is_text = scan == "csv" and split is by_time  # such times stay as they are written
            assert types == {"string" if is_text else "timestamp[us, tz=UTC]"}
            rows = [{**row, "ts": datetime.fromisoformat(row["ts"])} for row in rows] if is_text else rows
            parts = {row.pop("rate_part") for row in rows} if split is by_time else set()  # a hash of the key, a text
            assert len(parts) != 1
            found.append((features.fingerprint, rows))
        assert all(one == found[0] for one in found)
        if split is by_time:
            days = {(row["ts"].astimezone(UTC).date().isoformat(), row["fold"]) for row in found[0][1]}
            assert days == {("2025-12-31", "train"), ("2026-01-01", "valid"), ("2026-01-02", "test")}


@pytest.mark.parametrize("zone", ["Asia/Tokyo"], indirect=True)
def test_scoring_in_another_zone_is_reported(
    spark: SparkSession, tables: Path, tmp_path: Path, zone: str, caplog: pytest.LogCaptureFixture
) -> None:
    where = {"where": "to_date(ts) = '2026-01-01'"}
    spark.conf.set(TIME_ZONE, "UTC")
    nfm.build_features(settings(tmp_path, source_of(tables, "auto") | where), spark)
    save_model(tmp_path, 1)
    assert NETWORK.task == "binary"
    spark.conf.set(TIME_ZONE, zone)
    for more, changed in (({}, {}), (where, {TIME_ZONE: ["UTC", zone]})):
        scored = nfm.score_table(settings(tmp_path, source_of(tables, "auto") | more), spark)
        report = json.loads((scored.scores / "_report.json").read_text())
        assert report["changed_settings"] == changed
        problem = f"{TIME_ZONE} was UTC in training and is {zone} now"
        for text in (scored.summary, scored.report.read_text(), caplog.text):
            assert (problem in text) == bool(changed)
    local = [time.astimezone(ZoneInfo(zone)) for time in TIMES]
    scores = pq.read_table(next(scored.scores.glob("*.parquet")))
    expected = [i for i, time in enumerate(local) if (time.month, time.day) == (1, 1)]
    assert sorted(scores["size"].to_pylist()) == expected


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("defaults", "arguments", "expected"),
    [
        ("", "{}", "UTC"),
        (f"{TIME_ZONE} Asia/Tokyo\n", "{}", "Asia/Tokyo"),
        ("", f"{{{TIME_ZONE!r}: 'Asia/Tokyo'}}", "Asia/Tokyo"),
    ],
)
def test_a_new_session_has_the_zone_that_is_set(tmp_path: Path, defaults: str, arguments: str, expected: str) -> None:
    (tmp_path / "spark-defaults.conf").write_text(f"spark.master local[1]\nspark.ui.enabled false\n{defaults}")
    code = f"""
from nfm.table.session import session_for, start_session
spark = start_session("test", {arguments})
with session_for("test", None) as same:
    print(same.conf.get("{TIME_ZONE}"), same.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch"))
"""
    environment = bare() | {"SPARK_CONF_DIR": str(tmp_path), "TZ": "America/New_York"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [expected, "65536"], done.stderr
