"""The dataset's Parquet files: what they hold, and their row groups as arrays."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfm.contract.dataset import check_schema, check_there, checked_inputs, column
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.contract.values import decoded
from nfm.training.data.rows import Rows


class RowGroup(NamedTuple):
    """A row group, which is read at once."""

    rows: int
    read: Callable[[], Rows]


class Files(NamedTuple):
    """The files of a fold, in the order of their names."""

    row_groups: tuple[RowGroup, ...]
    array_bytes: int  # of all rows as arrays, about
    digest: str  # SHA-256 of the files' names, sizes and row groups


def open_files(folder: Path, below: str, spec: Spec, group: str | None) -> Files:
    """Read the footers of all files of a fold, `below` its dataset/; DataError if one is damaged or has other columns.

    `group`: a column that is read, too.
    """
    row_groups: list[RowGroup] = []
    found, size = hashlib.sha256(), 0
    for path in sorted((folder / below).rglob("*.parquet")):  # in folders of their own with dataset.partition_by
        with _opened(path, spec, group) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            row_groups += [
                RowGroup(one.num_rows, partial(_read, path, i, one.num_rows, spec, group))
                for i, one in enumerate(groups)
                if one.num_rows
            ]
            size += sum(_array_bytes(one, spec, group) for one in groups)
            told = [path.relative_to(folder).as_posix(), path.stat().st_size, [one.num_rows for one in groups]]
            found.update(json.dumps(told).encode())
    return Files(tuple(row_groups), size, found.hexdigest())


def _array_bytes(row_group: Any, spec: Spec, group: str | None) -> int:
    """Estimate the bytes of a row group as arrays: every number has four."""
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    lists = [f"{name}." for one in spec.fields if one.bag is not None for name in one.outputs]
    members = sum(c.num_values for c in columns if any(c.path_in_schema.startswith(name) for name in lists))
    plain = len(spec.outputs) - len(lists) + 2 + 2  # label, weight, splits
    return int(4 * (plain * row_group.num_rows + members) + (64 * row_group.num_rows if group else 0))


@contextmanager
def _opened(path: Path, spec: Spec, group: str | None) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            check_schema(spec, file.schema_arrow, str(path), ("label", "weight"))
            if group is not None:
                check_there(group, file.schema_arrow, str(path))
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). Run jobs/features.py again.") from error


def _read(path: Path, row_group: int, count: int, spec: Spec, group: str | None) -> Rows:
    names = [*spec.outputs, "label", "weight"]
    with _opened(path, spec, group) as file:
        # One thread: the others are the model's.
        table = file.read_row_group(row_group, columns=[*names, *([group] if group else [])], use_threads=False)
    if len(table) != count:
        raise DataError(
            f"Row group {row_group} of {path} holds {len(table)} rows, and held {count} when the training began: the "
            "file was changed meanwhile. Run the training again."
        )
    columns = {name: column(name, table[name].combine_chunks(), str(path)) for name in names}
    arranged = checked_inputs(spec, columns, str(path))
    groups = None
    if group is not None:
        groups = decoded(table[group].combine_chunks())
        groups = np.array(groups.to_pylist(), object) if groups.null_count else groups.to_numpy(zero_copy_only=False)
    return Rows(arranged, columns["label"], columns["weight"], groups)
