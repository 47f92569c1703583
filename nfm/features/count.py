"""Count everything that the encoding is made of, in one pass over the raw table.

Categories are counted by their canonical text, numbers in cells (`contract.cells`). The result does not depend on the
order in which counts are merged. The executors sum the counts (`features.sums`) and write them into files: sorted runs,
from which vocabularies are made, and a summary for the statistics.
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
from nfm.contract.times.derive import derive
from nfm.contract.times.derived import Derived, raw_columns
from nfm.contract.values import to_floats
from nfm.features import labels, runs
from nfm.features.labels import Label
from nfm.features.split import LEFT_OUT, Split, assign_folds
from nfm.features.sums import SCHEMA, SUMMARY, select_train_values, sum_packets, summarize
from nfm.table.scan import Scan
from nfm.table.spark import save_and_reload

PACKETS = pa.schema([("bucket", pa.int32()), ("packet", pa.binary())])
_GROUPS = 6  # fold × label
_PACKET_ROWS = 1 << 20
_BUCKET_SEED = 0xB0C
_PROBE = 32768  # first rows of a number, from which the finest width of its cells is chosen


@dataclass(frozen=True)
class Part:
    """A part of the table that is counted separately: the values of a field, or (without kinds) a column of numbers."""

    name: str
    columns: tuple[str, ...]
    kinds: tuple[Kind, ...] = ()
    bag: Bag | None = None


def count(
    scan: Scan,
    label: Label,
    parts: Sequence[Part],
    vocabularies: Sequence[Sequence[int]],
    split: Split,
    derived: Sequence[Derived],
    target: Path,
) -> DataFrame:
    """Count each part's values in each fold, and write the counts into files below `target`, a new folder.

    The label is part 0, and `parts` are 1, 2, …; `vocabularies` lists the parts of each vocabulary. `target/runs`
    receives the values that occur in the train fold. Returns the rows of `features.sums.summarize`.
    """
    spark = scan.table.sparkSession
    weights = [part.bag.weights for part in parts if part.bag and part.bag.weights]
    read = raw_columns([*(c for part in parts for c in part.columns), *weights], derived)
    needed = dict.fromkeys([*([label.column] if label.column else []), *read, *split.columns])
    # A bucket has to fit into a task's memory. With two buckets per split, a bucket is smaller than a task's input.
    # Without splits the size is unknown: then there are many buckets, and Spark gives several small ones to a task.
    splits = len(scan.splits)
    buckets = 2 * splits or int(spark.conf.get("spark.sql.shuffle.partitions") or 200)
    # The closures take only small values.
    parts, vocabularies, derived = tuple(parts), tuple(vocabularies), tuple(derived)
    groups = group_parts(len(parts), vocabularies)

    def count_split(all_rows: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        with_derived = (derive(rows, derived) for rows in all_rows)
        return pack_counts(count_rows(with_derived, label, parts, split), groups, buckets)

    def sum_buckets(packets: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows, task = list(sum_packets(packets)), TaskContext.get()
        if rows and task:
            runs.write(target / "runs", f"{task.partitionId():06}", select_train_values(rows, vocabularies))
        return summarize(rows)

    # Counts are sent in packets, so that Spark moves and sorts a few large rows instead of a million small ones. The
    # task that sums them writes the runs, and returns only a summary to Spark.
    packets = scan.map(needed, count_split, PACKETS)
    by_bucket = packets.repartition(buckets, "bucket") if splits else packets.repartition("bucket")
    return save_and_reload(by_bucket.mapInArrow(sum_buckets, from_arrow_schema(SUMMARY)), target / "summary")


def group_parts(parts: int, vocabularies: Sequence[Sequence[int]]) -> NDArray[np.uint64]:
    """Return (parts + 1,) for each part the first part of its vocabulary, so that equal values share a bucket."""
    groups = np.arange(parts + 1, dtype=np.uint64)
    for shared in vocabularies:
        groups[list(shared)] = shared[0]
    return groups


def pack_counts(counts: Iterable[pa.RecordBatch], groups: NDArray[np.uint64], buckets: int) -> Iterator[pa.RecordBatch]:
    """Pack rows with SCHEMA into packets by bucket; equal values of a group and all cells of a part share a bucket."""
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in counts:
        pending.append(batch)
        rows += len(batch)
        if rows >= _PACKET_ROWS:
            yield _pack(pending, groups, buckets)
            pending, rows = [], 0
    if pending:
        yield _pack(pending, groups, buckets)


def _pack(batches: Sequence[pa.RecordBatch], groups: NDArray[np.uint64], buckets: int) -> pa.RecordBatch:
    rows = pa.Table.from_batches(batches).combine_chunks()
    texts = pa.concat_arrays([pa.array([], pa.large_string()), *rows["text"].chunks])
    group = groups[rows["part"].to_numpy()]
    hashes = np.where(rows["cell"].is_valid().to_numpy(), group, hash64(texts, _BUCKET_SEED) + group)
    bucket = (hashes % np.uint64(buckets)).astype(np.int32)
    order = np.argsort(bucket, kind="stable")
    used, starts = np.unique(bucket[order], return_index=True)
    rows = rows.take(pa.array(order))
    packets = []
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(rows.slice(start, stop - start).combine_chunks())
        packets.append(sink.getvalue().to_pybytes())
    return pa.RecordBatch.from_arrays([pa.array(used), pa.array(packets, pa.binary())], schema=PACKETS)


def count_rows(all_rows: Iterable[Rows], label: Label, parts: Sequence[Part], split: Split) -> Iterator[pa.RecordBatch]:
    """Count one task's rows; yields rows with SCHEMA. Does not need Spark."""
    merged: dict[int, Cells] = {}
    for rows in all_rows:
        row_labels = labels.read(rows, label)
        fold = assign_folds(split, rows, row_labels.is_zero)
        groups = np.where(fold == LEFT_OUT, LEFT_OUT, fold * 2 + row_labels.is_one).astype(np.int64)
        if row_labels.numbers is None:
            yield _count_values(0, row_labels.texts, groups)
        else:
            usable = ~np.isnan(row_labels.numbers)
            yield _count_values(0, row_labels.texts, groups[~usable])
            yield from _count_numbers(0, row_labels.numbers[usable], groups[usable], merged)
        for i, part in enumerate(parts, start=1):
            if part.kinds:
                yield _count_values(i, read_field_values(part.columns, part.kinds, part.bag, rows), groups)
            else:
                x = to_floats(rows.column(part.columns[0]), part.columns[0])
                yield from _count_numbers(i, x, groups, merged)
    for i, part_cells in merged.items():
        yield _rows(i, part_cells.counts, cell=pa.array(part_cells.keys), bits=part_cells.bits)


