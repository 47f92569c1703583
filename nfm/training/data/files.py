"""Parquet files of the dataset: their footers, and their row groups as arrays."""

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

from nfm.contract.dataset import check_and_arrange, check_column, check_schema, read_column
from nfm.contract.errors import DataError, ReplacedError
from nfm.contract.publishing.publish import without_publication
from nfm.contract.schema import PART_COLUMN, RATE_PARTS, Spec
from nfm.contract.values import decode_dictionary
from nfm.training.data.rows import Rows


class RowGroup(NamedTuple):
    """A row group of a file, which is read as a whole."""

    rows: int
    read: Callable[[], Rows]


class Files(NamedTuple):
    """The files of a fold, in the order of their names."""

    row_groups: tuple[RowGroup, ...]
    array_bytes: int  # estimate for all rows as arrays
    digest: str  # SHA-256 of the files' names (without the publication's id), sizes and row groups
    have_parts: bool  # False: an older version wrote a file without the column that target rates need


def open_files(folder: Path, below: str, spec: Spec, group: str | None) -> Files:
    """Read the footers of all files of a fold, which is in `folder`/`below`.

    `group`: a key column that is read with the rows. Raises DataError if a file is damaged or has other columns.
    """
    row_groups: list[RowGroup] = []
    digest, size, have_parts = hashlib.sha256(), 0, True
    for path in sorted((folder / below).rglob("*.parquet")):  # in subfolders with dataset.partition_by
        with _opened(path, spec, group) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            row_groups += [
                RowGroup(metadata.num_rows, partial(_read, path, i, metadata.num_rows, spec, group))
                for i, metadata in enumerate(groups)
                if metadata.num_rows
            ]
            size += sum(_array_bytes(metadata, spec, group) for metadata in groups)
            rows = [metadata.num_rows for metadata in groups]
            have_parts &= PART_COLUMN in file.schema_arrow.names
            name = without_publication(path.relative_to(folder).as_posix())
            digest.update(json.dumps([name, path.stat().st_size, rows]).encode())
    return Files(tuple(row_groups), size, digest.hexdigest(), have_parts)


def _array_bytes(row_group: Any, spec: Spec, group: str | None) -> int:
    """Estimate the bytes of a row group as arrays; each number takes four."""
    columns = [row_group.column(i) for i in range(row_group.num_columns)]
    lists = [f"{name}." for field in spec.fields if field.bag is not None for name in field.outputs]
    members = sum(c.num_values for c in columns if any(c.path_in_schema.startswith(name) for name in lists))
    plain = len(spec.outputs) - len(lists) + 2 + 2  # label, weight, splits
    return int(4 * (plain * row_group.num_rows + members) + (64 * row_group.num_rows if group else 0))


@contextmanager
def _opened(path: Path, spec: Spec, group: str | None) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            check_schema(spec, file.schema_arrow, str(path), ("label", "weight"))
            if group is not None:
                check_column(group, file.schema_arrow, str(path))
            yield file
    except FileNotFoundError as error:
        raise ReplacedError(
            f"{path} cannot be read: it was deleted since the dataset was opened. If nfm features has replaced the "
            "dataset meanwhile, run the training again."
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). Run nfm features again.") from error


def _read(path: Path, row_group: int, count: int, spec: Spec, group: str | None) -> Rows:
    names = [*spec.outputs, "label", "weight"]
    with _opened(path, spec, group) as file:
        # One thread, because the training uses the others.
        names += [PART_COLUMN] if PART_COLUMN in file.schema_arrow.names else []
        table = file.read_row_group(row_group, columns=[*names, *([group] if group else [])], use_threads=False)
    if len(table) != count:
        raise DataError(
            f"Row group {row_group} of {path} has {len(table)} rows, but had {count} when the training started: the "
            "file was changed meanwhile. Run the training again."
        )
    columns = {name: read_column(name, table[name].combine_chunks(), str(path)) for name in names}
    inputs = check_and_arrange(spec, columns, str(path))
    groups = None
    if group is not None:
        groups = decode_dictionary(table[group].combine_chunks())
        groups = np.array(groups.to_pylist(), object) if groups.null_count else groups.to_numpy(zero_copy_only=False)
    part = columns.get(PART_COLUMN)
    if part is not None and not ((part >= 0) & (part < RATE_PARTS)).all():
        raise DataError(f"Column '{PART_COLUMN}' of {path} is damaged: it has other parts. Run nfm features again.")
    return Rows(inputs, columns["label"], columns["weight"], groups, part)
