"""Open the tables of a ranking and join them: a row for each interaction, and one for each item of the catalogue."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nfm.config.ranking import Ranking
from nfm.config.settings import Config
from nfm.config.source import Source
from nfm.contract.dataset import SEQUENCE
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.values import check_kind
from nfm.features.ranking.order import order_users
from nfm.table.jobs.interactions import ITEM, TIME, USER, Order, check_time, read_key, read_order
from nfm.table.jobs.sides import KEY, list_columns, list_sides, open_side
from nfm.table.scan import Scan, open_scan
from nfm.table.spark import column, save_and_reload
from nfm.table.tasks import map_rows

CATALOGUE_ITEM, CATALOGUE_COUNT = "_nfm_catalogue_item", "interactions"
_HAS_ROW = "_nfm_has_row"


@dataclass(frozen=True)
class Tables:
    """The interactions, and the tables of users and items that are set, opened and checked."""

    ranking: Ranking
    order: Order
    interactions: Scan
    needed: tuple[str, ...]  # columns of the interactions
    sides: Mapping[str, Scan]  # by the name of the section: users, items
    side_columns: Mapping[str, tuple[str, ...]]  # columns that the inputs read, likewise
    names: Mapping[str, str]  # for messages: of users, items and the interactions ("source")

    @property
    def schema(self) -> pa.Schema:
        """Columns of the joined table."""
        schema = self.interactions.schema
        fields = [schema.field(name) for name in self.needed]
        for name, scan in self.sides.items():
            fields += [scan.schema.field(one) for one in self.side_columns[name]]
        return pa.schema([*fields, *self.order.added(schema.field(self.order.item).type)])


def open_tables(
    spark: SparkSession, config: Config, interactions: Scan, needed: tuple[str, ...], searches: bool
) -> Tables:
    """Open the tables of users and items, and check the columns; DataError if one is missing or of a wrong type."""
    ranking, where = config.ranking, str(config.source)
    assert ranking is not None
    schema = interactions.schema
    kinds = tuple(check_kind(name, schema.field(name).type, where) for name in (ranking.user, ranking.item))
    history, split = ranking.history, config.split
    time = ranking.time or (split.time if split.last is not None else None)
    if time is not None:
        check_time(time, schema.field(time).type, where)
    order = Order(
        ranking.user,
        ranking.item,
        (kinds[0], kinds[1]),
        time,
        split.format if time == split.time else None,
        split.last,
        None if history is None else history.items,
        1.0 if history is None else history.decay,
        history is None or history.same_time,
    )
    names = {"source": where, **{name: f"{table.source} (ranking.{name})" for name, _, table in list_sides(ranking)}}
    sides, columns = dict[str, Scan](), dict[str, tuple[str, ...]]()
    for name, key, table in list_sides(ranking):
        columns[name] = list_columns(table)
        sides[name] = open_side(spark, table.source, (key, *columns[name]), searches)
    _check_names({"source": needed, **columns}, names, order.added(schema.field(order.item).type))
    return Tables(ranking, order, interactions, needed, sides, columns, names)


def _check_names(columns: Mapping[str, tuple[str, ...]], names: Mapping[str, str], added: Sequence[pa.Field]) -> None:
    """Raise DataError if two columns of the joined table have the same name, which is case-insensitive in Spark."""
    reserved = {name.lower() for name in (USER, ITEM, TIME, *(field.name for field in added))}
    owners: dict[str, str] = {}
    for table, read in columns.items():
        for one in read:
            if one.lower() in reserved:
                raise DataError(
                    f"Column '{one}' of {names[table]} has the name of a column that the job adds to the joined table. "
                    "Rename it, for example through a view."
                )
            if (other := owners.setdefault(one.lower(), table)) != table:
                raise DataError(
                    f"Column '{one}' is in both {names[other]} and {names[table]}, so the joined table would have it "
                    "twice. Rename it in one of them, for example through a view."
                )


def join_all(spark: SparkSession, tables: Tables, scratch: Path) -> tuple[Scan, dict[str, int]]:
    """Write the joined interactions and the catalogue into `scratch`.

    Returns the scan of the joined interactions, and the numbers of users, of items, and of items with interactions that
    are not in the items' table. Raises DataError if the tables do not fit together.
    """
    sides = {name: save_side(tables, name, scratch / f"side_{name}") for name in tables.sides}
    check_unique(tables, sides)
    joined = join(tables, sides, scratch / "joined")
    facts = {"users": joined.where(column(SEQUENCE) == 0).count()}
    facts |= save_items(tables, joined, sides.get("items"), scratch / "items")
    names = [name for name in joined.columns if name not in (USER, ITEM)]
    source = Source(path=str(scratch / "joined"), scan="parquet")
    return open_scan(spark, source, lambda _: names), facts


def save_side(tables: Tables, name: str, folder: Path) -> DataFrame:
    """Write the table of users or items into a folder, and return it: the canonical text of its key, and its columns.

    It is read once: a table that changes in the meantime cannot give two rows to one interaction.
    """
    scan, order, columns, where = tables.sides[name], tables.order, tables.side_columns[name], tables.names[name]
    key, kind = (order.user, order.kinds[0]) if name == "users" else (order.item, order.kinds[1])
    schema = pa.schema([pa.field(KEY, pa.string()), *(scan.schema.field(one) for one in columns)])

    def add_key(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            arrays = [read_key(batch, key, kind, where), *(batch.column(one) for one in columns)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return save_and_reload(map_rows(scan.table, dict.fromkeys((key, *columns)), add_key, schema), folder)


def check_unique(tables: Tables, sides: Mapping[str, DataFrame]) -> None:
    """Raise DataError if two rows of the table of users or items have the same key."""
    keys = [side.select(F.lit(name).alias("table"), KEY) for name, side in sides.items()]
    if not keys:
        return
    counts = reduce(DataFrame.unionAll, keys).groupBy("table", KEY).count()
    repeated = counts.where("count > 1").orderBy("table", KEY).limit(1).collect()
    if repeated:
        name, text, count = repeated[0]
        key = tables.order.user if name == "users" else tables.order.item
        raise DataError(
            f"Column '{key}' of {tables.names[name]} must identify its rows, but {quoted(text)} occurs in {count} of "
            f"them. {CORRECT_ROWS}"
        )


def join(tables: Tables, sides: Mapping[str, DataFrame], folder: Path) -> DataFrame:
    """Write the interactions, joined with their users, items and histories, into a folder, and return them."""
    order, needed, scan = tables.order, tables.needed, tables.interactions
    fields = [scan.schema.field(name) for name in needed]
    keys = [pa.field(USER, pa.string()), pa.field(ITEM, pa.string()), pa.field(TIME, pa.int64())]
    where, item_type = tables.names["source"], scan.schema.field(order.item).type

    def add_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            added = read_order(batch, order, where)
            yield pa.RecordBatch.from_arrays([*batch.columns, *added.values()], schema=pa.schema([*fields, *keys]))

    keyed = map_rows(scan.table, needed, add_keys, pa.schema([*fields, *keys]))
    ordered = keyed.repartition(USER).sortWithinPartitions(USER, TIME, column(order.item))
    with_order = pa.schema([*fields, *keys[:2], *order.added(item_type)])
    joined = map_rows(ordered, ordered.columns, lambda batches: order_users(batches, order), with_order)
    for name, key in (("users", USER), ("items", ITEM)):
        if name in sides:
            joined = joined.join(sides[name].withColumnRenamed(KEY, key), key, "left")
    return save_and_reload(joined, folder)


def save_items(tables: Tables, joined: DataFrame, side: DataFrame | None, folder: Path) -> dict[str, int]:
    """Write the catalogue into a folder: items with interactions and those of the items' table, in ascending order.

    Its columns are the item as in the interactions, the number of its interactions, and the columns of the items'
    table. Returns the numbers of items, and of those with interactions that are not in the items' table.
    """
    order = tables.order
    item_type = joined.schema[order.item].dataType
    items = joined.groupBy(ITEM).agg(
        F.min(column(order.item)).alias(CATALOGUE_ITEM), F.count(F.lit(1)).alias(CATALOGUE_COUNT)
    )
    if side is not None:
        items = items.join(side.withColumnRenamed(KEY, ITEM).withColumn(_HAS_ROW, F.lit(True)), ITEM, "full")
        raw = F.coalesce(column(CATALOGUE_ITEM), column(ITEM).try_cast(item_type))
        items = items.withColumn(CATALOGUE_ITEM, raw).fillna(0, [CATALOGUE_COUNT])
    else:
        items = items.withColumn(_HAS_ROW, F.lit(True))
    items = items.withColumnRenamed(CATALOGUE_ITEM, order.item)
    saved = save_and_reload(items.repartition(1).sortWithinPartitions(column(order.item)), folder)
    wrong = F.min(F.when(column(order.item).isNull(), column(ITEM)))
    count, lacking, example = saved.agg(F.count(F.lit(1)), F.count_if(column(_HAS_ROW).isNull()), wrong).collect()[0]
    if example is not None:
        raise DataError(
            f"Column '{order.item}' of {tables.names['items']} contains {quoted(example)}, which cannot be converted "
            f"to {item_type.simpleString()}, the type of the item in the interactions. {CORRECT_ROWS}"
        )
    return {"items": count, "items_without_row": lacking}
