"""Open the tables of a ranking and join them: a row for each interaction, and one for each item of the catalogue."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from nfm.config.ranking import Ranking
from nfm.config.settings import Config
from nfm.config.source import Source
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.values import check_kind
from nfm.features.ranking.order import order_users
from nfm.table.jobs.interactions import ITEM, TIME, USER, Order, read_order
from nfm.table.jobs.sides import KEY, list_columns, list_sides, open_side, read_side
from nfm.table.scan import Scan, open_scan
from nfm.table.spark import column, save_and_reload
from nfm.table.tasks import map_rows

CATALOGUE_ITEM, CATALOGUE_COUNT = "_nfm_catalogue_item", "interactions"


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
    order = Order(
        ranking.user,
        ranking.item,
        (kinds[0], kinds[1]),
        time,
        split.format if time == split.time else None,
        split.last,
        None if history is None else history.items,
        1.0 if history is None else history.decay,
    )
    sides, columns, taken = dict[str, Scan](), dict[str, tuple[str, ...]](), {name.lower(): where for name in needed}
    for name, key, table in list_sides(ranking):
        columns[name] = list_columns(table)
        sides[name] = open_side(spark, table.source, (key, *columns[name]), searches)
        for one in columns[name]:
            if (other := taken.setdefault(one.lower(), str(table.source))) != str(table.source):
                raise DataError(
                    f"Column '{one}' is in both {other} and {table.source} (ranking.{name}), so the joined table would "
                    "have it twice. Rename it in one of them, for example through a view."
                )
    names = {"source": where, **{name: f"{table.source} (ranking.{name})" for name, _, table in list_sides(ranking)}}
    return Tables(ranking, order, interactions, needed, sides, columns, names)


def join_all(spark: SparkSession, tables: Tables, scratch: Path) -> tuple[Scan, dict[str, int]]:
    """Write the joined interactions and the catalogue into `scratch`.

    Returns the scan of the joined interactions, and the numbers of users, of items, and of items with interactions that
    are not in the items' table. Raises DataError if the tables do not fit together.
    """
    joined = join(tables, scratch)
    items, lacking = list_items(tables, joined, scratch)
    facts = {"users": joined.select(USER).distinct().count(), "items": items.count(), "items_without_row": lacking}
    names = [name for name in joined.columns if name not in (USER, ITEM)]
    source = Source(path=str(scratch / "joined"), scan="parquet")
    return open_scan(spark, source, lambda _: names), facts


def join(tables: Tables, scratch: Path) -> DataFrame:
    """Write the joined interactions into `scratch`, and return them; DataError if the tables do not fit together."""
    order, needed, scan = tables.order, tables.needed, tables.interactions
    fields = [scan.schema.field(name) for name in needed]
    keys = [pa.field(USER, pa.string()), pa.field(ITEM, pa.string()), pa.field(TIME, pa.int64())]
    where, item_type = tables.names["source"], scan.schema.field(order.item).type

    def add_keys(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            added = read_order(batch, order, where)
            yield pa.RecordBatch.from_arrays([*batch.columns, *added.values()], schema=pa.schema([*fields, *keys]))

    counted = Observation()
    keyed = map_rows(scan.table, needed, add_keys, pa.schema([*fields, *keys]))
    keyed = keyed.observe(counted, F.count(F.lit(1)).alias("rows"))
    ordered = keyed.repartition(USER).sortWithinPartitions(USER, TIME, column(order.item))
    with_order = pa.schema([*fields, *keys[:2], *order.added(item_type)])
    joined = map_rows(ordered, ordered.columns, lambda batches: order_users(batches, order), with_order)
    for name, key in (("users", USER), ("items", ITEM)):
        if name in tables.sides:
            side = _read_side(tables, name)
            joined = joined.join(side.withColumnRenamed(KEY, key), key, "left")
    saved = save_and_reload(joined, scratch / "joined")
    rows = saved.count()
    if rows != counted.get["rows"]:
        raise DataError(
            f"{counted.get['rows']} interactions were read, but {rows} were joined with users and items. Nothing was "
            "published; run the job again."
        )
    return saved


def _read_side(tables: Tables, name: str) -> DataFrame:
    order = tables.order
    key = (order.user, order.kinds[0]) if name == "users" else (order.item, order.kinds[1])
    return read_side(tables.sides[name], key, tables.side_columns[name], tables.names[name])


def list_items(tables: Tables, joined: DataFrame, scratch: Path) -> tuple[DataFrame, int]:
    """Write the catalogue into `scratch`: items with interactions and those of the items' table, in ascending order.

    Its columns are the item as in the interactions, the number of its interactions, and the columns of the items'
    table. Also returns the number of items with interactions that are not in the items' table.
    """
    order = tables.order
    item_type = joined.schema[order.item].dataType
    items = joined.groupBy(ITEM).agg(
        F.min(column(order.item)).alias(CATALOGUE_ITEM), F.count(F.lit(1)).alias(CATALOGUE_COUNT)
    )
    lacking = 0
    if "items" in tables.sides:
        side = _read_side(tables, "items").withColumnRenamed(KEY, ITEM)
        lacking = items.join(side, ITEM, "left_anti").count()
        items = items.join(side, ITEM, "full")
        raw = F.coalesce(column(CATALOGUE_ITEM), column(ITEM).try_cast(item_type))
        items = items.withColumn(CATALOGUE_ITEM, raw).fillna(0, [CATALOGUE_COUNT])
    items = items.withColumnRenamed(CATALOGUE_ITEM, order.item)
    saved = save_and_reload(items.repartition(1).sortWithinPartitions(column(order.item)), scratch / "items")
    if "items" in tables.sides and (wrong := saved.where(column(order.item).isNull()).head()) is not None:
        raise DataError(
            f"Column '{order.item}' of {tables.names['items']} contains "
            f"{quoted(wrong[ITEM])}, which is not a {item_type.simpleString()} as in the interactions. {CORRECT_ROWS}"
        )
    return saved, lacking
