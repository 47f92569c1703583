"""Both scan methods on a real Spark session and real files: tasks receive exactly the values that were written."""

import math
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.columns import Rows
from nfm.contract.errors import ConfigError, DataError
from nfm.table.scan import open_scan
from nfm.table.splits import File, make_splits
from tests.table.reading import METHODS, ROW, all_columns, read_by_both, read_rows, to_texts, write


def to_micros(names: list[str]) -> Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]:
    def work(groups: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for rows in groups:
            seen = [rows.column(name).cast(pa.int64()).to_pylist() for name in names]
            yield pa.RecordBatch.from_pydict({"row": [repr(row) for row in zip(*seen, strict=True)]})

    return work


def micros(moment: datetime | None) -> int | None:
    """Return microseconds since 1970."""
    if moment is None:
        return None
    return (moment.replace(tzinfo=UTC) - utc(1970, 1, 1)) // timedelta(microseconds=1)


def utc(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)  # type: ignore[arg-type,misc]


# For each type, the values that are written and must reach a task.
TYPES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["a", "", None, "Grüße 🦉", "a"]),
    "large": (pa.large_string(), ["a", "", None, "b", "a"]),
    "byte": (pa.int8(), [1, -128, None, 0, 127]),
    "short": (pa.int16(), [1, -32768, None, 0, 32767]),
    "int": (pa.int32(), [1, -(2**31), None, 0, 2**31 - 1]),
    "long": (pa.int64(), [1, -(2**63), None, 2**53 + 1, 2**63 - 1]),
    "unsigned": (pa.uint32(), [1, 0, None, 2**32 - 1, 5]),
    "unsigned_long": (pa.uint64(), [Decimal(1), Decimal(0), None, Decimal(2**64 - 1), Decimal(5)]),
    "float": (pa.float32(), [0.5, math.nan, None, math.inf, -0.0]),
    "double": (pa.float64(), [0.1, math.nan, None, -math.inf, -0.0]),
    "small_decimal": (pa.decimal128(5, 2), [Decimal("1.10"), None, Decimal("-999.99"), Decimal("0.00"), None]),
    "decimal": (pa.decimal128(38, 4), [Decimal("1.1000"), None, Decimal(f"{10**30}.0000"), Decimal("0.0001"), None]),
    "bool": (pa.bool_(), [True, False, None, True, False]),
    "date": (pa.date32(), [date(2026, 10, 1), date(1, 1, 1), None, date(1969, 12, 31), date(9999, 12, 31)]),
    "instant": (pa.timestamp("us", "UTC"), [utc(2026, 10, 1, 12, 30, 1, 7), utc(1600, 1, 1), None, None, None]),
    "elsewhere": (pa.timestamp("us", "Europe/Berlin"), [utc(2026, 10, 1, 12), None, None, utc(1969, 1, 1), None]),
    "millis": (pa.timestamp("ms", "UTC"), [utc(2026, 10, 1, 12, 0, 0, 7000), None, None, utc(1969, 1, 1), None]),
    "local": (pa.timestamp("us"), [datetime(2026, 10, 1, 12), datetime(1600, 1, 1), None, datetime(1970, 1, 1), None]),
    "binary": (pa.binary(), [b"a", b"", None, b"\xff\x00", b"a"]),
    "fixed": (pa.binary(2), [b"ab", None, None, b"\xff\x00", b"ab"]),
    "tags": (pa.list_(pa.string()), [["a", None, ""], [], None, ["ü"], ["a"]]),
    "floats": (pa.list_(pa.float32()), [[0.5, None], [], None, [1.0], [2.0]]),
    "longs": (pa.list_(pa.int64()), [[1, None], [], None, [2**62], [2]]),
}  # fmt: skip


def test_values_of_every_type_are_read_unchanged(spark: SparkSession, tmp_path: Path) -> None:
    arrays = {}
    for name, (type_, values) in TYPES.items():
        plain = [None if v is None else int(v) for v in values] if pa.types.is_uint64(type_) else values
        arrays[name] = pa.array(plain, type_)
    write(tmp_path / "raw/a.parquet", **arrays)
    instants = [name for name, (type_, _) in TYPES.items() if pa.types.is_timestamp(type_) and type_.tz]
    others = [name for name in TYPES if name not in instants]
    for method in METHODS:
        scan = open_scan(spark, Source(path=str(tmp_path / "raw"), scan=method), all_columns)
        assert read_rows(scan, *others) == to_texts(list(zip(*(TYPES[name][1] for name in others), strict=True)))
        moments = scan.map(instants, to_micros(instants), ROW).collect()
        assert sorted(row.row for row in moments) == to_texts(
            list(zip(*([micros(value) for value in TYPES[name][1]] for name in instants), strict=True))
        )


