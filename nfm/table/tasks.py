"""Run Python functions in Spark tasks."""

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from nfm.table.spark import column


def map_rows(
    table: DataFrame,
    names: Iterable[str],
    work: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: StructType | str,
) -> DataFrame:
    """`mapInArrow` over these columns. They travel in a struct: Spark would take a dot in a name for a path."""

    def unpacked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return work(pa.RecordBatch.from_struct_array(batch.column(0)) for batch in batches)

    return table.select(F.struct(*(column(name) for name in names)).alias("row")).mapInArrow(unpacked, schema)


def limit_arrow_threads() -> None:
    """Arrow would take the machine's, in each worker again."""
    context = TaskContext.get()
    cores = context.cpus() if context else 1
    if pa.cpu_count() != cores:
        pa.set_cpu_count(cores)
    if pa.io_thread_count() != cores:
        pa.set_io_thread_count(cores)
