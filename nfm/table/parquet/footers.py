"""Read the types in the footers of Parquet files: types that Spark cannot read, and columns without a type.

Spark takes a table's types from the file whose path sorts first, unless mergeSchema is set.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.table.parquet.files import open_parquet, untyped_error
from nfm.table.relation import Relation
from nfm.table.spark import load
from nfm.table.store import uri_to_path

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

# Spark's errors. [PARQUET_TYPE_ILLEGAL] Illegal Parquet type: INT64 (TIMESTAMP(NANOS,true)). SQLSTATE: …
_ILLEGAL = re.compile(r"\[PARQUET_TYPE_[A-Z_]+\] [^:\n]*: (\w+) \((\w+)(?:\((\w+))?")
_OTHERS = {"[UNSUPPORTED_TIME_TYPE]": "TIME", "[DECIMAL_PRECISION_EXCEEDS_MAX_PRECISION]": "DECIMAL"}
_MOST_DIGITS = 38  # of a decimal in Spark
_REMEDIES = {
    "TIMESTAMP": "with microseconds, in pandas and pyarrow with coerce_timestamps='us'",
    "TIME": "with this column as a string or an integer",
    "FLOAT16": "with this column as float32",
    "UUID": "with this column as a string",
    "DECIMAL": f"with at most {_MOST_DIGITS} digits",
}
_UNITS = {"MILLIS": "milliseconds", "MICROS": "microseconds", "NANOS": "nanoseconds"}


def explain_types(spark: SparkSession, source: "Source", error: Exception) -> DataError | None:
    """Return the error about the column whose type Spark cannot read or merge; None if the error is another one."""
    text = str(error)
    illegal, other = _ILLEGAL.search(text), next((type_ for name, type_ in _OTHERS.items() if name in text), None)
    if source.table is not None or not (illegal or other or "CANNOT_MERGE" in text):
        return None
    uris = sorted(load(spark, source, "unknown string").inputFiles())  # with a schema, Spark opens no file
    if not (illegal or other):
        return next((_explain_untyped(name, one) for name, one in _find_untyped(uris).items() if one.other), None)
    physical, logical, unit = illegal.groups() if illegal else (None, other, None)
    for path, file in _open_all(uris):
        for i in range(len(file.schema)):
            column = file.schema.column(i)
            if physical in (None, column.physical_type) and _is_refused(column, str(logical), unit):
                remedy = _REMEDIES.get(str(logical), "with this column in another type")
                # The path of a nested field begins with the column's name, which may contain dots.
                found = max((f for f in file.schema_arrow if f"{column.path}.".startswith(f"{f.name}.")), key=_length)
                return DataError(
                    f"Column {quoted(found.name)} of {path} is {found.type} (in Parquet {logical}), which Spark cannot "
                    f"read. Write this file again {remedy}."
                )
    return None


def _length(field: pa.Field) -> int:
    return len(field.name)


def _is_refused(column: Any, logical: str, unit: str | None) -> bool:
    """Return whether a column has the logical type that Spark names, such as TIMESTAMP in NANOS."""
    found = json.loads(column.logical_type.to_json())
    if logical == "DECIMAL" and found.get("precision", 0) <= _MOST_DIGITS:
        return False
    return bool(logical == found["Type"].upper() and (unit is None or _UNITS.get(unit, unit) == found.get("timeUnit")))


class Untyped(NamedTuple):
    """A column that has no type in a file, because all its values there are null."""

    path: str  # the first such file
    other: str | None = None  # the first file in which the column has a type
    type: pa.DataType | None = None


def needed_columns(
    needed: Callable[[pa.Schema], Iterable[str]], schema: pa.Schema, relation: Relation | None
) -> list[str]:
    """Return the columns that will be read. If the table is refused, try again with the types of the other files.

    Spark reads a column without a type as integers. A column that has no type in any file gets the type null.
    """
    try:
        return list(dict.fromkeys(needed(schema)))
    except DataError:
        untyped = _find_untyped(relation.uris if relation is not None else ())
        fields = [f.with_type(untyped[f.name].type or pa.null()) if f.name in untyped else f for f in schema]
        if pa.schema(fields) == schema:
            raise
        names = list(dict.fromkeys(needed(pa.schema(fields))))
        if wrong := next((name for name in names if name in untyped and untyped[name].other), None):
            raise _explain_untyped(wrong, untyped[wrong]) from None
        return names


def _explain_untyped(name: str, column: Untyped) -> DataError:
    assert column.other is not None and column.type is not None
    return untyped_error(name, column.path, column.type, column.other)


def _find_untyped(uris: Sequence[str]) -> dict[str, Untyped]:
    """Return the columns that have no type in the first files; files that cannot be read are left out."""
    untyped, typed = dict[str, Untyped](), set[str]()
    for path, file in _open_all(uris):
        for field in file.schema_arrow:
            if pa.types.is_null(field.type):
                untyped.setdefault(field.name, Untyped(path))
            elif field.name not in typed:
                typed.add(field.name)
                if field.name in untyped:
                    untyped[field.name] = untyped[field.name]._replace(other=path, type=field.type)
        if typed >= untyped.keys():
            break
    return {name: column for name, column in untyped.items() if column.other or name not in typed}


def _open_all(uris: Iterable[str]) -> Iterator[tuple[str, pq.ParquetFile]]:
    for path in map(uri_to_path, uris):
        with suppress(OSError, ValueError, pa.ArrowException):  # the scan reports files that cannot be read
            yield path, open_parquet(path)
