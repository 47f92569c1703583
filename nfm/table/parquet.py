"""Read Parquet files in tasks: a row group at a time, each column when it is asked for.

Spark delivers rows to Python by converting each to Arrow's layout, value by value. Parquet read by pyarrow has that
layout already, and its texts arrive as dictionaries, so that each distinct text of a row group is processed once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nfm.contract.errors import DataError
from nfm.table.splits import Piece, Split
from nfm.table.store import in_store, open_file

# Bytes of a column beyond which Arrow must return the memory that reading it took (several times as much): many
# distinct texts. Returning it after each of many small columns would make reading 50 % slower.
_LARGE = 4 << 20
_OLD_CALENDAR = (b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96")
_IN_1900 = -2_208_988_800  # seconds since 1970


class UnreadableFileError(DataError):
    """A file is truncated, overwritten, or not Parquet."""


@dataclass(frozen=True)
class Files:
    """How the files of a table are read: all that a task needs besides its split."""

    where: str  # the table, for messages
    schema: pa.Schema  # the columns of the table, with the types that a task gets
    partitions: pa.RecordBatch  # values of the columns that are in folders' names, a row for each combination
    exact_case: bool  # whether Id and id are two columns

    def only(self, names: Iterable[str]) -> "Files":
        """Restrict the files to these columns."""
        return replace(self, schema=pa.schema([self.schema.field(name) for name in names]))

    def rows(self, split: Split) -> "Iterator[RowGroup]":
        """Return the row groups of a split, each once, in order."""
        for piece in split:
            yield from self._row_groups(piece)

    def counts(self, path: str) -> list[int]:
        """Return the rows of each row group, from a file's footer."""
        with reading(self.where, path):
            metadata = pq.read_metadata(_open(path))
            return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def unreadable(self, split: Split) -> Iterator[tuple[str, str]]:
        """Read all of a split; returns path and reason of each file that cannot be read."""
        for piece in split:
            try:
                for group in self._row_groups(piece):
                    for name in self.schema.names:
                        group.column(name)
            except UnreadableFileError as error:
                yield piece.file.path, str(error.__cause__ or error)

    def _row_groups(self, piece: Piece) -> "Iterator[RowGroup]":
        path, size, partition, _ = piece.file
        remote = in_store(path)
        with reading(self.where, path):
            source = _open(path)
            if source.size() != size:
                raise DataError(
                    f"{path} of {self.where} had {size} bytes when the job began, and has {source.size()} now: "
                    "another process writes to the table while it is read. Run the job again when that is done."
                )
            metadata = pq.read_metadata(source)
            names = self._names_in(metadata.schema.to_arrow_schema().names, path)
            texts = [inside for name, inside in names.items() if is_text(self.schema.field(name).type)]
            # If the writer added checksums to the pages, they detect flipped bits.
            parquet = pq.ParquetFile(
                source,
                metadata=metadata,
                read_dictionary=texts,
                coerce_int96_timestamp_unit="us",
                page_checksum_verification=True,
                pre_buffer=remote,
            )
            groups = [(i, metadata.row_group(i).num_rows) for i in _groups_in(piece, metadata)]
        constants = {name: self.partitions[name][partition] for name in self.partitions.schema.names}
        for i, num_rows in groups:
            if num_rows:
                with reading(self.where, path):
                    # A store answers many requests at once as fast as one.
                    at_once = parquet.read_row_group(i, list(names.values()), use_threads=False) if remote else None
                yield RowGroup(self.where, path, parquet, i, num_rows, self.schema, names, constants, at_once)

    def _names_in(self, columns: Sequence[str], path: str) -> dict[str, str]:
        """Map the table's columns to a file's; those that the file does not have are left out."""

        def key(name: str) -> str:
            return name if self.exact_case else name.lower()

        found: dict[str, str] = {}
        wanted = {key(name): name for name in self.schema.names if name not in self.partitions.schema.names}
        for column in columns:
            name = wanted.get(key(column))
            if name in found:
                raise DataError(
                    f"Column '{name}' is in {path} twice, as '{found[name]}' and '{column}', so it is ambiguous. "
                    "Rename one of them, or set spark.sql.caseSensitive."
                )
            if name is not None:
                found[name] = column
        return found


def _open(path: str) -> Any:
    return open_file(path) if in_store(path) else pa.OSFile(path)


