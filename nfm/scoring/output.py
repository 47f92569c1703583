"""Make the output from the files that tasks wrote: ranks, file sizes, format."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from nfm.config.score import Score
from nfm.scoring.formats import convert_files
from nfm.table.folders import add_by_folder
from nfm.table.spark import column
from nfm.table.tasks import map_rows
from nfm.table.write import (
    FILES,
    Layout,
    Writer,
    WrittenFile,
    collect_files,
    compact_files,
    file_batch,
)

RANK, QUANTILE = "score_rank", "score_quantile"
_FEW = 8  # up to this many files are not compacted, however small: it saves a pass
_RANKED_ROWS = 1 << 20  # rows that one task sorts
_ROW_RANK, _BUCKET = "_nfm_rank", "_nfm_bucket"  # names that users' columns do not have


def rank_columns(settings: Score) -> list[tuple[str, pa.DataType]]:
    """Return name and type of the columns that rank a row among all rows."""
    return [(RANK, pa.int64())] * settings.rank + [(QUANTILE, pa.float64())] * settings.quantile


def layout(schema: pa.Schema) -> Layout:
    """Choose the encoding: dictionaries for texts, compression for carried columns, neither for scores and effects."""
    floats = [name for name in schema.names if schema.field(name).type == pa.float32()]
    computed = [name for name in floats if name.startswith(("score", "reason_"))]
    carried = [name for name in schema.names if name not in (*computed, QUANTILE)]
    return Layout(tuple(name for name in carried if pa.types.is_string(schema.field(name).type)), tuple(carried))


def finish(
    spark: SparkSession, files: Sequence[WrittenFile], schema: pa.Schema, settings: Score, written: Path
) -> list[WrittenFile]:
    """Make the output's files from the files that tasks reported, which have this schema.

    If the output has ranks, the files still contain the partition columns. New files are in the folder `written`, which
    is created here.

    Returns:
        The output's files; a table without rows has one file without rows.
    """
    written.mkdir()
    final = final_schema(schema, settings)
    if rank_columns(settings):
        files = _write_ranks(spark, files, schema, final, settings, written)
    if not files:  # readers of the output need its columns
        path = written / "empty.parquet"
        pq.write_table(final.empty_table(), path)
        files = [WrittenFile("", str(path), 0, path.stat().st_size)]
    if len(files) > _FEW:
        files = compact_files(spark, files, written, layout(final), settings.file_mb << 20)
    return convert_files(settings.format, spark, files)


def final_schema(schema: pa.Schema, settings: Score) -> pa.Schema:
    """Return the schema of the output's files, from that of the files that tasks write."""
    kept = [field for field in schema if field.name not in settings.partition_by]
    return pa.schema([*kept, *rank_columns(settings)], schema.metadata)


def _write_ranks(
    spark: SparkSession,
    files: Sequence[WrittenFile],
    schema: pa.Schema,
    final: pa.Schema,
    settings: Score,
    written: Path,
) -> list[WrittenFile]:
    """Write the rows again, with ranks and in the partitions' folders; return the new files."""
    total, rank_fields = sum(file.rows for file in files), rank_columns(settings)
    partition_by, file_bytes = settings.partition_by, settings.file_mb << 20
    names = [name for name in schema.names if name not in partition_by]
    if not total:
        return []

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writer = Writer(written, layout(final), file_bytes)
        for batch in batches:
            ranks = batch.column(_ROW_RANK)
            # A row's quantile is the share of the rows that score no higher.
            values = {RANK: ranks, QUANTILE: pa.array((total + 1 - ranks.to_numpy()) / total)}
            arrays: list[Any] = [batch.column(name).cast(schema.field(name).type) for name in names]
            rows = pa.table([*arrays, *(values[name] for name, _ in rank_fields)], schema=final)
            partitions = {name: batch.column(name) for name in partition_by}
            add_by_folder(writer, rows, [""], np.zeros(len(rows), np.int8), partitions, "score.partition_by")
        yield file_batch(writer.close())

    table = spark.read.option("__globPaths__", "false").parquet(*(f"file://{file.path}" for file in files))
    ranked = map_rows(_add_ranks(table, total), [*schema.names, _ROW_RANK], write, FILES)
    return collect_files(ranked)


def _add_ranks(table: DataFrame, rows: int) -> DataFrame:
    """Add each row's rank among all rows: 1 for the highest score; equal scores share the best of their ranks.

    Rows go into buckets by score, each small enough for one task to sort. A row's rank is its rank within its bucket
    plus the number of rows in the buckets above.
    """
    score, count = column("score"), -(-rows // _RANKED_ROWS)
    cuts = table.approxQuantile("score", [i / count for i in range(1, count)], 0.1 / count) if count > 1 else []
    edges = F.array(*(F.lit(edge).cast("double") for edge in sorted(set(cuts)))).cast("array<double>")
    bucketed = table.withColumn(_BUCKET, F.size(F.filter(edges, lambda edge: score > edge)))
    sizes = {row[_BUCKET]: row["count"] for row in bucketed.groupBy(_BUCKET).count().collect()}
    above = [sum(n for other, n in sizes.items() if other > bucket) for bucket in range(max(sizes) + 1)]
    rank = F.rank().over(Window.partitionBy(_BUCKET).orderBy(score.desc())).cast("long")
    return bucketed.withColumn(_ROW_RANK, rank + F.array(*(F.lit(n).cast("long") for n in above))[column(_BUCKET)])
