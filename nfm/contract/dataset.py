"""Columns of the dataset as the arrays that the model takes, for training and scoring."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.arrays import concatenate_ranges, to_numpy
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec, bin_name, fraction_name, weights_name

# Columns of the table that joins interactions, users and items:
HISTORY, HISTORY_WEIGHTS = "history", "history_weights"  # columns of the joined table, and the field
FOLD = "_nfm_fold"  # column of the joined table with the fold, for `split.last`
SEQUENCE = "sequence"  # column of the dataset: the place of an interaction among those of its user, from 0


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


def check_schema(spec: Spec, schema: pa.Schema, where: str, extra: Iterable[str] = ()) -> None:
    """Raise DataError unless a table has the encoded columns in their types, and the columns `extra` as float32."""
    plain, lists = dict.fromkeys(extra, pa.float32()), dict[str, pa.DataType]()
    for field in spec.fields:
        (plain if field.bag is None else lists)[field.name] = pa.int32()
        lists |= dict.fromkeys(field.outputs[1:], pa.float32())
    plain |= {name: pa.float32() for number in spec.numbers for name in number.outputs}
    for number in spec.binned:
        plain |= {bin_name(number.name): pa.int32(), fraction_name(number.name): pa.float32()}
    for name in (*plain, *lists):
        check_column(name, schema, where)
        found = schema.field(name).type
        fits = pa.types.is_list(found) and found.value_type == lists[name] if name in lists else found == plain[name]
        if not fits:
            expected = f"list<{lists[name]}>" if name in lists else plain[name]
            raise DataError(
                f"Column '{name}' of {where} is {found}, not {expected}: it was not written with this encoding. Move "
                "it away, or run nfm features again."
            )


def check_column(name: str, schema: pa.Schema, where: str) -> None:
    """Raise DataError if a table lacks this column."""
    if name not in schema.names:
        raise DataError(
            f"{where} has no column '{name}'; it has {', '.join(schema.names)}. It was not written with this encoding "
            "and configuration: move it away, or run nfm features again."
        )


def read_column(name: str, values: pa.Array, where: str) -> Any:
    """Return a column as `Encoding.encode` does: (N,) array, or a bag's N lists; DataError if it has nulls."""
    listed = pa.types.is_list(values.type)
    if values.null_count or (listed and values.flatten().null_count):
        raise DataError(
            f"Column '{name}' of {where} has nulls, but the feature job writes none: the file was changed. Run "
            "nfm features again."
        )
    return values if listed else to_numpy(values)


def check_and_arrange(spec: Spec, columns: Mapping[str, Any], where: str) -> Inputs:
    """Arrange columns from `read_column` as the model's arrays; DataError for an id, bin or fraction out of range."""
    arranged = arrange_inputs(spec, columns)
    # Too large an id would read the embedding of another field, or beyond the table.
    plain = [field for field in spec.fields if field.bag is None]
    sizes = np.array([field.size for field in plain], np.uint32)
    outside_F = (arranged.ids_BF.view(np.uint32) >= sizes).any(axis=0)  # negative ids become very large
    wrong = plain[int(outside_F.argmax())].name if outside_F.any() else None
    if wrong is None and arranged.bag_rows.view(np.uint32).max(initial=0) >= spec.rows:
        wrong = next(field.name for field in spec.fields if field.bag is not None)
    if wrong is not None:
        raise DataError(
            f"{where} has ids of the field '{wrong}' that its vocabulary does not have: it is damaged, or was written "
            "with another encoding. Run nfm features again."
        )
    sizes = np.array([1 + len(number.edges or ()) for number in spec.binned], np.uint32)
    bins_BQ, fractions_BQ = arranged.bins_BQ, arranged.fractions_BQ
    # At the last edge there is no next row to interpolate with.
    highest = np.where(fractions_BQ > 0, sizes - 1, sizes)
    wrong_Q = ((bins_BQ.view(np.uint32) >= highest) | ~((fractions_BQ >= 0) & (fractions_BQ < 1))).any(axis=0)
    if wrong_Q.any():
        raise DataError(
            f"{where} has bins of the number '{spec.binned[int(wrong_Q.argmax())].name}' that its encoding does not "
            "have: it is damaged, or was written with another encoding. Run nfm features again."
        )
    return arranged
