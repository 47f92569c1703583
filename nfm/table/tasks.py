"""Run Python functions in Spark tasks. An Arrow schema declares what they return."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from nfm.table.spark import column

Part = TypeVar("Part")


def map_rows(
    table: DataFrame,
    names: Iterable[str],
    work: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: pa.Schema,
) -> DataFrame:
    """Apply `mapInArrow` to these columns. They travel in a struct: Spark would take a dot in a name for a path."""

    def unpack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_arrow_threads()
        return work(pa.RecordBatch.from_struct_array(batch.column(0)) for batch in batches)

    rows = table.select(F.struct(*(column(name) for name in names)).alias("row"))
    return rows.mapInArrow(unpack, from_arrow_schema(schema))


def run_tasks(
    spark: SparkSession, parts: Sequence[Part], work: Callable[[Part], Iterable[pa.RecordBatch]], schema: pa.Schema
) -> DataFrame:
    """Call `work` on each part, in a task of its own; returns what all of them yield."""

    def run(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_arrow_threads()
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                yield from work(parts[number])

    tasks = spark.range(0, len(parts), 1, max(len(parts), 1))
    return tasks.mapInArrow(run, from_arrow_schema(schema))


def limit_arrow_threads() -> None:
    """Let Arrow use the cores of this task. By default each worker would use all cores of the machine."""
    context = TaskContext.get()
    cores = context.cpus() if context else 1
    if pa.cpu_count() != cores:
        pa.set_cpu_count(cores)
    if pa.io_thread_count() != cores:
        pa.set_io_thread_count(cores)
