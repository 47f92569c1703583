"""Sorted runs: files that pass counted values from the tasks that sum them to the task that writes their vocabulary.

A task writes the values of its buckets as one file, sorted within each vocabulary by (count descending, value). Merging
the files, one block of each at a time, gives the order of the ids. No task sorts a whole vocabulary or keeps it in
memory.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nfm.contract.publishing.replace import replacing

SCHEMA = pa.schema([("text", pa.large_string()), ("count", pa.int64())])
_ORDER = [("count", "descending"), ("text", "ascending")]
_BLOCK = 1 << 16  # maximum rows of a batch in a file
_MERGE_ROWS = 1 << 20  # rows of all runs that a merge keeps in memory
_NUMBERS, _ROWS = b"vocabularies of the batches", b"rows of the batches"


def write(folder: Path, name: str, values: Sequence[tuple[int, pa.Table]]) -> None:
    """Write a run under this name; a second attempt of the same task replaces it with an equal run.

    `values` are pairs of a vocabulary's number and its rows with SCHEMA. Each value of a vocabulary must be in one run.
    """
    batches = [(n, batch) for n, rows in values for batch in _sort(rows).to_batches(max_chunksize=_BLOCK)]
    metadata = {_NUMBERS: [n for n, _ in batches], _ROWS: [len(batch) for _, batch in batches]}
    folder.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({key: json.dumps(value) for key, value in metadata.items()})
    with replacing(folder / name, shared=True) as attempt, pa.ipc.new_file(attempt, schema) as file:
        for _, batch in batches:
            file.write_batch(batch)


def count_values(folder: Path) -> Counter[int]:
    """Return the number of values of each vocabulary in all runs."""
    sizes: Counter[int] = Counter()
    for path in _paths(folder):
        for number, rows in zip(*_read_metadata(_open(path)), strict=True):
            sizes[number] += rows
    return sizes


def open_runs(folder: Path, number: int) -> list[Iterator[pa.RecordBatch]]:
    """Return, for each run, the sorted rows of one vocabulary as memory-mapped batches.

    The batches are small enough for `merge` to keep one batch of each run in memory.
    """
    files = [_open(path) for path in _paths(folder)]
    step = max(_MERGE_ROWS // max(len(files), 1), 1024)

    def read(file: pa.ipc.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
        for i, n in enumerate(_read_metadata(file)[0]):
            if n == number:
                batch = file.get_batch(i)
                yield from (batch.slice(start, step) for start in range(0, len(batch), step))

    return [read(file) for file in files]


def merge(runs: Sequence[Iterator[pa.RecordBatch]]) -> Iterator[pa.Table]:
    """Merge sorted runs into tables whose rows are in order across all runs. Keeps one batch of each run in memory."""
    heads = [_Head(SCHEMA.empty_table(), next(run, None), run) for run in runs]
    while heads := [head for head in map(_fill, heads) if len(head.rows)]:
        # Rows that are not read yet come after the last row of their run's batch. So all rows up to the first of these
        # last rows can be sorted now.
        last = [head.rows.slice(len(head.rows) - 1).to_pylist()[0] for head in heads if head.following is not None]
        bound = min(((-row["count"], row["text"].encode()) for row in last), default=None)
        cuts = [len(head.rows) if bound is None else _rows_up_to(head.rows, bound) for head in heads]
        yield _sort(pa.concat_tables([head.rows.slice(0, cut) for head, cut in zip(heads, cuts, strict=True)]))
        heads = [head._replace(rows=head.rows.slice(cut)) for head, cut in zip(heads, cuts, strict=True)]


class _Head(NamedTuple):
    rows: pa.Table  # not merged yet
    following: pa.RecordBatch | None  # the batch after `rows`
    rest: Iterator[pa.RecordBatch]


def _fill(head: _Head) -> _Head:
    """Load the following batch once all rows are merged."""
    if len(head.rows) or head.following is None:
        return head
    return _Head(pa.Table.from_batches([head.following]), next(head.rest, None), head.rest)


def _rows_up_to(rows: pa.Table, bound: tuple[int, bytes]) -> int:
    """Return how many of the sorted rows come before the bound (-count, text) or are equal to it."""
    negative_counts, text = -rows["count"].to_numpy(), bound[1].decode()
    start, stop = (np.searchsorted(negative_counts, bound[0], side) for side in ("left", "right"))
    ties = rows["text"].slice(start, stop - start)
    return int(start) + (pc.sum(pc.less_equal(ties, pa.scalar(text, pa.large_string()))).as_py() or 0)


def _sort(rows: pa.Table) -> pa.Table:
    rows = rows.combine_chunks()
    return rows.take(pc.sort_indices(rows, _ORDER))


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _read_metadata(file: pa.ipc.RecordBatchFileReader) -> tuple[list[int], list[int]]:
    numbers, rows = (json.loads(file.schema.metadata[key]) for key in (_NUMBERS, _ROWS))
    return numbers, rows
