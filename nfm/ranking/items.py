"""Prepare the candidates: their table in ascending order, and the sums of their inputs, once for all workers."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.ranking.prepare import Opened
from nfm.ranking.stored import COUNT, write_files
from nfm.table.jobs.hosts import Placed, open_model
from nfm.table.jobs.interactions import ITEM, read_key
from nfm.table.jobs.sides import KEY, read_side
from nfm.table.spark import column, save_and_reload
from nfm.table.tasks import map_rows, run_tasks

_DONE = pa.schema([("items", pa.int64()), ("new", pa.int64())])


def list_candidates(opened: Opened, pairs: DataFrame, candidates: DataFrame | None, scratch: Path) -> DataFrame:
    """Write the candidates into `scratch` in ascending order: ITEM, the raw item, COUNT, and the columns of items."""
    order, columns = opened.order, opened.side_columns.get("items", ())
    item_type = pairs.schema[order.item].dataType
    items = pairs.groupBy(ITEM).agg(F.min(column(order.item)).alias("_nfm_raw"), F.count(F.lit(1)).alias(COUNT))
    if "items" in opened.scans:
        key = order.item, order.kinds[1]
        side = read_side(opened.scans["items"], key, columns, opened.names["items"]).withColumnRenamed(KEY, ITEM)
        items = items.join(side, ITEM, "full")
    if candidates is not None:
        items = candidates.select(ITEM).distinct().join(items, ITEM, "left")
    if opened.allowed is not None:
        items = items.join(_read_items(opened, opened.allowed).distinct(), ITEM, "left_semi")
    raw = F.coalesce(column("_nfm_raw"), column(ITEM).try_cast(item_type))
    kept: list[Column] = [column(ITEM), raw.alias(order.item), F.coalesce(column(COUNT), F.lit(0)).alias(COUNT)]
    items = items.select(*kept, *(column(name) for name in columns if name != order.item))
    saved = save_and_reload(items.repartition(1).sortWithinPartitions(column(order.item)), scratch / "items")
    if (wrong := saved.where(column(order.item).isNull()).head()) is not None:
        where = " or ".join(opened.names[n] for n in ("items", "recommend.candidates") if n in opened.names)
        raise DataError(
            f"Column '{order.item}' of {where} contains {quoted(wrong[ITEM])}, which is not a "
            f"{item_type.simpleString()} as in the interactions. {CORRECT_ROWS}"
        )
    return saved


def _read_items(opened: Opened, table: DataFrame) -> DataFrame:
    order, where = opened.order, opened.names["items"]
    schema = pa.schema([pa.field(ITEM, pa.string())])

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_arrays([read_key(batch, order.item, order.kinds[1], where)], schema=schema)

    return map_rows(table, [order.item], work, schema)


def write_items(spark: SparkSession, opened: Opened, placed: Placed, raw: Path, target: Path) -> tuple[int, int]:
    """Sum the candidates in one task; return their number, and how many of them training did not see.

    Args:
        spark: the session.
        opened: the model and the tables.
        placed: the model, for the task.
        raw: folder of the Parquet file that `list_candidates` wrote.
        target: folder to write; beside it, `keys.parquet` maps ITEM to the index of the item.
    """
    item, item_type, limits = opened.order.item, opened.key_types[1], opened.limits

    def work(folder: Path) -> Iterator[pa.RecordBatch]:
        files = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
        count, new = write_files(files, open_model(placed), (item, item_type), limits, target)
        yield pa.RecordBatch.from_pylist([{"items": count, "new": new}], _DONE)

    row = run_tasks(spark, [raw], work, _DONE).collect()[0]
    return int(row["items"]), int(row["new"])
