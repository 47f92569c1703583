"""Distribution of a number as counts in cells: exact for few distinct values, coarser for more.

A cell contains the floats that share their sign, exponent and leading bits of the mantissa. While a number has at most
`limit` distinct values, each has its own cell; beyond that all cells are widened, one bit at a time, until at most
`limit` are left. The cells depend only on the rows: any order, partition and grouping of merges gives the same cells.
This is the uniform collapse of UDDSketch (Epicoco et al. 2020) on binary floats. A value read from a cell is off by at
most 2^-(bits + 1) of itself.

The rows of one cell count as ties. With p_c and n_c the weights of its positive and negative rows, and P and N their
sums, an AUC is off by at most ½ Σ_c p_c n_c / (P N), c over the cells of several values: with 2¹⁸ cells below 1e-4 for
millions of rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_numpy

LIMIT = 8192
EXACT = 52  # bits of a float's mantissa
_DENSE = 1 << 16  # a range of keys up to this size is counted in an array, without a dictionary
_MAGNITUDE = np.int64(0x7FFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Cells:
    """C cells in ascending order."""

    bits: int  # leading bits of the mantissa that distinguish cells
    keys: NDArray[np.int64]  # (C,)
    counts: NDArray[Any]  # (C, G): rows of each of G groups (int64), or sums of G quantities (float64)

    @property
    def exact(self) -> bool:
        """True if each distinct value has its own cell."""
        return self.bits == EXACT

    @property
    def values(self) -> NDArray[np.float64]:
        """Value of each cell, (C,): its only value if the cells are exact, else its middle."""
        shift = EXACT - self.bits
        middle = (self.keys << shift) + (1 << shift >> 1)
        middle = np.where(self.keys == 0, 0, middle)  # the cell of zero stays zero
        limit = np.finfo(np.float64).max
        return np.clip(np.where(middle < 0, middle ^ _MAGNITUDE, middle).view(np.float64), -limit, limit)


def count_cells(x: NDArray[Any], groups: NDArray[Any], size: int, bits: int = EXACT, limit: int | None = None) -> Cells:
    """Count N finite numbers, each in one of `size` groups, in at most `limit` cells.

    Args:
        x: (N,) finite.
        groups: (N,) from 0 to `size` - 1.
        size: number of groups.
        bits: the finest cells that the caller can use.
        limit: LIMIT by default.
    """
    keys = _to_keys(x) >> (EXACT - bits)
    low, high = (int(keys.min()), int(keys.max())) if len(keys) else (0, 0)
    if high - low < _DENSE:
        counts = np.bincount((keys - low) * size + groups, minlength=(high - low + 1) * size).reshape(-1, size)
        seen = np.flatnonzero(counts.any(axis=1))
        return merge([Cells(bits, seen + low, counts[seen])], limit)
    encoded = to_arrow(keys).dictionary_encode()
    codes = to_numpy(encoded.indices).astype(np.int64) * size + groups
    counts = np.bincount(codes, minlength=len(encoded.dictionary) * size).reshape(-1, size)
    return merge([Cells(bits, to_numpy(encoded.dictionary), counts)], limit)


def merge(parts: Sequence[Cells], limit: int | None = None) -> Cells:
    """Merge cells, in any order, into at most `limit` cells (default LIMIT)."""
    limit = limit or LIMIT
    bits = min(part.bits for part in parts)
    keys = np.concatenate([part.keys >> (part.bits - bits) for part in parts])
    order = np.argsort(keys, kind="stable")
    keys, counts = keys[order], np.concatenate([part.counts for part in parts])[order]
    if len(keys) > 1:
        # Two neighbours become equal when they are shifted past the highest bit in which they differ.
        lengths = _bit_length(keys[1:] ^ keys[:-1])
        shift = 0 if len(keys) <= limit else max(0, int(np.partition(lengths, -limit)[-limit]))
        starts = np.flatnonzero(np.concatenate([[True], lengths > shift]))
        keys, counts, bits = keys[starts] >> shift, np.add.reduceat(counts, starts, axis=0), bits - shift
    return Cells(bits, keys, counts)


class CellTable:
    """Cells of rows that arrive in batches; needs memory for `limit` cells and `at_once` rows.

    Example:
        table = CellTable(groups=2)
        table.add(np.array([0.5, 0.5, 2.0]), np.array([0, 1, 1]))
        table.cells().counts  # [[1, 1], [0, 1]]
    """

    def __init__(self, groups: int, limit: int = LIMIT, at_once: int = 1 << 18) -> None:
        """Create an empty table of G groups or quantities."""
        self._groups, self._limit, self._at_once = groups, limit, at_once
        self._merged: Cells | None = None
        self._waiting: list[tuple[NDArray[np.float64], NDArray[Any]]] = []
        self._rows = 0

    def add(self, x_B: NDArray[Any], groups_or_quantities: NDArray[Any]) -> None:
        """Add B finite numbers with their groups, (B,), which are counted, or (B, G) float64 quantities to sum."""
        # A copy, because a view would keep its whole batch in memory.
        self._waiting.append((np.array(x_B, np.float64), groups_or_quantities))
        self._rows += len(x_B)
        if self._rows >= self._at_once:
            self.cells()

    def cells(self) -> Cells:
        """Return the cells of all rows so far."""
        if self._waiting:
            x, added = (np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True))
            if added.ndim == 1:
                new = count_cells(
                    x, added, self._groups, EXACT if self._merged is None else self._merged.bits, self._limit
                )
            else:
                new = Cells(EXACT, _to_keys(x), added)
            self._merged = merge([new] if self._merged is None else [self._merged, new], self._limit)
            self._waiting, self._rows = [], 0
        return self._merged or Cells(EXACT, np.empty(0, np.int64), np.empty((0, self._groups), np.int64))


def _to_keys(x: NDArray[Any]) -> NDArray[np.int64]:
    """Return (N,) integers in the same order as the floats."""
    as_int = (x.astype(np.float64, copy=False) + 0.0).view(np.int64)  # + 0.0 makes -0.0 the same as 0.0
    return np.where(as_int < 0, as_int ^ _MAGNITUDE, as_int)


def quantile(values: NDArray[np.float64], counts: NDArray[np.int64], q: float) -> float:
    """Return the q-quantile of N rows, interpolated linearly as in NumPy and pandas.

    Args:
        values: (C,) ascending.
        counts: (C,) rows of each value; their sum is at least 1.
        q: from 0 to 1.
    """
    ends = np.cumsum(counts)
    place = q * (int(ends[-1]) - 1)
    low, high = (values[np.searchsorted(ends, at, side="right")] for at in (np.floor(place), np.ceil(place)))
    return float(low if low == high else low + (high - low) * (place - np.floor(place)))


def auc(positive_C: NDArray[Any], negative_C: NDArray[Any]) -> float | None:
    """Return the area under the ROC curve: the share of correctly ordered (positive, negative) pairs, ties as half.

    Takes the weights or counts of the positive and the negative rows of each cell, by score ascending. Returns None
    without positive or without negative rows.
    """
    area = float(grouped_auc(positive_C, negative_C, np.zeros(1, np.int64))[0]) if len(positive_C) else np.nan
    return None if np.isnan(area) else area


def grouped_auc(positive_C: NDArray[Any], negative_C: NDArray[Any], starts_G: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the AUC of each group of cells, (G,); NaN for a group without positive or without negative rows.

    The cells are ordered by group, then by score; `starts_G` contains the first cell of each group, ascending from 0.
    """
    ends, lengths = np.cumsum(negative_C), np.diff(np.append(starts_G, len(negative_C)))
    below = ends - negative_C / 2 - np.repeat((ends - negative_C)[starts_G], lengths)
    in_order, positives, negatives = (
        np.add.reduceat(part, starts_G).astype(np.float64) for part in (positive_C * below, positive_C, negative_C)
    )
    pairs = positives * negatives
    return np.where(pairs > 0, np.minimum(1.0, in_order / np.where(pairs > 0, pairs, 1.0)), np.nan)


def _bit_length(x: NDArray[np.int64]) -> NDArray[np.int32]:
    bits = x.view(np.uint64)
    high, low = (bits >> np.uint64(32)).astype(np.float64), (bits & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int32)
