"""Columns whose type in a file differs from the table's: a task converts the values exactly, or refuses the file."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.table.parquet.casts import cast_exactly
from nfm.table.scan import open_scan
from tests.table.reading import all_columns, read_by_both, read_rows, to_texts, write

PAIR = pa.struct({"a": pa.float64(), "b": pa.string()})


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        (pa.array([1, None]), pa.float64(), [1.0, None]),
        (pa.array([2, None]), pa.decimal128(22, 2), [Decimal(2), None]),
        (pa.array([["a", None], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))), pa.list_(pa.string()),
         [["a", None], None]),
        (pa.array(["a", None], pa.string_view()), pa.binary(), [b"a", None]),
        (pa.array([date(2026, 11, 20), None]), pa.timestamp("us"), [datetime(2026, 11, 20), None]),
        (pa.array([time(1, 2, 3), None], pa.time32("ms")), pa.time64("ns"), [time(1, 2, 3), None]),
        (pa.array([timedelta(seconds=1), None], pa.duration("us")), pa.int64(), [1_000_000, None]),
        (pa.array([None, None], pa.list_(pa.null())), pa.list_(pa.int32()), [None, None]),
        (pa.array([[1, None], None], pa.list_(pa.int8(), 2)), pa.list_(pa.int64()), [[1, None], None]),
        (pa.array([[("k", 1)], None], pa.map_(pa.large_string(), pa.int8())), pa.map_(pa.string(), pa.int64()),
         [[("k", 1)], None]),
        (pa.array([{"a": 1, "b": "x"}, None], pa.struct({"a": pa.int8(), "b": pa.large_string()})), PAIR,
         [{"a": 1.0, "b": "x"}, None]),
    ],
)  # fmt: skip
def test_values_that_fit_are_converted(values: pa.Array, type_: pa.DataType, expected: list[Any]) -> None:
    converted = cast_exactly(values, type_)
    assert converted.type == type_
    assert converted.to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (pa.array([b"1"]), pa.int64()),  # Arrow would parse the bytes
        (pa.array(["1"], pa.string_view()), pa.int64()),
        (pa.array([1]), pa.timestamp("us")),  # the unit is unknown
        (pa.array([20_000], pa.int32()), pa.date32()),
        (pa.array([date(2026, 11, 20)]), pa.int32()),
        (pa.array([datetime(2026, 11, 20)]), pa.int64()),
        (pa.array([time(1)], pa.time64("us")), pa.int64()),
        (pa.array([[b"1"]]), pa.list_(pa.int64())),
        (pa.array([True]), pa.int8()),
        (pa.array([{"a": 0.1, "b": "x"}], PAIR), pa.struct({"a": pa.float32(), "b": pa.string()})),
        (pa.array([[("k", 0.1)]], pa.map_(pa.string(), pa.float64())), pa.map_(pa.string(), pa.float32())),
        (pa.array([0.1]), pa.float32()),
        (pa.array([2**53 + 1]), pa.float64()),
    ],
)
def test_values_that_would_change_are_refused(values: pa.Array, type_: pa.DataType) -> None:
    with pytest.raises(pa.ArrowException):
        cast_exactly(values, type_)


def test_types_that_only_the_arrow_schema_of_a_file_has(spark: SparkSession, tmp_path: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None]))
    write(tmp_path / "a.parquet", j=ids, d=pa.array([timedelta(microseconds=5), None], pa.duration("us")),
          v=pa.array([b"x", None], pa.binary_view()), t=pa.array(["7", None], pa.string_view()))  # fmt: skip
    assert read_by_both(spark, tmp_path / "a.parquet") == to_texts([('{"a": 1}', 5, b"x", "7"), (None,) * 4])


# An option with which only Spark's own reader can read the files.
ONLY_SPARK = {"datetimeRebaseMode": "CORRECTED"}


def test_spark_refuses_another_type_in_one_line(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", x=pa.array([3], pa.int64()))
    write(tmp_path / "b.parquet", x=pa.array([3], pa.uint64()))
    scan = open_scan(spark, Source(path=str(tmp_path), options=ONLY_SPARK), all_columns)
    with pytest.raises(DataError, match=r"^the table has a file with a column whose type differs .* leave it out"):
        read_rows(scan)
    assert read_by_both(spark, tmp_path) == to_texts([(3,), (3,)])


def test_spark_names_the_file_and_the_column_of_another_type(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", x=["a", None])
    write(tmp_path / "1.parquet", x=[1, None])
    scan = open_scan(spark, Source(path=str(tmp_path), options=ONLY_SPARK), all_columns)
    with pytest.raises(
        DataError, match=r"type differs from the table's: .*1\.parquet.* column \[x\].* Write that file"
    ):
        read_rows(scan, "x")
