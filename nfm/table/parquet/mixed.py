"""Read Parquet files whose types differ, for tables whose rows must come through Spark.

Spark's reader refuses some of the differences that tasks convert exactly, and converts others without a check. So tasks
read such files, and Spark receives their rows: both scans accept the same tables, and give the same rows.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from nfm.contract.values import decode_dictionary
from nfm.table.listing import list_files
from nfm.table.parquet.files import Files
from nfm.table.relation import Relation, columns_outside_folders, find_obstacle
from nfm.table.splits import File, Split
from nfm.table.tasks import run_tasks

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

_FEW = 32  # files whose footers the driver reads itself
_COUNT = pa.schema([("files", pa.int64())])


def open_mixed(
    spark: SparkSession, source: "Source", relation: Relation, names: Sequence[str], uris: Sequence[str]
) -> tuple[Files, dict[str, File]] | None:
    """Return the reader of these columns and those of `where`, and the files; None if Spark reads the types exactly."""
    every_row = source.model_copy(update={"where": None})
    if find_obstacle(spark, every_row, relation) is not None:  # then tasks cannot read the files at all
        return None
    files, listed = list_files(spark, every_row, relation, uris)
    others = [] if source.where is None else columns_outside_folders(relation, source.where)
    known = [field.name for field in files.schema if field.type != pa.struct([])]  # Arrow lacks some types
    columns = known if others is None else [*names, *others, *relation.partitions]
    files = files.select(dict.fromkeys(columns))
    return (files, listed) if _have_other_types(spark, files, [file.path for file in listed.values()]) else None


def _have_other_types(spark: SparkSession, files: Files, paths: Sequence[str]) -> bool:
    if len(paths) <= _FEW:
        return any(map(files.has_other_types, paths))

    def check(some: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"files": [sum(map(files.has_other_types, some))]}, _COUNT)

    tasks = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    found = run_tasks(spark, [paths[i::tasks] for i in range(tasks)], check, _COUNT).collect()
    return any(row.files for row in found)


def read_mixed(spark: SparkSession, files: Files, splits: Sequence[Split]) -> DataFrame:
    """Return the rows of the splits, which tasks read."""
    schema = files.schema

    def read(split: Split) -> Iterator[pa.RecordBatch]:
        for rows in files.read(split):
            columns = [decode_dictionary(rows.column(field.name)).cast(field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return run_tasks(spark, splits, read, schema)