def _groups_in(piece: Piece, metadata: Any) -> list[int]:
    """Return the row groups whose middle is in a piece of the file."""
    size = piece.file.size
    if (piece.start, piece.stop) == (0, size):
        return list(range(metadata.num_row_groups))
    starts = []
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        first = group.column(0) if group.num_columns else None
        starts.append((first.dictionary_page_offset or first.data_page_offset) if first else 0)
    # Even if the offsets are wrong, the middle is a byte of the file, and so in exactly one piece.
    middles = [
        min(max((start + end) // 2, 0), size - 1) for start, end in zip(starts, [*starts[1:], size], strict=True)
    ]
    return [i for i, middle in enumerate(middles) if piece.start <= middle < piece.stop]


@dataclass(frozen=True)
class RowGroup:
    """The rows of a row group. A column is read when it is asked for, and not kept."""

    where: str
    path: str
    parquet: Any = field(repr=False)
    index: int
    num_rows: int
    schema: pa.Schema
    names: Mapping[str, str]  # of the schema's columns in the file
    constants: Mapping[str, pa.Scalar]
    at_once: pa.Table | None = field(repr=False)  # all columns, if they were read together

    @property
    def rows_of_file(self) -> int:
        """The number of rows in all row groups of the file."""
        return int(self.parquet.metadata.num_rows)

    def column(self, name: str) -> pa.Array:
        """Return (N,) the column's values in the schema's type; texts as a DictionaryArray with indices of int32."""
        type_ = self.schema.field(name).type
        if name in self.constants:
            values = pa.repeat(self.constants[name], self.num_rows)
            return values.dictionary_encode() if is_text(type_) else values
        values = self._read(self.names[name]) if name in self.names else None
        if values is None or pa.types.is_null(values.type):
            return pa.nulls(self.num_rows, pa.dictionary(pa.int32(), type_) if is_text(type_) else type_)
        try:
            return _cast(values, type_)
        except pa.ArrowException as error:
            its_type = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
            raise DataError(
                f"Column '{name}' is {type_} in {self.where}, but {its_type} in {self.path}, and its "
                f"values there do not fit ({_first_line(error)}). Write that file again with the table's type, or "
                "leave it out of source.path."
            ) from error

    def _read(self, name: str) -> pa.Array:
        with reading(self.where, self.path):
            table = self.at_once
            if table is None:
                table = self.parquet.read_row_group(self.index, columns=[name], use_threads=False)
            values = table.column(name)
            if len(values) != self.num_rows:
                raise pa.ArrowInvalid(f"column {name!r} has {len(values)} values for {self.num_rows} rows")
            array = values.combine_chunks()
        if array.nbytes > _LARGE:
            pa.default_memory_pool().release_unused()
        dated = pa.types.is_timestamp(array.type) or pa.types.is_date(array.type)
        old_calendar = any(key in (self.parquet.metadata.metadata or {}) for key in _OLD_CALENDAR)
        first = pc.min(array.cast(pa.timestamp("s"), safe=False)).value if dated and old_calendar else None
        if first is not None and first < _IN_1900:
            raise DataError(
                f"Column '{name}' of {self.path} has times before 1900 in the calendar of Spark 2, which only Spark "
                "itself can convert. Set source.scan: spark."
            )
        return array


@contextmanager
def reading(where: str, path: str) -> Iterator[None]:
    """Translate pyarrow's errors about a file into a DataError of one line (UnreadableFileError if it is damaged)."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (FileNotFoundError, PermissionError) as error:  # the file is not damaged: never skipped
        raise DataError(
            f"{where} has a file that cannot be opened: {path} ({_first_line(error)}). Every machine must see it "
            "at the same path and be allowed to read it; if it was deleted meanwhile, run the job again."
        ) from error
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"{where} has a file that is not read by tasks: {path} ({_first_line(error)}). Set source.scan: spark."
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = f"{where} has a file that cannot be read: {path} ({_first_line(error)})."
        if isinstance(error, OSError) and in_store(path):
            raise DataError(
                f"{problem} Every machine must reach the store through pyarrow and be allowed to read it; or let Spark "
                "read the table with source.scan: spark."
            ) from error
        raise UnreadableFileError(
            f"{problem} Repair or delete it, or leave such files out with on_corrupt: skip beside its path, and run "
            "the job again."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def is_text(type_: pa.DataType) -> bool:
    """Return whether a column of this type arrives as a dictionary."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _cast(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """Convert values to another type; raises ArrowException if one of them would change."""
    if is_text(type_):
        encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        if encoded.type.value_type == type_ and encoded.type.index_type == pa.int32():
            return encoded
        texts = encoded.dictionary
        if not (is_text(texts.type) or pa.types.is_string_view(texts.type) or _is_bytes(texts.type)):
            raise pa.ArrowInvalid("its values are not texts")
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), texts.cast(type_))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.type == type_:
        return values
    one_is_boolean = pa.types.is_boolean(values.type) != pa.types.is_boolean(type_)
    if one_is_boolean or (is_text(values.type) and not _is_bytes(type_)):
        raise pa.ArrowInvalid("its values are of another kind")
    made = values.cast(type_)
    _check_same(values, made)
    return made


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_))


def _check_same(values: pa.Array, made: pa.Array) -> None:
    """Check that a cast kept the values. Arrow's cast refuses overflows, but rounds a double to a float silently."""
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        values, made = values.flatten(), made.flatten()
    if pa.types.is_primitive(values.type) or pa.types.is_decimal(values.type):
        back = made.cast(values.type, safe=False)
        if pa.types.is_floating(values.type):  # NaN is not equal to itself
            values, back = (pc.if_else(pc.is_nan(x), None, x) for x in (values, back))
        if not back.equals(values):
            raise pa.ArrowInvalid("digits would be lost")
