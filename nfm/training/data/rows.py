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
    group: NDArray[Any] | None  # (B,) where it was asked for; None where it is null


def slice_rows(rows: Rows, start: int, stop: int) -> Rows:
    """The rows from `start` to before `stop`; nothing is copied."""
    ids_BF, values_BN, dense_BD, bag_rows, bag_values, splits = rows.inputs
    here, members = slice(start, stop), slice(splits[start], splits[stop])
    splits = splits[start : stop + 1] - splits[start]
    arranged = Inputs(ids_BF[here], values_BN[here], dense_BD[here], bag_rows[members], bag_values[members], splits)
    return Rows(arranged, rows.label[here], rows.weight[here], None if rows.group is None else rows.group[here])


def take_rows(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Those rows, in that order."""
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
    arranged = Inputs(ids_BF, values_BN, dense_BD, bag_rows, bag_values, splits)
    return Rows(arranged, rows.label[places], rows.weight[places], group)


def join_rows(parts: Iterable[Rows], count: int) -> Rows:
    """Parts of so many rows together, one behind the other; only one at a time is in memory beside the whole."""
    arrays: list[NDArray[Any]] = []
    members: list[tuple[NDArray[Any], NDArray[Any]]] = []
    groups: list[NDArray[Any]] = []
    splits, at = np.zeros(count + 1, np.int64), 0
    for rows in parts:
        if len(rows.label) == count:
            return rows
        of_part = [*rows.inputs[:3], rows.label, rows.weight]
        arrays = arrays or [np.empty((count, *array.shape[1:]), array.dtype) for array in of_part]
        stop = at + len(rows.label)
        for whole, array in zip(arrays, of_part, strict=True):
            whole[at:stop] = array
        splits[at + 1 : stop + 1] = splits[at] + rows.inputs.bag_splits[1:]
        members.append((rows.inputs.bag_rows, rows.inputs.bag_values))
        groups += [] if rows.group is None else [rows.group]
        at = stop
    bag_rows, bag_values = (np.concatenate(of_parts) for of_parts in zip(*members, strict=True))
    ids_BF, values_BN, dense_BD, label, weight = arrays
    group = np.concatenate(groups) if groups else None
    return Rows(Inputs(ids_BF, values_BN, dense_BD, bag_rows, bag_values, splits), label, weight, group)
