"""Which fold a row belongs to: decided by its key columns alone."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nfm.contract.hashing import hash_rows
from nfm.contract.values import canonical_text, kind_of


def fold_of(columns: Iterable[pa.Array], valid: float, test: float, seed: int) -> NDArray[np.int8]:
    """(N,) positions in FOLDS (0 train, 1 valid, 2 test), by a hash of N rows' key columns.

    A row's fold depends on nothing but the row: reordering, repartitioning and new rows move none. The test fold is cut
    off first, so that another share for validation leaves it as it is.

    Args:
        columns: the key columns; a value reads the same whatever its type (`canonical_text`).
        valid: share of the rows.
        test: share of the rows.
        seed: another seed, another split.
    """
    position = hash_rows([_text(column) for column in columns], seed).astype(np.float64) / 2.0**64  # in [0, 1]
    return np.select([position < test, position < test + valid], [np.int8(2), np.int8(1)], np.int8(0))


def _text(values: pa.Array) -> pa.Array:
    kind = kind_of(values.type)
    if kind is None:  # a timestamp, say: no category, but a key as good as any
        return pc.cast(values, pa.large_string())
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    return canonical_text(encoded.dictionary, kind, "key").take(encoded.indices)
