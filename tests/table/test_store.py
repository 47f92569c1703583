"""A table in a store: Spark lists it, and tasks read it from the store through pyarrow.

The store is moto's, a real server of S3's protocol on this machine. Spark itself gets the listing from a folder that
holds the same names: Hadoop can show a folder under the scheme of a store.
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

from nfm.config.settings import Source
from nfm.contract.errors import ConfigError, DataError
from nfm.table import store
from nfm.table.scan import open_scan
from tests.table.reading import everything, rows_of

BUCKET = "tables"
ROWS = pa.table(
    {"id": pa.array(range(50)), "colour": ["red", None, "grün", "", "blue"] * 10, "price": [0.5, None] * 25}
)


@pytest.fixture
def s3(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty store that pyarrow finds, too, here and in Spark's workers."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    surroundings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(spark.sparkContext.environment, name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    store._system.cache_clear()
    yield client
    client.close()
    server.stop()
    store._system.cache_clear()


@pytest.fixture
def events(spark: SparkSession, s3: Any, tmp_path: Path) -> Path:
    """A folder whose files Spark lists as s3a://tables/events/…, and which are in the store, with other rows inside."""
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("fs.s3a.impl", "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme")
    hadoop.set("fs.s3a.impl.disable.cache", "true")
    hadoop.set("fs.viewfs.overload.scheme.target.file.impl", "org.apache.hadoop.fs.LocalFileSystem")
    folder = tmp_path / "events"
    hadoop.set(f"fs.viewfs.mounttable.{BUCKET}.link./events", f"file://{folder}")
    for name, part in (("day=1/a b.parquet", ROWS.slice(0, 30)), ("day=2/c.parquet", ROWS.slice(30))):
        (folder / name).parent.mkdir(parents=True)
        pq.write_table(part, folder / name, row_group_size=10)
        s3.upload_file(str(folder / name), BUCKET, f"events/{name}")
        # What Spark sees has the same columns, and no row: what is read can only come from the store.
        pq.write_table(part.slice(0, 0), folder / name)
    return folder


def expected(*days: int) -> list[str]:
    rows = [(*row.values(), 1 if row["id"] < 30 else 2) for row in ROWS.to_pylist()]
    return sorted(repr(row) for row in rows if row[-1] in days)


@pytest.mark.usefixtures("events")
def test_tasks_read_the_store_themselves(spark: SparkSession) -> None:
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), everything, split_bytes=1500)
    assert (scan.method, scan.reason) == ("parquet", "its files are Parquet, and tasks can reach them")
    assert len(scan.splits) > 2
    assert rows_of(scan) == expected(1, 2)
    where = open_scan(spark, Source(path=f"s3a://{BUCKET}/events", where="day = 2"), everything)
    assert rows_of(where) == expected(2)


@pytest.mark.usefixtures("events")
def test_a_file_that_was_written_again_is_another_one(s3: Any) -> None:
    key = "events/day=1/a b.parquet"
    uri, head = f"s3://{BUCKET}/{key}", s3.head_object(Bucket=BUCKET, Key=key)
    ((size, changed),) = store.states([uri])
    assert (size, changed // 10**9) == (head["ContentLength"], int(head["LastModified"].timestamp()))
    time.sleep(1.1)  # S3 tells whole seconds
    s3.put_object(Bucket=BUCKET, Key=key, Body=s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    ((again, later),) = store.states([uri])
    assert again == size
    assert later > changed


def test_a_file_that_the_store_has_not_is_told(spark: SparkSession, events: Path, s3: Any) -> None:
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), everything)
    s3.delete_object(Bucket=BUCKET, Key="events/day=2/c.parquet")
    with pytest.raises(DataError, match=r"has a file that cannot be opened: s3a://tables/events/day=2/c\.parquet"):
        rows_of(scan)
    with pytest.raises(DataError, match=r"cannot be opened: .*has no file tables/events/day=2/c\.parquet"):
        open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), everything)


def test_a_corrupt_file_in_the_store_is_refused_by_name(spark: SparkSession, events: Path, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="events/day=1/a b.parquet", Body=b"no Parquet" * 100)
    scan = open_scan(spark, Source(path=f"s3a://{BUCKET}/events"), everything)
    with pytest.raises(DataError, match=r"has a file that cannot be read: s3a://tables/events/day=1/a%20b\.parquet"):
        rows_of(scan)


@pytest.mark.usefixtures("events")
def test_a_store_out_of_reach_is_left_to_spark(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(path=f"s3a://{BUCKET}/events")
    skip = open_scan(spark, Source(path=source.path, on_corrupt="skip"), everything)
    assert (skip.method, skip.reason[:42]) == ("spark", "a damaged file looks like a failing connec")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store._system.cache_clear()
    scan = open_scan(spark, source, everything)
    assert (scan.method, scan.reason[:26]) == ("spark", "pyarrow cannot reach s3a:/")
    with pytest.raises(ConfigError, match=r"source\.scan: 'parquet' given, but .* pyarrow cannot reach s3a://tables"):
        open_scan(spark, Source(path=source.path, scan="parquet"), everything)


def test_what_pyarrow_has_no_name_for_is_left_to_spark() -> None:
    assert store.unreachable(["wasb://x/y"]) == "pyarrow knows no store such as wasb://x/y"
    assert store.unreachable([]) is None
    assert store._split("hdfs://name:8020/a%20b/c") == ("hdfs://name:8020", "/a b/c")
    assert store._split("s3a://bucket/a%20b/c") == ("s3://bucket", "bucket/a b/c")
