"""Arrays that the model takes, made from encoded columns of the dataset or of a batch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nfm.contract.arrays import concatenate_ranges, to_numpy
from nfm.contract.schema import Spec, bin_name, fraction_name, weights_name


class Inputs(NamedTuple):
    """Input arrays of the model: B rows, F fields except bags, N numbers that enter the pooling, D dense columns.

    Q numbers have bins. The members of all bags of a row are adjacent: row b has those from `bag_splits[b]` up to
    `bag_splits[b + 1]`.
    """

    ids_BF: NDArray[np.int32]  # ids within each field, not rows of the embedding table
    values_BN: NDArray[np.float32]
    dense_BD: NDArray[np.float32]
    bins_BQ: NDArray[np.int32]  # see `find_bins`
    fractions_BQ: NDArray[np.float32]
    bag_rows: NDArray[np.int32]  # (P,) rows of the embedding table
    bag_values: NDArray[np.float32]  # (P,) weights x of the members
    bag_splits: NDArray[np.int64]  # (B + 1,)


def arrange_inputs(spec: Spec, columns: Mapping[str, Any]) -> Inputs:
    """Arrange encoded columns, as `Encoding.encode` returns them, as the model's arrays."""
    rows = len(next(iter(columns.values())))

    def matrix(names: Iterable[str], dtype: type) -> NDArray[Any]:
        parts = [columns[name] for name in names]
        return np.stack(parts, axis=1).astype(dtype, copy=False) if parts else np.empty((rows, 0), dtype)

    return Inputs(
        matrix((field.name for field in spec.fields if field.bag is None), np.int32),
        matrix(spec.field_numbers, np.float32),
        matrix(spec.dense, np.float32),
        matrix((bin_name(number.name) for number in spec.binned), np.int32),
        matrix((fraction_name(number.name) for number in spec.binned), np.float32),
        *_arrange_bags(spec, columns, rows),
    )


def _arrange_bags(
    spec: Spec, columns: Mapping[str, Any], rows: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Return `bag_rows`, `bag_values` and `bag_splits`: the members of all bags, by row, then by field."""
    lists = [
        (columns[field.name], columns[weights_name(field.name)], offset)
        for field, offset in zip(spec.fields, spec.offsets, strict=True)
        if field.bag is not None
    ]
    splits = np.zeros(rows + 1, np.int64)
    if not lists:
        return np.empty(0, np.int32), np.empty(0, np.float32), splits
    lengths = np.stack([np.diff(to_numpy(ids.offsets)) for ids, _, _ in lists], axis=1)  # (N, bags)
    np.cumsum(lengths.sum(axis=1), out=splits[1:])
    places = [to_numpy(ids.flatten()) + np.int32(offset) for ids, _, offset in lists]
    values = [to_numpy(weights.flatten()) for _, weights, _ in lists]
    if len(lists) == 1:
        return places[0], values[0], splits
    # The members are concatenated bag after bag: find where each row of each bag starts, then reorder them by row.
    starts = np.cumsum(lengths, axis=0) - lengths + np.cumsum([0, *(len(p) for p in places[:-1])])
    order = concatenate_ranges(starts.ravel(), lengths.ravel())
    return np.concatenate(places)[order], np.concatenate(values)[order], splits
