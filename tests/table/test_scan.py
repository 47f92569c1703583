"""Both scans on a real Spark session and real files: what reaches a task is what was written, value by value."""

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

from nfm.config.settings import Source
from nfm.contract.columns import Rows
from nfm.contract.errors import ConfigError, DataError
from nfm.table.scan import open_scan
from nfm.table.splits import File, cut
from tests.table.reading import METHODS, ROW, both, everything, rows_of, texts, write


def as_micros(names: list[str]) -> Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]:
    def work(groups: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for rows in groups:
            seen = [rows.column(name).cast(pa.int64()).to_pylist() for name in names]
            yield pa.RecordBatch.from_pydict({"row": [repr(row) for row in zip(*seen, strict=True)]})

    return work


def micros(moment: datetime | None) -> int | None:
    """Since 1970."""
    if moment is None:
        return None
    return (moment.replace(tzinfo=UTC) - utc(1970, 1, 1)) // timedelta(microseconds=1)


def utc(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)  # type: ignore[arg-type,misc]


# What every type holds, and what must reach a task.
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


def test_every_type_arrives_as_it_was_written(spark: SparkSession, tmp_path: Path) -> None:
    arrays = {}
    for name, (type_, values) in TYPES.items():
        plain = [None if v is None else int(v) for v in values] if pa.types.is_uint64(type_) else values
        arrays[name] = pa.array(plain, type_)
    write(tmp_path / "raw/a.parquet", **arrays)
    instants = [name for name, (type_, _) in TYPES.items() if pa.types.is_timestamp(type_) and type_.tz]
    others = [name for name in TYPES if name not in instants]
    for method in METHODS:
        scan = open_scan(spark, Source(path=str(tmp_path / "raw"), scan=method), everything)
        assert rows_of(scan, *others) == texts(list(zip(*(TYPES[name][1] for name in others), strict=True)))
        moments = scan.map(instants, as_micros(instants), ROW).collect()
        assert sorted(row.row for row in moments) == texts(
            list(zip(*([micros(value) for value in TYPES[name][1]] for name in instants), strict=True))
        )


def test_int96_times_are_those_of_spark(spark: SparkSession, tmp_path: Path) -> None:
    moments = [datetime(2026, 10, 1, 12, 30, 1, 7), datetime(1969, 12, 31, 23, 59, 59, 999_999), None]
    table = pa.table({"t": pa.array(moments, pa.timestamp("ns"))})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    names = ["t"]
    expected = [(micros(moment),) for moment in moments]
    for method in METHODS:
        scan = open_scan(spark, Source(path=str(tmp_path / "a.parquet"), scan=method), everything)
        assert sorted(r.row for r in scan.map(names, as_micros(names), ROW).collect()) == texts(expected)


def test_texts_are_dictionaries_even_where_the_writer_gave_them_up(spark: SparkSession, tmp_path: Path) -> None:
    values = [f"value {i}" for i in range(60_000)] + ["value 7"] * 1000 + [None]
    random.Random(1).shuffle(values)
    path = write(tmp_path / "a.parquet", s=values)
    pq.write_table(pa.table({"s": values}), path, dictionary_pagesize_limit=1000, data_page_size=5000)
    assert both(spark, path) == texts([(v,) for v in values])
    scan = open_scan(spark, Source(path=str(path)), everything)
    assert scan.files is not None
    groups = list(scan.files.rows(scan.splits[0]))
    column = groups[0].column("s")
    assert isinstance(column, pa.DictionaryArray)
    assert column.type == pa.dictionary(pa.int32(), pa.string())


def test_names_of_any_kind(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"a.b": [1, 2], "a": ["x", "y"], "große Größe": ["m", None], "tick`": [True, False], "x=y": [0.5, 1.5]}
    folder = tmp_path / "a b#c%41+ü"
    write(folder / "part 1%20#x?.parquet", **columns)
    assert both(spark, folder) == texts(list(zip(*columns.values(), strict=True)))


def test_several_paths_and_nested_folders(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "one/a.parquet", x=[1, 2])
    write(tmp_path / "two/a.parquet", x=[3])
    write(tmp_path / "two/_hidden.parquet", x=[99])
    write(tmp_path / "two/.hidden.parquet", x=[99])
    assert both(spark, (str(tmp_path / "one"), str(tmp_path / "two"))) == texts([(1,), (2,), (3,)])
    write(tmp_path / "deep/a/b/c.parquet", x=[4])
    write(tmp_path / "deep/d.parquet", x=[5])
    write(tmp_path / "deep/d.txt.parquet", x=[6])
    assert both(spark, tmp_path / "deep", options={"recursiveFileLookup": True}) == texts([(4,), (5,), (6,)])
    assert both(spark, tmp_path / "deep", options={"pathGlobFilter": "?.parquet"}) == texts([(5,)])


def test_what_folders_names_say_is_read_as_spark_reads_it(spark: SparkSession, tmp_path: Path) -> None:
    values = [
        # n, day, moment, text, mixed, half
        ("1", "2026-10-01", "2026-10-01 12%3A00%3A00", "DE", "01", "1"),
        ("-20", "__HIVE_DEFAULT_PARTITION__", "2026-10-01 12%3A00%3A01", "a%3Db%2F%25ü", "1.5", "1.5"),
        ("__HIVE_DEFAULT_PARTITION__", "0999-01-01", "__HIVE_DEFAULT_PARTITION__", "true", "abc", "-2000.5"),
    ]
    for i, (n, day, moment, text, mixed, half) in enumerate(values):
        folder = tmp_path / f"raw/n={n}/day={day}/moment={moment}/te%3Axt={text}/mixed={mixed}/half={half}"
        write(folder / "a.parquet", i=[i], mixed=["the folder's is taken"])
    scan = open_scan(spark, Source(path=str(tmp_path / "raw")), everything)
    assert scan.method == "parquet"
    assert rows_of(scan, "i", "n", "day", "te:xt", "mixed", "half") == texts(
        [
            (0, 1, date(2026, 10, 1), "DE", "01", 1.0),
            (1, -20, None, "a=b/%ü", "1.5", 1.5),
            (2, None, date(999, 1, 1), "true", "abc", -2000.5),
        ]
    )
    both(spark, tmp_path / "raw")


def test_types_of_folders_names_that_are_asked_for(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/flag=true/wide=3000000000/a.parquet", x=[1])
    write(tmp_path / "raw/flag=false/wide=1/a.parquet", x=[2])
    write(tmp_path / "raw/flag=__HIVE_DEFAULT_PARTITION__/wide=7/a.parquet", x=[3, 4])
    rows = [(1, "true", 3_000_000_000), (2, "false", 1), (3, None, 7), (4, None, 7)]
    assert both(spark, tmp_path / "raw") == texts(rows)


def test_a_folder_above_the_path_is_no_column(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/c=DE/a.parquet", x=[1], c=["of the file"])
    assert both(spark, tmp_path / "raw/c=DE") == texts([(1, "of the file")])
    options = {"basePath": str(tmp_path / "raw")}
    assert both(spark, tmp_path / "raw/c=DE", options=options) == texts([(1, "DE")])


def test_where_about_folders_leaves_files_out(spark: SparkSession, tmp_path: Path) -> None:
    for day in (1, 2, 3):
        write(tmp_path / f"raw/day=2026-10-0{day}/a.parquet", x=[day])
    where = "day >= date '2026-10-02' and day is not null"
    scan = open_scan(spark, Source(path=str(tmp_path / "raw"), where=where), lambda _: ["x"])
    assert scan.method == "parquet"
    assert {piece.file.path.split("/")[-2] for split in scan.splits for piece in split} == {
        "day=2026-10-02",
        "day=2026-10-03",
    }
    assert both(spark, tmp_path / "raw", where=where) == texts([(2, date(2026, 10, 2)), (3, date(2026, 10, 3))])
    assert both(spark, tmp_path / "raw", where="day > '2027-01-01'") == []
    assert scan.table.count() == 2


def test_where_about_rows_is_for_spark(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/c=DE/a.parquet", x=[1, 2])
    for where in ("x > 1", "c = 'DE' and x > 1"):
        scan = open_scan(spark, Source(path=str(tmp_path / "raw"), where=where), everything)
        assert (scan.method, scan.reason) == ("spark", "source.where uses more than the folders' names: x")
        assert rows_of(scan) == texts([(2, "DE")])
    scan = open_scan(spark, Source(path=str(tmp_path / "raw"), where="rand() >= 0"), everything)
    assert (scan.method, len(rows_of(scan))) == ("spark", 2)
    with pytest.raises(ConfigError, match=r"source\.scan: 'parquet' given, but .* more than the folders' names: x"):
        open_scan(spark, Source(path=str(tmp_path / "raw"), where="x > 1", scan="parquet"), everything)


def test_columns_that_came_and_went(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", id=[1], old=["x"])
    write(tmp_path / "raw/b.parquet", ID=[2], new=[7])
    assert both(spark, tmp_path / "raw", options={"mergeSchema": True}) == texts([(1, "x", None), (2, None, 7)])
    assert both(spark, tmp_path / "raw") == texts([(1, "x"), (2, None)])


def test_a_narrower_type_in_another_file(spark: SparkSession, tmp_path: Path) -> None:
    wide = {"i": pa.array([1], pa.int64()), "f": pa.array([0.5]), "d": pa.array([Decimal("1.5000")])}
    narrow = {"i": pa.array([2], pa.int32()), "f": pa.array([1.5], pa.float32()), "d": pa.array([Decimal("2.5")])}
    write(tmp_path / "raw/a.parquet", **wide)
    write(tmp_path / "raw/b.parquet", **narrow)
    rows = [(1, 0.5, Decimal("1.5000")), (2, 1.5, Decimal("2.5000"))]
    assert both(spark, tmp_path / "raw") == texts(rows)
    write(tmp_path / "raw/b.parquet", i=["2"], f=[1.5], d=[Decimal("2.5")])
    with pytest.raises(DataError, match=r"raw cannot be read: \[CANNOT_MERGE_SCHEMAS\]"):
        both(spark, tmp_path / "raw", options={"mergeSchema": True})


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
def test_a_type_that_would_lose_something_is_refused(
    spark: SparkSession, tmp_path: Path, first: pa.Array, second: pa.Array
) -> None:
    write(tmp_path / "raw/a.parquet", x=first)
    write(tmp_path / "raw/b.parquet", x=second)
    scan = open_scan(spark, Source(path=str(tmp_path / "raw"), on_corrupt="refuse"), everything)
    with pytest.raises(
        DataError, match=rf"Column 'x' is .* in .*raw, but {re.escape(str(second.type))} in .*b\.parquet, and its"
    ):
        rows_of(scan)
    with pytest.raises(DataError, match="Column 'x' is"):  # not corrupt: not skipped
        open_scan(spark, Source(path=str(tmp_path / "raw"), on_corrupt="skip"), everything)


def test_a_number_that_fits_the_narrower_type_is_taken(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", i=pa.array([1], pa.int32()), f=pa.array([0.5], pa.float32()))
    write(tmp_path / "raw/b.parquet", i=pa.array([2], pa.int64()), f=pa.array([math.nan], pa.float64()))
    scan = open_scan(spark, Source(path=str(tmp_path / "raw")), everything)
    assert rows_of(scan) == texts([(1, 0.5), (2, math.nan)])


def test_empty_files_among_many_and_tables_without_rows(spark: SparkSession, tmp_path: Path) -> None:
    nothing = pa.array([], pa.int64())
    write(tmp_path / "raw/a.parquet", x=nothing)
    assert both(spark, tmp_path / "raw") == []
    for i in range(5):
        write(tmp_path / f"raw/b{i}.parquet", x=[i] if i % 2 else nothing)
    pq.ParquetWriter(tmp_path / "raw/c.parquet", pa.schema([("x", pa.int64())])).close()  # not even a row group
    assert both(spark, tmp_path / "raw") == texts([(1,), (3,)])


@pytest.mark.parametrize("names", [[], ["_part-0.parquet", ".part-1.parquet"], ["empty.parquet"]])
def test_a_folder_without_files_is_told_in_one_line(spark: SparkSession, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        if name.startswith("empty"):
            (tmp_path / name).touch()
        else:
            write(tmp_path / name, n=pa.array([1]))
    message = rf"^{tmp_path} contains no file from which columns can be inferred: it is empty, its files are \(0 byt"
    with pytest.raises(DataError, match=message) as error:
        open_scan(spark, Source(path=str(tmp_path)), everything)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split_bytes", [100, 1000, 4000, 50_000, 1 << 27])
def test_every_row_is_read_once_however_the_files_are_cut(
    spark: SparkSession, tmp_path: Path, split_bytes: int
) -> None:
    numbers = iter(range(10_000))
    for i, rows in enumerate((900, 0, 40, 3, 2000)):
        taken = [next(numbers) for _ in range(rows)]
        write(tmp_path / f"{i}.parquet", row_group_size=70, n=pa.array(taken, pa.int64()), s=[f"s{n}" for n in taken])
    scan = open_scan(spark, Source(path=str(tmp_path)), everything, split_bytes=split_bytes)
    assert scan.files is not None
    read = [n for split in scan.splits for rows in scan.files.rows(split) for n in rows.column("n").to_pylist()]
    assert sorted(read) == list(range(2943))
    assert len(scan.splits) > 1
    if split_bytes >= 50_000:
        assert rows_of(scan, "n") == texts([(n,) for n in range(2943)])


@pytest.mark.parametrize("sizes", [[10_000_000], [1, 5, 300_000_000, 7], [36_000_000] * 8, [1000] * 500, [1]])
@pytest.mark.parametrize("cores", [1, 2, 7])
def test_splits_are_even_and_hold_every_byte_once(sizes: list[int], cores: int) -> None:
    most = 128 << 20
    splits = cut([File(str(i), size, 0) for i, size in enumerate(sizes)], cores, most)
    covered: dict[str, int] = {}
    for split in splits:
        for piece in split:
            assert piece.start == covered.get(piece.file.path, 0)
            covered[piece.file.path] = piece.stop
    assert covered == {str(i): size for i, size in enumerate(sizes)}
    weights = [sum(p.stop - p.start for p in split) for split in splits]
    assert max(weights) <= most
    opening = (len(sizes) + len(splits)) * (most // 128)
    assert len(splits) % cores == 0 or sum(weights) + opening < cores * most / 32 + opening
    if len(sizes) == 8:
        assert max(weights) - min(weights) < 2 << 20


def test_no_files_are_one_empty_split() -> None:
    assert cut([], 4) == ((),)


def test_days_in_the_calendar_of_spark_2_are_left_to_spark(spark: SparkSession, tmp_path: Path) -> None:
    spark.conf.set("spark.sql.parquet.datetimeRebaseModeInWrite", "LEGACY")
    try:
        for name, day in (("new", "2026-10-01"), ("old", "1500-01-01")):
            spark.sql(f"select date '{day}' as d").write.parquet(str(tmp_path / name))
    finally:
        spark.conf.unset("spark.sql.parquet.datetimeRebaseModeInWrite")
    assert both(spark, tmp_path / "new") == texts([(date(2026, 10, 1),)])
    with pytest.raises(DataError, match=r"Column 'd' of .* has times before 1900 .* Set source\.scan: spark"):
        rows_of(open_scan(spark, Source(path=str(tmp_path / "old")), everything))
    old = open_scan(spark, Source(path=str(tmp_path / "old"), scan="spark"), everything)
    assert rows_of(old) == texts([(date(1500, 1, 1),)])


def test_a_file_that_grows_meanwhile_is_told(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", x=[1])
    scan = open_scan(spark, Source(path=str(tmp_path)), everything)
    write(path, x=list(range(1000)))
    with pytest.raises(DataError, match=r"a\.parquet of .* had \d+ bytes when the job began, and has \d+ now"):
        rows_of(scan)
    path.unlink()
    with pytest.raises(DataError, match=r"a file that cannot be opened: .*a\.parquet"):
        rows_of(scan)


def test_which_way_is_taken_and_why(spark: SparkSession, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.parquet", x=[1]))

    def way(**settings: Any) -> tuple[str, str]:
        scan = open_scan(spark, Source(**settings), everything)
        return scan.method, scan.reason

    local = ("parquet", "its files are Parquet, and tasks can reach them")
    assert way(path=path) == local
    assert way(path=f"file://{path}") == local
    assert way(path=path, options={"mergeschema": True, "modifiedBefore": "2999-01-01T00:00:00"}) == local
    assert way(path=path, scan="parquet") == ("parquet", "source.scan says so")
    assert way(path=path, scan="spark") == ("spark", "source.scan says so")
    assert way(path=path, options={"ignoreCorruptFiles": True}) == (
        "spark",
        "source.options has ignoreCorruptFiles, which only Spark's reader knows",
    )
    (tmp_path / "a.csv").write_text("x\n1\n")
    assert way(path=str(tmp_path / "a.csv"), format="csv") == ("spark", "its format is csv")
    with pytest.raises(
        ConfigError, match=r"source\.scan: 'parquet' given, but tasks cannot read .*: its format is csv"
    ):
        way(path=str(tmp_path / "a.csv"), format="csv", scan="parquet")
    spark.conf.set("spark.sql.files.ignoreCorruptFiles", "true")
    try:
        assert way(path=path) == ("spark", "spark.sql.files.ignoreCorruptFiles is true")
    finally:
        spark.conf.unset("spark.sql.files.ignoreCorruptFiles")


def test_tables_of_the_catalog(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "raw/a.parquet", x=[1, 2])
    spark.sql(f"create table scanned using parquet location '{tmp_path}/raw'")
    spark.read.parquet(str(tmp_path / "raw")).where("x > 1").createOrReplaceTempView("seen")
    try:
        scan = open_scan(spark, Source(table="scanned"), everything)
        assert (scan.method, rows_of(scan)) == ("parquet", texts([(1,), (2,)]))
        view = open_scan(spark, Source(table="seen"), everything)
        assert (view.method, view.reason) == ("spark", "it is not a plain table of Parquet files")
        assert rows_of(view) == texts([(2,)])
        with pytest.raises(ConfigError, match=r"source\.on_corrupt: 'skip' given, but table seen does not consist of"):
            open_scan(spark, Source(table="seen", on_corrupt="skip"), everything)
    finally:
        spark.sql("drop table scanned")
        spark.catalog.dropTempView("seen")


def test_what_is_needed_may_refuse_the_table(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", x=[1])

    def refuse(schema: pa.Schema) -> list[str]:
        raise DataError(f"no: {schema.names}")

    with pytest.raises(DataError, match=r"no: \['x'\]"):
        open_scan(spark, Source(path=str(tmp_path)), refuse)
