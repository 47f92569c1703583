"""The files that tasks have written → the output's: ranks, sizes, format."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

from nfm.config.settings import Score
from nfm.table.folders import add_by_folder
from nfm.table.spark import column
from nfm.table.tasks import map_rows
from nfm.table.write import FILES_DDL, Layout, Writer, WrittenFile, compact_files, file_batch, move_into_place

RANK, QUANTILE = "score_rank", "score_quantile"
_FEW = 8  # files that are left as they are, however small: nobody minds them, and it saves a pass
_RANKED_ROWS = 1 << 20  # that one task sorts
_PLACE, _BUCKET = "_nfm_rank", "_nfm_bucket"  # no column of a user's is called so


def layout(schema: pa.Schema) -> Layout:
    """Texts repeat, and what is carried along can be compressed; scores and effects are as good as random."""
    floats = [name for name in schema.names if schema.field(name).type == pa.float32()]
    ours = [name for name in floats if name.startswith(("score", "reason_"))]
    carried = [name for name in schema.names if name not in (*ours, QUANTILE)]
    return Layout(tuple(name for name in carried if pa.types.is_string(schema.field(name).type)), tuple(carried))


def finish(
    spark: SparkSession, files: Sequence[WrittenFile], schema: pa.Schema, settings: Score, written: Path, target: Path
) -> list[WrittenFile]:
    """Make the output of what the tasks have told of.

    Args:
        spark: the session.
        files: that tasks have told of; with ranks asked for, partition columns are still among their columns.
        schema: of these files.
        settings: what is asked for.
        written: where further files are written; it is made, and removed in the end.
        target: where the output lies until it is published.

    Returns:
        The output's files; one without rows where there is none.
    """
    file_bytes = settings.file_mb << 20
    written.mkdir()
    if settings.rank or settings.quantile:
        files, schema = _ranked(spark, files, schema, settings, written)
    if not files:  # whoever reads the output finds its columns all the same
        path = written / "empty.parquet"
        pq.write_table(schema.empty_table(), path)
        files = [WrittenFile("", str(path), 0, path.stat().st_size)]
    if len(files) > _FEW:
        files = compact_files(spark, files, written, layout(schema), file_bytes)
    if settings.format == "csv":
        files = _as_csv(spark, files)
    placed = move_into_place(files, target)
    shutil.rmtree(written, ignore_errors=True)  # with what tasks have left that died, or ran twice
    if settings.format == "delta":
        _as_delta(target, settings.partition_by)
    return placed


def _ranked(
    spark: SparkSession, files: Sequence[WrittenFile], schema: pa.Schema, settings: Score, written: Path
) -> tuple[list[WrittenFile], pa.Schema]:
    """Each row's place among all: 1 has the highest score, equal scores share the best of their places.

    Rows are dealt into buckets by their score, each small enough for a task to sort; how many rows lie in the buckets
    above is added to a row's place in its own.
    """
    total = sum(file.rows for file in files)
    more = [(RANK, pa.int64())] * settings.rank + [(QUANTILE, pa.float64())] * settings.quantile
    names = [name for name in schema.names if name not in settings.partition_by]
    final = pa.schema([*(schema.field(name) for name in names), *more], schema.metadata)
    if not total:
        return [], final
    table = spark.read.option("__globPaths__", "false").parquet(*(f"file://{file.path}" for file in files))
    score, count = column("score"), -(-total // _RANKED_ROWS)
    cuts = table.approxQuantile("score", [i / count for i in range(1, count)], 0.1 / count) if count > 1 else []
    edges = F.array(*(F.lit(edge).cast("double") for edge in sorted(set(cuts)))).cast("array<double>")
    bucketed = table.withColumn(_BUCKET, F.size(F.filter(edges, lambda edge: score > edge)))
    rows = {row[_BUCKET]: row["count"] for row in bucketed.groupBy(_BUCKET).count().collect()}
    above = [sum(n for other, n in rows.items() if other > bucket) for bucket in range(max(rows) + 1)]
    place = F.rank().over(Window.partitionBy(_BUCKET).orderBy(score.desc())).cast("long")
    offsets = F.array(*(F.lit(n).cast("long") for n in above))
    ranked = bucketed.withColumn(_PLACE, place + offsets[column(_BUCKET)])
    partition_by, file_bytes = settings.partition_by, settings.file_mb << 20

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writer = Writer(written, layout(final), file_bytes)
        for batch in batches:
            places = batch.column(_PLACE)
            values: Mapping[str, Any] = {
                RANK: places,
                QUANTILE: pa.array((total + 1 - places.to_numpy()) / total),  # the share of rows that score no higher
            }
            arrays = [batch.column(name).cast(schema.field(name).type) for name in names]
            of_batch = pa.table([*arrays, *(values[name] for name, _ in more)], schema=final)
            partitions = {name: batch.column(name) for name in partition_by}
            everywhere = np.zeros(batch.num_rows, np.int8)
            add_by_folder(writer, of_batch, [""], everywhere, partitions, "score.partition_by")
        yield file_batch(writer.close())

    result = map_rows(ranked, [*schema.names, _PLACE], work, FILES_DDL).collect()
    return [WrittenFile(**row.asDict()) for row in result], final


def _as_csv(spark: SparkSession, files: Sequence[WrittenFile]) -> list[WrittenFile]:
    """The same rows as text, with a line of names in each file."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for i in batch.column("id").to_pylist():
                source = pq.ParquetFile(files[i].path)
                path = Path(files[i].path).with_suffix(".csv")
                with pyarrow.csv.CSVWriter(path, source.schema_arrow) as writer:
                    for j in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(j, use_threads=False))
                yield file_batch([WrittenFile(files[i].folder, str(path), files[i].rows, path.stat().st_size)])

    tasks = spark.range(0, len(files), 1, len(files))
    return [WrittenFile(**row.asDict()) for row in tasks.mapInArrow(work, FILES_DDL).collect()]


def _as_delta(target: Path, partition_by: Sequence[str]) -> None:
    """A first entry in Delta's log, which names these files: so they are a Delta table."""
    from deltalake import Field, Schema, convert_to_deltalake  # an extra: most do without
    from deltalake.schema import PrimitiveType

    folders = Schema([Field(name, PrimitiveType("string")) for name in partition_by]) if partition_by else None
    convert_to_deltalake(str(target), partition_by=folders, partition_strategy="hive" if folders else None)
    # The log names files by URIs. Of a folder that is called city=x%2Fy it would say city=x/y.
    paths = {unquote(name): quote(name, safe="/=") for name in (str(f.relative_to(target)) for f in target.rglob("*"))}
    (entry,) = (target / "_delta_log").glob("*.json")
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"]["path"] = paths[unquote(action["add"]["path"])]
    entry.write_text("".join(f"{json.dumps(action)}\n" for action in actions))
