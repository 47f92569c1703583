"""Find keys of JSON that occur twice in an object or differ only in case: Spark would read one of their values."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.table.splits import File
from nfm.table.store import uri_to_path
from nfm.table.tasks import run_tasks
from nfm.table.text.files import read_texts
from nfm.table.text.options import layout_of, python_encoding

if TYPE_CHECKING:
    from nfm.config.source import Source

_CASE = "spark.sql.caseSensitive"

KEYS = pa.schema([("key", pa.string()), ("objects", pa.int64()), ("file", pa.string()), ("example", pa.string())])


def infer_objects(
    spark: SparkSession, source: "Source", files: Sequence[File], infer: Callable[[], T.StructType]
) -> T.StructType:
    """Return the type of a table's objects as `infer` returns it; DataError if a key of theirs is ambiguous."""
    setting = str(spark.conf.get(_CASE))
    try:
        spark.conf.set(_CASE, "true")  # Spark would merge spellings silently, and then read one of them
        objects = infer()
        spellings = find_spellings(objects) if setting != "true" else ()
        is_ambiguous = bool(spellings)
    except AnalysisException as error:
        if "COLUMN_ALREADY_EXISTS" not in str(error):
            raise
        spellings, is_ambiguous = (), True
    finally:
        spark.conf.set(_CASE, setting)
    if is_ambiguous:
        raise _refuse_keys(source, _find_keys(spark, source, files, spellings), spellings)
    return objects


def _find_keys(spark: SparkSession, source: "Source", files: Sequence[File], spellings: Sequence[str]) -> "list[Key]":
    encoding, layout = python_encoding(source.options), layout_of(source)

    def work(file: File) -> Iterator[pa.RecordBatch]:
        keys = count_keys(read_texts(file, encoding or "latin-1", layout), file.path, spellings)
        yield pa.RecordBatch.from_pylist([key._asdict() for key in keys], KEYS)

    return [Key(**row.asDict()) for row in run_tasks(spark, files, work, KEYS).collect()] if files else []


def _refuse_keys(source: "Source", found: "Sequence[Key]", spellings: Sequence[str]) -> DataError:
    counts = Counter[str]()
    for key in found:
        counts[key.key] += key.objects
    rarest = min(found, key=lambda key: counts[key.key], default=None)
    example = ""
    if rarest is not None:
        example = f", for example {rarest.key!r} in {uri_to_path(rarest.file)}: {quoted(rarest.example)}"
    if not spellings:
        return DataError(
            f"A key occurs twice in the same object of {source}{example}. JSON does not define which value counts. "
            "Remove one of them, then run the job again."
        )
    first, second = spellings
    return DataError(
        f"Key {first!r} is written {second!r} in other objects of {source} ({counts[first]:,} and {counts[second]:,} "
        f"objects){example}. Spark column names are case-insensitive, so one of them would be null. Write the same key "
        f"everywhere, or set {_CASE}=true (--spark) to read two columns."
    )


class Key(NamedTuple):
    """A key, and the objects of a file that have it."""

    key: str
    objects: int
    file: str
    example: str  # text that contains one of them


def find_spellings(type_: T.DataType) -> tuple[str, ...]:
    """Return two keys of the same objects that differ only in case; empty if there are none."""
    match type_:
        case T.ArrayType():
            return find_spellings(type_.elementType)
        case T.StructType():
            seen = dict[str, str]()
            for field in type_:
                if (other := seen.setdefault(field.name.lower(), field.name)) != field.name:
                    return other, field.name
            return next(filter(None, (find_spellings(field.dataType) for field in type_)), ())
    return ()


def count_keys(texts: Iterable[str], file: str, spellings: Collection[str]) -> list[Key]:
    """Return how many objects of a file have these keys; without spellings, the keys that objects have twice.

    Texts that are not JSON are ignored.
    """
    found = dict[str, Key]()
    text = ""

    def note_keys(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(name for name, _ in pairs)
        for name in counts.keys() & set(spellings) if spellings else {name for name, n in counts.items() if n > 1}:
            key = found.get(name, Key(name, 0, file, text[:200]))
            found[name] = key._replace(objects=key.objects + 1)

    decoder = json.JSONDecoder(object_pairs_hook=note_keys)
    for text in texts:
        try:
            decoder.raw_decode(text.lstrip("\ufeff \t\r\n"))
        except (ValueError, RecursionError):
            continue
    return list(found.values())
