"""Texts of files become values of a column's type without a change, or are refused."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nfm.config.source import Source
from nfm.table.text.convert import GroupedDouble, Numeral, Rounded, convert, is_changed, parse_types, text_type

BAD = "bad"
INF = float("inf")


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]


# What each text means in a type; BAD where the type has no equal value.
CASES: dict[str, dict[str, Any]] = {
    "decimal(18,2)": {"3.14": Decimal("3.14"), "3.14000": Decimal("3.14"), "-.5": Decimal("-0.50"), "1e2": Decimal(100),
                      "1,234,567.8": Decimal("1234567.8"), "3.14159": BAD, "0.001": BAD, "1e-3": BAD, "3,14": BAD,
                      "12345678901234567": BAD, "abc": BAD, "": BAD},
    "decimal(38,0)": {"9" * 38: Decimal("9" * 38), "9" * 39: BAD, "1.5": BAD},
    "float": {"0.1": 0.10000000149011612, "16777216": 16777216.0, "16777217": BAD, "16777217.0": BAD, "1e39": BAD,
              "16777217.5": BAD, "3000000000": 3e9, "1e-60": BAD, "0.00": 0.0, "-Infinity": -INF},
    "double": {"0.1": 0.1, "9007199254740994": 2.0**53 + 2, "9007199254740993": BAD, "9007199254740993.0": BAD,
               "-9007199254740993": BAD, "100000000000000000000": 1e20, "100000000000000000001": BAD, "1e400": BAD,
               "1e-400": BAD, "1e300": 1e300, "12D": BAD, "0x1p3": BAD, "NA": BAD, "Infinity": INF, " 5": 5.0},
    "int": {"7": 7, "+7": 7, "007": 7, "1.5": BAD, "3.0": BAD, "2147483648": BAD, "": BAD},
    "boolean": {"true": True, "FALSE": False, "yes": BAD, "1": BAD, "": BAD},
    "date": {"2026-01-05": date(2026, 1, 5), "2026-1-5": date(2026, 1, 5), "2026-01-05 00:00:00": date(2026, 1, 5),
             "2026": BAD, "2026-01": BAD, "2026-01-05T99 junk": BAD, "2026-01-05 12:30": BAD, "2026-02-30": BAD},
    "timestamp": {"2026-01-05": at(2026, 1, 5), "2026-01-05 12:30": at(2026, 1, 5, 12, 30),
                  "2026-01-05T12:30:00.1234560+02:00": at(2026, 1, 5, 10, 30, 0, 123456), "12:30": BAD, "2026": BAD,
                  "2026-01": BAD, "2026-01-05 12:30:00.1234567": BAD, "2026-01-05 12:30 junk": BAD},
    "timestamp_ntz": {"2026-01-05 12:30": datetime(2026, 1, 5, 12, 30), "2026-01-05 12:30Z": BAD, "12:30": BAD,
                      "2026-01-05 12:30+02:00": BAD},
}  # fmt: skip
WITH_OPTIONS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("decimal(18,2)", {"locale": "de-DE"}, {"3,14": Decimal("3.14"), "1.234,5": Decimal("1234.5"), "3.14": BAD}),
    ("date", {"dateformat": "dd.MM.yyyy"}, {"05.01.2026": date(2026, 1, 5), "2026-01-05 x": BAD, "05.01\n2026": BAD}),
    ("timestamp", {"timestampformat": "dd.MM.yyyy HH:mm"}, {"05.01.2026 12:30": at(2026, 1, 5, 12, 30), "x": BAD}),
    ("timestamp", {"timezone": "+02:00"}, {"2026-01-05 12:30": at(2026, 1, 5, 10, 30), "12:30": BAD}),
    ("double", {"positiveinf": "max"}, {"max": INF, "1.5": 1.5, "min": BAD}),
]  # fmt: skip


def converted(spark: SparkSession, type_: str, options: dict[str, str], texts: list[str]) -> dict[str, Any]:
    of, source = parse_types({"x": type_})["x"], Source(format="csv", path="x", options=options)
    table = spark.createDataFrame([*((text,) for text in texts), (None,)], "x string")
    value, changed = convert(F.col("x"), of, source), is_changed(F.col("x"), of, source)
    # A double represents every float, and a text every time.
    value = value.cast("double") if type_ == "float" else value.cast("string") if "stamp" in type_ else value
    rows = {
        row.x: BAD if row.changed else row.value
        for row in table.select("x", value.alias("value"), changed.alias("changed")).collect()
    }
    assert rows.pop(None) is None
    return rows


def readable(value: Any) -> Any:
    """Return a time as Spark's texts of it, in the zone of the session: UTC."""
    return f"{value.replace(tzinfo=None)}".removesuffix("+00:00") if isinstance(value, datetime) else value


