"""Read Parquet files in tasks: one row group at a time, and a column only when it is requested.

Reading with pyarrow avoids Spark's row-by-row conversion to Arrow. Strings are read as dictionaries, so each distinct
string of a row group is processed once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nfm.contract.errors import DataError
from nfm.table.parquet.casts import cast_exactly, is_read_as, is_text
from nfm.table.splits import Piece, Split
from nfm.table.store import is_in_store, open_file

# Reading a column temporarily needs several times its size in memory. This memory is returned only after columns with
# more than this many bytes (many distinct strings): returning it after each small column makes reading 50 % slower.
_LARGE = 4 << 20
_OLD_CALENDAR = (b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96")
_YEAR_1900 = -2_208_988_800  # seconds since 1970


class UnreadableFileError(DataError):
    """A file is truncated, overwritten, or not Parquet."""


@dataclass(frozen=True)
class Files:
    """Reader of a table's files in tasks; together with a split, it is all that a task needs."""

    where: str  # description of the table, for messages
    schema: pa.Schema  # the table's columns, with the types that a task receives
    partitions: pa.RecordBatch  # values of the columns in the folders' names, a row for each combination
    case_sensitive: bool  # whether Id and id are different columns
    first: str | None = None  # the file from which Spark takes the types

    def select(self, names: Iterable[str]) -> "Files":
        """Return the same files, restricted to these columns."""
        return replace(self, schema=pa.schema([self.schema.field(name) for name in names]))

    def read(self, split: Split) -> "Iterator[RowGroup]":
        """Yield the row groups of a split, each once and in order."""
        for piece in split:
            yield from self._row_groups(piece)

    def row_group_sizes(self, path: str) -> list[int]:
        """Return the number of rows of each row group, from the file's footer."""
        with translate_file_errors(self.where, path):
            metadata = pq.read_metadata(_open(path))
            return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def has_other_types(self, path: str) -> bool:
        """Return whether Spark's reader would refuse a file because of its types, or convert them in its own way."""
        try:
            types = open_parquet(path).schema_arrow
        except (OSError, ValueError, pa.ArrowException):  # Spark reports the file
            return False
        names = self._map_columns(types.names, path)
        return not all(is_read_as(types.field(names[n]).type, self.schema.field(n).type) for n in names)

    def find_unreadable(self, split: Split) -> Iterator[tuple[str, str]]:
        """Read all columns of a split, and yield path and reason for each file that cannot be read."""
        for piece in split:
            try:
                for group in self._row_groups(piece):
                    for name in self.schema.names:
                        group.column(name)
            except UnreadableFileError as error:
                yield piece.file.path, str(error.__cause__ or error)

    def _row_groups(self, piece: Piece) -> "Iterator[RowGroup]":
        path, size, partition, _ = piece.file
        remote = is_in_store(path)
        with translate_file_errors(self.where, path):
            source = _open(path)
            if source.size() != size:
                raise DataError(
                    f"{path} of {self.where} had {size} bytes when the job started, and has {source.size()} now: "
                    "another process is writing to the table. Run the job again when it has finished."
                )
            metadata = pq.read_metadata(source)
            names = self._map_columns(metadata.schema.to_arrow_schema().names, path)
            texts = [in_file for name, in_file in names.items() if is_text(self.schema.field(name).type)]
            # Checksums of the pages, if the writer added them, detect flipped bits.
            parquet = pq.ParquetFile(
                source,
                metadata=metadata,
                read_dictionary=texts,
                coerce_int96_timestamp_unit="us",
                page_checksum_verification=True,
                pre_buffer=remote,
            )
            groups = [(i, metadata.row_group(i).num_rows) for i in _select_row_groups(piece, metadata)]
        constants = {name: self.partitions[name][partition] for name in self.partitions.schema.names}
        for i, num_rows in groups:
            if num_rows:
                with translate_file_errors(self.where, path):
                    # Read all columns at once: parallel store requests take as long as one.
                    preloaded = parquet.read_row_group(i, list(names.values()), use_threads=False) if remote else None
                yield RowGroup(
                    self.where, path, parquet, i, num_rows, self.schema, names, constants, preloaded, self.first
                )

    def _map_columns(self, columns: Sequence[str], path: str) -> dict[str, str]:
        """Map the table's columns to the file's columns; columns that the file lacks are left out."""

        def key(name: str) -> str:
            return name if self.case_sensitive else name.lower()

        in_file: dict[str, str] = {}
        needed = {key(name): name for name in self.schema.names if name not in self.partitions.schema.names}
        for column in columns:
            name = needed.get(key(column))
            if name in in_file:
                raise DataError(
                    f"Column '{name}' is in {path} twice, as '{in_file[name]}' and '{column}', so it is ambiguous. "
                    "Rename one of them, or set spark.sql.caseSensitive."
                )
            if name is not None:
                in_file[name] = column
        return in_file


