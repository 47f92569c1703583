"""Find arrays and objects of JSON in columns of texts: Spark would make a text such as '["a", "b"]' of each."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.table.splits import File
from nfm.table.tasks import run_tasks
from nfm.table.text.files import read_texts
from nfm.table.text.options import layout_of, python_encoding

if TYPE_CHECKING:
    from nfm.config.source import Source

_FOUND = pa.schema([("name", pa.string()), ("file", pa.string()), ("example", pa.string())])


def looks_nested(text: Column) -> Column:
    """Return whether a text may have been an array or an object; a string can begin with the same characters."""
    return F.coalesce(text.rlike(r"^\s*[\[{]"), F.lit(False))


def refuse_nested(spark: SparkSession, source: "Source", files: Sequence[File], names: Sequence[str]) -> None:
    """Raise DataError if an object of the files has an array or an object in one of these columns of texts."""
    encoding, layout = python_encoding(source.options) or "latin-1", layout_of(source)

    def work(file: File) -> Iterator[pa.RecordBatch]:
        found = find_nested(read_texts(file, encoding, layout), names)
        if found is not None:
            yield pa.RecordBatch.from_pylist([dict(zip(_FOUND.names, (found[0], file.path, found[1]), strict=True))])

    first = run_tasks(spark, files, work, _FOUND).first() if names and files else None
    if first is not None:
        raise DataError(
            f"Column '{first.name}' of {source} has texts, numbers or booleans in some objects, and an array or an "
            f"object in others, for example {quoted(first.example)} in {first.file}. Write one form everywhere, or set "
            f"source.types: {{{first.name}: string}} to read the array or object as a text."
        )


def find_nested(texts: Iterator[str], names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first array or object in one of these columns: name and text. Texts that are not JSON are ignored."""
    for text in texts:
        try:
            value, _ = json.JSONDecoder().raw_decode(text.lstrip("\ufeff \t\r\n"))
        except (ValueError, RecursionError):
            continue
        for row in value if isinstance(value, list) else [value]:
            for name in names:
                if isinstance(row, dict) and isinstance(row.get(name), list | dict):
                    return name, json.dumps(row[name], ensure_ascii=False)
    return None
