"""Divide the files of a table into splits, one per task."""

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class File(NamedTuple):
    """A file on disk."""

    path: str
    size: int  # bytes
    partition: int  # row of Files.partitions: the values in the names of its folders
    changed: int = 0  # last change in nanoseconds since 1970, as precise as its file system


class Piece(NamedTuple):
    """A byte range of a file; contains the row groups whose middle is in the range."""

    file: File
    start: int
    stop: int  # exclusive


Split = tuple[Piece, ...]  # the input of one task


def file_at(path: str, partition: int = 0) -> File:
    """Return a file with its current size and time of change."""
    status = os.stat(path)  # noqa: PTH116 (faster, for thousands of files)
    return File(path, status.st_size, partition, status.st_mtime_ns)


def make_splits(files: Sequence[File], cores: int, max_bytes: int = 128 << 20) -> tuple[Split, ...]:
    """Divide files into splits of equal size, at most `max_bytes` each. No footer is read: every byte is in one piece.

    Each file must have at least one byte; opening it counts as 1/128 of `max_bytes`. The number of splits is a
    multiple of `cores`, unless the files are tiny. Without files, the result is one empty split.
    """
    opening = max_bytes // 128
    total = sum(file.size + opening for file in files)
    tasks = math.ceil(total * 32 / max_bytes)
    if tasks > cores:
        tasks = cores * math.ceil(total / (max_bytes * cores))
    tasks = max(tasks, 1)
    # Put the files one after another, and divide their bytes at equal distances. A row group belongs to the split of
    # its middle byte, so an edge close to the start or end of a file moves no row group.
    edges = [i * total // tasks for i in range(tasks + 1)]
    splits: list[list[Piece]] = [[] for _ in range(tasks)]
    position = 0
    for file in files:
        length = file.size + opening
        first, last = (bisect_right(edges, at) - 1 for at in (position, position + length - 1))
        for i in range(first, last + 1):
            within = (min(max(edge - position, 0), length) for edge in edges[i : i + 2])
            start, stop = (at * file.size // length for at in within)
            if start < stop:
                splits[i].append(Piece(file, start, stop))
        position += length
    return tuple(tuple(split) for split in splits if split) or ((),)
