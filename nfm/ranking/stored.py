"""Files that the workers share: the candidates in ascending order with the sums of their inputs, and the segments.

    items/  sum.npy  pooled.npy  linear.npy  dense.npy     sums of each item, memory-mapped by the workers
            counts.npy                                    interactions of each item
            items.arrow                                   items as in the interactions
            limit_splits.npy  limit_values.npy  limit_most.npy
    segments/*.parquet                                    items of each segment
    keys.parquet                                          ITEM and the index of the item

Does not need Spark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nfm.contract.arrays import to_arrow, to_numpy
from nfm.contract.artifact import Artifact
from nfm.contract.columns import Rows, read_field_values
from nfm.contract.schema import Bag, Kind
from nfm.forward.lists import Limit
from nfm.forward.ranker import sum_items
from nfm.forward.sides import Side
from nfm.table.jobs.interactions import ITEM

COUNT, INDEX = "_nfm_count", "_nfm_index"  # of an item: interactions, and place in ascending order
SEEN, SEGMENT = "_nfm_seen", "_nfm_segment"  # of a user: indices of seen items, and the segment
_SUMS = ("sum", "pooled", "linear", "dense")  # in the order of `Side`
_ROWS = 1 << 16  # rows that are encoded at a time


@dataclass(frozen=True)
class LimitColumn:
    """A column of the items' table with a maximum number of items for each of its values."""

    name: str  # as in recommend.max_per
    column: str
    kind: Kind
    bag: Bag | None
    most: int


@dataclass(frozen=True)
class Items:
    """Candidates in ascending order; their arrays are memory-mapped."""

    side: Side
    counts_I: NDArray[np.int64]
    raw: pa.Array  # (I,) as in the interactions
    limit: Limit | None

    @classmethod
    def load(cls, folder: Path) -> "Items":
        """Map the files that `write_files` wrote."""
        arrays = [_map(folder / f"{name}.npy") for name in _SUMS]
        with pa.memory_map(str(folder / "items.arrow")) as file:
            raw = pa.ipc.open_file(file).read_all()["item"].combine_chunks()
        limit = None
        if (folder / "limit_most.npy").exists():
            limit = Limit(*(np.load(folder / f"limit_{name}.npy") for name in ("splits", "values", "most")))
        return cls(Side(*arrays), _map(folder / "counts.npy"), raw, limit)


def write_files(
    files: Sequence[pq.ParquetFile],
    artifact: Artifact,
    item: tuple[str, pa.DataType],
    limits: Sequence[LimitColumn],
    target: Path,
) -> tuple[int, int]:
    """Write items/ and keys.parquet from the candidates' files; return their number, and how many are new."""
    count, start, new_items = sum(file.metadata.num_rows for file in files), 0, 0
    target.mkdir(exist_ok=True)  # a task that is retried writes again
    arrays: list[NDArray[Any]] = []
    counts, keys = np.zeros(count, np.int64), list[pa.Array]()
    values = LimitValues(limits, count)
    schema = pa.schema([("item", item[1])])
    with pa.OSFile(str(target / "items.arrow"), "wb") as out, pa.ipc.new_file(out, schema) as writer:
        for batch in (batch for file in files for batch in file.iter_batches(_ROWS, use_threads=False)):
            side, new = sum_items(artifact, batch)
            if not arrays:
                shapes = [(count, *array.shape[1:]) for array in side]
                arrays = [_create(target / f"{n}.npy", shape) for n, shape in zip(_SUMS, shapes, strict=True)]
            stop = start + batch.num_rows
            for array, part in zip(arrays, side, strict=True):
                array[start:stop] = part
            counts[start:stop] = to_numpy(batch.column(COUNT))
            writer.write_batch(pa.RecordBatch.from_arrays([batch.column(item[0]).cast(item[1])], schema=schema))
            keys.append(batch.column(ITEM))
            values.add(batch, start)
            start, new_items = stop, new_items + new
    for array in arrays:
        if isinstance(array, np.memmap):
            array.flush()
    np.save(target / "counts.npy", counts)
    values.save(target)
    index = to_arrow(np.arange(count, dtype=np.int32))
    texts = pa.chunked_array(keys, pa.string())
    pq.write_table(pa.table({ITEM: texts, INDEX: index}), target.with_name("keys.parquet"))
    return count, new_items


def _create(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a new array of a file; one without elements is not mapped."""
    if 0 in shape:
        np.save(path, np.empty(shape, np.float32))
        return np.empty(shape, np.float32)
    array: NDArray[np.float32] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    return array


def _map(path: Path) -> NDArray[Any]:
    """Map a file that this package wrote; the compiled loops need arrays that may be written (copy-on-write)."""
    empty = path.stat().st_size <= 128  # a header and no content
    return np.asarray(np.load(path, mmap_mode=None if empty else "c"))


class LimitValues:
    """Collects the values of the columns that limit lists."""

    def __init__(self, limits: Sequence[LimitColumn], items: int) -> None:
        """Start without values."""
        self._limits, self._items = limits, items
        self._codes: list[dict[str, int]] = [{} for _ in limits]
        self._most: list[int] = []
        self._found: list[NDArray[np.int64]] = []  # (n, 2): item and code

    def add(self, rows: Rows, start: int) -> None:
        """Add the values of items from index `start`."""
        for limit, codes in zip(self._limits, self._codes, strict=True):
            values = read_field_values((limit.column,), (limit.kind,), limit.bag, rows)
            code_of = np.full(len(values.texts) + 1, -1, np.int64)
            for place, text in enumerate(values.texts.to_pylist()):
                if text is None:
                    continue
                if text not in codes:
                    codes[text] = len(self._most)
                    self._most.append(limit.most)
                code_of[place] = codes[text]
            lengths = np.ones(rows.num_rows, np.int64) if values.offsets is None else np.diff(values.offsets)
            items = np.repeat(np.arange(start, start + rows.num_rows), lengths)
            found = np.stack([items, code_of[values.indices]], axis=1)
            self._found.append(found[found[:, 1] >= 0])

    def save(self, folder: Path) -> None:
        """Write the limit of `Items`, if there is one."""
        if not self._limits:
            return
        found = np.unique(np.concatenate([np.empty((0, 2), np.int64), *self._found]), axis=0)
        splits = np.concatenate([[0], np.cumsum(np.bincount(found[:, 0], minlength=self._items))])
        np.save(folder / "limit_splits.npy", splits.astype(np.int64))
        np.save(folder / "limit_values.npy", found[:, 1].astype(np.int32))
        np.save(folder / "limit_most.npy", np.array(self._most, np.int32))


def read_segment(rows: Rows, name: str, kind: Kind) -> pa.Array:
    """Return the (N,) canonical texts of the segments; null where a segment is missing."""
    values = read_field_values((name,), (kind,), None, rows)
    texts = pa.concat_arrays([values.texts, pa.nulls(1, pa.large_string())])
    return texts.take(to_arrow(values.indices)).cast(pa.string())


def load_segments(folder: Path) -> tuple[pa.Array, pa.Array]:
    """Return the segments and the lists of their items, which `write_segments` wrote."""
    tables = [pq.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet"))]
    table = pa.concat_tables(tables).combine_chunks()
    return table[SEGMENT].combine_chunks(), table["items"].combine_chunks()
