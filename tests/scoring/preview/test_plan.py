"""The score job's plan: its figures agree with the files, and it writes nothing."""

from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.contract.publishing.publish import locked
from nfm.scoring.prepare import open_all
from nfm.scoring.preview import plan as module
from nfm.scoring.preview import probe as probe_module
from nfm.scoring.preview.plan import executor_memory, measure, needed_bytes, plan, seconds_for
from nfm.scoring.preview.probe import Probe, probe
from nfm.table.jobs.hosts import place_read_only, placement
from nfm.table.scan import open_scan
from tests.scoring.examples import ROWS, SCHEMA, config
from tests.table.reading import all_columns
from tests.table.test_store import BUCKET, events, s3  # noqa: F401 (fixtures)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _short_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make probes short: no test depends on the measured speed."""
    monkeypatch.setattr(probe_module, "_MIN_SECONDS", 0.0)


SCANS = pytest.mark.parametrize("scan", ["parquet", "spark"])


def read_plan(spark: SparkSession, settings: Any) -> dict[str, str]:
    """Return the lines of a plan by their first word."""
    lines = plan(spark, settings, *open_all(spark, settings, searches=False)).splitlines()
    return {line[2:12].strip(): line[12:] for line in lines[1:]}


def write_files(spark: SparkSession, folder: Path, *counts: int) -> list[Path]:
    """Write the table's rows into files, `counts[i]` rows into file i."""
    rows = pa.Table.from_batches(spark.createDataFrame(ROWS, SCHEMA).toArrow().to_batches())
    folder.mkdir()
    paths, start = [], 0
    for i, count in enumerate(counts):
        paths.append(folder / f"{i}.parquet")
        pq.write_table(rows.slice(start, count), paths[-1])
        start += count
    return paths


