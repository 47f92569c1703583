"""Sum the counts of many tasks by value, select the values of vocabularies, and summarize everything else."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nfm.contract.cells import Cells, merge
from nfm.features import runs
from nfm.features.statistics import COUNTS

# `part` is the number of the counted part. A value is either a text or (cell, bits); both are null for missing values.
SCHEMA = pa.schema(
    [("part", pa.int32()), ("text", pa.large_string()), ("cell", pa.int64()), ("bits", pa.int32())]
    + [(name, pa.int64()) for name in COUNTS]
)
# Number of values that a row of the summary represents, and how many of them occur in each fold.
VALUES = ("values", *(f"{fold}_values" for fold in COUNTS[:3]))
SUMMARY = pa.schema(
    [("part", pa.int32()), ("missing", pa.bool_()), *(SCHEMA.field(i) for i in range(1, len(SCHEMA)))]
    + [(name, pa.int64()) for name in VALUES]
)
_BATCH = 1 << 20
_MAX_LABELS = 4096  # distinct labels in a summary


def sum_packets(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Sum the packets of some buckets; yields rows with SCHEMA, each (part, value) once."""
    packets = [packet.as_buffer() for batch in batches for packet in batch.column("packet")]
    if not packets:
        return
    rows = pa.concat_tables([pa.ipc.open_stream(packet).read_all() for packet in packets])
    is_cell = rows["cell"].is_valid()
    texts = rows.filter(pc.invert(is_cell)).group_by(["part", "text"], use_threads=False)
    total = texts.aggregate([(name, "sum") for name in COUNTS]).rename_columns(["part", "text", *COUNTS])
    for name in ("bits", "cell"):
        total = total.add_column(2, SCHEMA.field(name), pa.nulls(len(total), SCHEMA.field(name).type))
    yield from total.cast(SCHEMA).to_batches(max_chunksize=_BATCH)
    for part, cells in read_cells(rows.filter(is_cell).to_batches()).items():
        n = len(cells.keys)
        value = [pa.nulls(n, pa.large_string()), cells.keys, np.full(n, cells.bits, np.int32)]
        columns = [np.full(n, part, np.int32), *value, *np.ascontiguousarray(cells.counts.T)]
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)


def select_train_values(
    rows: Sequence[pa.RecordBatch], vocabularies: Sequence[Sequence[int]]
) -> list[tuple[int, pa.Table]]:
    """Select, from the rows of `sum_packets`, each vocabulary's values that occur in the train fold.

    `vocabularies` lists the parts of each. Returns pairs of a vocabulary's number and its rows with `runs.SCHEMA`.
    """
    table = pa.Table.from_batches(rows)
    table = table.filter(pc.and_(table["text"].is_valid(), pc.greater(table["train"], 0)))
    selected = []
    for number, parts in enumerate(vocabularies):
        values = table.filter(pc.is_in(table["part"], pa.array(parts, pa.int32())))
        if len(parts) > 1:
            values = values.group_by("text", use_threads=False).aggregate([("train", "sum")])
            values = values.rename_columns(["text", "train"])
        if len(values):
            selected.append((number, values.select(["text", "train"]).rename_columns(runs.SCHEMA.names)))
    return selected


def summarize(rows: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Summarize the rows of `sum_packets` in a few rows with SUMMARY.

    Values of a part with equal `train` and `positive` counts share a row. Numbers keep their cells, and the most
    frequent labels (part 0) keep their texts.
    """
    if not rows:
        return
    table = pa.Table.from_batches(rows)
    ones = pa.array(np.ones(len(table), np.int64))
    in_fold = [pc.greater(table[fold], 0).cast(pa.int64()) for fold in COUNTS[:3]]
    for name, values in zip(VALUES, [ones, *in_fold], strict=True):
        table = table.append_column(name, values)
    table = table.append_column("missing", pc.and_(table["text"].is_null(), table["cell"].is_null()))
    is_cell = table["cell"].is_valid()
    is_label = pc.and_not(pc.equal(table["part"], 0), is_cell)
    # The ranking by label rates needs train and positive for each value, so only values that agree in both are grouped.
    keys = ["part", "missing", "train", "positive"]
    summed = [name for name in (*COUNTS, *VALUES) if name not in keys]
    rest = table.filter(pc.invert(pc.or_(is_label, is_cell))).group_by(keys, use_threads=False)
    groups = rest.aggregate([(name, "sum") for name in summed]).rename_columns([*keys, *summed])
    for name in ("train", "positive"):
        total = pc.multiply(groups[name], groups["values"])
        groups = groups.set_column(groups.schema.get_field_index(name), name, total)
    for name in ("text", "cell", "bits"):
        groups = groups.append_column(name, pa.nulls(len(groups), SCHEMA.field(name).type))
    for part in (_limit_labels(table.filter(is_label)), table.filter(is_cell), groups):
        yield from part.select(SUMMARY.names).cast(SUMMARY).to_batches(max_chunksize=_BATCH)


def _limit_labels(labels: pa.Table) -> pa.Table:
    """Keep the most frequent labels, those of the train fold first. No model task accepts more.

    The counts of the other labels are added up in one row, under the most frequent of them, so that the driver's
    memory suffices for any table.
    """
    if len(labels) <= _MAX_LABELS:
        return labels
    rows = np.sum([labels[fold].to_numpy() for fold in COUNTS[:3]], axis=0)
    labels = labels.take(pa.array(np.lexsort([-rows, labels["train"].to_numpy() == 0])))
    rest = labels.slice(_MAX_LABELS)
    totals = {name: [pc.sum(rest[name]).as_py()] for name in (*COUNTS, *VALUES)}
    first = {name: rest[name].slice(0, 1).to_pylist() for name in labels.column_names}
    return pa.concat_tables([labels.slice(0, _MAX_LABELS), pa.table(first | totals, labels.schema)])


def read_cells(batches: Iterable[pa.RecordBatch]) -> dict[int, Cells]:
    """Return the merged cells of each part, from rows of cells with SCHEMA or SUMMARY."""
    merged: dict[int, Cells] = {}
    for batch in batches:
        part, bits = (batch.column(name).to_numpy() for name in ("part", "bits"))
        keys = batch.column("cell").to_numpy()
        counts = np.stack([batch.column(name).to_numpy() for name in COUNTS], axis=1)
        for i in np.unique(part).tolist():
            pieces = [merged[i]] if i in merged else []
            for b in np.unique(bits[part == i]):
                rows = np.flatnonzero((part == i) & (bits == b))
                pieces.append(Cells(int(b), keys[rows], counts[rows]))
            merged[i] = merge(pieces)
    return merged
