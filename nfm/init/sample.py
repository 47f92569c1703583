"""Sample the rows of a table: Parquet files, row groups spread over the table; CSV files in `csv_file`."""

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
MOST_ROWS = 200_000  # of the sample
_MOST_COUNTED = 200  # files whose rows are counted
MOST_PIECES = 16  # files, row groups or blocks that the sample is read from
CSV_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".csv.bz2", ".tsv.bz2", ".txt.bz2")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SPECIAL = set("*?[]{}:\\")  # Spark or the configuration would not take them as characters of a file's name


class SourceMissingError(NfmError):
    """The table does not exist."""

    exit_code = 5


@dataclass(frozen=True)
class Sample:
    """Some rows of a table, or all."""

    table: pa.Table  # CSV: every column is text
    source: dict[str, Any]  # the configuration's section
    rows: int | None  # of the whole table; None if they were not counted
    is_csv: bool

    @property
    def is_whole(self) -> bool:
        """Return whether the sample has all rows of the table."""
        return self.rows == len(self.table)


def table_files(path: Path) -> list[Path]:
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
    chosen, parts = spread(files), []
    each = -(-MOST_ROWS // len(chosen))
    try:
        rows = sum(pq.read_metadata(file).num_rows for file in files) if len(files) <= _MOST_COUNTED else None
        for file in chosen:
            part = _rows_of(pq.ParquetFile(file), each)
            for name, text in _folders(file.relative_to(path)):
                value: Any = int(text) if text.lstrip("-").isdigit() else text
                part = part.append_column(name, pa.repeat(value, len(part)))
            parts.append(part)
        table = pa.concat_tables(parts, promote_options="permissive")
    except (OSError, ValueError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet: {first} Repair the file or leave it out.") from error
    return Sample(table, {"format": "parquet", "path": str(path)}, rows, is_csv=False)


def _rows_of(file: pq.ParquetFile, most: int) -> pa.Table:
    """Return the first rows of row groups that are spread over a file."""
    groups = spread(range(file.num_row_groups))
    each, batches = -(-most // max(len(groups), 1)), []
    for group in groups:
        left = each
        for batch in file.iter_batches(min(each, 1 << 14), row_groups=[group], use_threads=False):
            batches.append(batch.slice(0, left))
            left -= batch.num_rows
            if left <= 0:
                break
    return pa.Table.from_batches(batches, file.schema_arrow)


def _folders(file: Path) -> list[tuple[str, str]]:
    """Return the columns in the names of a file's folders: country=DE."""
    return [(unquote(name), unquote(text)) for name, _, text in (p.partition("=") for p in file.parts[:-1]) if text]


def spread(items: Sequence[T], most: int = MOST_PIECES) -> list[T]:
    """Return at most `most` items, evenly spaced from the first to the last."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), max(most, 1))).round().astype(int))
    return [items[i] for i in places]


def check_table(sample: Sample) -> None:
    """Raise DataError for a table without rows, of a single column, or with names that Spark cannot distinguish."""
    names, path = sample.table.column_names, sample.source["path"]
    if len(names) < 2:
        raise DataError(
            f"{path} has {len(names)} columns ({listed(names)}), but a label and at least one input are needed. The "
            "delimiter of a CSV file must be a comma, semicolon, tab or |."
        )
    lower = [name.lower() for name in names]
    twice = sorted({name for name in names if lower.count(name.lower()) > 1})
    if twice:
        raise DataError(
            f"{path} has columns whose names differ only in capitals, or not at all: {listed(twice)}. Spark column "
            "names are case-insensitive: rename them in the table."
        )
    odd = [name for name in names if _CONTROL.search(name)]
    if odd:
        raise DataError(
            f"{path} has columns with line breaks or control characters in their names: {odd}. Rename them."
        )
    if not len(sample.table):
        raise DataError(f"{path} has the columns {listed(names)}, but no rows.")
