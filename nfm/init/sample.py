"""Sample a table: rows of Parquet files, from row groups spread over the table. `csv_file` samples CSV files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nfm.contract.errors import ConfigError, DataError, NfmError
from nfm.contract.messages import listed

T = TypeVar("T")
MOST_ROWS = 200_000  # in a sample
_MOST_COUNTED = 200  # files whose rows are counted
MOST_PIECES = 16  # files, row groups or blocks that the sample is read from
CSV_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".csv.bz2", ".tsv.bz2", ".txt.bz2")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SPECIAL = set("*?[]{}:\\")  # Spark or the configuration gives them a meaning of their own in a path


class SourceMissingError(NfmError):
    """The table does not exist."""

    exit_code = 5


@dataclass(frozen=True)
class Sample:
    """Some or all rows of a table."""

    table: pa.Table  # CSV: every column is text
    source: dict[str, Any]  # section of the configuration
    rows: int | None  # in the whole table; None if not counted
    is_csv: bool

    @property
    def is_whole(self) -> bool:
        """Return whether the sample has all rows of the table."""
        return self.rows == len(self.table)


def list_files(path: Path) -> list[Path]:
    """Return the files of a table, without those that Spark ignores.

    Raises SourceMissingError if there is no such file or folder, ConfigError for a name that Spark cannot read, and
    DataError for an empty folder.
    """
    if not path.exists():
        raise SourceMissingError(
            f"{path} does not exist. Give nfm init a CSV, TSV or Parquet file, or a folder of them."
        )
    if _SPECIAL & set(str(path)) or (path.name.startswith(("_", ".")) and path.name.strip(".")):
        raise ConfigError(
            f"{path}: Spark cannot read a path with one of {' '.join(sorted(_SPECIAL))} in it, or a name that begins "
            "with _ or a dot. Rename the file or the folder."
        )
    if path.is_file():
        return [path]
    inside = (file for file in path.rglob("*") if file.is_file())
    files = sorted(f for f in inside if not any(part.startswith(("_", ".")) for part in f.relative_to(path).parts))
    if not files:
        raise DataError(f"{path} is a folder without files. Give nfm init a folder of Parquet or CSV files, or a file.")
    return files


def is_parquet(file: Path) -> bool:
    """Return whether a file's first bytes are those of Parquet; DataError if it cannot be read or is empty."""
    try:
        with file.open("rb") as opened:
            start = opened.read(4)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from error
    if not start:
        raise DataError(f"{file} is empty (0 bytes): it has no columns.")
    return start == b"PAR1"


def read_parquet(path: Path, files: Sequence[Path]) -> Sample:
    """Read rows from row groups that are spread over the files; DataError if a file cannot be read."""
    chosen, tables = pick_evenly(files), []
    rows_per_file = -(-MOST_ROWS // len(chosen))
    try:
        rows = sum(pq.read_metadata(file).num_rows for file in files) if len(files) <= _MOST_COUNTED else None
        for file in chosen:
            table = _read_rows(pq.ParquetFile(file), rows_per_file)
            for name, text in _partition_columns(file.relative_to(path)):
                value: Any = int(text) if text.lstrip("-").isdigit() else text
                table = table.append_column(name, pa.repeat(value, len(table)))
            tables.append(table)
        sample = pa.concat_tables(tables, promote_options="permissive")
    except (OSError, ValueError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet: {first} Repair the file or leave it out.") from error
    return Sample(sample, {"format": "parquet", "path": str(path)}, rows, is_csv=False)


def _read_rows(file: pq.ParquetFile, most: int) -> pa.Table:
    """Return the first rows of row groups that are spread over a file."""
    groups = pick_evenly(range(file.num_row_groups))
    rows_per_group, batches = -(-most // max(len(groups), 1)), []
    for group in groups:
        remaining = rows_per_group
        for batch in file.iter_batches(min(rows_per_group, 1 << 14), row_groups=[group], use_threads=False):
            batches.append(batch.slice(0, remaining))
            remaining -= batch.num_rows
            if remaining <= 0:
                break
    return pa.Table.from_batches(batches, file.schema_arrow)


def _partition_columns(file: Path) -> list[tuple[str, str]]:
    """Return the names and values of the partition columns in a file's path, such as country=DE."""
    return [(unquote(name), unquote(text)) for name, _, text in (p.partition("=") for p in file.parts[:-1]) if text]


def pick_evenly(items: Sequence[T], most: int = MOST_PIECES) -> list[T]:
    """Return at most `most` items, evenly spaced from the first to the last."""
    indices = np.unique(np.linspace(0, len(items) - 1, min(len(items), max(most, 1))).round().astype(int))
    return [items[i] for i in indices]


def check_table(sample: Sample) -> None:
    """Raise DataError for a table without rows, with fewer than two columns, or with names that Spark cannot use."""
    names, path = sample.table.column_names, sample.source["path"]
    if len(names) < 2:
        raise DataError(
            f"{path} has {len(names)} columns ({listed(names)}), but a label and at least one input are needed. The "
            "delimiter of a CSV file must be a comma, semicolon, tab or |."
        )
    lower = [name.lower() for name in names]
    duplicates = sorted({name for name in names if lower.count(name.lower()) > 1})
    if duplicates:
        raise DataError(
            f"{path} has columns whose names are equal, or differ only in case: {listed(duplicates)}. Spark column "
            "names are case-insensitive: rename them in the table."
        )
    unprintable = [name for name in names if _CONTROL.search(name)]
    if unprintable:
        raise DataError(
            f"{path} has columns with line breaks or control characters in their names: {unprintable}. Rename them."
        )
    if not len(sample.table):
        raise DataError(f"{path} has the columns {listed(names)}, but no rows.")
