"""Tables of table formats, and outputs of streams, that would be read as plain files are refused."""

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.table.scan import open_scan
from tests.table.reading import all_columns

ROWS = pa.table({"id": [1, 2], "x": ["a", None]})
DELTA = "_delta_log/00000000000000000000.json"
HUDI = ".hoodie/hoodie.properties"
ICEBERG = "metadata/v1.metadata.json"
ICEBERG_OF_CATALOG = "metadata/00001-5f8b2f9c-3b1e-4a52-9d0c-0a1b2c3d4e5f.gz.metadata.json"


def make(folder: Path, log: str | None = None, data: str = "part-0.parquet") -> Path:
    for name in filter(None, (log, data)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if log:
        (folder / log).write_text("{}")
    write = pa.orc.write_table if data.endswith(".orc") else pq.write_table
    write(ROWS, folder / data)
    return folder


def refused(spark: SparkSession, path: Path | str | tuple[str, ...], format_: str = "parquet", **more: Any) -> str:
    path = path if isinstance(path, tuple) else str(path)
    with pytest.raises(DataError) as error:
        open_scan(spark, Source(path=path, format=format_, **more), all_columns)
    assert "\n" not in str(error.value)
    return str(error.value)


def read(spark: SparkSession, path: Path | str, **more: Any) -> int:
    return open_scan(spark, Source(path=str(path), **more), all_columns).table.count()


@pytest.mark.parametrize(
    ("log", "data", "format_", "package"),
    [
        (DELTA, "part-0.parquet", "delta", "io.delta:delta-spark_2.13:VERSION"),
        (DELTA, "ds=1/country=a/part-0.parquet", "delta", "io.delta:delta-spark_2.13:VERSION"),
        (ICEBERG, "data/part-0.parquet", "iceberg", "org.apache.iceberg:iceberg-spark-runtime-SPARK_2.13:VERSION"),
        (ICEBERG_OF_CATALOG, "data/ds=1/0.parquet", "iceberg", "org.apache.iceberg:iceberg-spark-runtime-"),
        (HUDI, "ds=1/part-0.parquet", "hudi", "org.apache.hudi:hudi-sparkSPARK-bundle_2.13:VERSION"),
    ],
)
def test_a_table_is_refused_at_its_folder_above_it_and_below_it(
    spark: SparkSession, tmp_path: Path, log: str, data: str, format_: str, package: str
) -> None:
    table = make(tmp_path / "lake/a table", log, data)
    make(tmp_path / "lake/other", log, data)
    file = table / data
    link = tmp_path / "link"
    link.symlink_to(file.parent)
    paths: list[Any] = [
        table,
        file.parent,
        file,
        link,
        tmp_path / "lake",
        tmp_path,
        f"{tmp_path}/*/a*",
        f"file://{table}",
    ]
    paths += [f"{tmp_path}/lake/*/{Path(data).parent}", (str(table), str(tmp_path / "lake/other"))]
    for path in paths:
        text = refused(spark, path)
        assert f"a table in {format_.title()} format" in text, text
        assert re.search(rf"Set source\.format: {format_} and source\.path: .*(a table|other) \(or score\.source", text)
        assert f"--spark jars.packages={package}" in text
        assert f"spark-submit --packages {package}" in text
    assert "a table in" in refused(spark, tmp_path, options={"recursiveFileLookup": True})


@pytest.mark.parametrize("format_", ["csv", "json", "orc", "text", "parquet"])
def test_every_format_of_files_is_checked(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    table = make(tmp_path / "t", DELTA, "ds=1/part-0.orc" if format_ == "orc" else "ds=1/part-0.parquet")
    for path in (table, table / "ds=1", f"{table}/*=1"):
        assert f"is read as {format_} files, but they belong to {table}, which is" in refused(spark, path, format_)
    with pytest.raises(DataError, match="a table in Delta format"):
        open_scan(spark, Source(path=str(table), format=format_, on_corrupt="skip"), all_columns)


def test_tables_of_the_catalog_are_checked(spark: SparkSession, tmp_path: Path) -> None:
    table, plain = make(tmp_path / "t", DELTA, "ds=1/part-0.parquet"), make(tmp_path / "plain")
    spark.read.parquet(str(table)).createOrReplaceTempView("of_delta")
    spark.read.parquet(str(plain)).createOrReplaceTempView("of_files")
    spark.sql("select a.* from of_files a join of_delta b using (id)").createOrReplaceTempView("of_both")
    spark.range(2).createOrReplaceTempView("of_nothing")
    for name in ("of_delta", "of_both"):
        with pytest.raises(
            DataError, match=rf"^table {name} is read as plain files, .* Leave out source\.table\. Set "
        ):
            open_scan(spark, Source(table=name), all_columns)
    for name in ("of_files", "of_nothing"):
        assert open_scan(spark, Source(table=name), all_columns).table.count() == 2
    spark.conf.set("spark.sql.sources.useV1SourceList", "")
    try:
        assert "a table in Delta format" in refused(spark, f"{table}/*")
        assert read(spark, plain) == 2
    finally:
        spark.conf.unset("spark.sql.sources.useV1SourceList")


def test_folders_of_plain_files_are_read(spark: SparkSession, tmp_path: Path) -> None:
    plain = make(tmp_path / "plain", "metadata/table.metadata.json")  # not a name of Iceberg
    (plain / ".hoodie").mkdir()
    assert read(spark, plain) == 2
    # Readers of the Delta table ignore folders that begin with _, but not partitions.
    table = make(tmp_path / "t", DELTA)
    assert read(spark, make(table / "_exports")) == 2
    assert "Delta" in refused(spark, make(table / "_day=1"))
    # Spark reads no subfolders of a folder with files.
    make(tmp_path / "lake/inside", DELTA)
    assert read(spark, make(tmp_path / "lake")) == 2
    assert read(spark, f"{tmp_path}/t/../lake") == 2
    # Iceberg's metadata files are not files of its table.
    iceberg = make(tmp_path / "i", ICEBERG, "metadata/statistics.parquet")
    assert read(spark, iceberg / "metadata/*.parquet") == 2


def test_a_folder_without_readable_files_keeps_its_message(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "contains no file from which columns can be inferred" in refused(spark, tmp_path / "empty")
    assert "does not exist" in refused(spark, tmp_path / "missing")


def test_the_output_of_a_stream_is_read_as_a_whole_only(spark: SparkSession, tmp_path: Path) -> None:
    make(tmp_path / "in")
    out = tmp_path / "out"
    rows = spark.readStream.schema("id long, x string").parquet(str(tmp_path / "in")).withColumnRenamed("x", "ds")
    writer = rows.writeStream.partitionBy("ds").format("parquet").option("checkpointLocation", str(tmp_path / "state"))
    writer.trigger(availableNow=True).start(str(out)).awaitTermination()
    file = next(out.glob("ds=a/*.parquet"))
    shutil.copy(file, file.with_name("part-of-a-failed-batch.parquet"))
    assert read(spark, out) == 2  # without the copy
    for path in (f"{out}/ds=*", out / "ds=a", f"{tmp_path}/ou*"):
        text = refused(spark, path)
        assert f"they belong to {out}, which is the output of a Spark stream: files that are not part of it" in text
        assert f"set source.path: {out} (or score.source.path), and select rows with source.where." in text


def test_a_table_in_a_store_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    hadoop.set("fs.s3a.impl", "org.apache.hadoop.fs.viewfs.ViewFileSystemOverloadScheme")
    hadoop.set("fs.s3a.impl.disable.cache", "true")
    hadoop.set("fs.viewfs.overload.scheme.target.file.impl", "org.apache.hadoop.fs.LocalFileSystem")
    hadoop.set("fs.viewfs.mounttable.lake.link./tables", f"file://{tmp_path}")
    make(tmp_path / "t", DELTA, "ds=a b/part-0.parquet")
    make(tmp_path / "i", ICEBERG, "data/part-0.parquet")
    make(tmp_path / "p", "metadata/notes.txt")
    for path in ("t", "t/ds=a b", "t/*"):
        text = refused(spark, f"s3a://lake/tables/{path}")
        assert "they belong to s3a://lake/tables/t, which is a table in Delta format" in text
    assert "a table in Iceberg format" in refused(spark, "s3a://lake/tables/i/data")
    assert read(spark, "s3a://lake/tables/p", scan="spark") == 2
