"""Write rows into partition folders, named by column values as in Spark: country=DE."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow
from nfm.contract.errors import DataError
from nfm.contract.values import canonical_text, check_kind, dictionary_indices, encode_dictionary
from nfm.table.write import Writer

_ESCAPED = re.compile(r"""[\x01-\x1f\x7f"#%'*/:=?\\{\[\]^]""")  # the characters that Spark escapes
_MAX_NAME_BYTES = 200
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # Spark's name for the partition of null
NO_FOLDER = -1


def add_by_folder(
    writer: Writer,
    table: pa.Table,
    folders: Sequence[str],
    code: NDArray[np.integer],
    partitions: Mapping[str, pa.Array],
    key: str,
) -> None:
    """Write N rows into folders, and below these into partition folders.

    Args:
        writer: Writes the rows into files.
        table: The N rows.
        folders: Names of the folders.
        code: (N,) index of each row's folder; rows with NO_FOLDER are not written.
        partitions: (N,) values of each partition column, by its name.
        key: The setting that names the partition columns, for messages.

    Raises:
        DataError: a column is not categorical, or a value is too long for a folder's name.
    """
    labels, code = list(folders), code.astype(np.int64)
    for name, values in partitions.items():
        encoded, folder_values = _folder_values(values, name)
        texts = folder_values.to_pylist()
        subfolders = [f"{_escape(name, key)}={_escape(text, key) if text else NULL_FOLDER}" for text in [*texts, None]]
        kept = code >= 0
        n = len(subfolders)
        combined = np.where(kept, code * n + dictionary_indices(encoded), NO_FOLDER)
        used = np.unique(combined[kept])
        labels = [f"{labels[i // n]}/{subfolders[i % n]}".lstrip("/") for i in used]
        code = np.where(kept, np.searchsorted(used, combined), NO_FOLDER)
    for i, label in enumerate(labels):
        rows = np.flatnonzero(code == i)
        if len(rows):
            writer.add(label, table.take(to_arrow(rows)) if len(rows) < len(table) else table)


def folder_values(path: str, names: Sequence[str]) -> tuple[str | None, ...] | None:
    """Return the values of these columns from the names of a file's folders; None if a column is missing there."""
    values: dict[str, str] = {}
    for folder in reversed(PurePosixPath(path).parent.parts):
        name, equals, text = folder.partition("=")
        if equals:  # Spark escapes characters, not bytes
            values.setdefault(unquote(name, encoding="latin-1").lower(), unquote(text, encoding="latin-1"))
    if not all(name.lower() in values for name in names):
        return None
    return tuple(None if values[n.lower()] == NULL_FOLDER else values[n.lower()] for n in names)


def _folder_values(values: pa.Array, name: str) -> tuple[pa.DictionaryArray, pa.Array]:
    """Return a partition column as a dictionary, and the text of each of its values."""
    kind = check_kind(name, values.type, "the table")
    encoded = encode_dictionary(values)
    return encoded, canonical_text(encoded.dictionary, kind, name)


def folder_texts(values: pa.Array, name: str) -> pa.Array:
    """Return the (N,) texts of a partition column (`large_string`) as readers of the folders get them."""
    encoded, texts = _folder_values(values, name)
    return pc.if_else(pc.equal(texts, ""), None, texts).take(encoded.indices)


def folder_text(folder: str, name: str, rows: int) -> pa.Array:
    """Return (N,) equal texts (`large_string`): the value of a partition column in the name of a folder."""
    (text,) = folder_values(f"{folder}/file", [name]) or (None,)
    return pa.repeat(pa.scalar(text, pa.large_string()), rows)


def _escape(text: str, key: str) -> str:
    """Escape a folder's name as Spark does. (Spark reads an empty text as null.)"""
    name = _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)
    if len(name.encode()) > _MAX_NAME_BYTES:
        raise DataError(
            f"{key}: the value {text[:40]!r}… is too long for the name of a folder "
            f"({len(name.encode())} bytes, {_MAX_NAME_BYTES} at most). Choose a column with short values."
        )
    return name
