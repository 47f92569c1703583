"""Turn the files that tasks have written into the output: ranks, file sizes, format."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from nfm.config.settings import Score
from nfm.scoring.formats import complete_folder, convert_files
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
    move_into_place,
)

RANK, QUANTILE = "score_rank", "score_quantile"
_FEW = 8  # up to this many files are left as they are, however small: it saves a pass
_RANKED_ROWS = 1 << 20  # rows that one task sorts
_PLACE, _BUCKET = "_nfm_rank", "_nfm_bucket"  # names that no column of a user has


def rank_columns(settings: Score) -> list[tuple[str, pa.DataType]]:
    """Return the columns that compare a row with all others: name and type."""
    return [(RANK, pa.int64())] * settings.rank + [(QUANTILE, pa.float64())] * settings.quantile


def layout(schema: pa.Schema) -> Layout:
    """Choose how columns are encoded: texts repeat, carried columns compress; scores and effects do neither."""
    floats = [name for name in schema.names if schema.field(name).type == pa.float32()]
    ours = [name for name in floats if name.startswith(("score", "reason_"))]
    carried = [name for name in schema.names if name not in (*ours, QUANTILE)]
    return Layout(tuple(name for name in carried if pa.types.is_string(schema.field(name).type)), tuple(carried))


def finish(
    spark: SparkSession, files: Sequence[WrittenFile], schema: pa.Schema, settings: Score, written: Path, target: Path
) -> list[WrittenFile]:
    """Make the output in `target` from the files that tasks have reported, which have this schema.

    If ranks are asked for, the files still contain the partition columns. The folder `written`, for files in between,
    is made and deleted here.

    Returns:
        The output's files; a table without rows has one file without rows.
    """
    written.mkdir()
    if rank_columns(settings):
        files, schema = _rank(spark, files, schema, settings, written)
    if not files:  # readers of the output find its columns even then
        path = written / "empty.parquet"
        pq.write_table(schema.empty_table(), path)
        files = [WrittenFile("", str(path), 0, path.stat().st_size)]
    if len(files) > _FEW:
        files = compact_files(spark, files, written, layout(schema), settings.file_mb << 20)
    placed = move_into_place(convert_files(settings.format, spark, files), target)
    shutil.rmtree(written, ignore_errors=True)  # with the files of tasks that died or ran twice
    complete_folder(settings.format, target, settings.partition_by)
    return placed


def _rank(
    spark: SparkSession, files: Sequence[WrittenFile], schema: pa.Schema, settings: Score, written: Path
) -> tuple[list[WrittenFile], pa.Schema]:
    """Write the files again, with ranks and in the folders of the partitions; returns them and their schema."""
    total, asked = sum(file.rows for file in files), rank_columns(settings)
    partition_by, file_bytes = settings.partition_by, settings.file_mb << 20
    names = [name for name in schema.names if name not in partition_by]
    final = pa.schema([*(schema.field(name) for name in names), *asked], schema.metadata)
    if not total:
        return [], final

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writer = Writer(written, layout(final), file_bytes)
        for batch in batches:
            places = batch.column(_PLACE)
            # A row's quantile is the share of the rows that score no higher.
            values = {RANK: places, QUANTILE: pa.array((total + 1 - places.to_numpy()) / total)}
            arrays: list[Any] = [batch.column(name).cast(schema.field(name).type) for name in names]
            rows = pa.table([*arrays, *(values[name] for name, _ in asked)], schema=final)
            partitions = {name: batch.column(name) for name in partition_by}
            add_by_folder(writer, rows, [""], np.zeros(len(rows), np.int8), partitions, "score.partition_by")
        yield file_batch(writer.close())

    table = spark.read.option("__globPaths__", "false").parquet(*(f"file://{file.path}" for file in files))
    ranked = map_rows(_with_places(table, total), [*schema.names, _PLACE], write, FILES)
    return collect_files(ranked), final


def _with_places(table: DataFrame, rows: int) -> DataFrame:
    """Add each row's place among all: 1 has the highest score, equal scores share the best of their places.

    Rows go into buckets by score, each small enough for one task to sort. The number of rows in the buckets above is
    added to a row's place within its bucket.
    """
    score, count = column("score"), -(-rows // _RANKED_ROWS)
    cuts = table.approxQuantile("score", [i / count for i in range(1, count)], 0.1 / count) if count > 1 else []
    edges = F.array(*(F.lit(edge).cast("double") for edge in sorted(set(cuts)))).cast("array<double>")
    bucketed = table.withColumn(_BUCKET, F.size(F.filter(edges, lambda edge: score > edge)))
    sizes = {row[_BUCKET]: row["count"] for row in bucketed.groupBy(_BUCKET).count().collect()}
    above = [sum(n for other, n in sizes.items() if other > bucket) for bucket in range(max(sizes) + 1)]
    place = F.rank().over(Window.partitionBy(_BUCKET).orderBy(score.desc())).cast("long")
    return bucketed.withColumn(_PLACE, place + F.array(*(F.lit(n).cast("long") for n in above))[column(_BUCKET)])
