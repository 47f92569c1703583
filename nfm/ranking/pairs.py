"""Read the interactions and the excluded pairs: canonical texts of users and items, and times."""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame

from nfm.contract.columns import Rows
from nfm.contract.values import decode_dictionary
from nfm.ranking.prepare import Opened
from nfm.table.jobs.interactions import ITEM, TIME, USER, Order, read_key, read_order
from nfm.table.scan import Scan
from nfm.table.spark import save_and_reload

_KEYS = (pa.field(USER, pa.string()), pa.field(ITEM, pa.string()))


def read_pairs(opened: Opened, scratch: Path) -> DataFrame:
    """Write USER, ITEM, TIME, and the raw user and item of each interaction into `scratch`, and return them."""
    order, scan, where = opened.order, opened.scans["source"], opened.names["source"]
    raw = [scan.schema.field(name) for name in (order.user, order.item)]
    schema = pa.schema([*_KEYS, pa.field(TIME, pa.int64()), *raw])

    def work(batches: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = list(read_order(batch, order, where).values())
            columns += [decode_dictionary(batch.column(field.name)).cast(field.type) for field in raw]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    names = dict.fromkeys([order.user, order.item, *([order.time] if order.time else [])])
    return save_and_reload(scan.map(names, work, schema), scratch / "pairs")


def read_excluded(opened: Opened) -> DataFrame | None:
    """Return USER and ITEM of the tables of recommend.exclude; None without tables."""
    tables = [_read_keys(scan, opened.order, where) for scan, where in opened.exclude()]
    return reduce(DataFrame.unionAll, tables) if tables else None


def _read_keys(scan: Scan, order: Order, where: str) -> DataFrame:
    schema = pa.schema(_KEYS)

    def work(batches: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            keys = zip((order.user, order.item), order.kinds, strict=True)
            yield pa.RecordBatch.from_arrays([read_key(batch, *key, where) for key in keys], schema=schema)

    return scan.map((order.user, order.item), work, schema)