@pytest.mark.parametrize(
    ("type_", "options", "cases"), [*((t, {}, cases) for t, cases in CASES.items()), *WITH_OPTIONS]
)
def test_values_are_exact_or_bad(
    spark: SparkSession, type_: str, options: dict[str, str], cases: dict[str, Any]
) -> None:
    expected = {text: readable(value) for text, value in cases.items()}
    assert converted(spark, type_, options, list(cases)) == expected


def test_values_inside_others(spark: SparkSession) -> None:
    inside = "array<struct<a:double,b:map<string,decimal(4,1)>,c:string>>"
    type_, source = parse_types({"x": inside})["x"], Source(format="json", path="x")
    assert text_type(type_).simpleString() == "array<struct<a:string,b:map<string,string>,c:string>>"
    rows = [
        (1, [("1.5", {"k": "2.5"}, "t"), None]),
        (2, [("1", {"k": "2.55"}, "t")]),
        (3, [("9007199254740993", None, None)]),
        (4, None),
    ]
    table = spark.createDataFrame(rows, T.StructType().add("id", T.IntegerType()).add("x", text_type(type_)))
    x = F.col("x")
    found = {
        r.id: r
        for r in table.select(
            "id", convert(x, type_, source).alias("x"), is_changed(x, type_, source).alias("bad")
        ).collect()
    }
    assert [found[i].bad for i in (1, 2, 3, 4)] == [False, True, True, False]
    first, second = found[1].x
    assert (first.a, first.b, first.c, second) == (1.5, {"k": Decimal("2.5")}, "t", None)
    assert found[4].x is None


@pytest.mark.parametrize(
    ("options", "texts"),
    [({}, ["1,234.5", "7", "1,5", "A,7", "NaN"]), ({"locale": "de-DE"}, ["1.234,5", "7", "1.5", "A.7", "NaN"])],
)
def test_decimals_of_the_training(spark: SparkSession, options: dict[str, str], texts: list[str]) -> None:
    """Check columns that were decimals in training, and that only the encoder reads: fields, then numbers."""
    source, x = Source(format="csv", path="x", options=options), F.col("x")
    table = spark.createDataFrame([(text,) for text in texts], "x string")
    found = table.select(convert(x, Numeral(), source), convert(x, GroupedDouble(), source).cast("string")).collect()
    assert [row[0] for row in found] == ["1234.5", "7", None, texts[3], "NaN"]
    assert [row[1] for row in found] == ["1234.5", "7.0", None, None, "NaN"]


def test_integers_that_may_be_rounded(spark: SparkSession) -> None:
    """Check columns that were integers in training, and that only the encoder reads as numbers."""
    table = spark.createDataFrame([("9007199254740993",), ("1.5",), ("1e400",), ("few",)], "x string")
    source = Source(format="csv", path="x")
    assert [row[0] for row in table.select(convert(F.col("x"), Rounded(), source)).collect()] == [
        2.0**53,
        1.5,
        None,
        None,
    ]
