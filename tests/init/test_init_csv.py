"""nfm init reads the same values from CSV files as Spark does with the options that it writes."""

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.init.csv_file import read_csv
from nfm.init.facts import infer_kind, inspect_column
from nfm.init.sample import Sample, check_table
from nfm.table.scan import open_scan

ROWS = 30


def repeat_row(header: str, row: str) -> bytes:
    """Return a header and rows, in which {i} is replaced by the row's number."""
    return "\n".join([header, *(row.replace("{i}", str(i)) for i in range(ROWS)), ""]).encode()


TABLES = {
    "comma": repeat_row("id,x,y", "{i},a,1.5"),
    "semicolon": repeat_row("id;x;y", '{i};"a;b";1,5'),
    "tab": repeat_row("id\tx\ty", "{i}\ta, b\t"),
    "pipe": repeat_row("id|x|y", "{i}|a|2026-01-01 10:00"),
    "windows": repeat_row("id,x,y", "{i},a,b").replace(b"\n", b"\r\n"),
    "bom": b"\xef\xbb\xbf" + repeat_row("id,x,y", "{i},a,"),
    "latin": "id,Straße,y\n".encode("latin-1") + b"".join(f"{i},Köln,1\n".encode("latin-1") for i in range(ROWS)),
    "quotes": repeat_row("id,x,y", '{i},"say ""hi"", please",""'),
    "backslash": repeat_row("id,x,y", r'{i},"say \"hi\", please",1'),
    "lines": repeat_row("id,x,y", '{i},"two\nlines",1'),
    "padded": repeat_row("id, x, y", "{i}, a, 3"),
    "missing": repeat_row("id,x,y", "{i},NA,NA") + b"99,NA,2.5\n100,a,3\n",
    "unnamed": repeat_row(",x,", "{i},a,3"),
    "zeros": repeat_row("id,x,y", "{i},007,3"),
    "odd names": repeat_row("a.b,x y,`z,#1,yes", "{i},a,b,c,d"),
}


def write_table(folder: Path, content: bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def read_sample(path: Path) -> Sample:
    sample = read_csv(path, [path])
    check_table(sample)
    return sample


@pytest.mark.parametrize("name", TABLES)
def test_spark_reads_the_same_columns_and_values(spark: SparkSession, tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path, TABLES[name])
    sample = read_sample(path)
    scan = open_scan(spark, Source(**sample.source), lambda schema: schema.names)
    table = scan.table
    assert table.columns == sample.table.column_names
    spark_table = table.selectExpr(*(f"cast(`{c.replace('`', '``')}` as string)" for c in table.columns)).toArrow()
    assert spark_table.num_rows == len(sample.table) == sample.rows
    for name, column, expected in zip(table.columns, sample.table.columns, spark_table.columns, strict=True):
        assert column.null_count == expected.null_count
        if pa.types.is_decimal(scan.schema.field(name).type):
            assert [float(text) for text in column.to_pylist()] == [float(text) for text in expected.to_pylist()]
        elif infer_kind(column) == "text" or pa.types.is_string(scan.schema.field(name).type):
            assert column.to_pylist() == expected.to_pylist()


TEXTS = (
    "10:30", "T10:30", "2013-01", "2020-1-5", "2020-01-05", "2020-01-05 10:00", "2020-01-05T10:00:00Z", "5:4",
    "10:30:11.5", "1/2/2020", "5 Jan 2020", "20200105", "2020", "a:b", "10-11", "True", "1e5", "+5", "nan", "2020Z",
)  # fmt: skip


def test_kinds_agree_with_the_types_that_spark_infers(spark: SparkSession, tmp_path: Path) -> None:
    names = [f"x{i}" for i in range(len(TEXTS))]
    path = write_table(tmp_path, repeat_row(",".join(names), ",".join(TEXTS)))
    sample = read_sample(path)
    schema = open_scan(spark, Source(**sample.source), lambda schema: schema.names).table.schema
    times = {"2020-1-5", "2020-01-05 10:00"}
    assert {TEXTS[i] for i, field in enumerate(schema) if field.dataType.typeName() == "timestamp"} >= times
    allowed = {
        "date": {"time"}, "timestamp": {"time"}, "integer": {"integer"}, "double": {"integer", "float"},
        "boolean": {"boolean"}, "string": {"text", "time", "float"},
    }  # fmt: skip
    for name, text in zip(names, TEXTS, strict=True):
        assert infer_kind(sample.table[name]) in allowed[schema[name].dataType.typeName()], text


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_compressed_files_are_read(tmp_path: Path, ending: str, compress: "object") -> None:
    assert callable(compress)
    path = write_table(tmp_path, compress(TABLES["comma"]), f"t.csv.{ending}")
    assert read_sample(path).table["id"].to_pylist() == [str(i) for i in range(ROWS)]


def test_a_large_file_is_sampled_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfm.init.csv_file._MOST_BYTES", 20_000)
    path = write_table(tmp_path, b"id,x,y\n" + b"".join(b"%d,%d,z\n" % (i, i // 5000) for i in range(50_000)))
    sample = read_sample(path)
    assert sample.rows is None
    assert 500 < len(sample.table) < 2_500
    assert set(sample.table["x"].to_pylist()) == {str(i) for i in range(10)}
    ids = [int(i) for i in sample.table["id"].to_pylist()]
    assert ids == sorted(set(ids))


def test_folders_of_files_are_one_table(spark: SparkSession, tmp_path: Path) -> None:
    files = [write_table(tmp_path, repeat_row("id,x", f"{{i}},only {n}"), f"{n}.csv") for n in range(3)]
    sample = read_csv(tmp_path, files)
    assert (sample.rows, sorted(set(sample.table["x"].to_pylist()))) == (90, ["only 0", "only 1", "only 2"])
    assert open_scan(spark, Source(**sample.source), lambda schema: schema.names).table.count() == 90


def test_files_with_the_columns_in_another_order(tmp_path: Path) -> None:
    files = [write_table(tmp_path, repeat_row("id,x,y", "{i},a,1"), "1.csv")]
    files.append(write_table(tmp_path, repeat_row("y,z,id,x", "2,c,{i},b"), "2.csv"))
    sample = read_csv(tmp_path, files)
    assert sample.table.column_names == ["id", "x", "y"]
    assert set(zip(sample.table["x"].to_pylist(), sample.table["y"].to_pylist(), strict=True)) == {
        ("a", "1"),
        ("b", "2"),
    }


def test_whole_numbers_written_as_floats_are_integers() -> None:
    column = inspect_column("x", pa.chunked_array([pa.array(["1.0", "2.0", None])]), is_csv=True)
    assert (column.kind, column.filled, column.distinct) == ("integer", 2, 2)
    assert pc.sum(pa.array(column.numbers), skip_nulls=True).as_py() != 3.0  # NaN where the value is missing
