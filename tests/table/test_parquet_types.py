"""Types of Parquet files: differences between files, types that Spark cannot read, and columns without a type."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.table.parquet import mixed
from nfm.table.scan import open_scan
from tests.table.reading import METHODS, all_columns, read_by_both, read_rows, to_texts, write

NOON = datetime(2026, 11, 20, 12)
# Name → values in the first file, whose types are the table's, and in the second file, which has another type.
CONVERTED: dict[str, tuple[pa.Array, pa.Array]] = {
    "int_long": (pa.array([1, None], pa.int32()), pa.array([7, None], pa.int64())),
    "long_int": (pa.array([1, 2**40], pa.int64()), pa.array([-7, None], pa.int32())),
    "short_int": (pa.array([1, 2], pa.int16()), pa.array([300, None], pa.int32())),
    "int_unsigned": (pa.array([1, 2], pa.int32()), pa.array([2**31 - 1, None], pa.uint32())),
    "unsigned_int": (pa.array([2**32 - 1, 2], pa.uint32()), pa.array([5, None], pa.int32())),
    "long_double": (pa.array([1, 2], pa.int64()), pa.array([2.0, None], pa.float64())),
    "double_long": (pa.array([1.5, 2]), pa.array([2**40, None], pa.int64())),
    "float_double": (pa.array([1.5, 2], pa.float32()), pa.array([0.25, None], pa.float64())),
    "double_float": (pa.array([1.5, 2]), pa.array([0.25, None], pa.float32())),
    "decimals": (pa.array([Decimal("1.5"), None]), pa.array([Decimal("2.00"), None])),
    "text_bytes": (pa.array(["a", None]), pa.array([b"b", None])),
    "date_time": (pa.array([date(2026, 11, 20), None]), pa.array([datetime(2026, 11, 21), None], pa.timestamp("us"))),
    "time_date": (pa.array([NOON, None], pa.timestamp("us")), pa.array([date(2026, 11, 21), None])),
    "times": (pa.array([NOON, None], pa.timestamp("us")), pa.array([NOON, None], pa.timestamp("ns"))),
    "lists": (pa.array([[1], None], pa.list_(pa.int32())), pa.array([[2], []], pa.list_(pa.int64()))),
    "text_null": (pa.array(["a", None]), pa.nulls(2)),
}
REFUSED: dict[str, tuple[pa.Array, pa.Array]] = {
    "byte_int": (pa.array([1], pa.int8()), pa.array([300], pa.int32())),  # Spark reads 44
    "int_unsigned": (pa.array([1], pa.int32()), pa.array([2**32 - 1], pa.uint32())),  # Spark reads -1
    "long_double": (pa.array([1], pa.int64()), pa.array([2.5])),
    "text_long": (pa.array(["a"]), pa.array([1])),
}


def write_both(folder: Path, columns: dict[str, tuple[pa.Array, pa.Array]]) -> Path:
    for i, name in enumerate(("a", "b")):
        write(folder / f"{name}.parquet", **{column: values[i] for column, values in columns.items()})
    return folder


def test_both_scans_convert_the_same_types(spark: SparkSession, tmp_path: Path) -> None:
    read = read_by_both(spark, write_both(tmp_path / "raw", CONVERTED))
    first, second = ([values[i].to_pylist() for values in CONVERTED.values()] for i in (0, 1))
    # Values that Python spells in another way in the table's type.
    spelled = {
        "double_long": float(2**40),
        "long_double": 2,
        "decimals": Decimal("2.0"),
        "text_bytes": "b",
        "date_time": date(2026, 11, 21),
        "time_date": datetime(2026, 11, 21),
        "times": NOON,
    }
    changed = [spelled.get(name, values[0]) for name, values in zip(CONVERTED, second, strict=True)]
    rows = [[column[0] for column in first], [column[1] for column in first], changed, [v[1] for v in second]]
    assert read == to_texts([tuple(row) for row in rows])


def test_both_scans_refuse_the_same_types(spark: SparkSession, tmp_path: Path) -> None:
    write_both(tmp_path / "raw", REFUSED)
    for name, (_, values) in REFUSED.items():
        for method in METHODS:
            scan = open_scan(spark, Source(path=str(tmp_path / "raw"), scan=method), lambda _, name=name: [name])  # type: ignore[misc]
            with pytest.raises(DataError, match=rf"^Column '{name}' is .* in .*raw, but {values.type}.* in .*/b\.parq"):
                read_rows(scan, name)


@pytest.mark.parametrize("few", [32, 0])
def test_a_condition_on_rows_of_files_with_other_types(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(mixed, "_FEW", few)
    for day, values in ((1, pa.array([1, 2, None], pa.int32())), (2, pa.array([3, 4], pa.int64()))):
        write(tmp_path / f"raw/day={day}/a.parquet", x=values, y=pa.array(range(len(values))), z=["t"] * len(values))
    (tmp_path / "raw/day=2/b.parquet").touch()
    source = Source(path=str(tmp_path / "raw"), where="x >= 2 and day < 3", on_corrupt="skip")
    scan = open_scan(spark, source, lambda _: ["y", "day"])
    assert (scan.method, [Path(path).name for path in scan.skipped]) == ("spark", ["b.parquet"])
    assert read_rows(scan, "y", "day") == to_texts([(1, 1), (0, 2), (1, 2)])
    # Which columns the condition reads is not known: all are there.
    scan = open_scan(spark, source.model_copy(update={"where": "x >= 2 and rand() >= 0"}), lambda _: ["z"])
    assert read_rows(scan, "z") == to_texts([("t",)] * 3)


@pytest.mark.parametrize(
    ("values", "type_", "remedy"),
    [
        (pa.array([NOON, None], pa.timestamp("ns")), r"timestamp\[ns\]", "with microseconds, .*coerce_timestamps='us'"),
        (pa.array(np.array([1.5, 2], np.float16)), "halffloat", "with this column as float32"),
        (pa.array([1, None], pa.time32("ms")), r"time32\[ms\]", "with this column as a string or an integer"),
        (pa.array([[1], None], pa.list_(pa.time64("us"))), r"list<\w+: time64\[us\]>", "with this column as a str"),
        (pa.array([b"a" * 16, None], pa.uuid()), ".*", "with this column as a string"),
        (pa.array([Decimal(10**40), None], pa.decimal256(50, 2)), r"decimal256\(50, 2\)", "with at most 38 digits"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_a_type_that_spark_cannot_read(
    spark: SparkSession, tmp_path: Path, values: pa.Array, type_: str, remedy: str
) -> None:
    write(tmp_path / "a.parquet", n=[1, None], **{"x.y": values})
    with pytest.raises(DataError) as error:
        open_scan(spark, Source(path=str(tmp_path)), all_columns)
    expected = rf"Column 'x\.y' of {tmp_path}/a\.parquet is {type_} \(in Parquet \w+\), which Spark cannot read\. Write"
    assert_matches(error.value, rf"^{expected} this file again {remedy}.*\.$")


def assert_matches(error: Exception, pattern: str) -> None:
    with pytest.raises(type(error), match=pattern):
        raise error
    assert "\n" not in str(error)


def test_a_column_without_a_type_in_the_first_file(spark: SparkSession, tmp_path: Path) -> None:
    folder = write_both(tmp_path / "raw", {"x": (pa.nulls(2), pa.array(["red", None])), "n": (pa.array([1, 2]),) * 2})
    message = (
        rf"^Column 'x' has the type null in {folder}/a\.parquet \(all its values there are missing\), so Spark reads "
        rf"it as integers in the whole table, but in {folder}/b\.parquet it is string\. Write {folder}/a\.parquet again"
    )

    def needed(schema: pa.Schema) -> list[str]:
        if schema.field("x").type != pa.string():
            raise DataError(f"x is {schema.field('x').type}, but was string in training")
        return ["x", "n"]

    for method in METHODS:
        source = Source(path=str(folder), scan=method)
        with pytest.raises(DataError, match=message):
            read_rows(open_scan(spark, source, all_columns))
        with pytest.raises(DataError, match=message):  # instead of the message about integers
            open_scan(spark, source, needed)
        with pytest.raises(DataError, match=message):
            open_scan(spark, source.model_copy(update={"options": {"mergeSchema": True}}), all_columns)
        assert read_rows(open_scan(spark, source, lambda _: ["n"]), "n") == to_texts([(1,), (1,), (2,), (2,)])
