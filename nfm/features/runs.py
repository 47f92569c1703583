"""Sorted runs: how counted values get from the tasks that add them up to the one that writes their vocabulary.

A task writes the values of its buckets as one file, sorted within each vocabulary by (count descending, value). The
order of ids is a merge of these files, a block of each at a time: nobody sorts, or holds, a vocabulary as a whole.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nfm.contract.replace import replacing

SCHEMA = pa.schema([("text", pa.large_string()), ("count", pa.int64())])
_ORDER = [("count", "descending"), ("text", "ascending")]
_BLOCK = 1 << 16  # rows of a batch in the file, at most
_HELD = 1 << 20  # rows of all runs that a merge holds
_NUMBERS, _ROWS = b"vocabularies of the batches", b"rows of the batches"


def write(folder: Path, name: str, values: Sequence[tuple[int, pa.Table]]) -> None:
    """Write a run of this name; a second attempt of the same task replaces it with an equal one.

    `values`: rows like SCHEMA, by the numbers of their vocabularies; each value of a vocabulary is in one run only.
    """
    batches = [(n, batch) for n, rows in values for batch in _sorted(rows).to_batches(max_chunksize=_BLOCK)]
    known = {_NUMBERS: [n for n, _ in batches], _ROWS: [len(batch) for _, batch in batches]}
    folder.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({key: json.dumps(value) for key, value in known.items()})
    with replacing(folder / name, shared=True) as attempt, pa.ipc.new_file(attempt, schema) as file:
        for _, batch in batches:
            file.write_batch(batch)


def sizes(folder: Path) -> Counter[int]:
    """Number of values of each vocabulary in all runs."""
    found: Counter[int] = Counter()
    for path in _paths(folder):
        for number, rows in zip(*_known(_open(path)), strict=True):
            found[number] += rows
    return found


def batches(folder: Path, number: int) -> list[Iterator[pa.RecordBatch]]:
    """A vocabulary's rows in each run, in order; mapped, not read. Sized so that `merged` can hold one of each."""
    files = [_open(path) for path in _paths(folder)]
    step = max(_HELD // max(len(files), 1), 1024)

    def of_run(file: pa.ipc.RecordBatchFileReader) -> Iterator[pa.RecordBatch]:
        for i, n in enumerate(_known(file)[0]):
            if n == number:
                batch = file.get_batch(i)
                yield from (batch.slice(start, step) for start in range(0, len(batch), step))

    return [of_run(file) for file in files]


def merged(runs: Sequence[Iterator[pa.RecordBatch]]) -> Iterator[pa.Table]:
    """Sorted runs → tables in the order of all their rows. Holds one batch of each run."""
    heads = [_Head(SCHEMA.empty_table(), next(run, None), run) for run in runs]
    while heads := [head for head in map(_filled, heads) if len(head.rows)]:
        # Behind the last row of a batch rows may follow that nobody has seen: what comes before all of these is known.
        last = [head.rows.slice(len(head.rows) - 1).to_pylist()[0] for head in heads if head.following is not None]
        bound = min(((-row["count"], row["text"].encode()) for row in last), default=None)
        cuts = [len(head.rows) if bound is None else _rows_up_to(head.rows, bound) for head in heads]
        yield _sorted(pa.concat_tables([head.rows.slice(0, cut) for head, cut in zip(heads, cuts, strict=True)]))
        heads = [head._replace(rows=head.rows.slice(cut)) for head, cut in zip(heads, cuts, strict=True)]


class _Head(NamedTuple):
    rows: pa.Table  # that were not merged yet
    following: pa.RecordBatch | None  # comes after them
    rest: Iterator[pa.RecordBatch]


def _filled(head: _Head) -> _Head:
    if len(head.rows) or head.following is None:
        return head
    return _Head(pa.Table.from_batches([head.following]), next(head.rest, None), head.rest)


def _rows_up_to(rows: pa.Table, bound: tuple[int, bytes]) -> int:
    """Number of the sorted rows that are not after the row of this (-count, text)."""
    falling, text = -rows["count"].to_numpy(), bound[1].decode()
    more, at_least = (np.searchsorted(falling, bound[0], side) for side in ("left", "right"))
    ties = rows["text"].slice(more, at_least - more)
    return int(more) + (pc.sum(pc.less_equal(ties, pa.scalar(text, pa.large_string()))).as_py() or 0)


def _sorted(rows: pa.Table) -> pa.Table:
    rows = rows.combine_chunks()
    return rows.take(pc.sort_indices(rows, _ORDER))


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _known(file: pa.ipc.RecordBatchFileReader) -> tuple[list[int], list[int]]:
    numbers, rows = (json.loads(file.schema.metadata[key]) for key in (_NUMBERS, _ROWS))
    return numbers, rows