def _count_values(part: int, values: Values, groups: NDArray[np.int64]) -> pa.RecordBatch:
    if values.offsets is not None:
        groups = np.repeat(groups, np.diff(values.offsets))  # members have the fold and label of their row
    indices = values.indices
    if LEFT_OUT in groups:
        indices, groups = indices[groups != LEFT_OUT], groups[groups != LEFT_OUT]
    size = len(values.texts) + 1
    counts = np.bincount(indices * np.int64(_GROUPS) + groups, minlength=size * _GROUPS).reshape(size, _GROUPS)
    seen = np.flatnonzero(counts.any(axis=1))
    texts = pa.concat_arrays([values.texts, pa.nulls(1, pa.large_string())]).take(pa.array(seen))
    return _rows(part, counts[seen], texts=texts)


def _count_numbers(
    part: int, x: NDArray[np.float64], groups: NDArray[np.int64], merged: dict[int, Cells]
) -> Iterator[pa.RecordBatch]:
    """Yield the counts of missing numbers, and merge the other numbers into `merged`."""
    x, groups = (x[groups != LEFT_OUT], groups[groups != LEFT_OUT]) if LEFT_OUT in groups else (x, groups)
    present = ~np.isnan(x)
    yield _rows(part, np.bincount(groups[~present], minlength=_GROUPS)[np.newaxis])
    x, groups = x[present], groups[present]
    if not len(x):
        return
    earlier = [merged[part]] if part in merged else []
    probed = earlier or [count_cells(x[:_PROBE], groups[:_PROBE], _GROUPS)]
    merged[part] = merge([*earlier, count_cells(x, groups, _GROUPS, probed[0].bits)])


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