def test_int96_times_are_read_as_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    moments = [datetime(2026, 10, 1, 12, 30, 1, 7), datetime(1969, 12, 31, 23, 59, 59, 999_999), None]
    table = pa.table({"t": pa.array(moments, pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    names = ["t"]
    expected = [(micros(moment),) for moment in moments]
    for method in METHODS:
        scan = open_scan(spark, Source(path=str(tmp_path / "a.parquet"), scan=method), all_columns)
        assert sorted(r.row for r in scan.map(names, to_micros(names), ROW).collect()) == to_texts(expected)


def test_texts_are_dictionaries_even_if_the_file_stores_them_plain(spark: SparkSession, tmp_path: Path) -> None:
    values = [f"value {i}" for i in range(60_000)] + ["value 7"] * 1000 + [None]
    random.Random(1).shuffle(values)
    path = write(tmp_path / "a.parquet", s=values)
    pq.write_table(pa.table({"s": values}), path, dictionary_pagesize_limit=1000, data_page_size=5000)
    assert read_by_both(spark, path) == to_texts([(v,) for v in values])
    scan = open_scan(spark, Source(path=str(path)), all_columns)
    assert scan.files is not None
    groups = list(scan.files.read(scan.splits[0]))
    column = groups[0].column("s")
    assert isinstance(column, pa.DictionaryArray)
    assert column.type == pa.dictionary(pa.int32(), pa.string())


def test_special_characters_in_names_of_columns_and_files(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"a.b": [1, 2], "a": ["x", "y"], "große Größe": ["m", None], "tick`": [True, False], "x=y": [0.5, 1.5]}
    folder = tmp_path / "a b#c%41+ü"
    write(folder / "part 1%20#x?.parquet", **columns)
    assert read_by_both(spark, folder) == to_texts(list(zip(*columns.values(), strict=True)))


def test_several_paths_and_nested_folders(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "one/a.parquet", x=[1, 2])
    write(tmp_path / "two/a.parquet", x=[3])
    write(tmp_path / "two/_hidden.parquet", x=[99])
    write(tmp_path / "two/.hidden.parquet", x=[99])
    assert read_by_both(spark, (str(tmp_path / "one"), str(tmp_path / "two"))) == to_texts([(1,), (2,), (3,)])
    write(tmp_path / "deep/a/b/c.parquet", x=[4])
    write(tmp_path / "deep/d.parquet", x=[5])
    write(tmp_path / "deep/d.txt.parquet", x=[6])
    assert read_by_both(spark, tmp_path / "deep", options={"recursiveFileLookup": True}) == to_texts([(4,), (5,), (6,)])
    assert read_by_both(spark, tmp_path / "deep", options={"pathGlobFilter": "?.parquet"}) == to_texts([(5,)])


def test_folder_values_are_read_as_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    values = [
        # n, day, moment, text, mixed, half
        ("1", "2026-10-01", "2026-10-01 12%3A00%3A00", "DE", "01", "1"),
        ("-20", "__HIVE_DEFAULT_PARTITION__", "2026-10-01 12%3A00%3A01", "a%3Db%2F%25ü", "1.5", "1.5"),
        ("__HIVE_DEFAULT_PARTITION__", "0999-01-01", "__HIVE_DEFAULT_PARTITION__", "true", "abc", "-2000.5"),
    ]
    for i, (n, day, moment, text, mixed, half) in enumerate(values):
        folder = tmp_path / f"raw/n={n}/day={day}/moment={moment}/te%3Axt={text}/mixed={mixed}/half={half}"
        write(folder / "a.parquet", i=[i], mixed=["the folder's value is used"])
    scan = open_scan(spark, Source(path=str(tmp_path / "raw")), all_columns)
    assert scan.method == "parquet"
    assert read_rows(scan, "i", "n", "day", "te:xt", "mixed", "half") == to_texts(
        [
            (0, 1, date(2026, 10, 1), "DE", "01", 1.0),
            (1, -20, None, "a=b/%ü", "1.5", 1.5),
            (2, None, date(999, 1, 1), "true", "abc", -2000.5),
        ]
    )
    read_by_both(spark, tmp_path / "raw")


def test_types_of_folder_values(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/flag=true/wide=3000000000/a.parquet", x=[1])
    write(tmp_path / "raw/flag=false/wide=1/a.parquet", x=[2])
    write(tmp_path / "raw/flag=__HIVE_DEFAULT_PARTITION__/wide=7/a.parquet", x=[3, 4])
    rows = [(1, "true", 3_000_000_000), (2, "false", 1), (3, None, 7), (4, None, 7)]
    assert read_by_both(spark, tmp_path / "raw") == to_texts(rows)


def test_a_folder_above_the_path_is_not_a_column(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/c=DE/a.parquet", x=[1], c=["in the file"])
    assert read_by_both(spark, tmp_path / "raw/c=DE") == to_texts([(1, "in the file")])
    options = {"basePath": str(tmp_path / "raw")}
    assert read_by_both(spark, tmp_path / "raw/c=DE", options=options) == to_texts([(1, "DE")])


def test_a_condition_on_folders_selects_files(spark: SparkSession, tmp_path: Path) -> None:
    for day in (1, 2, 3):
        write(tmp_path / f"raw/day=2026-10-0{day}/a.parquet", x=[day])
    where = "day >= date '2026-10-02' and day is not null"
    scan = open_scan(spark, Source(path=str(tmp_path / "raw"), where=where), lambda _: ["x"])
    assert scan.method == "parquet"
    assert {piece.file.path.split("/")[-2] for split in scan.splits for piece in split} == {
        "day=2026-10-02",
        "day=2026-10-03",
    }
    assert read_by_both(spark, tmp_path / "raw", where=where) == to_texts(
        [(2, date(2026, 10, 2)), (3, date(2026, 10, 3))]
    )
    assert read_by_both(spark, tmp_path / "raw", where="day > '2027-01-01'") == []
    assert scan.table.count() == 2


def test_a_condition_on_rows_needs_spark(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/c=DE/a.parquet", x=[1, 2])
    for where in ("x > 1", "c = 'DE' and x > 1"):
        scan = open_scan(spark, Source(path=str(tmp_path / "raw"), where=where), all_columns)
        assert (scan.method, scan.reason) == ("spark", "source.where uses more than the folders' names: x")
        assert read_rows(scan) == to_texts([(2, "DE")])
    scan = open_scan(spark, Source(path=str(tmp_path / "raw"), where="rand() >= 0"), all_columns)
    assert (scan.method, len(read_rows(scan))) == ("spark", 2)
    with pytest.raises(ConfigError, match=r"source\.scan: 'parquet' given, but .* more than the folders' names: x"):
        open_scan(spark, Source(path=str(tmp_path / "raw"), where="x > 1", scan="parquet"), all_columns)


def test_columns_that_only_some_files_have(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", id=[1], old=["x"])
    write(tmp_path / "raw/b.parquet", ID=[2], new=[7])
    assert read_by_both(spark, tmp_path / "raw", options={"mergeSchema": True}) == to_texts(
        [(1, "x", None), (2, None, 7)]
    )
    assert read_by_both(spark, tmp_path / "raw") == to_texts([(1, "x"), (2, None)])


def test_a_narrower_type_in_another_file(spark: SparkSession, tmp_path: Path) -> None:
    wide = {"i": pa.array([1], pa.int64()), "f": pa.array([0.5]), "d": pa.array([Decimal("1.5000")])}
    narrow = {"i": pa.array([2], pa.int32()), "f": pa.array([1.5], pa.float32()), "d": pa.array([Decimal("2.5")])}
    write(tmp_path / "raw/a.parquet", **wide)
    write(tmp_path / "raw/b.parquet", **narrow)
    rows = [(1, 0.5, Decimal("1.5000")), (2, 1.5, Decimal("2.5000"))]
    assert read_by_both(spark, tmp_path / "raw") == to_texts(rows)
    write(tmp_path / "raw/b.parquet", i=["2"], f=[1.5], d=[Decimal("2.5")])
    with pytest.raises(DataError, match=r"raw cannot be read: \[CANNOT_MERGE_SCHEMAS\]"):
        read_by_both(spark, tmp_path / "raw", options={"mergeSchema": True})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1], pa.int32()), pa.array([2**40], pa.int64())),
        (pa.array([0.5], pa.float32()), pa.array([0.1], pa.float64())),
        (pa.array([1], pa.int64()), pa.array(["1"])),
        (pa.array(["1"]), pa.array([1], pa.int64())),
        (pa.array([1], pa.int64()), pa.array([True])),
        (pa.array([date(2026, 1, 1)]), pa.array([datetime(2026, 1, 1, 12)], pa.timestamp("us"))),
    ],
)
def test_a_cast_that_would_change_values_is_refused(
    spark: SparkSession, tmp_path: Path, first: pa.Array, second: pa.Array
) -> None:
    write(tmp_path / "raw/a.parquet", x=first)
    write(tmp_path / "raw/b.parquet", x=second)
    scan = open_scan(spark, Source(path=str(tmp_path / "raw"), on_corrupt="refuse"), all_columns)
    with pytest.raises(
        DataError, match=rf"Column 'x' is .* in .*raw, but {re.escape(str(second.type))} in .*b\.parquet, and its"
    ):
        read_rows(scan)
    with pytest.raises(DataError, match="Column 'x' is"):  # the file is not corrupt, so it is not skipped
        open_scan(spark, Source(path=str(tmp_path / "raw"), on_corrupt="skip"), all_columns)


def test_a_number_that_fits_the_narrower_type_is_accepted(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", i=pa.array([1], pa.int32()), f=pa.array([0.5], pa.float32()))
    write(tmp_path / "raw/b.parquet", i=pa.array([2], pa.int64()), f=pa.array([math.nan], pa.float64()))
    scan = open_scan(spark, Source(path=str(tmp_path / "raw")), all_columns)
    assert read_rows(scan) == to_texts([(1, 0.5), (2, math.nan)])


def test_files_and_tables_without_rows(spark: SparkSession, tmp_path: Path) -> None:
    nothing = pa.array([], pa.int64())
    write(tmp_path / "raw/a.parquet", x=nothing)
    assert read_by_both(spark, tmp_path / "raw") == []
    for i in range(5):
        write(tmp_path / f"raw/b{i}.parquet", x=[i] if i % 2 else nothing)
    pq.ParquetWriter(tmp_path / "raw/c.parquet", pa.schema([("x", pa.int64())])).close()  # without a row group
    assert read_by_both(spark, tmp_path / "raw") == to_texts([(1,), (3,)])


@pytest.mark.parametrize("names", [[], ["_part-0.parquet", ".part-1.parquet"], ["empty.parquet"]])
def test_a_folder_without_files_gives_a_one_line_error(spark: SparkSession, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        if name.startswith("empty"):
            (tmp_path / name).touch()
        else:
            write(tmp_path / name, n=pa.array([1]))
    message = rf"^{tmp_path} contains no file from which columns can be inferred: it is empty, its files are empty"
    with pytest.raises(DataError, match=message) as error:
        open_scan(spark, Source(path=str(tmp_path)), all_columns)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split_bytes", [100, 1000, 4000, 50_000, 1 << 27])
def test_every_row_is_read_once_for_any_split_size(spark: SparkSession, tmp_path: Path, split_bytes: int) -> None:
    numbers = iter(range(10_000))
    for i, rows in enumerate((900, 0, 40, 3, 2000)):
        values = [next(numbers) for _ in range(rows)]
        write(tmp_path / f"{i}.parquet", row_group_size=70, n=pa.array(values, pa.int64()), s=[f"s{n}" for n in values])
    scan = open_scan(spark, Source(path=str(tmp_path)), all_columns, split_bytes=split_bytes)
    assert scan.files is not None
    read = [n for split in scan.splits for rows in scan.files.read(split) for n in rows.column("n").to_pylist()]
    assert sorted(read) == list(range(2943))
    assert len(scan.splits) > 1
    if split_bytes >= 50_000:
        assert read_rows(scan, "n") == to_texts([(n,) for n in range(2943)])


@pytest.mark.parametrize("sizes", [[10_000_000], [1, 5, 300_000_000, 7], [36_000_000] * 8, [1000] * 500, [1]])
@pytest.mark.parametrize("cores", [1, 2, 7])
def test_splits_are_even_and_contain_every_byte_once(sizes: list[int], cores: int) -> None:
    max_bytes = 128 << 20
    splits = make_splits([File(str(i), size, 0) for i, size in enumerate(sizes)], cores, max_bytes)
    covered: dict[str, int] = {}
    for split in splits:
        for piece in split:
            assert piece.start == covered.get(piece.file.path, 0)
            covered[piece.file.path] = piece.stop
    assert covered == {str(i): size for i, size in enumerate(sizes)}
    split_bytes = [sum(p.stop - p.start for p in split) for split in splits]
    assert max(split_bytes) <= max_bytes
    opening = (len(sizes) + len(splits)) * (max_bytes // 128)
    assert len(splits) % cores == 0 or sum(split_bytes) + opening < cores * max_bytes / 32 + opening
    if len(sizes) == 8:
        assert max(split_bytes) - min(split_bytes) < 2 << 20


def test_no_files_give_one_empty_split() -> None:
    assert make_splits([], 4) == ((),)


def test_dates_in_the_calendar_of_spark_2_need_spark(spark: SparkSession, tmp_path: Path) -> None:
    spark.conf.set("spark.sql.parquet.datetimeRebaseModeInWrite", "LEGACY")
    try:
        for name, day in (("new", "2026-10-01"), ("old", "1500-01-01")):
            spark.sql(f"select date '{day}' as d").write.parquet(str(tmp_path / name))
    finally:
        spark.conf.unset("spark.sql.parquet.datetimeRebaseModeInWrite")
    assert read_by_both(spark, tmp_path / "new") == to_texts([(date(2026, 10, 1),)])
    with pytest.raises(DataError, match=r"Column 'd' of .* has times before 1900 .* Set source\.scan: spark"):
        read_rows(open_scan(spark, Source(path=str(tmp_path / "old")), all_columns))
    old = open_scan(spark, Source(path=str(tmp_path / "old"), scan="spark"), all_columns)
    assert read_rows(old) == to_texts([(date(1500, 1, 1),)])


def test_a_file_that_changes_during_the_job_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=[1])
    scan = open_scan(spark, Source(path=str(tmp_path)), all_columns)
    write(path, x=list(range(1000)))
    with pytest.raises(DataError, match=r"a\.parquet of .* had \d+ bytes when the job started, and has \d+ now"):
        read_rows(scan)
    path.unlink()
    with pytest.raises(DataError, match=r"a file that cannot be opened: .*a\.parquet"):
        read_rows(scan)


def test_method_and_reason(spark: SparkSession, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.parquet", x=[1]))

    def method(**settings: Any) -> tuple[str, str]:
        scan = open_scan(spark, Source(**settings), all_columns)
        return scan.method, scan.reason

    local = ("parquet", "its files are Parquet, and tasks can read them")
    assert method(path=path) == local
    assert method(path=f"file://{path}") == local
    assert method(path=path, options={"mergeschema": True, "modifiedBefore": "2999-01-01T00:00:00"}) == local
    assert method(path=path, scan="parquet") == ("parquet", "set by source.scan")
    assert method(path=path, scan="spark") == ("spark", "set by source.scan")
    assert method(path=path, options={"ignoreCorruptFiles": True}) == (
        "spark",
        "source.options has ignoreCorruptFiles, which only Spark's reader supports",
    )
    (tmp_path / "a.csv").write_text("x\n1\n")
    assert method(path=str(tmp_path / "a.csv"), format="csv") == ("spark", "its format is csv")
    with pytest.raises(
        ConfigError, match=r"source\.scan: 'parquet' given, but tasks cannot read .*: its format is csv"
    ):
        method(path=str(tmp_path / "a.csv"), format="csv", scan="parquet")
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    try:
        assert method(path=path) == ("spark", "spark.sql.files.ignoreCorruptFiles is true")
    finally:
        spark.conf.unset("spark.sql.files.ignoreCorruptFiles")


def test_tables_in_the_catalog(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", x=[1, 2])
    spark.sql(f"create table scanned using parquet location '{tmp_path}/raw'")
    spark.read.parquet(str(tmp_path / "raw")).where("x > 1").createOrReplaceTempView("seen")
    try:
        scan = open_scan(spark, Source(table="scanned"), all_columns)
        assert (scan.method, read_rows(scan)) == ("parquet", to_texts([(1,), (2,)]))
        view = open_scan(spark, Source(table="seen"), all_columns)
        assert (view.method, view.reason) == ("spark", "it is not a plain table of Parquet files")
        assert read_rows(view) == to_texts([(2,)])
        with pytest.raises(ConfigError, match=r"source\.on_corrupt: 'skip' given, but table seen is not file-based"):
            open_scan(spark, Source(table="seen", on_corrupt="skip"), all_columns)
    finally:
        spark.sql("drop table scanned")
        spark.catalog.dropTempView("seen")


def test_needed_may_refuse_the_table(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", x=[1])

    def refuse(schema: pa.Schema) -> list[str]:
        raise DataError(f"refused: {schema.names}")

    with pytest.raises(DataError, match=r"refused: \['x'\]"):
        open_scan(spark, Source(path=str(tmp_path)), refuse)
