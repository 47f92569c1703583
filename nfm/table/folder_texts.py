"""Check that values in the names of folders, such as shop=007, stay different values when Spark reads them."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from nfm.contract.errors import DataError
from nfm.contract.messages import quoted
from nfm.contract.values import canonical_text, kind_of
from nfm.table.folders import NULL_FOLDER
from nfm.table.splits import File
from nfm.table.store import is_in_store, uri_to_path

if TYPE_CHECKING:
    from nfm.config.source import Source

_BEYOND_ASCII = re.compile(r"%[89A-Fa-f][0-9A-Fa-f]")  # pyarrow escapes bytes of UTF-8; Spark only ASCII characters
AS_TEXTS = (
    "Add --spark sql.sources.partitionColumnTypeInference.enabled=false (with spark-submit: --conf "
    "spark.sql.sources.partitionColumnTypeInference.enabled=false)"
)


def check_folder_texts(source: "Source", files: Iterable[File], schema: pa.Schema, columns: Collection[str]) -> None:
    """Check the folders of a table's files.

    Args:
        source: The table.
        files: Its files.
        schema: The types in which its columns are read.
        columns: Columns whose texts are values: keys and those of fields.

    Raises:
        DataError: a name has escapes that Spark misreads, or becomes a number that is more or less than its text.
    """
    found = _find_texts(source, files)
    read = {column.lower() for column in columns}
    read |= {name for name in found if name in (source.where or "").lower()}
    for name in sorted(read & found.keys()):
        for text, folder in found[name].items():
            if _BEYOND_ASCII.search(text):
                wrong, right = unquote(text, encoding="latin-1"), unquote(text, errors="replace")
                raise DataError(
                    f"{folder} has escaped bytes in its name, as pyarrow and pandas write it: Spark would read "
                    f"{quoted(wrong)} instead of {quoted(right)}. Rename the folder to {name}={right} (pyarrow writes "
                    "such names with segment_encoding='none'), or write the table with Spark."
                )
    for column in dict.fromkeys(columns):
        if column.lower() in found and column in schema.names and column not in source.types and source.table is None:
            _check_numbers(column, schema.field(column).type, found[column.lower()])


def check_trained_texts(source: "Source", files: Iterable[File], schema: pa.Schema, columns: Collection[str]) -> None:
    """Check that Spark reads the texts of folders as training did, where training read texts in these columns.

    Spark chooses one type for all folders: shop=007 is a text beside shop=x, and the number 7 beside shop=8.
    """
    found = _find_texts(source, files)
    for column in columns:
        if column.lower() not in found or column not in schema.names:
            continue
        type_ = schema.field(column).type
        for escaped, folder in found[column.lower()].items() if kind_of(type_) not in (None, "text") else ():
            text = unquote(escaped, encoding="latin-1")
            if text != NULL_FOLDER and _canonical(text, type_, column) != text:
                raise DataError(
                    f"{folder} gives column '{column}' the value {quoted(text)}. Tonight, Spark reads the column as "
                    f"{type_}, but training read texts, so this value would get the id of another one. {AS_TEXTS}."
                )


def _canonical(text: str, type_: pa.DataType, column: str) -> str | None:
    """Return the canonical text of the value that Spark reads from a folder's text as this type."""
    try:
        values = pa.array([text]).cast(type_)
    except pa.ArrowInvalid:
        return None  # Spark accepts other spellings, such as 2026-1-5 or a sign, whose canonical text differs
    canonical: str | None = canonical_text(values, kind_of(type_) or "text", column)[0].as_py()
    return canonical


def _find_texts(source: "Source", files: Iterable[File]) -> dict[str, dict[str, str]]:
    """Return the texts in the folders' names as they are written, with a folder of each, by column in lower case."""
    found = defaultdict[str, dict[str, str]](dict)
    if str(source.options.get("recursiveFileLookup", "")).lower() == "true":  # then folders have no values
        return found
    for folder in {str(PurePosixPath(file.path).parent) for file in files}:
        seen = set[str]()
        for part in reversed(_parts_below(source, folder)):
            name, equals, text = part.partition("=")
            name = unquote(name, encoding="latin-1").lower()
            if equals and name not in seen:
                found[name].setdefault(text, folder)
                seen.add(name)
    return found


def _parts_below(source: "Source", folder: str) -> Sequence[str]:
    """Return the names of folders in which Spark looks for values: below the paths of the source, or its base path."""
    parts = PurePosixPath(folder).parts
    for base in [source.options.get("basePath")] if "basePath" in source.options else source.paths:
        path = uri_to_path(str(base))
        patterns = PurePosixPath(path if is_in_store(path) else Path(path).absolute()).parts
        if len(patterns) <= len(parts) and all(map(fnmatchcase, parts, patterns)):
            return parts[len(patterns) :]
    return parts


def _check_numbers(column: str, type_: pa.DataType, texts: dict[str, str]) -> None:
    """Raise DataError if Spark reads texts as numbers, and a number does not determine its text."""
    if kind_of(type_) != "number":
        return
    same: dict[Decimal | float, str] = {}
    for escaped, folder in sorted(texts.items()):
        text = unquote(escaped, encoding="latin-1")
        try:
            exact = Decimal(text.strip().rstrip("dDfF") if text.strip()[-1:].isalpha() else text.strip())
        except InvalidOperation:  # the name of null
            continue
        if not exact.is_finite():
            continue
        value = float(exact) if pa.types.is_floating(type_) else exact
        other = same.setdefault(value, text)
        is_lost = math.isinf(value) or (exact == exact.to_integral_value() and exact != Decimal(value))
        if other != text or is_lost or text.strip()[-1].isalpha():
            also = f", like {quoted(other)}" if other != text else ""
            raise DataError(
                f"{folder} gives column '{column}' the value {quoted(text)}. Spark reads the column as {type_}, and "
                f"this value as {value:g}{also}. {AS_TEXTS} to read texts, or rename the folder."
            )
