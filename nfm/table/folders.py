"""Put rows into folders that are named by the values of columns, as Spark names them: country=DE."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow
from nfm.contract.errors import DataError
from nfm.contract.values import canonical_text, check_kind, dictionary_indices, encode_dictionary
from nfm.table.write import Writer

_ESCAPED = re.compile(r"""[\x01-\x1f\x7f"#%'*/:=?\\{\[\]^]""")  # the characters that Spark escapes
_LONGEST = 200  # bytes of a folder's name
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # Spark's name for the partition of null
NOWHERE = -1


def add_by_folder(
    writer: Writer,
    table: pa.Table,
    folders: Sequence[str],
    code: NDArray[np.integer],
    partitions: Mapping[str, pa.Array],
    key: str,
) -> None:
    """Write N rows into their folders by (N,) code, and inside these into partitions by columns of (N,) values.

    The code NOWHERE leaves a row out. Messages name the settings' `key` for partitions.

    Raises:
        DataError: a column is not categorical, or a value is too long for a folder's name.
    """
    labels, code = list(folders), code.astype(np.int64)
    for name, values in partitions.items():
        kind = check_kind(name, values.type, "the table")
        encoded = encode_dictionary(values)
        texts = canonical_text(encoded.dictionary, kind, name).to_pylist()
        steps = [f"{_escaped(name, key)}={_escaped(text, key) if text else _NULL_FOLDER}" for text in [*texts, None]]
        kept = code >= 0
        combined = np.where(kept, code * len(steps) + dictionary_indices(encoded), NOWHERE)
        seen = np.unique(combined[kept])
        labels = [f"{labels[i // len(steps)]}/{steps[i % len(steps)]}".lstrip("/") for i in seen]
        code = np.where(kept, np.searchsorted(seen, combined), NOWHERE)
    for i, label in enumerate(labels):
        rows = np.flatnonzero(code == i)
        if len(rows):
            writer.add(label, table.take(to_arrow(rows)) if len(rows) < len(table) else table)


def _escaped(text: str, key: str) -> str:
    """Escape a folder's name as Spark does. (Spark reads an empty text as null.)"""
    name = _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)
    if len(name.encode()) > _LONGEST:
        raise DataError(
            f"{key}: the value {text[:40]!r}… is too long for the name of a folder "
            f"({len(name.encode())} bytes, {_LONGEST} at most). Choose a column of short values."
        )
    return name
