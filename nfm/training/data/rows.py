"""Rows of the dataset as arrays."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.encoder import Inputs


class Rows(NamedTuple):
    """B rows."""

    inputs: Inputs
    label: NDArray[np.float32]  # (B,)
    weight: NDArray[np.float32]  # (B,)
    group: NDArray[Any] | None  # (B,) with None for a null; None if no group column was read


def slice_rows(rows: Rows, start: int, stop: int) -> Rows:
    """Return the rows from `start` to before `stop`; only the splits of bags are copied."""
    ids_BF, values_BN, dense_BD, bag_rows, bag_values, splits = rows.inputs
    cut, members = slice(start, stop), slice(splits[start], splits[stop])
    splits = splits[start : stop + 1] - splits[start]
    inputs = Inputs(ids_BF[cut], values_BN[cut], dense_BD[cut], bag_rows[members], bag_values[members], splits)
    return Rows(inputs, rows.label[cut], rows.weight[cut], None if rows.group is None else rows.group[cut])


def take_rows(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Return the rows at these places, in this order, as copies."""
    ids_BF, values_BN, dense_BD, bag_rows, bag_values, all_splits = rows.inputs
    splits = np.zeros(len(places) + 1, np.int64)
    if len(bag_rows):
        starts = all_splits[places]
        lengths = all_splits[places + 1] - starts
        np.cumsum(lengths, out=splits[1:])
        members = np.repeat(starts - splits[:-1], lengths) + np.arange(splits[-1])
        bag_rows, bag_values = bag_rows[members], bag_values[members]
    ids_BF = np.take(ids_BF, places, axis=0)
    values_BN, dense_BD = np.take(values_BN, places, axis=0), np.take(dense_BD, places, axis=0)
    group = None if rows.group is None else rows.group[places]
    inputs = Inputs(ids_BF, values_BN, dense_BD, bag_rows, bag_values, splits)
    return Rows(inputs, rows.label[places], rows.weight[places], group)


def join_rows(pieces: Iterable[Rows], count: int) -> Rows:
    """Concatenate pieces that have `count` rows in all; only one piece at a time is in memory beside the result."""
    arrays: list[NDArray[Any]] = []
    members: list[tuple[NDArray[Any], NDArray[Any]]] = []
    groups: list[NDArray[Any]] = []
    splits, at = np.zeros(count + 1, np.int64), 0
    for rows in pieces:
        if len(rows.label) == count:
            return rows
        piece = [*rows.inputs[:3], rows.label, rows.weight]
        arrays = arrays or [np.empty((count, *array.shape[1:]), array.dtype) for array in piece]
        stop = at + len(rows.label)
        for joined, array in zip(arrays, piece, strict=True):
            joined[at:stop] = array
        splits[at + 1 : stop + 1] = splits[at] + rows.inputs.bag_splits[1:]
        members.append((rows.inputs.bag_rows, rows.inputs.bag_values))
        groups += [] if rows.group is None else [rows.group]
        at = stop
    bag_rows, bag_values = (np.concatenate(arrays_of_pieces) for arrays_of_pieces in zip(*members, strict=True))
    ids_BF, values_BN, dense_BD, label, weight = arrays
    group = np.concatenate(groups) if groups else None
    return Rows(Inputs(ids_BF, values_BN, dense_BD, bag_rows, bag_values, splits), label, weight, group)
