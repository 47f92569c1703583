"""A table in a store: Spark lists its files, and tasks read them from the store through pyarrow.

The store is a moto server, which speaks the S3 protocol on this machine. Spark lists a local folder with the same file
names, which Hadoop shows under the scheme of the store.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import ConfigError, DataError
from nfm.table import store
from nfm.table.scan import open_scan
from tests.table.reading import all_columns, read_rows

BUCKET = "tables"
ROWS = pa.table(
    {"id": pa.array(range(50)), "colour": ["red", None, "grün", "", "blue"] * 10, "price": [0.5, None] * 25}
)


@pytest.fixture
def s3(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty store, which pyarrow also finds, here and in Spark's workers."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(spark.sparkContext.environment, name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    store._file_system.cache_clear()
    yield client
    client.close()
    server.stop()
    store._file_system.cache_clear()


@pytest.fixture
def events(spark: SparkSession, s3: Any, tmp_path: Path) -> Path:
    """A folder of files without rows, which Spark lists as s3a://tables/events/…; the store has the files with rows."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("fs.s3a.impl", "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme")
    hadoop.set("fs.s3a.impl.disable.cache", "true")
    hadoop.set("fs.viewfs.overload.scheme.target.file.impl", "org.apache.hadoop.fs.LocalFileSystem")
    folder = tmp_path / "events"
    hadoop.set(f"fs.viewfs.mounttable.{BUCKET}.link./events", f"file://{folder}")
    for name, rows in (("day=1/a b.parquet", ROWS.slice(0, 30)), ("day=2/c.parquet", ROWS.slice(30))):
        (folder / name).parent.mkdir(parents=True)
        pq.write_table(rows, folder / name, row_group_size=10)
        s3.upload_file(str(folder / name), BUCKET, f"events/{name}")
        # Spark's file has the same columns and no rows, so that all rows come from the store.
        pq.write_table(rows.slice(0, 0), folder / name)
    return folder


def expected(*days: int) -> list[str]:
    rows = [(*row.values(), 1 if row["id"] < 30 else 2) for row in ROWS.to_pylist()]
    return sorted(repr(row) for row in rows if row[-1] in days)


@pytest.mark.usefixtures("events")
def test_tasks_read_from_the_store(spark: SparkSession) -> None:
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), all_columns, split_bytes=1500)
    assert (scan.method, scan.reason) == ("parquet", "its files are Parquet, and tasks can read them")
    assert len(scan.splits) > 2
    assert read_rows(scan) == expected(1, 2)
    where = open_scan(spark, Source(path=f"s3a://{BUCKET}/events", where="day = 2"), all_columns)
    assert read_rows(where) == expected(2)


@pytest.mark.usefixtures("events")
def test_a_rewritten_file_has_a_later_time(s3: Any) -> None:
    key = "events/day=1/a b.parquet"
    uri, head = f"s3://{BUCKET}/{key}", s3.head_object(Bucket=BUCKET, Key=key)
    ((size, before),) = store.read_file_states([uri])
    assert (size, before // 10**9) == (head["ContentLength"], int(head["LastModified"].timestamp()))
    time.sleep(1.1)  # S3 has times in whole seconds
    s3.put_object(Bucket=BUCKET, Key=key, Body=s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    ((new_size, after),) = store.read_file_states([uri])
    assert new_size == size
    assert after > before


def test_a_file_that_is_missing_in_the_store_is_an_error(spark: SparkSession, events: Path, s3: Any) -> None:
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), all_columns)
    s3.delete_object(Bucket=BUCKET, Key="events/day=2/c.parquet")
    with pytest.raises(DataError, match=r"has a file that cannot be opened: s3a://tables/events/day=2/c\.parquet"):
        read_rows(scan)
    with pytest.raises(DataError, match=r"cannot be opened: .*has no file tables/events/day=2/c\.parquet"):
        open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), all_columns)


def test_a_corrupt_file_in_the_store_is_refused_by_name(spark: SparkSession, events: Path, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="events/day=1/a b.parquet", Body=b"not Parquet" * 100)
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), all_columns)
    with pytest.raises(DataError, match=r"has a file that cannot be read: s3a://tables/events/day=1/a%20b\.parquet"):
        read_rows(scan)


@pytest.mark.usefixtures("events")
def test_a_store_that_pyarrow_cannot_access_needs_spark(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(path=f"s3a://{BUCKET}/events")
    skip = open_scan(spark, Source(path=source.path, on_corrupt="skip"), all_columns)
    assert (skip.method, skip.reason[:49]) == ("spark", "on_corrupt: skip cannot distinguish a damaged fil")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store._file_system.cache_clear()
    scan = open_scan(spark, source, all_columns)
    assert (scan.method, scan.reason[:26]) == ("spark", "pyarrow cannot reach s3a:/")
    with pytest.raises(ConfigError, match=r"source\.scan: 'parquet' given, but .* pyarrow cannot reach s3a://tables"):
        open_scan(spark, Source(path=source.path, scan="parquet"), all_columns)


def test_a_store_that_pyarrow_does_not_support() -> None:
    assert store.find_access_problem(["wasb://x/y"]) == "pyarrow does not support the store of wasb://x/y"
    assert store.find_access_problem([]) is None
    assert store._split_uri("hdfs://name:8020/a%20b/c") == ("hdfs://name:8020", "/a b/c")
    assert store._split_uri("s3a://bucket/a%20b/c") == ("s3://bucket", "bucket/a b/c")