def test_the_figures_agree_with_the_files(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    paths = write_files(spark, tmp_path / "raw", 25, 0, 31, 4)
    settings = config(made, tmp_path / "raw", output=str(tmp_path / "scores"))
    _, scan, source = open_all(spark, settings)
    size = measure(scan)
    assert (size.rows, size.rows_note, size.files) == (60, "(counted in the files' footers)", 4)
    assert size.bytes == sum(path.stat().st_size for path in paths)
    assert size.tasks == len(scan.splits)
    assert size.largest is not None
    assert Path(size.largest.path) == paths[2]

    model = made / "model"
    model_files = [model / "metadata.json", model / "encoding/spec.json", *(model / "weights").iterdir()]
    model_files += (path for path in (model / "encoding/index").rglob("*") if path.is_file())
    model_bytes = sum(path.stat().st_size for path in model_files)
    lines = read_plan(spark, settings)
    assert lines["splits"] == f"2 tasks, of 4 files, {size.bytes / MIB:.1f} MiB"
    assert lines["rows"] == "60 (counted in the files' footers)"
    assert lines["weights"].startswith(
        f"{model_bytes / MIB:.1f} MiB with the vocabulary's index, mapped from its folder"
    )
    assert "on 31 rows)" in lines["speed"]
    assert "with 2 cores" in lines["speed"]
    assert lines["memory"].startswith("2 workers of ")
    assert lines["memory"].endswith(" MiB for them, besides the driver's JVM")
    assert str(source) == lines["source"]
    assert lines["gates"] == "none"
    gates = {"max_oov_rate": 0.2, "min_rows": 7}
    assert read_plan(spark, config(made, tmp_path / "raw", gates=gates))["gates"] == "max_oov_rate 0.2, min_rows 7"

    memory = executor_memory(spark, 100 * MIB, 50 * MIB)
    assert (memory.workers, memory.needed, memory.configured) == (2, 640 * MIB, None)


def test_memory_is_for_workers_the_model_once_and_a_reserve() -> None:
    assert needed_bytes(2, 100 * MIB, 50 * MIB) == 640 * MIB  # 250 and a reserve of 384: 634
    assert needed_bytes(10, 300 * MIB, 1000 * MIB) == 4800 * MIB  # 4,000 and a reserve of 800
    assert needed_bytes(10, 300 * MIB, 1001 * MIB) == 4864 * MIB


def test_time_is_the_start_and_the_rows_shared_by_all_tasks() -> None:
    assert seconds_for(1_000_000, Probe(2, 1000, 100_000.0, 7.0, 0), 4) == pytest.approx(7 + 1_000_000 / 100_000 / 4)
    assert [module._time(seconds) for seconds in (0.2, 98.4, 150, 5900, 7200)] == [
        *("1 s", "98 s", "2 min", "98 min", "2.0 h")
    ]


def test_only_some_footers_of_many_files_are_read(
    spark: SparkSession, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_files(spark, tmp_path / "raw", 10, 20, 14, 16)
    monkeypatch.setattr(module, "MOST_FOOTERS", 2)
    settings = config(made, tmp_path / "raw", output=str(tmp_path / "scores"))
    sizes = [path.stat().st_size for path in paths]
    about = round((10 + 14) * sum(sizes) / (sizes[0] + sizes[2]))  # the first and the third file
    assert read_plan(spark, settings)["rows"] == f"{about} (estimated from the footers of 2 of 4 files)"


@SCANS
def test_a_probe_measures_tasks_that_score_rows(spark: SparkSession, made: Path, scan: str) -> None:
    settings = config(made, {"path": str(made / "raw"), "scan": scan}, columns=("price",))
    artifact, opened, _ = open_all(spark, settings)
    largest = measure(opened).largest
    before = spark.conf.get("spark.sql.limit.initialNumPartitions")
    measured = probe(artifact, opened, largest, False, ("id", "price"), made / "scores", 2)
    assert measured is not None
    assert measured.tasks == 2
    assert spark.conf.get("spark.sql.limit.initialNumPartitions") == before
    if largest is not None:
        assert measured.rows == pq.read_metadata(largest.path).num_rows
    else:
        first = spark.read.parquet(str(made / "raw")).rdd.mapPartitions(lambda rows: [sum(1 for _ in rows)]).collect()
        assert measured.rows == first[0]
    assert measured.speed > 0
    assert measured.start >= 0
    assert 10 * MIB < measured.worker_bytes < 4096 * MIB


def test_a_scan_by_spark_shows_partitions_and_no_rows(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    source = {"path": str(made / "raw"), "scan": "spark"}
    lines = read_plan(spark, config(made, source, output=str(tmp_path / "scores")))
    partitions = spark.read.parquet(str(made / "raw")).rdd.getNumPartitions()
    assert lines["splits"].startswith(f"{partitions} task")
    assert lines["splits"].endswith(", of 3 files")
    assert lines["rows"] == "not known before the table is read"
    assert " rows/s with 2 cores (probed in 2 tasks at a time: " in lines["speed"]


def test_a_view_is_not_shuffled_for_a_plan(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    spark.createDataFrame(ROWS, SCHEMA).createOrReplaceTempView("orders")
    spark.sql("select distinct * from orders").createOrReplaceTempView("distinct_orders")
    lines = read_plan(spark, config(made, {"table": "distinct_orders"}, output=str(tmp_path / "scores")))
    assert lines["splits"] == "number of tasks not known before Spark has shuffled the table"
    assert lines["speed"] == "not probed: Spark would have to shuffle the whole table first"
    lines = read_plan(spark, config(made, {"table": "orders"}, output=str(tmp_path / "scores")))
    assert lines["splits"] == f"{spark.table('orders').rdd.getNumPartitions()} tasks"
    assert "probed in " in lines["speed"]


@SCANS
def test_tables_with_no_row_and_one_row_have_a_plan(spark: SparkSession, made: Path, tmp_path: Path, scan: str) -> None:
    spark.createDataFrame([], SCHEMA).write.parquet(str(tmp_path / "none"))
    output = {"output": str(tmp_path / "scores")}
    lines = read_plan(spark, config(made, {"path": str(tmp_path / "none"), "scan": scan}, **output))
    assert lines["speed"] == "not probed: the table has no rows"
    assert lines["rows"].startswith("0 (" if scan == "parquet" else "not known")
    assert "memory" not in lines
    # Most partitions are empty.
    single_row = spark.createDataFrame([(None, None, None, None, None)], SCHEMA).repartition(4)
    single_row.write.parquet(str(tmp_path / "one"))
    lines = read_plan(spark, config(made, {"path": str(tmp_path / "one"), "scan": scan}, **output))
    assert "on 1 row)" in lines["speed"]


def test_a_dataset_has_a_plan(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    settings = config(made, made / "dataset", encoded=True, output=str(tmp_path / "scores"))
    lines = read_plan(spark, settings)
    assert lines["rows"] == "60 (counted in the files' footers)"
    assert lines["reads"] == "colour, size, price"
    assert "probed in " in lines["speed"]


@pytest.mark.usefixtures("events")
def test_a_table_in_a_store_is_measured_there(spark: SparkSession) -> None:
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), all_columns, split_bytes=1500)
    size, client = measure(scan), boto3.client("s3")
    listed = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    client.close()
    assert (size.rows, size.files, size.bytes) == (50, 2, sum(file["Size"] for file in listed))


def test_a_file_that_cannot_be_read_is_reported(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    broken = write_files(spark, tmp_path / "raw", 20, 20, 20)[1]
    broken.write_bytes(broken.read_bytes()[:-40])
    source, output = {"path": str(tmp_path / "raw"), "scan": "parquet"}, {"output": str(tmp_path / "scores")}
    with pytest.raises(DataError, match=r"has a file that cannot be read: .*raw/1\.parquet"):
        read_plan(spark, config(made, source, **output))
    lines = read_plan(spark, config(made, {**source, "on_corrupt": "skip"}, **output))
    assert lines["splits"].endswith("; 1 file cannot be read and will be skipped")
    assert lines["rows"].startswith("40 ")
    (tmp_path / "raw/empty.parquet").touch()
    lines = read_plan(spark, config(made, {**source, "on_corrupt": "skip"}, **output))
    assert lines["splits"].endswith("; 1 file cannot be read and will be skipped")
    assert lines["rows"].startswith("40 ")


def test_an_empty_text_file_is_skipped(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.csv").write_text("id,colour,size,price\n1,red,0,\n2,,1,2.5\n")
    (tmp_path / "raw/b.csv").touch()
    source = {"format": "csv", "path": str(tmp_path / "raw"), "on_corrupt": "skip"}
    lines = read_plan(spark, config(made, source, output=str(tmp_path / "scores")))
    assert lines["splits"] == "1 task, of 1 file"


def test_a_plan_writes_nothing_and_takes_no_lock(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    settings = config(made, made / "raw", output=str(tmp_path / "out/scores"), rank=True)
    with locked(settings.scores_folder):  # as if another run were active
        before = {path: path.stat().st_mtime_ns for root in (tmp_path, made) for path in root.rglob("*")}
        read_plan(spark, settings)
        assert {path: path.stat().st_mtime_ns for root in (tmp_path, made) for path in root.rglob("*")} == before


def test_a_model_on_another_disk_is_not_linked(spark: SparkSession, made: Path, tmp_path: Path) -> None:
    artifact = open_all(spark, config(made, made / "raw"))[0]
    assert placement(spark, artifact, tmp_path / "not/there/yet") == "linked"
    assert placement(spark, artifact, Path("/dev/shm/scores")) == "in place"
    assert place_read_only(spark, artifact, Path("/dev/shm/scores")).folder == str(made / "model")
