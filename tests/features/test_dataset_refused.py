"""Tables that the feature job refuses on a real Spark session. Errors name the problem; an old dataset is unchanged."""

import json
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from nfm.contract.errors import DataError, NfmError
from nfm.features.dataset import build
from tests.features.examples import SCHEMA, config, dataset_rows


def test_a_missing_column_is_an_error_before_any_work(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    columns = {"key": ("id",), "label": "label", "categorical": {"color": {}, "shape": {}}}
    with pytest.raises(DataError) as error:
        build(spark, config(tmp_path, table, columns=columns))
    assert str(error.value) == (
        f"Columns 'color', 'shape' are missing from {table}; the table has id, colour, size, price, label. "
        "Did you mean 'colour'? The settings columns, split and dataset.partition_by refer to these columns."
    )
    assert not (tmp_path / "dataset").exists()


def test_a_missing_path_and_invalid_conditions(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere cannot be read: /.*/nowhere does not exist\. Correct source in"):
        build(spark, config(tmp_path, Path("nowhere")))
    with pytest.raises(DataError, match=r"cannot be read: .*UNRESOLVED_COLUMN"):
        build(spark, config(tmp_path, table, source={"path": str(table), "where": "colr = 'red'"}))
    with pytest.raises(DataError, match=r"cannot be read: .*PARSE_SYNTAX_ERROR"):
        build(spark, config(tmp_path, table, source={"path": str(table), "where": "colour == == 1"}))


def test_a_file_of_another_format_and_an_unknown_format(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text("id,colour\n1,red\n")
    with pytest.raises(DataError, match=r"raw.csv has a file that cannot be read: file:/.*\. Repair or delete it"):
        build(spark, config(tmp_path, tmp_path / "raw.csv"))
    with pytest.raises(DataError, match=r"cannot be read: \[DATA_SOURCE_NOT_FOUND\] Failed to find .*: parquett\."):
        build(spark, config(tmp_path, table, source={"path": str(table), "format": "parquett"}))


def test_the_error_names_a_corrupt_file(spark: SparkSession, table: Path, tmp_path: Path) -> None:
    shutil.copytree(table, tmp_path / "raw")
    corrupt = sorted((tmp_path / "raw").glob("*.parquet"))[1]
    corrupt.with_name(f".{corrupt.name}.crc").unlink()
    content = corrupt.read_bytes()
    corrupt.write_bytes(content[:4] + bytes(len(content) - 20) + content[-16:])
    with pytest.raises(DataError, match=rf"raw has a file that cannot be read: /.*{corrupt.name}"):
        build(spark, config(tmp_path, tmp_path / "raw"))
    assert not (tmp_path / "dataset").exists()


def test_a_text_in_a_numeric_column_is_an_error_raised_on_a_worker(spark: SparkSession, tmp_path: Path) -> None:
    frame = spark.createDataFrame([(1, "1.5", 0), (2, "n/a", 1)], "id int, price string, label int")
    frame.write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "label", "numeric": {"price": {"as": "field"}}}
    with pytest.raises(DataError, match="Column 'price' is numeric, but contains the text 'n/a'"):
        build(spark, config(tmp_path, tmp_path / "raw", columns=columns))


def test_invalid_labels_leave_the_old_dataset_unchanged(
    spark: SparkSession, table: Path, built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    before = json.loads((tmp_path / "dataset/_dataset.json").read_text())
    frame = spark.read.parquet(str(table)).selectExpr("id", "colour", "size", "price", "label * 2 as label")
    frame.write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match="31 other labels, for example '2'"):
        build(spark, config(tmp_path, tmp_path / "raw"))
    assert json.loads((tmp_path / "dataset/_dataset.json").read_text()) == before
    assert not list(tmp_path.glob(".*staging*"))


def test_a_full_disk_leaves_the_old_dataset_unchanged(spark: SparkSession, table: Path, small_disk: Path) -> None:
    build(spark, config(small_disk, table))
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    used = sum(-(-len(content) // 4096) * 4096 for content in before.values())
    (small_disk / "others").write_bytes(bytes((1 << 20) - used))
    with pytest.raises(
        NfmError, match=r"^A disk is full: there is no space left for .*disk/(dataset|encoding), .*Free some space"
    ):
        build(spark, config(small_disk, table))
    (small_disk / "others").unlink()
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
    build(spark, config(small_disk, table))


def test_a_foreign_file_that_appears_during_the_job_leaves_both_folders_unchanged(
    spark: SparkSession, table: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_all() -> dict[Path, bytes]:
        folders = (tmp_path / "dataset", tmp_path / "encoding")
        return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    before, notes = read_all(), tmp_path / "encoding/notes.txt"
    # The report is written late: after the files of dataset and encoding.
    monkeypatch.setattr("nfm.features.dataset.write_report", lambda *_: notes.write_text("mine"))
    columns = {"key": ("id",), "label": "label", "categorical": {"colour": {}}}
    with pytest.raises(DataError, match=r"encoding contains notes\.txt, which this job did not write"):
        build(spark, config(tmp_path, table, columns=columns))
    assert read_all() == before | {notes: b"mine"}


def test_an_empty_table_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    spark.createDataFrame([], SCHEMA).write.parquet(str(tmp_path / "raw"))
    with pytest.raises(DataError, match=r"train fold .* is empty: the table has 0 rows"):
        build(spark, config(tmp_path, tmp_path / "raw"))


def test_floats_cannot_share_a_vocabulary_with_integers_that_they_round(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(1, 1.0, str(2**53 + 1), 0), (2, None, "x", 1)]
    spark.createDataFrame(rows, "id int, a double, b string, y int").write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "y", "categorical": {"a": {}, "b": {"share_with": "a"}}}
    split = {"valid": 0.0, "test": 0.0}
    settings = config(tmp_path, tmp_path / "raw", columns=columns, split=split, train={"early_stopping": None})
    with pytest.raises(DataError, match=r"Column 'a' of .* integers such as 9007199254740993, which no float equals"):
        build(spark, settings)
    assert not (tmp_path / "dataset").exists()


def test_a_bag_with_too_few_weights_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(1, ["a", "b"], [1.0], 0), (2, None, None, 1)]
    frame = spark.createDataFrame(rows, "id int, tags array<string>, w array<double>, y int")
    frame.write.parquet(str(tmp_path / "raw"))
    columns = {"key": ("id",), "label": "y", "categorical": {"tags": {"bag": True, "weights": "w"}}}
    with pytest.raises(DataError, match="'w'"):
        build(spark, config(tmp_path, tmp_path / "raw", columns=columns))
    assert not (tmp_path / "dataset").exists()


def test_two_folders_that_spark_reads_as_one_number(spark: SparkSession, tmp_path: Path) -> None:
    for i, shop in enumerate(("7", "007")):
        rows = spark.createDataFrame([(i, 0), (i + 10, 1)], "id int, label int").coalesce(1)
        rows.write.parquet(str(tmp_path / "raw" / f"shop={shop}"))
    columns = {"key": ("id",), "label": "label", "categorical": {"shop": {}}}
    for scan in ("parquet", "spark"):
        source = {"path": str(tmp_path / "raw"), "scan": scan}
        with pytest.raises(DataError, match=r"shop=0*7 gives column 'shop' the value '0*7'.*like '0*7'\. Add --spark"):
            build(spark, config(tmp_path, tmp_path / "raw", columns=columns, source=source))


def test_times_of_csv_are_compared_as_they_are_written(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"key": ("id",), "label": "label", "categorical": {"colour": {}}}
    split = {"time": "t", "valid_from": "2024-07-01"}

    def folds(*times: str) -> dict[int, str]:
        rows = "".join(f"{i},red,{i % 2},{time}\n" for i, time in enumerate(times))
        (tmp_path / "raw.csv").write_text(f"id,colour,label,t\n{rows}")
        source = {"path": str(tmp_path / "raw.csv"), "format": "csv"}
        build(spark, config(tmp_path, tmp_path, source=source, columns=columns, split=split))
        return {row["id"]: row["fold"] for row in dataset_rows(tmp_path / "dataset")}

    zone = str(spark.conf.get("spark.sql.session.timeZone"))
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:  # 23:30 is in the next month in UTC
        assert folds("2024-06-30 23:30", "2024-07-01", "2024-01-01") == {0: "train", 1: "valid", 2: "train"}
        with pytest.raises(DataError, match="only some of its times have a zone offset"):
            folds("2024-06-30T23:30Z", "2024-07-01T00:30", "2024-01-01T00:00")
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    with pytest.raises(DataError, match=r"'2024-7-4' is not an ISO 8601 date or time.*split\.format"):
        folds("2024-7-4", "2024-12-01", "2024-01-01")
