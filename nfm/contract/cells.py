"""A number's distribution as counted cells: exact while it has few values, coarser as it has more.

A cell holds the floats that share their sign, exponent and leading bits of the mantissa. While a number has at most
LIMIT distinct values each has a cell of its own; beyond that the cells of all are widened, a bit at a time, until at
most LIMIT are left. The outcome is a function of the rows alone: whatever the order and the partitions in which they
are counted and merged, the cells are the same. It is the uniform collapse of UDDSketch (Epicoco et al. 2020) on binary
floats. A value read from a cell is off by at most 2^-(bits + 1) of itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.arrays import arrow, content

LIMIT = 8192
EXACT = 52  # bits of a float's mantissa
_DENSE = 1 << 16  # so many cells beside each other are counted in an array, without looking for them
_MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Cells:
    """C cells in ascending order."""

    bits: int  # of the mantissa that tell cells apart
    keys: NDArray[np.int64]  # (C,)
    counts: NDArray[np.int64]  # (C, G): how many rows of each of G groups

    @property
    def values(self) -> NDArray[np.float64]:
        """(C,) a value of each cell: its only one where the cells are exact, else the middle."""
        shift = EXACT - self.bits
        middle = (self.keys << shift) + (1 << shift >> 1)
        middle = np.where(self.keys == 0, 0, middle)  # the cell of zero stays zero
        limit = np.finfo(np.float64).max
        return np.clip(np.where(middle < 0, middle ^ _MAGNITUDE, middle).view(np.float64), -limit, limit)


def cells(
    x: NDArray[np.float64], groups: NDArray[Any], size: int, bits: int = EXACT, limit: int | None = None
) -> Cells:
    """Count N finite numbers.

    Args:
        x: (N,) finite numbers.
        groups: (N,) which of `size` groups each belongs to.
        size: G.
        bits: cells finer than this are of no use to the caller.
        limit: so many cells at most; LIMIT unless given.
    """
    as_int = (x + 0.0).view(np.int64)  # + 0.0 makes -0.0 the same as 0.0
    ordered = np.where(as_int < 0, as_int ^ _MAGNITUDE, as_int)  # ascending as the floats are
    keys = ordered >> (EXACT - bits)
    low, high = (int(keys.min()), int(keys.max())) if len(keys) else (0, 0)
    if high - low < _DENSE:
        counts = np.bincount((keys - low) * size + groups, minlength=(high - low + 1) * size).reshape(-1, size)
        seen = np.flatnonzero(counts.any(axis=1))
        return merge([Cells(bits, seen + low, counts[seen])], limit)
    encoded = arrow(keys).dictionary_encode()
    codes = content(encoded.indices).astype(np.int64) * size + groups
    counts = np.bincount(codes, minlength=len(encoded.dictionary) * size).reshape(-1, size)
    return merge([Cells(bits, content(encoded.dictionary), counts)], limit)


def merge(parts: Sequence[Cells], limit: int | None = None) -> Cells:
    """One for several, in any order and grouping the same. At most `limit` cells, LIMIT unless given."""
    limit = limit or LIMIT
    bits = min(part.bits for part in parts)
    keys = np.concatenate([part.keys >> (part.bits - bits) for part in parts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], np.concatenate([part.counts for part in parts])[order]
    if len(keys) > 1:
        # The highest bit in which neighbours differ: shifted by so much, they are one.
        lengths = _bit_length(keys[1:] ^ keys[:-1])
        shift = 0 if len(keys) <= limit else max(0, int(np.partition(lengths, -limit)[-limit]))
        starts = np.flatnonzero(np.concatenate([[True], lengths > shift]))
        keys, counts, bits = keys[starts] >> shift, np.add.reduceat(counts, starts, axis=0), bits - shift
    return Cells(bits, keys, counts)


def quantile(values: NDArray[np.float64], counts: NDArray[np.int64], q: float) -> float:
    """The q-quantile of N rows, between two of them by linear interpolation, as NumPy and pandas have it.

    Args:
        values: (C,) ascending.
        counts: (C,) how many rows have each; N together, at least one.
        q: from 0 to 1.
    """
    ends = np.cumsum(counts)
    place = q * (int(ends[-1]) - 1)
    low, high = (values[np.searchsorted(ends, at, side="right")] for at in (np.floor(place), np.ceil(place)))
    return float(low if low == high else low + (high - low) * (place - np.floor(place)))


def _bit_length(x: NDArray[np.int64]) -> NDArray[np.int32]:
    bits = x.view(np.uint64)
    high, low = (bits >> np.uint64(32)).astype(np.float64), (bits & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int32)
