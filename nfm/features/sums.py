"""Counts of many tasks → each value's counts once; what becomes vocabularies, and a summary for everything else."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nfm.contract.cells import Cells, merge
from nfm.features import runs
from nfm.features.statistics import COUNTS

# A row's part is the place of what is counted. Of its value, text or (cell, bits) is set; neither where it is missing.
SCHEMA = pa.schema(
    [("part", pa.int32()), ("text", pa.large_string()), ("cell", pa.int64()), ("bits", pa.int32())]
    + [(name, pa.int64()) for name in COUNTS]
)
# How many values a row of the summary stands for, and how many of them occur in each fold.
VALUES = ("values", *(f"{fold}_values" for fold in COUNTS[:3]))
SUMMARY = pa.schema(
    [("part", pa.int32()), ("missing", pa.bool_()), *(SCHEMA.field(i) for i in range(1, len(SCHEMA)))]
    + [(name, pa.int64()) for name in VALUES]
)
_BATCH = 1 << 20
_LABELS = 4096  # different ones that a summary tells of


def sums(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Packets → rows like SCHEMA, each (part, value) of these buckets once."""
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
        columns = [pa.array(of) for of in (np.full(n, part, np.int32), *value, *np.ascontiguousarray(cells.counts.T))]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def ranked(rows: Sequence[pa.RecordBatch], vocabularies: Sequence[Sequence[int]]) -> list[tuple[int, pa.Table]]:
    """Select each vocabulary's values that occur in the train fold from the rows of `sums`, like `runs.SCHEMA`."""
    table = pa.Table.from_batches(rows)
    table = table.filter(pc.and_(table["text"].is_valid(), pc.greater(table["train"], 0)))
    found = []
    for number, parts in enumerate(vocabularies):
        mine = table.filter(pc.is_in(table["part"], pa.array(parts, pa.int32())))
        if len(parts) > 1:
            mine = mine.group_by("text", use_threads=False).aggregate([("train", "sum")])
            mine = mine.rename_columns(["text", "train"])
        if len(mine):
            found.append((number, mine.select(["text", "train"]).rename_columns(runs.SCHEMA.names)))
    return found


def summary(rows: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Summarize the rows of `sums` in few rows like SUMMARY: values of a part with equal train counts share a row.

    Labels (part 0) keep their texts, the most frequent ones; numbers keep their cells.
    """
    if not rows:
        return
    table = pa.Table.from_batches(rows)
    one = pa.array(np.ones(len(table), np.int64))
    seen = [pc.greater(table[fold], 0).cast(pa.int64()) for fold in COUNTS[:3]]
    for name, values in zip(VALUES, [one, *seen], strict=True):
        table = table.append_column(name, values)
    table = table.append_column("missing", pc.and_(table["text"].is_null(), table["cell"].is_null()))
    is_cell = table["cell"].is_valid()
    label = pc.and_not(pc.equal(table["part"], 0), is_cell)
    alone = pc.or_(label, is_cell)
    # Ranking by label rates asks for these two of each value.
    keys = ["part", "missing", "train", "positive"]
    added = [name for name in (*COUNTS, *VALUES) if name not in keys]
    grouped = table.filter(pc.invert(alone)).group_by(keys, use_threads=False)
    together = grouped.aggregate([(name, "sum") for name in added]).rename_columns([*keys, *added])
    for name in ("train", "positive"):
        of_all = pc.multiply(together[name], together["values"])
        together = together.set_column(together.schema.get_field_index(name), name, of_all)
    for name in ("text", "cell", "bits"):
        together = together.append_column(name, pa.nulls(len(together), SCHEMA.field(name).type))
    for part in (_few(table.filter(label)), table.filter(is_cell), together):
        yield from part.select(SUMMARY.names).cast(SUMMARY).to_batches(max_chunksize=_BATCH)


def _few(labels: pa.Table) -> pa.Table:
    """The most frequent labels: no task takes more, and the driver must be able to hold them.

    Those of the train fold come first. The others count as if they were the most frequent one of them.
    """
    if len(labels) <= _LABELS:
        return labels
    rows = np.sum([labels[fold].to_numpy() for fold in COUNTS[:3]], axis=0)
    labels = labels.take(pa.array(np.lexsort([-rows, labels["train"].to_numpy() == 0])))
    rest = labels.slice(_LABELS)
    totals = {name: [pc.sum(rest[name]).as_py()] for name in (*COUNTS, *VALUES)}
    first = {name: rest[name].slice(0, 1).to_pylist() for name in labels.column_names}
    return pa.concat_tables([labels.slice(0, _LABELS), pa.table(first | totals, labels.schema)])


def read_cells(batches: Iterable[pa.RecordBatch]) -> dict[int, Cells]:
    """Rows of cells, like SCHEMA or SUMMARY → each part's cells, merged."""
    found: dict[int, Cells] = {}
    for batch in batches:
        part, bits = (batch.column(name).to_numpy() for name in ("part", "bits"))
        keys = batch.column("cell").to_numpy()
        counts = np.stack([batch.column(name).to_numpy() for name in COUNTS], axis=1)
        for i in np.unique(part).tolist():
            pieces = [found[i]] if i in found else []
            for b in np.unique(bits[part == i]):
                rows = np.flatnonzero((part == i) & (bits == b))
                pieces.append(Cells(int(b), keys[rows], counts[rows]))
            found[i] = merge(pieces)
    return found
