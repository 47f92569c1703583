"""Seeded 64-bit hash of texts, the same on every machine and in every version.

It determines a row's fold, the bucket of an out-of-vocabulary value and a value's slot in the vocabulary's index.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import null_mask, text_buffers

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xD6E8FEB86659FD93)
# _KEEP[n] keeps the n lowest bytes of a little-endian word.
_KEEP = np.array([(1 << (8 * n)) - 1 for n in range(9)], dtype=np.uint64)


def _mix(h: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of splitmix64 (Steele, Lea & Flood 2014): each input bit affects each output bit."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def hash64(texts: pa.Array, seed: int = 0) -> NDArray[np.uint64]:
    """Hash the UTF-8 bytes of N texts (`large_string`), eight at a time; (N,) uint64. A null has its own hash."""
    offsets, text = text_buffers(texts)
    begin, length = offsets[:-1] - offsets[0], np.diff(offsets)
    padded = np.zeros(len(text) + 8, np.uint8)  # a word may be read at the last byte
    padded[: len(text)] = text
    words: NDArray[np.uint64] = np.ndarray((len(text) + 1,), "<u8", padded, 0, (1,))

    with np.errstate(over="ignore"):
        start = _mix(np.array([seed], np.uint64) + _GOLDEN)
        h = _mix(start ^ (length.astype(np.uint64) * _GOLDEN))
        position, active = 0, np.flatnonzero(length > 0)
        while active.size:
            word = words[begin[active] + position] & _KEEP[np.minimum(length[active] - position, 8)]
            h[active] = _mix((h[active] ^ word) + _GOLDEN)
            position += 8
            active = active[length[active] > position]
        if texts.null_count:
            h[null_mask(texts)] = _mix(start ^ _NULL)[0]
    return h


def hash_integers(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash N integers; (N,) uint64, all different for different integers."""
    return _mix(values.view(np.uint64) ^ _GOLDEN)


def hash_rows(columns: list[pa.Array], seed: int) -> NDArray[np.uint64]:
    """Hash N rows of several text columns; (N,) uint64. The order of the columns matters."""
    return combine_hashes([hash64(texts, seed) for texts in columns])


def combine_hashes(hashes: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Combine the (N,) hashes of several columns; (N,) uint64. The order of the columns matters."""
    combined: NDArray[Any] = np.zeros(len(hashes[0]), np.uint64)
    with np.errstate(over="ignore"):
        for column in hashes:
            combined = _mix((combined ^ column) + _GOLDEN)
    return combined
