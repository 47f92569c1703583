"""Values of CSV and JSON that Spark would change, keys that it would merge, and files that need an option."""

import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.contract.reading import Reading
from tests.table.reading import read_rows, to_texts
from tests.table.text_tables import LEARNED, refused, rows, scan, write


def test_values_that_tonights_types_would_change(spark: SparkSession, tmp_path: Path) -> None:
    types = {"id": "int", "amount": "decimal(18,2)", "day": "date", "at": "timestamp", "ratio": "float"}
    lines = {
        1: "3.10,2026-01-05,2026-01-05 12:30,0.1",
        2: "3.14159,2026-01-05,2026-01-05 12:30,0.1",
        3: "3.10,2026,2026-01-05 12:30,0.1",
        4: "3.10,2026-01-05T99 junk,2026-01-05 12:30,0.1",
        5: "3.10,2026-01-05,12:30,0.1",
        6: "3.10,2026-01-05,2026-01-05 12:30,16777217",
        7: ",,,",
    }
    write(tmp_path, a="id,amount,day,at,ratio\n" + "".join(f"{i},{line}\n" for i, line in lines.items()))
    for settings in ({"types": types}, {"reading": Reading("csv", LEARNED.options, types)}):
        found = scan(spark, tmp_path, "id", *types, on_bad_row="skip", **settings)
        assert (read_rows(found, "id", "amount"), found.bad_rows) == (to_texts([(1, Decimal("3.10")), (7, None)]), 5)
    message = refused(spark, tmp_path, "id", "day", types=types)
    assert "2 of 7 rows" in message and "'2026' in column 'day', whose type is date: a date, such as 20" in message
    assert f"{tmp_path}/a.csv" in message and "source.options.dateFormat" in message


def test_values_of_folders_that_their_type_would_change(spark: SparkSession, tmp_path: Path) -> None:
    for day in ("2026-01-05", "2026"):
        (tmp_path / f"day={day}").mkdir()
        write(tmp_path / f"day={day}", a="id\n1\n")
    assert "'2026' in column 'day', whose type is date" in refused(spark, tmp_path, types={"day": "date"})
    assert rows(spark, tmp_path, types={"day": "string"}) == to_texts([(1, "2026"), (1, "2026-01-05")])
    assert rows(spark, tmp_path, types={"day": "date"}, where="day = '2026-01-05'") == to_texts([(1, date(2026, 1, 5))])
    write(tmp_path / "day=2026-01-05", a="id,d\n1,07.01.2026\n")  # formats are those of the files only
    settings: dict[str, Any] = {"options": {"dateFormat": "dd.MM.yyyy"}, "where": "day = '2026-01-05'"}
    found = scan(spark, tmp_path, types={"day": "date", "d": "date"}, **settings)
    assert read_rows(found, "day", "d") == to_texts([(date(2026, 1, 5), date(2026, 1, 7))])


NUMBERS = (
    '{"id": 1, "mixed": 1.5, "long": 5, "bag": [1.5, 2], "in": {"a": 1.5}, "price": 1.50}\n'
    '{"id": 2, "mixed": 9007199254740993, "long": 1000000000000000000000000000000000000001, '
    '"bag": [9007199254740993], "in": {"a": 9007199254740993}, "price": 1e20}\n{"id": 3}\n'
)


