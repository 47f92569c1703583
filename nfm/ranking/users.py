"""Prepare the users: a row for each, with the raw columns of the user's side, the history and the seen candidates."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from nfm.config.source import Source
from nfm.contract.columns import Rows
from nfm.contract.dataset import HISTORY
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.ranking.prepare import Opened
from nfm.ranking.stored import INDEX, SEEN, SEGMENT, read_segment
from nfm.table.jobs.interactions import ITEM, TIME, USER, read_key
from nfm.table.jobs.sides import KEY, list_columns, read_side
from nfm.table.scan import Scan, open_scan
from nfm.table.spark import column, save_and_reload
from nfm.table.splits import Piece

_AGE, _RAW = "_nfm_age", "_nfm_raw"


def read_candidates(opened: Opened, scratch: Path) -> DataFrame | None:
    """Write ITEM and SEGMENT of recommend.candidates into `scratch` and return them; None without the table."""
    if "recommend.candidates" not in opened.scans:
        return None
    scan, where = opened.scans["recommend.candidates"], opened.names["recommend.candidates"]
    item, kind_of_item = opened.order.item, opened.order.kinds[1]
    segment = opened.segment
    schema = pa.schema([pa.field(ITEM, pa.string()), pa.field(SEGMENT, pa.string())])

    def work(batches: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            keys = read_key(batch, item, kind_of_item, where)
            segments = pa.nulls(batch.num_rows, pa.string())
            if segment is not None:
                segments = read_segment(batch, segment.column, segment.kind)
                if segments.null_count:
                    raise DataError(
                        f"Column '{segment.column}' of {where} is the segment of a candidate (recommend.segment), but "
                        f"{segments.null_count} of the {len(segments)} rows in one batch have a missing value. "
                        f"{CORRECT_ROWS}"
                    )
            yield pa.RecordBatch.from_arrays([keys, segments], schema=schema)

    names = [item] if segment is None else [item, segment.column]
    return save_and_reload(scan.map(names, work, schema).distinct(), scratch / "candidates")


def write_segments(candidates: DataFrame, keys: DataFrame, target: Path) -> None:
    """Write the candidates of each segment, as ascending indices, into one file."""
    grouped = candidates.join(keys, ITEM).groupBy(SEGMENT).agg(F.sort_array(F.collect_set(INDEX)).alias("items"))
    save_and_reload(grouped.repartition(1).sortWithinPartitions(SEGMENT), target)


def write_users(opened: Opened, tables: tuple[DataFrame, DataFrame, DataFrame | None], parts: int, target: Path) -> int:
    """Write the rows of users as `parts` files, in which users are ascending; return their number.

    Args:
        opened: the model and the tables.
        tables: the interactions, ITEM with INDEX, and the excluded pairs or None.
        parts: number of files; a user's file does not depend on the other users.
        target: folder to write.
    """
    pairs, keys, excluded = tables
    user = opened.order.user
    users = list_users(opened, pairs)
    seen = pairs.select(USER, ITEM)
    if excluded is not None:
        seen = seen.unionAll(excluded)
    seen = seen.join(keys, ITEM).groupBy(USER).agg(F.sort_array(F.collect_set(INDEX)).alias(SEEN))
    users = users.join(seen, USER, "left")
    if opened.order.history is not None:
        users = users.join(list_histories(opened, pairs), USER, "left")
    for name in (SEEN, HISTORY):
        if name in users.columns:
            users = users.withColumn(name, F.coalesce(column(name), F.array().cast(users.schema[name].dataType)))
    # By a hash: Spark would reuse, and merge, the partitions of the joins for the column itself.
    divided = users.repartition(parts, F.xxhash64(column(USER))).sortWithinPartitions(column(user))
    saved = save_and_reload(divided, target)
    if (wrong := saved.where(column(user).isNull()).head()) is not None:
        where = " or ".join(opened.names[n] for n in ("users", "recommend.users") if n in opened.names)
        type_ = saved.schema[user].dataType.simpleString()
        raise DataError(
            f"Column '{user}' of {where} contains {quoted(wrong[USER])}, which is not a {type_} as in the "
            f"interactions. {CORRECT_ROWS}"
        )
    return saved.count()


def list_users(opened: Opened, pairs: DataFrame) -> DataFrame:
    """Return USER, the raw user, and the columns of the user's side and of the segment."""
    user, scans = opened.order.user, opened.scans
    users = pairs.groupBy(USER).agg(F.min(column(user)).alias(_RAW))
    if "recommend.users" in scans:
        users = _read_users(opened, "recommend.users").join(users, USER, "left")
    if "users" in scans:
        how = "left" if "recommend.users" in scans else "full"
        users = users.join(_read_users(opened, "users"), USER, how)
    raw = F.coalesce(column(_RAW), column(USER).try_cast(pairs.schema[user].dataType))
    columns = [column(name) for name in users.columns if name not in (USER, _RAW)]
    return users.select(column(USER), raw.alias(user), *columns)


def _read_users(opened: Opened, name: str) -> DataFrame:
    """Return a table of users with USER instead of the raw user, and SEGMENT if it has the segments."""
    columns, order, segment = opened.side_columns[name], opened.order, opened.segment
    key = order.user, order.kinds[0]
    table = read_side(opened.scans[name], key, columns, opened.names[name]).withColumnRenamed(KEY, USER)
    if segment is not None and segment.section == name:
        table = table.withColumn(SEGMENT, column(segment.column))
        columns = (*(c for c in columns if c in _inputs(opened, name)), SEGMENT)
    return table.select(USER, *map(column, columns))


def _inputs(opened: Opened, name: str) -> tuple[str, ...]:
    """Return the columns of a table of users that the model reads from it."""
    of_table = list_columns(opened.ranking.users) if opened.ranking.users is not None else ()
    return of_table if name == "users" else tuple(c for c in opened.user_columns if c not in of_table)


def list_histories(opened: Opened, pairs: DataFrame) -> DataFrame:
    """Return USER and HISTORY: the latest items of each user, the latest first; ties by item."""
    order = opened.order
    latest = Window.partitionBy(USER).orderBy(column(TIME).desc(), column(order.item).desc())
    ranked = pairs.select(USER, column(order.item), F.row_number().over(latest).alias(_AGE))
    ranked = ranked.where(column(_AGE) <= F.lit(order.history))
    entry = F.struct(column(_AGE), column(order.item).alias(_RAW))
    lists = ranked.groupBy(USER).agg(F.sort_array(F.collect_list(entry)).alias("entries"))
    return lists.select(USER, F.transform("entries", lambda one: one[_RAW]).alias(HISTORY))


def open_users(spark: SparkSession, folder: Path) -> Scan:
    """Open the rows that `write_users` wrote; each file is a split."""
    source = Source(path=str(folder), scan="parquet")
    scan = open_scan(spark, source, lambda schema: schema.names)
    files = sorted(scan.read_files)
    return replace(scan, splits=tuple((Piece(file, 0, file.size),) for file in files))
