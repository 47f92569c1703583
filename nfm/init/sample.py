"""Sample the rows of a table: Parquet files, row groups spread over the table; CSV files in `csv_file`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from nfm.contract.errors import ConfigError, DataError, NfmError
from nfm.contract.messages import listed

T = TypeVar("T")
MOST_ROWS = 200_000  # of the sample
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


def read_parquet(path: Path) -> Sample:
    """Read rows from row groups that are spread over the files; DataError if a file cannot be read."""
    try:
        table: ds.Dataset = ds.dataset(str(path), format="parquet", partitioning="hive" if path.is_dir() else None)
        fragments = list(table.get_fragments())
        rows = table.count_rows() if len(fragments) <= 200 else None
        chosen = spread(fragments)
        groups = [group for one in chosen for group in spread(one.split_by_row_group(), MOST_PIECES // len(chosen))]
        each = -(-MOST_ROWS // max(len(groups), 1))
        parts = [one.scanner(schema=table.schema, batch_size=min(each, 1 << 14)).head(each) for one in groups]
    except (OSError, ValueError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet: {first} Repair the file or leave it out.") from error
    found = pa.concat_tables(parts) if parts else table.schema.empty_table()
    return Sample(found, {"format": "parquet", "path": str(path)}, rows, is_csv=False)


def spread(items: Sequence[T], most: int = MOST_PIECES) -> list[T]:
    """Return at most so many items, evenly spaced from the first to the last."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), max(most, 1))).round().astype(int))
    return [items[i] for i in places]


def check_table(sample: Sample) -> None:
    """Raise DataError for a table without rows, of a single column, or with names that Spark cannot distinguish."""
    names, path = sample.table.column_names, sample.source["path"]
    if len(names) < 2:
        raise DataError(
            f"{path} has {len(names)} columns ({listed(names)}), but a label and at least one input are needed. Of CSV "
            "files, the delimiter must be a comma, semicolon, tab or |."
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
