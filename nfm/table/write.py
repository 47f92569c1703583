"""Write rows into files by folder, and compact small files into larger ones.

Tasks write the files themselves, so that Spark does not convert the rows one by one. A task reports its files when it
ends, and the driver moves the reported files into the output. Files of tasks that failed or ran twice stay in the
folder `written`, and are deleted with it.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from nfm.table.tasks import run_tasks

ROW_GROUP = 1 << 17  # rows: a few megabytes, which training reads and shuffles together
FILE_BYTES = 128 << 20  # a file that has reached this size is closed; files smaller than half of it are compacted
_OPEN_FILES = 100  # maximum per task
FILES = pa.schema([("folder", pa.string()), ("path", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64())])


@dataclass(frozen=True)
class WrittenFile:
    """A file that a task has written; a row of FILES."""

    folder: str  # its folder in the output, for example fold=train; may be empty
    path: str  # its current path
    rows: int
    bytes: int


@dataclass(frozen=True)
class Layout:
    """How the columns are stored: with a dictionary, with compression, or plain.

    Other columns are not compressed. A dictionary already packs ids into few bits, and floats with many values do not
    compress: snappy saved 9 % more space, but writing, and reading in every epoch, took 60 % longer.
    """

    repeating: tuple[str, ...]  # columns with few distinct values, stored with a dictionary
    texts: tuple[str, ...]  # columns compressed with snappy


class Writer:
    """Writer of one task's rows into files by folder. All row groups are full, except the last one of a file."""

    def __init__(self, written: Path, layout: Layout, file_bytes: int = FILE_BYTES) -> None:
        """Write files below `written`."""
        self.folder, self._layout, self._file_bytes = written, layout, file_bytes
        self._waiting: dict[str, list[pa.Table]] = defaultdict(list)
        self._waiting_rows: dict[str, int] = defaultdict(int)
        self._open: dict[str, tuple[Path, pq.ParquetWriter]] = {}
        self.files: list[WrittenFile] = []

    def add(self, folder: str, rows: pa.Table) -> None:
        """Add rows to a folder."""
        waiting = self._waiting[folder]
        waiting.append(rows)
        self._waiting_rows[folder] += len(rows)
        if self._waiting_rows[folder] >= ROW_GROUP:
            table = pa.concat_tables(waiting)
            full = len(table) // ROW_GROUP * ROW_GROUP
            for start in range(0, full, ROW_GROUP):
                self._write(folder, table.slice(start, ROW_GROUP))
            self._waiting[folder], self._waiting_rows[folder] = [table.slice(full)], len(table) - full

    def close(self) -> list[WrittenFile]:
        """Write the remaining rows, and return all files."""
        for folder, waiting in self._waiting.items():
            table = pa.concat_tables(waiting)
            if len(table):
                self._write(folder, table)
            if folder in self._open:
                self._finish(folder)
        return self.files

    def _write(self, folder: str, rows: pa.Table) -> None:
        if folder not in self._open:
            if len(self._open) == _OPEN_FILES:
                self._finish(next(iter(self._open)))
            path = self.folder / f"{uuid.uuid4().hex}.parquet"
            compression = dict.fromkeys(self._layout.texts, "snappy") or "none"
            dictionaries = list(self._layout.repeating)
            writer = pq.ParquetWriter(path, rows.schema, use_dictionary=dictionaries, compression=compression)
            self._open[folder] = path, writer
        path, writer = self._open[folder]
        writer.write_table(rows, row_group_size=ROW_GROUP)
        if path.stat().st_size >= self._file_bytes:
            self._finish(folder)

    def _finish(self, folder: str) -> None:
        path, writer = self._open.pop(folder)
        writer.close()
        self.files.append(WrittenFile(folder, str(path), pq.read_metadata(path).num_rows, path.stat().st_size))


def file_batch(files: Sequence[WrittenFile]) -> pa.RecordBatch:
    """Return the files as a batch with the schema FILES, to report them to the driver."""
    return pa.RecordBatch.from_pylist([vars(file) for file in files], FILES)


def collect_files(reported: DataFrame) -> list[WrittenFile]:
    """Run the tasks, and return the files that they report."""
    return [WrittenFile(**row.asDict()) for row in reported.collect()]


def compact_files(
    spark: SparkSession, files: Sequence[WrittenFile], written: Path, layout: Layout, file_bytes: int = FILE_BYTES
) -> list[WrittenFile]:
    """Compact the small files of each folder into files of about `file_bytes`. Large files are not changed."""

    def compact(group: Iterable[WrittenFile]) -> Iterator[pa.RecordBatch]:
        writer = Writer(written, layout, 2 * file_bytes)
        for file in group:
            parquet = pq.ParquetFile(file.path)
            for i in range(parquet.num_row_groups):
                writer.add(file.folder, parquet.read_row_group(i, use_threads=False))
        yield file_batch(writer.close())

    groups = plan_compaction(files, file_bytes)
    compacted = {file.path for group in groups for file in group}
    large = [file for file in files if file.path not in compacted]
    return large + collect_files(run_tasks(spark, groups, compact, FILES)) if groups else large


def plan_compaction(files: Sequence[WrittenFile], file_bytes: int = FILE_BYTES) -> list[list[WrittenFile]]:
    """Group the small files of each folder, about `file_bytes` per group; the largest groups come first."""
    groups: list[list[WrittenFile]] = []
    for small in _by_folder(file for file in files if file.bytes < file_bytes // 2).values():
        total = sum(file.bytes for file in small)
        count = max(1, round(total / file_bytes))
        shares: list[list[WrittenFile]] = [[] for _ in range(count)]
        size = 0
        for file in small:
            shares[min(count - 1, size * count // max(total, 1))].append(file)
            size += file.bytes
        groups += [group for group in shares if len(group) > 1]
    return sorted(groups, key=lambda group: -sum(file.bytes for file in group))


def move_into_place(files: Sequence[WrittenFile], target: Path, publication: str) -> list[WrittenFile]:
    """Move the files into their folders below `target`, and return them with their new paths.

    Their names contain the publication's id: no two publications have a file of the same name. Where the file system
    has hard links, the old names stay valid too, so that a killed run loses no file.
    """
    moved = []
    for folder, members in _by_folder(files).items():
        (target / folder).mkdir(parents=True, exist_ok=True)
        for i, file in enumerate(members):
            path = target / folder / f"part-{i:05d}-{publication}{Path(file.path).suffix}"
            try:
                path.hardlink_to(file.path)
            except OSError:  # some network mounts have no hard links
                Path(file.path).rename(path)
            moved.append(replace(file, path=str(path)))
    return moved


def _by_folder(files: Iterable[WrittenFile]) -> Mapping[str, list[WrittenFile]]:
    by_folder: dict[str, list[WrittenFile]] = defaultdict(list)
    for file in files:
        by_folder[file.folder].append(file)
    return by_folder
