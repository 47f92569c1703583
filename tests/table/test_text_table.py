"""CSV and JSON files as people have them: each value in its column, or a refusal that names the option."""

import csv
import gzip
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.contract.errors import ConfigError
from nfm.contract.reading import Reading
from tests.table.reading import read_rows, to_texts
from tests.table.text_tables import LEARNED, refused, rows, scan, write


def test_each_file_is_read_by_its_own_header(spark: SparkSession, tmp_path: Path) -> None:
    write(
        tmp_path,
        a="id,city,shop\n1,Oslo,s1\n2,,s2\n",
        b="shop,extra,id,city\ns3,x,3,Bergen\n",
        c="ID,City,Shop\n4,Oslo,s4\n",
    )
    expected = to_texts([(1, "Oslo", "s1"), (2, None, "s2"), (3, "Bergen", "s3"), (4, "Oslo", "s4")])
    assert rows(spark, tmp_path, "id", "city", "shop") == expected
    assert rows(spark, tmp_path, "id", "city", "shop", where="city = 'Oslo' and id > 1") == to_texts(
        [(4, "Oslo", "s4")]
    )


def test_files_without_values_do_not_decide_the_types(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,size,code\n1,2,7\n", b="code,size,id\n", c="size,id,code\n,3,x1\n")
    assert rows(spark, tmp_path, "id", "size", "code") == to_texts([(1, 2, "7"), (3, None, "x1")])


def test_names_of_files_that_spark_takes_for_patterns(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, **{"e[1]": "id,city\n1,Oslo\n", "e1": "city,id\nBergen,2\n", "a b%20#+ü": "id,city\n3,\n"})
    expected = to_texts([(1, "Oslo"), (2, "Bergen"), (3, None)])
    assert rows(spark, tmp_path, "id", "city") == expected
    write(tmp_path, **{"e[1]": 'id,city\n1,"Os\nlo"\n'})  # Spark would take the columns of e1.csv
    assert rf"{tmp_path}/e[1].csv may have rows of several lines" in refused(spark, tmp_path, "id", "city")


def test_a_file_without_a_column(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,city\n1,Oslo\n", b="id,town\n2,Bergen\n")
    message = refused(spark, tmp_path, "id", "city")
    assert f"Column 'city' is missing from {tmp_path}/b.csv" in message and "this file has id, town" in message
    assert "'city' is missing" in refused(spark, tmp_path, "id", where="city = 'Oslo'")
    assert rows(spark, tmp_path, "id") == to_texts([(1,), (2,)])


def test_folders_with_values_and_other_headers(spark: SparkSession, tmp_path: Path) -> None:
    for day, text in {"2026-11-01": "id,v\n1,a\n", "2026-11-02": "v,id\nb,2\n", "2026-11-03": "broken\n"}.items():
        (tmp_path / f"ds={day}").mkdir()
        (tmp_path / f"ds={day}/x.csv").write_text(text)
    two = "ds <= '2026-11-02' and v is not null"  # the third folder's file is not even opened
    found = scan(spark, tmp_path, "id", "v", "ds", where=two)
    assert read_rows(found, "id", "v") == to_texts([(1, "a"), (2, "b")])
    assert len(found.read_files) == 2
    assert rows(spark, tmp_path, "id", "v", where="ds = '2026-12-01'") == []


def test_values_of_folders_have_the_types_of_the_training(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "zip=007").mkdir()
    write(tmp_path / "zip=007", a="id,price\n1,2\n")
    assert rows(spark, tmp_path, reading=LEARNED) == to_texts([(1, 2.0, "007")])
    assert rows(spark, tmp_path, types={"zip": "string"}) == to_texts([(1, 2, "007")])
    assert scan(spark, tmp_path).reading.types == {"zip": "int", "id": "int", "price": "int"}


QUOTED = 'id,text\n1,"a ""quoted"" word"\n2,"two\nlines, and a comma"\n3,5" pipe\n4,C:\\dir\\\n5,\n6,"x"\n'


def test_rfc_4180(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a=QUOTED)
    expected = [(int(i), text or None) for i, text in list(csv.reader(io.StringIO(QUOTED)))[1:]]
    assert expected[1] == (2, "two\nlines, and a comma") and len(expected) == 6
    found = scan(spark, tmp_path)
    assert read_rows(found) == to_texts(expected)
    assert "line breaks are inside quotes" in found.reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_line_ends_inside_quotes_are_not_those_of_the_lines(spark: SparkSession, tmp_path: Path, encoding: str) -> None:
    text = 'id,"first\nsecond",city\r\n1,"a\nb",Oslo\r\n2,"c\r\nd",Bergen\r\n'
    write(tmp_path, a=text.encode(encoding))
    found = scan(spark, tmp_path, options={"encoding": encoding})
    assert found.schema.names == ["id", "first\nsecond", "city"]
    assert read_rows(found) == to_texts([(1, "a\nb", "Oslo"), (2, "c\r\nd", "Bergen")])
    write(tmp_path, a=f"{text}3,e,Oslo\n".encode(encoding))
    assert "Spark cannot read both" in refused(spark, tmp_path, options={"encoding": encoding})


def test_files_without_a_header_are_read_together(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="1,x\n", b="2,y\n3,\n")
    found = scan(spark, tmp_path, options={"header": False})
    assert read_rows(found) == to_texts([(1, "x"), (2, "y"), (3, None)])
    assert "Union" not in found.table._jdf.queryExecution().toString()
    write(tmp_path, c="4\n")
    assert "'4' has 1 values, and its file has 2 columns" in refused(spark, tmp_path, options={"header": False})


def test_comments(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a='# said "so\nid,t\n1,"a\nb"\n# "2,x\n3,#c\n')
    assert rows(spark, tmp_path, options={"comment": "#"}) == to_texts([(1, "a\nb"), (3, "#c")])


def test_a_large_file_is_read_in_several_tasks(spark: SparkSession, tmp_path: Path) -> None:
    plain = "".join(f'{i},"v, ""{i}"""\n' for i in range(500))
    write(tmp_path, a="id,v\n" + plain)
    size = str(spark.conf.get("spark.sql.files.maxPartitionBytes"))
    try:
        spark.conf.set("spark.sql.files.maxPartitionBytes", 1000)
        found = scan(spark, tmp_path)
        assert found.table.rdd.getNumPartitions() > 5 and "line breaks" not in found.reason
        assert read_rows(found) == to_texts([(i, f'v, "{i}"') for i in range(500)])
        # The last line break is inside quotes: of 500 rows, one would become two.
        write(tmp_path, a="id,v\n" + plain + '500,"x\ny"\n')
        found = scan(spark, tmp_path)
        assert found.table.rdd.getNumPartitions() == 1 and found.reason.endswith("is read in one task")
        assert read_rows(found) == to_texts([*((i, f'v, "{i}"') for i in range(500)), (500, "x\ny")])
        # The user's word counts; then the row does not fit.
        assert "1 of 502 rows" in refused(spark, tmp_path, options={"multiLine": False})
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", size)


def test_invalid_utf_8_names_the_encoding(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,city\n1,Malmö\n2,Malmø\n".encode("latin-1"))
    assert "source.options.encoding" in refused(spark, tmp_path)
    assert rows(spark, tmp_path, options={"encoding": "ISO-8859-1"}) == to_texts([(1, "Malmö"), (2, "Malmø")])


def test_files_in_utf_8_are_not_read_in_another_encoding(spark: SparkSession, tmp_path: Path) -> None:
    ascii_only = "id,city\n9,Oslo\n"
    write(tmp_path, a="id,city\n1,Malmö\n".encode("latin-1"), b="id,city\n2,Malmö\n", c=ascii_only)
    for encoding in ("latin-1", "iso-8859-15", "windows-1252"):
        message = refused(spark, tmp_path, options={"encoding": encoding})
        assert "b.csv is UTF-8, for example 'Malmö'" in message and "source.options.encoding: UTF-8" in message
    # An encoding that comes from the training, too.
    learned = Reading("csv", {**LEARNED.options, "encoding": "ISO-8859-1"}, {})
    assert "b.csv is UTF-8" in refused(spark, tmp_path, reading=learned)
    write(tmp_path, b="id,city\n2,Malmö – 2\n".encode("windows-1252"))
    found = rows(spark, tmp_path, options={"encoding": "windows-1252"})
    assert found == to_texts([(1, "Malmö"), (2, "Malmö – 2"), (9, "Oslo")])


def test_bytes_without_a_character_in_the_encoding(spark: SparkSession, tmp_path: Path) -> None:
    # Spark would make U+FFFD of both bytes, and so one value of two.
    write(tmp_path, a=b"id,city\n1,\xe9\x81\n2,\xe9\x8d\n")
    assert "contains invalid CP1252" in refused(spark, tmp_path, options={"encoding": "windows-1252"})


@pytest.mark.parametrize("layout", ["utf-16-le", "utf-8"])
def test_a_file_of_utf_16_without_its_mark(spark: SparkSession, tmp_path: Path, layout: str) -> None:
    write(tmp_path, a="id,city\n1,Malmö\n".encode("utf-16"), b="id,city\n2,Malmö\n".encode(layout))
    message = refused(spark, tmp_path, options={"encoding": "UTF-16"})
    assert "b.csv does not begin with the byte order mark of utf-16" in message and "UTF-16LE" in message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "windows-1252"])
def test_encodings(spark: SparkSession, tmp_path: Path, encoding: str) -> None:
    write(tmp_path, a='id,city\n1,"Zürich\n€"\n2,\n'.encode(encoding))
    options = {} if encoding == "utf-8-sig" else {"encoding": encoding}
    assert rows(spark, tmp_path, options=options) == to_texts([(1, "Zürich\n€"), (2, None)])


RAGGED = "id,city,price\n1,Oslo,2.5\n2,Bergen\n3,Oslo,1,9\n4,,\n"


def test_ragged_rows(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a=RAGGED)
    message = refused(spark, tmp_path)
    assert "2 of 4 rows" in message and f"{tmp_path}/a.csv: '2,Bergen' has 2 values, and its file has 3 col" in message
    assert "source.on_bad_row: skip" in message
    found = scan(spark, tmp_path, on_bad_row="skip")
    assert (read_rows(found), found.bad_rows) == (to_texts([(1, "Oslo", 2.5), (4, None, None)]), 2)


def test_broken_lines_of_json(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": 1, "city": "Oslo"}\n{"id": 2, "ci\n{"id": 3}\n')
    assert "1 of 3 rows" in refused(spark, tmp_path, format="json")
    found = scan(spark, tmp_path, "id", "city", format="json", on_bad_row="skip")
    assert (read_rows(found, "id", "city"), found.bad_rows) == (to_texts([(1, "Oslo"), (3, None)]), 1)


def test_values_that_do_not_have_the_type_of_the_training(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,zip,price\n1,007,1\n2,7,abc\n3,,\n")
    message = refused(spark, tmp_path, reading=LEARNED)
    assert "a row has the value 'abc' in column 'price', whose type is double: a number" in message
    found = scan(spark, tmp_path, reading=LEARNED, on_bad_row="skip")
    # The row is left out of every query, also of one that does not need its column.
    assert read_rows(found, "zip") == to_texts([("007",), (None,)])
    assert found.table.count() == 2


def test_types_of_the_training(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,zip,price\n1,007,1\n2,7,2\n")  # tonight, all of them look like integers
    assert rows(spark, tmp_path, reading=LEARNED) == to_texts([(1, "007", 1.0), (2, "7", 2.0)])
    assert dict(scan(spark, tmp_path, types={"price": "int"}, reading=LEARNED).table.dtypes)["price"] == "int"


def test_texts_that_are_more_than_numbers_stay_texts(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a=f"id,zip,seat,long,n\n1,007,12D,{'9' * 40},10\n2,7,12F,1,20\n3,,,,\n")
    found = scan(spark, tmp_path)
    assert read_rows(found) == to_texts([(1, "007", "12D", "9" * 40, 10), (2, "7", "12F", "1", 20), (3, *[None] * 4)])
    assert found.reading.types == {"id": "int", "zip": "string", "seat": "string", "long": "string", "n": "int"}
    write(tmp_path, a="id,zip\n1,007\n2,7\n")
    assert rows(spark, tmp_path, types={"zip": "int"}) == to_texts([(1, 7), (2, 7)])


def test_the_output_keeps_texts_that_are_more_than_integers(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,zip,n\n007,1,007\n+7,2,8\n,3,9\n")
    reading = Reading("csv", LEARNED.options, {"id": "int", "zip": "string", "n": "int"}, kept=("id", "zip"))
    message = refused(spark, tmp_path, reading=reading)
    assert "1 of 3 rows" in message and "'007' in column 'id', whose type is int" in message
    assert "only source.types: {id: int} allows" in message
    found = scan(spark, tmp_path, reading=reading, on_bad_row="skip")
    assert (read_rows(found, "id", "n"), found.bad_rows) == (to_texts([(7, 8), (None, 9)]), 1)
    assert rows(spark, tmp_path, "id", reading=reading, types={"id": "int"}) == to_texts([(7,), (7,), (None,)])
    assert rows(spark, tmp_path, "id", reading=reading, types={"id": "string"}) == to_texts(
        [("007",), ("+7",), (None,)]
    )


def test_types_of_several_headers_are_combined(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,n,t\n1,1,1\n", b="n,t,id\n1.5,x,2\n")
    assert rows(spark, tmp_path, "id", "n", "t") == to_texts([(1, 1.0, "1"), (2, 1.5, "x")])


def test_decimal_commas(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id;price\n1;3,14\n2;1.000,50\n3;\n")
    found = scan(spark, tmp_path, options={"sep": ";", "locale": "de-DE"}, types={"price": "decimal(18,2)"})
    assert [row.price and float(row.price) for row in found.table.orderBy("id").collect()] == [3.14, 1000.5, None]


def test_null_value(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,n\n1,NA\n2,7\n")
    assert rows(spark, tmp_path, options={"nullValue": "NA"}) == to_texts([(1, None), (2, 7)])


def test_damaged_and_empty_files(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id\n1\n", b="")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"id\n" + b"2\n" * 9999)[:-9])
    assert "b.csv (it is empty, not even a header)" in refused(spark, tmp_path)
    found = scan(spark, tmp_path, on_corrupt="skip")
    assert read_rows(found) == to_texts([(1,)])
    assert found.skipped == (f"{tmp_path}/b.csv", f"{tmp_path}/c.csv.gz")


def test_a_model_of_an_older_version_is_read_with_sparks_defaults(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a='id,t\n1,"a \\"b\\""\n2,"a ""b"""\n')
    given = {"header": True, "inferSchema": True}
    assert rows(spark, tmp_path, reading=None, options=given) == to_texts([(1, 'a "b"'), (2, '"a ""b"""')])
    assert rows(spark, tmp_path, reading=None) == to_texts([("id", "t"), ("1", 'a "b"'), ("2", '"a ""b"""')])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"mode": "DROPMALFORMED"}}, "source.options.mode.*on_bad_row"),
        ({"options": {"columnNameOfCorruptRecord": "c"}}, "on_bad_row"),
        ({"options": {"samplingRatio": 0.1}}, "source.types"),
        ({"options": {"encoding": "UTF-16", "multiLine": False}}, "line ends of UTF-16"),
        (
            {"options": {"encoding": "utf-9"}},
            "source.options.encoding: 'utf-9' given, which is not an encoding of Java",
        ),
        ({"options": {"encoding": "klingon 9"}}, "source.options.encoding: 'klingon 9'"),
        ({"options": {"quote": "ab"}}, "source.options.*quote"),
        ({"types": {"v": "integr"}}, "source.types.v: 'integr' given"),
        ({"types": {"w": "int"}}, "source.types: 'w' is not a column"),
    ],
)
def test_options_that_are_refused(
    spark: SparkSession, tmp_path: Path, settings: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        scan(spark, write(tmp_path, a="id,v\n1,2\n"), **settings)


def test_a_header_below_comments_and_blank_lines_is_the_file_s_own(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="  \n# export\nid,v\n1,x\n", b="  \n# export\nv,id\ny,2\n")
    assert rows(spark, tmp_path, options={"comment": "#"}) == to_texts([(1, "x"), (2, "y")])


CHANGED_BY_INFERENCE = [
    ("12:30", "9:15"),  # Spark adds today's date
    ("2026-01", "2026-02"),
    (" 007", "7"),
    ("12D ", "1.5"),
    ("٩", "9"),
    ("12e4567", "1"),  # infinity
    ("9007199254740993", "NaN"),  # no double equals 2⁵³ + 1
    ("9007199254740993", "1.5"),
]


def test_values_that_an_inferred_type_would_change_stay_texts(spark: SparkSession, tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(len(CHANGED_BY_INFERENCE))]
    lines = (
        [*names, "n", "d"],
        *(
            [*row, n, d]
            for row, n, d in zip(
                zip(*CHANGED_BY_INFERENCE, strict=True),
                ["9007199254740993", "2"],
                ["2026-1-5 10:00", "2026-01-06"],
                strict=True,
            )
        ),
    )
    write(tmp_path, a="".join(",".join(line) + "\n" for line in lines))
    assert rows(spark, tmp_path, *names) == to_texts([*zip(*CHANGED_BY_INFERENCE, strict=True)])
    assert scan(spark, tmp_path, "n", "d").reading.types.items() >= {("n", "bigint"), ("d", "timestamp")}


def test_types_of_columns_that_training_did_not_read_are_not_learned(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a="id,zip\n1,007\n2,7\n")
    learned = scan(spark, tmp_path, "id").reading
    assert learned.types == {"id": "int"}
    assert rows(spark, tmp_path, "id", "zip", reading=learned) == to_texts([(1, "007"), (2, "7")])


@pytest.mark.parametrize(
    ("text", "multi_line"),
    [
        ('{"id": 1}\n{"id": 2}{"id": 3}\n', False),
        ('{"id": 1}, {"id": 2}\n', False),
        ('{"id": {"a": "}{"}} 5\n', False),
        ('{\n"id": 1}\n{\n"id": 2}\n', True),
    ],
)
def test_values_of_json_that_spark_would_ignore(
    spark: SparkSession, tmp_path: Path, text: str, multi_line: bool
) -> None:
    (tmp_path / "a.json").write_text(text)
    assert "one object per line" in refused(spark, tmp_path, format="json", options={"multiLine": multi_line})


def test_values_of_json_that_only_look_like_several(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": 1, "t": "}{ \\"} x"},\n{"id": 2, "a": [{"b": 1}, {"b": 2}]}')
    assert rows(spark, tmp_path, "id", "t", format="json") == to_texts([(1, '}{ "} x'), (2, None)])
    (tmp_path / "a.json").write_text('[{"id": 1},\n{"id": 2}\n]\n')
    assert rows(spark, tmp_path, "id", format="json", options={"multiLine": True}) == to_texts([(1,), (2,)])


def test_line_ends_where_quotes_cannot_be_followed(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a='id||v\r\n1||"x, y"\r\n2||z\n')
    message = refused(spark, tmp_path, options={"sep": "||"})
    assert "source.options.lineSep" in message and "multiLine: false" in message
    expected = to_texts([(1, "x, y"), (2, "z")])
    assert rows(spark, tmp_path, options={"sep": "||", "multiLine": False}) == expected
    write(tmp_path, a='id||v\r\n1||"x, y"\r\n2||z\r\n')
    assert rows(spark, tmp_path, options={"sep": "||"}) == expected


def test_doubled_quotes_where_the_escape_is_another_character(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, a='id,v\n1,"x \\"y\\""\n2,"c:\\\\"\n')
    assert rows(spark, tmp_path, options={"escape": "\\"}) == to_texts([(1, 'x "y"'), (2, "c:\\")])
    write(tmp_path, a='id,v\n1,"x ""y"""\n')
    assert "source.options.escape" in refused(spark, tmp_path, options={"escape": "\\"})


@pytest.mark.parametrize("text", ['{\n "id": 1\n}\n', '[{"id": 1},\n {"id": 2}]\n'])
def test_json_on_several_lines_names_the_option(spark: SparkSession, tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert "multiLine: true" in refused(spark, tmp_path, format="json")


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ('["a", "b"]', '"a"', r"""'["a", "b"]'"""),
        ('"a"', '{"n": "a"}', r"""'{"n": "a"}'"""),
        ("7", "[]", "'[]'"),
    ],
)
def test_arrays_of_json_do_not_become_texts(
    spark: SparkSession, tmp_path: Path, first: str, second: str, found: str
) -> None:
    for i, value in enumerate((first, second)):
        (tmp_path / f"{i}.json").write_text(f'{{"id": {i}, "city": {value}}}\n{{"id": {i + 10}}}\n')
    message = refused(spark, tmp_path, "id", "city", format="json")
    assert "Column 'city'" in message and found in message and "source.types: {city: string}" in message
    assert len(rows(spark, tmp_path, "id", "city", format="json", types={"city": "string"})) == 4
    assert len(rows(spark, tmp_path, "id", format="json")) == 4  # the column is not read
    learned = Reading("json", {}, {"id": "bigint", "city": "string"})  # texts in training
    (tmp_path / f"{int(first.startswith('['))}.json").unlink()
    assert "Column 'city'" in refused(spark, tmp_path, "id", "city", format="json", reading=learned)


def test_strings_of_json_that_look_like_arrays(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"id": 1, "city": "[a"}\n{"id": 2, "city": " {b}"}\n{"id": 3}\n')
    assert rows(spark, tmp_path, "id", "city", format="json") == to_texts([(1, "[a"), (2, " {b}"), (3, None)])