def _open(path: str) -> Any:
    return open_file(path) if is_in_store(path) else pa.OSFile(path)


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a file, local or in a store, to read its footer."""
    return pq.ParquetFile(_open(path), coerce_int96_timestamp_unit="us")


def _is_untyped(path: str, name: str) -> bool:
    """Return whether a file has the column without a type."""
    with suppress(OSError, ValueError, KeyError, pa.ArrowException):
        return bool(pa.types.is_null(open_parquet(path).schema_arrow.field(name).type))
    return False


def untyped_error(name: str, first: str, type_: pa.DataType, path: str) -> DataError:
    """Return the error about a column without a type in the file from which Spark takes the table's types."""
    return DataError(
        f"Column '{name}' has the type null in {first} (all its values there are missing), so Spark reads it as "
        f"integers in the whole table, but in {path} it is {type_}. Write {first} again with this type, for example "
        "with a schema in pyarrow, or leave it out of source.path (or score.source.path)."
    )


def _select_row_groups(piece: Piece, metadata: Any) -> list[int]:
    """Return the indices of the row groups whose midpoint is in a piece of the file."""
    size = piece.file.size
    if (piece.start, piece.stop) == (0, size):
        return list(range(metadata.num_row_groups))
    starts = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        first = group.column(0) if group.num_columns else None
        starts.append((first.dictionary_page_offset or first.data_page_offset) if first else 0)
    # Clamp the midpoint to the file, so that each row group belongs to exactly one piece even if offsets are wrong.
    midpoints = [
        min(max((start + end) // 2, 0), size - 1) for start, end in zip(starts, [*starts[1:], size], strict=True)
    ]
    return [i for i, midpoint in enumerate(midpoints) if piece.start <= midpoint < piece.stop]


@dataclass(frozen=True)
class RowGroup:
    """Rows of a row group. A column is read when it is requested, and not cached."""

    where: str  # description of the table, for messages
    path: str
    parquet: Any = field(repr=False)
    index: int
    num_rows: int
    schema: pa.Schema
    names: Mapping[str, str]  # the schema's columns → their names in the file
    constants: Mapping[str, pa.Scalar]  # values of the columns in the folders' names
    preloaded: pa.Table | None = field(repr=False)  # all columns, if they were read together
    first: str | None = None  # the file from which Spark takes the types

    @property
    def rows_of_file(self) -> int:
        """Number of rows of the whole file."""
        return int(self.parquet.metadata.num_rows)

    def column(self, name: str) -> pa.Array:
        """Return the column's (N,) values in the schema's type; texts as a DictionaryArray with int32 indices.

        A column that the file lacks is null. DataError if values do not fit the type, or the file cannot be read.
        """
        type_ = self.schema.field(name).type
        if name in self.constants:
            values = pa.repeat(self.constants[name], self.num_rows)
            return values.dictionary_encode() if is_text(type_) else values
        values = self._read(self.names[name]) if name in self.names else None
        if values is None or pa.types.is_null(values.type):
            return pa.nulls(self.num_rows, pa.dictionary(pa.int32(), type_) if is_text(type_) else type_)
        try:
            return cast_exactly(values, type_)
        except pa.ArrowException as error:
            file_type = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
            if self.first is not None and _is_untyped(self.first, name):
                raise untyped_error(name, self.first, file_type, self.path) from error
            raise DataError(
                f"Column '{name}' is {type_} in {self.where}, but {file_type} in {self.path}, and its "
                f"values cannot be converted ({_first_line(error)}). Write that file again with the table's type, or "
                "leave it out of source.path."
            ) from error

    def _read(self, name: str) -> pa.Array:
        with translate_file_errors(self.where, self.path):
            table = self.preloaded
            if table is None:
                table = self.parquet.read_row_group(self.index, columns=[name], use_threads=False)
            values = table.column(name)
            if len(values) != self.num_rows:
                raise pa.ArrowInvalid(f"column {name!r} has {len(values)} values for {self.num_rows} rows")
            array = values.combine_chunks()
        if array.nbytes > _LARGE:
            pa.default_memory_pool().release_unused()
        is_time = pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)
        old_calendar = any(key in (self.parquet.metadata.metadata or {}) for key in _OLD_CALENDAR)
        earliest = pc.min(array.cast(pa.timestamp("s"), safe=False)).value if is_time and old_calendar else None
        if earliest is not None and earliest < _YEAR_1900:
            raise DataError(
                f"Column '{name}' of {self.path} has times before 1900 in the calendar of Spark 2, which only Spark "
                "itself can convert. Set source.scan: spark."
            )
        return array


@contextmanager
def translate_file_errors(where: str, path: str) -> Iterator[None]:
    """Translate pyarrow errors to a one-line DataError (UnreadableFileError if the file is damaged)."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (FileNotFoundError, PermissionError) as error:  # not damaged, so on_corrupt: skip does not apply
        raise DataError(
            f"{where} has a file that cannot be opened: {path} ({_first_line(error)}). Every machine must have access "
            "to it at the same path; if it was deleted after the job started, run the job again."
        ) from error
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"{where} has a file that pyarrow cannot read: {path} ({_first_line(error)}). Set source.scan: spark."
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = f"{where} has a file that cannot be read: {path} ({_first_line(error)})."
        if isinstance(error, OSError) and is_in_store(path):
            raise DataError(
                f"{problem} Every machine must have access to the store through pyarrow. Otherwise set source.scan: "
                "spark, and Spark reads the table."
            ) from error
        raise UnreadableFileError(
            f"{problem} Repair or delete it, or set source.on_corrupt: skip (or score.source.on_corrupt) to leave "
            "such files out. Then run the job again."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
