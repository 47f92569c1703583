"""Count everything that the encoding is made of, in one pass over the raw table.

Categories are counted by their canonical text, numbers in cells (`contract.cells`). Counts merge in any order to the
same result. They stay on the executors, which add them up (`features.sums`) and leave them in files: sorted runs, which
vocabularies are made of, and a summary for the facts.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from nfm.contract.cells import Cells, count_cells, merge
from nfm.contract.columns import Rows, Values, read_field_values
from nfm.contract.hashing import hash64
from nfm.contract.schema import FOLDS, Bag, Kind
from nfm.contract.values import to_floats
from nfm.features import labels, runs
from nfm.features.labels import Label
from nfm.features.split import LEFT_OUT, Split, folds
from nfm.features.sums import SCHEMA, SUMMARY, ranked, summary, sums
from nfm.table.scan import Scan
from nfm.table.spark import save_and_reload

PACKETS = pa.schema([("bucket", pa.int32()), ("packet", pa.binary())])
_GROUPS = 6  # fold × label
_PACKET_ROWS = 1 << 20
_BUCKET_SEED = 0xB0C
_PROBE = 32768  # rows that tell how fine a number's cells can be at most


@dataclass(frozen=True)
class Part:
    """A part of the table to count: a field's values, or with kinds () a column's numbers."""

    name: str
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...] = ()
    bag: Bag | None = None


def count(
    scan: Scan, label: Label, parts: Sequence[Part], vocabularies: Sequence[Sequence[int]], split: Split, target: Path
) -> DataFrame:
    """Count each part's values in each fold, and leave the counts in files below `target`.

    The label is part 0, `parts` are 1, 2, …; `vocabularies` lists the parts of each. The `runs` below `target`, a new
    folder, are the values that occur in the train fold. Returns rows as `features.sums.summary` makes them.
    """
    spark = scan.table.sparkSession
    weights = [part.bag.weights for part in parts if part.bag and part.bag.weights]
    needed = dict.fromkeys([label.column, *(c for part in parts for c in part.columns), *weights, *split.columns])
    # What meets in one task has to fit there: with two buckets a split, it is less than what a task reads. Without
    # splits the size is unknown: buckets are many then, and Spark gives a task several small ones.
    splits = len(scan.splits)
    buckets = 2 * splits or int(spark.conf.get("spark.sql.shuffle.partitions") or 200)
    # The closures take these small values and nothing else.
    the_parts, the_vocabularies, the_split = tuple(parts), tuple(vocabularies), split
    meets = meeting(len(parts), vocabularies)

    def counted(rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        return packed(count_rows(rows, label, the_parts, the_split), meets, buckets)

    def summed(packets: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows, task = list(sums(packets)), TaskContext.get()
        if rows and task:
            runs.write(target / "runs", f"{task.partitionId():06}", ranked(rows, the_vocabularies))
        return summary(rows)

    # Counts travel in packets: Spark moves and sorts a few large rows, not a million small ones. The task that adds
    # them up writes the sums; only a summary goes back to Spark.
    packets = scan.map(needed, counted, PACKETS)
    together = packets.repartition(buckets, "bucket") if splits else packets.repartition("bucket")
    return save_and_reload(together.mapInArrow(summed, from_arrow_schema(SUMMARY)), target / "summary")


def meeting(parts: int, vocabularies: Sequence[Sequence[int]]) -> NDArray[np.uint64]:
    """(parts + 1,) for each part the first one that shares its vocabulary: their equal values go to one bucket."""
    meets = np.arange(parts + 1, dtype=np.uint64)
    for shared in vocabularies:
        meets[list(shared)] = shared[0]
    return meets


def packed(counts: Iterable[pa.RecordBatch], meets: NDArray[np.uint64], buckets: int) -> Iterator[pa.RecordBatch]:
    """Rows like SCHEMA → packets, by bucket: equal values meet in one bucket, and so do all cells of a part."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in counts:
        waiting.append(batch)
        rows += len(batch)
        if rows >= _PACKET_ROWS:
            yield _pack(waiting, meets, buckets)
            waiting, rows = [], 0
    if waiting:
        yield _pack(waiting, meets, buckets)


