"""Rows of the dataset as arrays."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.dataset import Inputs

_MATRICES = 5  # arrays of `Inputs` with one entry per row; those of the bags follow

Array = NDArray[Any]


class Rows(NamedTuple):
    """B rows."""

    inputs: Inputs
    label: NDArray[np.float32]  # (B,)
    weight: NDArray[np.float32]  # (B,)
    group: Array | None = None  # (B,) with None for a null; None if no group column was read
    # (B,) int8: part of the train fold whose labels are left out of the row's target rates; None: no part
    part: Array | None = None


def slice_rows(rows: Rows, start: int, stop: int) -> Rows:
    """Return the rows from `start` to before `stop`; only the splits of bags are copied."""
    *_, bag_rows, bag_values, splits = rows.inputs
    members = slice(splits[start], splits[stop])
    bags = bag_rows[members], bag_values[members], splits[start : stop + 1] - splits[start]
    return _change(rows, lambda array: array[start:stop], bags)


def take_rows(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Return the rows at these places, in this order, as copies."""
    *_, bag_rows, bag_values, all_splits = rows.inputs
    splits = np.zeros(len(places) + 1, np.int64)
    if len(bag_rows):
        starts = all_splits[places]
        lengths = all_splits[places + 1] - starts
        np.cumsum(lengths, out=splits[1:])
        members = np.repeat(starts - splits[:-1], lengths) + np.arange(splits[-1])
        bag_rows, bag_values = bag_rows[members], bag_values[members]
    return _change(rows, lambda array: np.take(array, places, axis=0), (bag_rows, bag_values, splits))


def join_rows(pieces: Iterable[Rows], count: int) -> Rows:
    """Concatenate pieces that have `count` rows in all; only one piece at a time is in memory beside the result."""
    joined: Rows | None = None
    members: list[tuple[Array, Array]] = []
    splits, at = np.zeros(count + 1, np.int64), 0
    for rows in pieces:
        if len(rows.label) == count:
            return rows
        if joined is None:
            joined = _change(rows, lambda array: np.empty((count, *array.shape[1:]), array.dtype), rows.inputs[-3:])
        stop = at + len(rows.label)
        for whole, array in zip(_by_row(joined), _by_row(rows), strict=True):
            if whole is not None:
                whole[at:stop] = array
        splits[at + 1 : stop + 1] = splits[at] + rows.inputs.bag_splits[1:]
        members.append((rows.inputs.bag_rows, rows.inputs.bag_values))
        at = stop
    assert joined is not None, "no pieces"
    bag_rows, bag_values = (np.concatenate(arrays_of_pieces) for arrays_of_pieces in zip(*members, strict=True))
    return _change(joined, lambda array: array, (bag_rows, bag_values, splits))


def _by_row(rows: Rows) -> list[Array | None]:
    """Return the arrays with one entry per row."""
    return [*rows.inputs[:_MATRICES], *rows[1:]]


def _change(rows: Rows, change: Callable[[Array], Array], bags: tuple[Array, ...]) -> Rows:
    """Return rows with each array of `_by_row` changed, and with other arrays of the bags."""
    changed: list[Any] = [None if array is None else change(array) for array in _by_row(rows)]
    return Rows(Inputs(*changed[:_MATRICES], *bags), *changed[_MATRICES:])
