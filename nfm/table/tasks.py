"""Run Python functions in Spark tasks. An Arrow schema declares their result."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from nfm.table.spark import column

Item = TypeVar("Item")


def map_rows(
    table: DataFrame,
    names: Iterable[str],
    work: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: pa.Schema,
) -> DataFrame:
    """Apply `mapInArrow` to these columns.

    The columns are sent as one struct, because Spark would read a dot in a column's name as the path of a nested field.
    """

    def unpack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_arrow_threads()
        return work(_with_utc(pa.RecordBatch.from_struct_array(batch.column(0))) for batch in batches)

    rows = table.select(F.struct(*(column(name) for name in names)).alias("row"))
    return rows.mapInArrow(unpack, from_arrow_schema(schema))


def _with_utc(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the batch with the zone UTC in its timestamps, the same instants: Spark gives them the session's zone."""
    for i, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz not in (None, "UTC"):
            batch = batch.set_column(i, field.name, batch.column(i).cast(pa.timestamp(field.type.unit, "UTC")))
    return batch


def run_tasks(
    spark: SparkSession, items: Sequence[Item], work: Callable[[Item], Iterable[pa.RecordBatch]], schema: pa.Schema
) -> DataFrame:
    """Call `work` on each item in a separate task, and return the batches that the tasks yield as one table."""

    def run(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_arrow_threads()
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                yield from work(items[number])

    tasks = spark.range(0, len(items), 1, max(len(items), 1))
    return tasks.mapInArrow(run, from_arrow_schema(schema))


def limit_arrow_threads() -> None:
    """Limit Arrow to the cores of this task. By default, each worker would use all cores of the machine."""
    context = TaskContext.get()
    cores = context.cpus() if context else 1
    if pa.cpu_count() != cores:
        pa.set_cpu_count(cores)
    if pa.io_thread_count() != cores:
        pa.set_io_thread_count(cores)
