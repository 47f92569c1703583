"""What tasks write: rows → files by folder, and small files → larger ones.

Tasks write the files themselves: rows need not go through Spark one by one. A file counts only once its task has ended
and told of it; the driver then moves it to its place. What a task that died or ran twice has left behind stays in the
folder `written`, and goes with it.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

ROW_GROUP = 1 << 17  # rows: some megabytes that training reads, and shuffles, at a time
FILE_BYTES = 128 << 20  # a file that has reached this is closed; those below half of it are put together
_OPEN_FILES = 100  # of one task
FILES_DDL = "folder string, path string, rows long, bytes long"
FILES = pa.schema([("folder", pa.string()), ("path", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64())])


@dataclass(frozen=True)
class WrittenFile:
    """A file that a task has written."""

    folder: str  # where it belongs: fold=train; or nothing
    path: str  # where it is
    rows: int
    bytes: int


@dataclass(frozen=True)
class Layout:
    """How columns are encoded. An id is packed into few bits by its dictionary, and a float of many values cannot be
    compressed: snappy on top saved 9 % of the room and took 60 % more time, in writing as in every epoch's reading.
    """

    repeating: tuple[str, ...]  # columns whose values repeat: a dictionary saves room
    texts: tuple[str, ...]  # columns that are compressed


class Writer:
    """Writes one task's rows into files, by folder; row groups are full but for a file's last."""

    def __init__(self, written: Path, layout: Layout, file_bytes: int = FILE_BYTES) -> None:
        """Files go below `written`."""
        self._written, self._layout, self._file_bytes = written, layout, file_bytes
        self._waiting: dict[str, list[pa.Table]] = defaultdict(list)
        self._rows: dict[str, int] = defaultdict(int)  # that wait
        self._open: dict[str, tuple[Path, pq.ParquetWriter]] = {}
        self.files: list[WrittenFile] = []

    def add(self, folder: str, rows: pa.Table) -> None:
        """Add rows to a folder."""
        waiting = self._waiting[folder]
        waiting.append(rows)
        self._rows[folder] += len(rows)
        if self._rows[folder] >= ROW_GROUP:
            table = pa.concat_tables(waiting)
            full = len(table) // ROW_GROUP * ROW_GROUP
            for start in range(0, full, ROW_GROUP):
                self._write(folder, table.slice(start, ROW_GROUP))
            self._waiting[folder], self._rows[folder] = [table.slice(full)], len(table) - full

    def close(self) -> list[WrittenFile]:
        """Write what is left; returns every file."""
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
            path = self._written / f"{uuid.uuid4().hex}.parquet"
            writer = pq.ParquetWriter(
                path,
                rows.schema,
                use_dictionary=list(self._layout.repeating),
                compression=dict.fromkeys(self._layout.texts, "snappy") or "none",
            )
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
    """What a task hands to the driver."""
    return pa.RecordBatch.from_pylist([vars(file) for file in files], FILES)


def compact_files(
    spark: SparkSession, files: Sequence[WrittenFile], written: Path, layout: Layout, file_bytes: int = FILE_BYTES
) -> list[WrittenFile]:
    """Small files of a folder become one, or as many as their size asks for; large ones stay as they are."""
    groups = merge_plan(files, file_bytes)
    if not groups:
        return list(files)

    def merged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for i in batch.column("id").to_pylist():
                writer = Writer(written, layout, 2 * file_bytes)
                for file in groups[i]:
                    opened = pq.ParquetFile(file.path)
                    for j in range(opened.num_row_groups):
                        writer.add(file.folder, opened.read_row_group(j, use_threads=False))
                yield file_batch(writer.close())

    tasks = spark.range(0, len(groups), 1, len(groups))
    result = [WrittenFile(**row.asDict()) for row in tasks.mapInArrow(merged, FILES_DDL).collect()]
    gone = {file.path for group in groups for file in group}
    return [file for file in files if file.path not in gone] + result


def merge_plan(files: Sequence[WrittenFile], file_bytes: int = FILE_BYTES) -> list[list[WrittenFile]]:
    """Which files to put together: neighbours of a folder, up to `file_bytes`; the largest groups first."""
    by_folder: Mapping[str, list[WrittenFile]] = defaultdict(list)
    for file in files:
        if file.bytes < file_bytes // 2:
            by_folder[file.folder].append(file)
    groups: list[list[WrittenFile]] = []
    for small in by_folder.values():
        total = sum(file.bytes for file in small)
        count = max(1, round(total / file_bytes))
        share: list[list[WrittenFile]] = [[] for _ in range(count)]
        size = 0
        for file in small:
            share[min(count - 1, size * count // max(total, 1))].append(file)
            size += file.bytes
        groups += [group for group in share if len(group) > 1]
    return sorted(groups, key=lambda group: -sum(file.bytes for file in group))


def move_into_place(files: Sequence[WrittenFile], target: Path) -> list[WrittenFile]:
    """Give the files their places in the folders below `target`; returns them there.

    They keep their names below `written`, too, where the file system lets them: who is killed meanwhile has lost none.
    """
    by_folder: Mapping[str, list[WrittenFile]] = defaultdict(list)
    for file in files:
        by_folder[file.folder].append(file)
    moved = []
    for folder, mine in by_folder.items():
        (target / folder).mkdir(parents=True, exist_ok=True)
        for i, file in enumerate(mine):
            path = target / folder / f"part-{i:05d}{Path(file.path).suffix}"
            _further_name(Path(file.path), path)
            moved.append(replace(file, path=str(path)))
    return moved


def _further_name(path: Path, other: Path) -> None:
    try:
        other.hardlink_to(path)
    except OSError:  # some network mounts have no links
        path.rename(other)
