"""Which files Spark lists for a source, and the values in their folders' names: both scans read the same rows."""

from datetime import date, time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import ConfigError, DataError
from nfm.table.scan import open_scan
from tests.table.reading import METHODS, all_columns, read_by_both, read_rows, to_texts, write


@pytest.mark.parametrize("paths", [("raw", "raw"), ("raw", "raw/a.parquet"), ("ra[w]", "raw/*")])
def test_a_file_in_two_paths_is_refused(spark: SparkSession, tmp_path: Path, paths: tuple[str, ...]) -> None:
    write(tmp_path / "raw/a.parquet", x=[1, None])
    write(tmp_path / "raw/b.parquet", x=[2])
    for method in METHODS:
        source = Source(path=tuple(f"{tmp_path}/{path}" for path in paths), scan=method)
        with pytest.raises(ConfigError, match=rf"^source\.path: several paths or links contain {tmp_path}/raw/a\.par"):
            open_scan(spark, source, all_columns)


def test_a_file_that_a_link_repeats_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", x=[1, None])
    write(tmp_path / "raw/b.parquet", x=[2])
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    assert read_by_both(spark, tmp_path / "link") == to_texts([(1,), (None,), (2,)])
    repeated = Source(path=(str(tmp_path / "raw"), str(tmp_path / "link")))
    with pytest.raises(ConfigError, match=rf"links contain {tmp_path}/raw/a\.parquet, so Spark would read its rows"):
        open_scan(spark, repeated, all_columns)
    (tmp_path / "raw/newest.parquet").symlink_to("b.parquet")
    for method in METHODS:
        with pytest.raises(ConfigError, match=rf"links contain {tmp_path}/raw/b\.parquet, so Spark would"):
            open_scan(spark, Source(path=str(tmp_path / "raw"), scan=method), all_columns)


def test_a_file_with_two_names_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", x=[1, None])
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies/a.parquet").hardlink_to(tmp_path / "raw/a.parquet")
    source = Source(path=str(tmp_path / "raw"))
    open_scan(spark, source, all_columns)  # the other name is in another folder
    (tmp_path / "raw/b.parquet").hardlink_to(tmp_path / "raw/a.parquet")
    with pytest.raises(ConfigError, match=rf"contain {tmp_path}/raw/a\.parquet, also as {tmp_path}/raw/b\.parquet, so"):
        open_scan(spark, source, all_columns)


def test_a_text_file_in_two_paths_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1}\n')
    source = Source(format="json", path=(str(tmp_path), f"{tmp_path}/a.json"))
    with pytest.raises(ConfigError, match=r"several paths or links contain .*a\.json, so Spark would read"):
        open_scan(spark, source, all_columns)


def test_summary_files_have_no_rows(spark: SparkSession, tmp_path: Path) -> None:
    table, footers = pa.table({"x": [1, None, 3]}), list[pq.FileMetaData]()
    pq.write_table(table, tmp_path / "a.parquet", metadata_collector=footers)
    footers[0].set_file_path("a.parquet")
    pq.write_metadata(table.schema, tmp_path / "_metadata", metadata_collector=footers)
    pq.write_metadata(table.schema, tmp_path / "_common_metadata")
    for on_corrupt in ("refuse", "skip"):
        assert read_by_both(spark, tmp_path, on_corrupt=on_corrupt) == to_texts([(1,), (None,), (3,)])


def test_a_file_beside_partition_folders_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/c=1/a.parquet", x=[1])
    write(tmp_path / "raw/b.parquet", x=[2])
    for method in METHODS:
        with pytest.raises(DataError, match=rf"^{tmp_path}/raw/b\.parquet is not in a folder c=… as the table's other"):
            open_scan(spark, Source(path=f"{tmp_path}/raw", scan=method), all_columns)


def test_folder_values_that_only_spark_understands(spark: SparkSession, tmp_path: Path) -> None:
    for i, (digits, hour) in enumerate([("٣", "12%3A30%3A00"), ("007", "__HIVE_DEFAULT_PARTITION__")]):
        folder = f"_nfm_number={digits}/hour={hour}/day=2026-11-20/none=__HIVE_DEFAULT_PARTITION__"
        write(tmp_path / f"raw/{folder}/a.parquet", i=[i])
    day = date(2026, 11, 20)
    rows = [(0, 3, time(12, 30), day, None), (1, 7, None, day, None)]
    assert read_by_both(spark, tmp_path / "raw") == to_texts(rows)
    for where, kept in (("_NFM_NUMBER = 3", rows[:1]), ("hour is null and none is null", rows[1:]), ("false", [])):
        assert read_by_both(spark, tmp_path / "raw", where=where) == to_texts(kept)


@pytest.mark.parametrize(
    ("folders", "problem"),
    [
        (["c="], r"cannot be read: \[EMPTY_PARTITION_COLUMN_VALUE\] Found an empty partition column value"),
        (["c=1", "c=1/d=2"], r"has files in folders .* Found: /.*raw/c=1/d=2\. .*recursiveFileLookup: true"),
        ([".", "sub", "c=1"], r"has files in folders .* Found: /.*raw/sub.*recursiveFileLookup: true"),
    ],
)
def test_folders_that_spark_refuses(spark: SparkSession, tmp_path: Path, folders: list[str], problem: str) -> None:
    for folder in folders:
        write(tmp_path / "raw" / folder / "a.parquet", x=[1])
    with pytest.raises(DataError, match=rf"^{tmp_path}/raw {problem}") as error:
        open_scan(spark, Source(path=f"{tmp_path}/raw"), all_columns)
    assert "\n" not in str(error.value)


def test_a_value_that_a_condition_cannot_convert(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", x=["1", None, "many"])
    scan = open_scan(spark, Source(path=str(tmp_path), where="cast(x as int) > 0"), all_columns)
    with pytest.raises(DataError, match=r"^the table cannot be read: \[CAST_INVALID_INPUT\] The value 'many'") as error:
        read_rows(scan)
    assert "\n" not in str(error.value)