def test_integers_of_json_are_never_rounded(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(NUMBERS)
    found = scan(spark, tmp_path, "id", "mixed", "long", "bag", "in", "price", format="json")
    assert read_rows(found, "id", "mixed", "long", "bag", "price") == to_texts(
        [
            (1, "1.5", "5", ["1.5", "2"], 1.5),
            (2, "9007199254740993", "1" + "0" * 38 + "1", ["9007199254740993"], 1e20),
            (3, None, None, None, None),
        ]
    )
    assert found.reading.types["in"] == "struct<a:string>"
    learned = Reading("json", {}, {"id": "int", "mixed": "double", "bag": "array<double>"})
    message = refused(spark, tmp_path, "id", "mixed", format="json", reading=learned)
    assert "1 of 3 rows" in message and "'9007199254740993' in column 'mixed'" in message
    found = scan(spark, tmp_path, "id", "bag", format="json", reading=learned, on_bad_row="skip")
    assert (read_rows(found, "id", "bag"), found.bad_rows) == (to_texts([(1, [1.5, 2.0]), (3, None)]), 1)


def test_a_number_in_quotes_is_the_number(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": "1", "x": "1.5"}\n{"id": 2, "x": 2}\n{"id": 3, "x": "two"}\n')
    learned = Reading("json", {}, {"id": "int", "x": "double"})
    found = scan(spark, tmp_path, format="json", reading=learned, on_bad_row="skip")
    assert (read_rows(found, "id", "x"), found.bad_rows) == (to_texts([(1, 1.5), (2, 2.0)]), 1)
    assert "the value 'two' in column 'x', whose type is double" in refused(
        spark, tmp_path, format="json", reading=learned
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            '{"id": 1, "City": "Oslo"}',
            '{"id": 2, "city": "Bonn"}',
            r"Key 'City' is written 'city' .*\(1 and 2 objects\)",
        ),
        ('{"a": [{"City": 1}]}', '{"a": [{"city": 2}]}', r"Key 'City' is written 'city'"),
        ('{"id": 1}', '{"id": 2, "City": 1, "city": 2}', r"Key 'City' is written 'city'"),
        ('{"id": 1}', '{"id": 2, "x": 1, "x": 2}', r"A key occurs twice .*'x' in .*b\.json: '{\"id\": 2"),
        ('{"id": 1}', '{"id": 2, "s": {"x": 1, "x": 2}}', r"A key occurs twice .*'x' in .*b\.json"),
    ],
)
def test_ambiguous_keys_of_json(spark: SparkSession, tmp_path: Path, first: str, second: str, message: str) -> None:
    (tmp_path / "a.json").write_text(f"{first}\n")
    (tmp_path / "b.json").write_text(f"{second}\n{second}\n")
    assert re.search(message, refused(spark, tmp_path, format="json"))
    assert spark.conf.get("spark.sql.caseSensitive") == "false"


def test_keys_of_two_spellings_where_case_counts(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"City": "Oslo"}\n{"city": "Bonn"}\n')
    try:
        spark.conf.set("spark.sql.caseSensitive", "true")
        assert rows(spark, tmp_path, "City", "city", format="json") == to_texts([("Oslo", None), (None, "Bonn")])
    finally:
        spark.conf.set("spark.sql.caseSensitive", "false")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("id,é\n1,x\n".encode("utf-16"), {}, "byte order mark of UTF-16.*Set source.options.encoding: UTF-16,"),
        ("id,é\n1,x\n".encode("utf-16"), {"encoding": "UTF-16LE"}, "Set source.options.encoding: UTF-16,"),
        ("id,v\n1,x\n".encode("utf-16-be"), {}, "source.options.encoding: UTF-16BE"),
        (",".join(f"c{i}" for i in range(20_481)).encode(), {}, "source.options.maxColumns"),
    ],
)
def test_files_that_need_an_option(
    spark: SparkSession, tmp_path: Path, content: bytes, settings: dict[str, str], message: str
) -> None:
    assert re.search(message, refused(spark, write(tmp_path, a=content), options=settings))


@pytest.mark.parametrize(
    ("encoding", "java"), [("latin-1", "ISO-8859-1"), ("utf-8-sig", "UTF-8"), ("cp1252", "windows-1252")]
)
def test_encodings_as_python_spells_them(spark: SparkSession, tmp_path: Path, encoding: str, java: str) -> None:
    write(tmp_path, a="id,v\n1,é\n".encode(encoding))
    found = scan(spark, tmp_path, options={"encoding": encoding})
    assert (read_rows(found), found.reading.options["encoding"]) == (to_texts([(1, "é")]), java)


def test_json_in_other_encodings(spark: SparkSession, tmp_path: Path) -> None:
    text = '{"id": 1, "v": "é"}\r\n{"id": 2, "v": "b"}\n'
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    assert rows(spark, tmp_path, "id", "v", format="json", options={"encoding": "latin-1"}) == to_texts(
        [(1, "é"), (2, "b")]
    )
    (tmp_path / "a.json").write_bytes(text.encode("utf-16"))
    assert "multiLine is true" in refused(spark, tmp_path, format="json")
    assert "multiLine: true" in refused(spark, tmp_path, format="json", options={"encoding": "UTF-16"})


def test_a_column_in_the_files_and_in_the_names_of_folders(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "day=2026-01-05").mkdir()
    write(tmp_path / "day=2026-01-05", a="id,Day\n1,x\n")
    message = refused(spark, tmp_path)
    assert f"Column 'Day' is in {tmp_path}/day=2026-01-05/a.csv and in the name of its folder (day=…)" in message
    assert rows(spark, tmp_path, options={"recursiveFileLookup": True}) == to_texts([(1, "x")])
