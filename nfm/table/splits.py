"""Divide files into splits, one for each task."""

import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class File(NamedTuple):
    """A file on disk."""

    path: str
    size: int  # bytes
    partition: int  # the row of Files.partitions with the values of its folders' names
    changed: int = 0  # nanoseconds since 1970, as precise as its file system


class Piece(NamedTuple):
    """The row groups of a file whose middle is in a range of its bytes."""

    file: File
    start: int
    stop: int  # exclusive


Split = tuple[Piece, ...]  # what one task reads


def file_at(path: str, partition: int = 0) -> File:
    """Return a file in its present state."""
    status = os.stat(path)  # noqa: PTH116 (faster, for thousands of files)
    return File(path, status.st_size, partition, status.st_mtime_ns)


def cut(files: Sequence[File], cores: int, most: int = 128 << 20) -> tuple[Split, ...]:
    """Cut files into splits of at most `most` bytes and equal size. Needs no footers: every byte is in one piece.

    Each file has at least one byte; opening it counts as 1/128 of `most`. The number of splits is a multiple of
    `cores`, unless the files are tiny; without files there is one empty split.
    """
    opening = most // 128
    total = sum(file.size + opening for file in files)
    tasks = math.ceil(total * 32 / most)
    if tasks > cores:
        tasks = cores * math.ceil(total / (most * cores))
    tasks = max(tasks, 1)
    # The files form one line, which is cut at equal distances. The middle of a row group decides where it belongs, so a
    # cut close to a file's edge moves none.
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
