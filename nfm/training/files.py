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

from nfm.contract.encoder import Inputs, inputs
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.contract.values import decoded
from nfm.training.rows import Rows


class Chunk(NamedTuple):
    """What is read at once: a row group."""

    rows: int
    read: Callable[[], Rows]


class Files(NamedTuple):
    """The files of a fold, in the order of their names."""

    chunks: tuple[Chunk, ...]
    array_bytes: int  # of all rows as arrays, about
    digest: str  # SHA-256 of the files' names, sizes and row groups


def open_files(folder: Path, below: str, spec: Spec, group: str | None) -> Files:
    """Read the footers of all files below a folder.

    Args:
        folder: dataset/.
        below: the fold's folder in it.
        spec: of the encoding.
        group: a column that is read, too.

    Raises:
        DataError: a file cannot be read, or has other columns.
    """
    chunks: list[Chunk] = []
    found, size = hashlib.sha256(), 0
    for path in sorted((folder / below).rglob("*.parquet")):  # in folders of their own with dataset.partition_by
        with _opened(path, spec, group) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            chunks += [
                Chunk(one.num_rows, partial(_read, path, i, one.num_rows, spec, group))
                for i, one in enumerate(groups)
                if one.num_rows
            ]
            size += sum(_array_bytes(one, spec, group) for one in groups)
            told = [path.relative_to(folder).as_posix(), path.stat().st_size, [one.num_rows for one in groups]]
            found.update(json.dumps(told).encode())
    return Files(tuple(chunks), size, found.hexdigest())


def _array_bytes(row_group: Any, spec: Spec, group: str | None) -> int:
    """What a row group takes as arrays, about: every number has four bytes."""
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    lists = [f"{name}." for one in spec.fields if one.bag is not None for name in one.outputs]
    members = sum(c.num_values for c in columns if any(c.path_in_schema.startswith(name) for name in lists))
    plain = len(spec.outputs) - len(lists) + 2 + 2  # label, weight, splits
    return int(4 * (plain * row_group.num_rows + members) + (64 * row_group.num_rows if group else 0))


@contextmanager
def _opened(path: Path, spec: Spec, group: str | None) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(file.schema_arrow, path, spec, group)
            yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). Run jobs/features.py again.") from error


def _check_schema(schema: pa.Schema, path: Path, spec: Spec, group: str | None) -> None:
    plain = dict.fromkeys(("label", "weight"), pa.float32())
    lists: dict[str, pa.DataType] = {}
    for one in spec.fields:
        (plain if one.bag is None else lists)[one.name] = pa.int32()
        lists |= dict.fromkeys(one.outputs[1:], pa.float32())
    plain |= {name: pa.float32() for number in spec.numbers for name in number.outputs}
    for name in [*plain, *lists, *([group] if group else [])]:
        if name not in schema.names:
            raise DataError(
                f"{path} has no column '{name}'; it has {', '.join(schema.names)}. It was not written with this "
                "encoding and configuration: take the file away, or run jobs/features.py again."
            )
        found = schema.field(name).type
        right = name == group or found == plain.get(name)
        if name in lists:
            right = pa.types.is_list(found) and found.value_type == lists[name]
        if not right:
            due = f"list<{lists[name]}>" if name in lists else plain[name]
            raise DataError(
                f"Column '{name}' of {path} is {found}, not {due}: the file was not written with this encoding. Take "
                "it away, or run jobs/features.py again."
            )


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
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name].combine_chunks()
        listed = pa.types.is_list(column.type)
        if column.null_count or (listed and column.flatten().null_count):
            raise DataError(
                f"Column '{name}' of {path} has nulls, and the feature job writes none: the file was changed. Run "
                "jobs/features.py again."
            )
        columns[name] = column if listed else column.to_numpy()
    arranged = inputs(spec, columns)
    _check_ids(arranged, path, spec)
    groups = None
    if group is not None:
        groups = decoded(table[group].combine_chunks())
        groups = np.array(groups.to_pylist(), object) if groups.null_count else groups.to_numpy(zero_copy_only=False)
    return Rows(arranged, columns["label"], columns["weight"], groups)


def _check_ids(arranged: Inputs, path: Path, spec: Spec) -> None:
    # An id too large would be another field's row of the table, or end the training with an error of TensorFlow's.
    plain = [one for one in spec.fields if one.bag is None]
    sizes = np.array([one.size for one in plain], np.uint32)
    outside_BF = arranged.ids_BF.view(np.uint32) >= sizes  # a negative one becomes a very large one
    wrong = plain[int(outside_BF.any(axis=0).argmax())].name if outside_BF.any() else None
    if wrong is None and arranged.bag_rows.view(np.uint32).max(initial=0) >= spec.rows:
        wrong = next(one.name for one in spec.fields if one.bag is not None)
    if wrong is not None:
        raise DataError(
            f"{path} has ids of the field '{wrong}' that its vocabulary does not have: the file was damaged, or "
            "written with another encoding. Run jobs/features.py again."
        )
