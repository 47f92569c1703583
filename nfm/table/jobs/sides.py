"""Open the tables of users and items of a ranking."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from nfm.contract.columns import check_columns
from nfm.contract.errors import DataError
from nfm.contract.messages import CORRECT_ROWS, quoted
from nfm.contract.reading import LATEST, Reading
from nfm.contract.schema import Kind
from nfm.table.jobs.interactions import read_key
from nfm.table.scan import Scan, open_scan
from nfm.table.tasks import map_rows

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.ranking import Ranking, SideTable
    from nfm.config.source import Source

KEY = "_nfm_key"


def list_sides(ranking: "Ranking") -> "Iterator[tuple[str, str, SideTable]]":
    """Yield the section, the joining column and the settings of the tables of users and items that are set."""
    for name, key, table in (("users", ranking.user, ranking.users), ("items", ranking.item, ranking.items)):
        if table is not None:
            yield name, key, table


def list_columns(table: "SideTable") -> tuple[str, ...]:
    """Return the raw columns that the inputs of a table of users or items read, each once."""
    read = [c for n, s in table.categorical.items() for c in (*s.columns(n), *([s.weights] if s.weights else []))]
    return tuple(dict.fromkeys([*read, *(s.column or n for n, s in table.numeric.items())]))


def open_side(
    spark: SparkSession,
    source: "Source",
    columns: tuple[str, ...],
    searches: bool = True,
    reading: Reading | None = LATEST,
) -> Scan:
    """Open a table of users or items, of which these columns are needed; the first identifies its rows."""

    def check(schema: pa.Schema) -> tuple[str, ...]:
        check_columns(columns, schema, str(source), "The section ranking refers to these columns.")
        return columns

    return open_scan(spark, source, check, reading, searches=searches)


def read_side(scan: Scan, key: tuple[str, Kind], columns: tuple[str, ...], where: str) -> DataFrame:
    """Return columns of a table of users or items, after KEY, the canonical text of its key.

    Raises DataError if two rows have the same key.
    """
    key_column, kind = key
    schema = pa.schema([pa.field(KEY, pa.string()), *(scan.schema.field(one) for one in columns)])

    def add_key(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            arrays = [read_key(batch, key_column, kind, where), *(batch.column(one) for one in columns)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    table = map_rows(scan.table, dict.fromkeys((key_column, *columns)), add_key, schema)
    repeated = table.groupBy(KEY).count().where("count > 1").orderBy(KEY).limit(1).collect()
    if repeated:
        raise DataError(
            f"Column '{key_column}' of {where} must identify its rows, but {quoted(repeated[0][KEY])} occurs in "
            f"{repeated[0]['count']} of them. {CORRECT_ROWS}"
        )
    return table