def _pack(batches: Sequence[pa.RecordBatch], meets: NDArray[np.uint64], buckets: int) -> pa.RecordBatch:
    rows = pa.Table.from_batches(batches).combine_chunks()
    texts = pa.concat_arrays([pa.array([], pa.large_string()), *rows["text"].chunks])
    part = meets[rows["part"].to_numpy()]
    hashes = np.where(rows["cell"].is_valid().to_numpy(), part, hash64(texts, _BUCKET_SEED) + part)
    bucket = (hashes % np.uint64(buckets)).astype(np.int32)
    order = np.argsort(bucket, kind="stable")
    found, starts = np.unique(bucket[order], return_index=True)
    rows = rows.take(pa.array(order))
    packets = []
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(rows.slice(start, stop - start).combine_chunks())
        packets.append(sink.getvalue().to_pybytes())
    return pa.RecordBatch.from_arrays([pa.array(found), pa.array(packets, pa.binary())], schema=PACKETS)


def count_rows(all_rows: Iterable[Rows], label: Label, parts: Sequence[Part], split: Split) -> Iterator[pa.RecordBatch]:
    """Counts of one task's rows, like SCHEMA; needs no Spark."""
    found: dict[int, Cells] = {}
    for rows in all_rows:
        of_rows = labels.read(rows, label)
        fold = folds(split, rows, of_rows.is_zero)
        groups = np.where(fold == LEFT_OUT, LEFT_OUT, fold * 2 + of_rows.is_one).astype(np.int64)
        if of_rows.numbers is None:
            yield _count_values(0, of_rows.texts, groups)
        else:
            right = ~np.isnan(of_rows.numbers)
            yield _count_values(0, of_rows.texts, groups[~right])
            yield from _count_numbers(0, of_rows.numbers[right], groups[right], found)
        for i, part in enumerate(parts, start=1):
            if part.kinds:
                yield _count_values(i, read_field_values(part.columns, part.kinds, part.bag, rows), groups)
            else:
                x = to_floats(rows.column(part.columns[0]), part.columns[0])
                yield from _count_numbers(i, x, groups, found)
    for i, part_cells in found.items():
        yield _rows(i, part_cells.counts, cell=pa.array(part_cells.keys), bits=part_cells.bits)


def _count_values(part: int, values: Values, groups: NDArray[np.int64]) -> pa.RecordBatch:
    if values.offsets is not None:
        groups = np.repeat(groups, np.diff(values.offsets))  # a member belongs where its bag does
    indices = values.indices
    if LEFT_OUT in groups:
        indices, groups = indices[groups != LEFT_OUT], groups[groups != LEFT_OUT]
    size = len(values.texts) + 1
    counts = np.bincount(indices * np.int64(_GROUPS) + groups, minlength=size * _GROUPS).reshape(size, _GROUPS)
    seen = np.flatnonzero(counts.any(axis=1))
    texts = pa.concat_arrays([values.texts, pa.nulls(1, pa.large_string())]).take(pa.array(seen))
    return _rows(part, counts[seen], texts=texts)


def _count_numbers(
    part: int, x: NDArray[np.float64], groups: NDArray[np.int64], found: dict[int, Cells]
) -> Iterator[pa.RecordBatch]:
    """Yield the missing ones; merge the others into `found`."""
    x, groups = (x[groups != LEFT_OUT], groups[groups != LEFT_OUT]) if LEFT_OUT in groups else (x, groups)
    present = ~np.isnan(x)
    yield _rows(part, np.bincount(groups[~present], minlength=_GROUPS)[np.newaxis])
    x, groups = x[present], groups[present]
    if not len(x):
        return
    so_far = [found[part]] if part in found else []
    probed = so_far or [count_cells(x[:_PROBE], groups[:_PROBE], _GROUPS)]
    found[part] = merge([*so_far, count_cells(x, groups, _GROUPS, probed[0].bits)])


def _rows(
    part: int, counts: NDArray[Any], texts: pa.Array = None, cell: pa.Array = None, bits: int | None = None
) -> pa.RecordBatch:
    n = len(counts)
    by_fold = counts.reshape(n, len(FOLDS), 2)
    positive = by_fold[:, :, 1]
    arrays = [
        pa.array(np.full(n, part, np.int32)),
        pa.nulls(n, pa.large_string()) if texts is None else texts,
        pa.nulls(n, pa.int64()) if cell is None else cell,
        pa.array([bits] * n, pa.int32()),
        *(pa.array(by_fold[:, i].sum(axis=1)) for i in range(len(FOLDS))),
        pa.array(positive[:, 0]),
        pa.array(positive[:, 1:].sum(axis=1)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
