"""Read a raw table in tasks: Parquet files directly, or the rows of any table through Spark.

Both methods give the same values to the tasks. In both, Spark determines the table's files, its columns with their
types, and the values in the names of its folders.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import TaskContext
from pyspark.errors import IllegalArgumentException, PySparkException, SparkRuntimeException
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from nfm.contract.columns import Rows
from nfm.contract.errors import ConfigError, DataError, ReplacedError
from nfm.contract.reading import LATEST, Reading
from nfm.table.corrupt import (
    check_any_readable,
    exclude_files,
    file_path_column,
    find_empty_files,
    find_unreadable_by_spark,
    load_readable,
    split_files,
)
from nfm.table.errors import translate_spark_errors
from nfm.table.listing import find_changed, list_files, list_uris, stat_by_spark
from nfm.table.parquet.files import Files
from nfm.table.parquet.footers import explain_types, needed_columns
from nfm.table.parquet.mixed import open_mixed, read_mixed
from nfm.table.relation import Relation, find_obstacle, find_parquet_relation, read_partitioning
from nfm.table.spark import to_arrow_schema
from nfm.table.splits import File, Split
from nfm.table.store import uri_to_path
from nfm.table.table_formats import refuse_files, refusing_paths
from nfm.table.tasks import map_rows, run_tasks
from nfm.table.text.options import FORMATS as TEXT_FORMATS
from nfm.table.text.table import open_text_table

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

log = logging.getLogger(__name__)

Work = Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Scan:
    """A raw table, and how tasks read it."""

    table: DataFrame  # in Spark: the rows that satisfy `where`, without those of skipped files
    method: Literal["parquet", "spark"]
    reason: str  # why this method was chosen, as a clause
    splits: tuple[Split, ...]  # parquet only: the input of each task
    schema: pa.Schema  # the columns' types in a task; texts may arrive as dictionaries
    skipped: tuple[str, ...]  # files left out because they cannot be read
    bad_rows: int  # rows of text files left out because they do not fit the columns
    reading: Reading  # how the values of text files were read
    listed: tuple[File, ...]  # spark only: the files that are read; empty where Spark reports no files
    # spark only: the settings that determine the partitions of its reader; None if the table is not plain files
    partitioning: Mapping[str, str] | None
    files: Files | None = field(repr=False)  # parquet only: the reader of the files

    def map(self, names: Iterable[str], work: Work, schema: pa.Schema) -> DataFrame:
        """Call `work` once per task, on a worker, with these columns of the task's rows, by row group or batch.

        `schema` describes the batches that `work` yields. Use the result within `translate_spark_errors`.
        """
        return self.map_splits(names, lambda _, rows: work(rows), schema)

    def map_splits(
        self,
        names: Iterable[str],
        work: Callable[[int, Iterator[Rows]], Iterator[pa.RecordBatch]],
        schema: pa.Schema,
        done: Collection[int] = (),
        observed: Observation | None = None,
    ) -> DataFrame:
        """Call `work` with the number and the rows of each split. With method `spark`, a split is a Spark partition.

        Splits in `done` are skipped. `observed` receives the number of `rows` that Spark delivers (`spark` only).
        """
        if self.files is not None:
            files, splits = self.files.select(names), self.splits
            remaining = sorted(set(range(len(splits))) - set(done))
            return run_tasks(self.table.sparkSession, remaining, lambda i: work(i, files.read(splits[i])), schema)

        def work_on_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            context = TaskContext.get()
            return work(context.partitionId() if context else 0, batches)

        table = self.table
        if done:
            table = table.where(~F.spark_partition_id().isin(sorted(done)))
        if observed is not None:
            table = table.observe(observed, F.count(F.lit(1)).alias("rows"))
        return map_rows(table, names, work_on_partition, schema)

    @property
    def read_files(self) -> list[File]:
        """Files that are read, with size and time of change when the scan was opened."""
        return list(dict.fromkeys([*self.listed, *(piece.file for split in self.splits for piece in split)]))

    @property
    def is_resumable(self) -> bool:
        """Return whether another session divides the same table into the same splits."""
        return self.files is not None or self.partitioning is not None

    def check_complete(self, read: Mapping[str, tuple[int, int]]) -> None:
        """Raise a DataError unless every row of every file has been read exactly once; parquet only.

        `read` maps each file's path to the number of rows that tasks have read, and the number that its footer gave.
        """
        assert self.files is not None
        for file in self.read_files:
            rows, expected = read.get(file.path) or (0, sum(self.files.row_group_sizes(file.path)))
            if rows != expected:
                raise DataError(
                    f"{rows} rows of {file.path} were read, but it has {expected}: another process is writing to the "
                    "table. Run the job again when it has finished."
                )

    def check_unchanged(self) -> None:
        """Raise ReplacedError if a file was changed since the scan was opened.

        Rows may then be of both versions, or those of the new one were read with the columns of the old one.
        """
        changed = find_changed(self.table.sparkSession, self.read_files, by_spark=self.files is None)
        if changed is not None:
            raise ReplacedError(
                f"{changed} was changed while the job read it: another process is writing to the table. Run the job "
                "again when it has finished."
            )


def open_scan(
    spark: SparkSession,
    source: "Source",
    needed: Callable[[pa.Schema], Iterable[str]],
    reading: Reading | None = LATEST,
    split_bytes: int | None = None,
    searches: bool = True,
) -> Scan:
    """Inspect a table, and choose how tasks read its rows.

    Only what Spark needs to infer the columns is read; of text files, and with `on_corrupt: skip`, all rows are read
    once.

    Args:
        spark: The session.
        source: The table.
        needed: Returns the columns that will be read, given the table's schema. May raise DataError.
        reading: How a model's training read text files; None for a model of an older version.
        split_bytes: Maximum size of a split; by default that of Spark's reader (spark.sql.files.maxPartitionBytes,
            128 MB).
        searches: With `on_corrupt: skip`, read all rows to find the files that cannot be read; a plan does not.

    Raises:
        DataError: the table or one of its files cannot be read or is not valid, its format is not `format`, or `needed`
            raised it.
        ConfigError: the table does not allow `scan: parquet` or `on_corrupt: skip`, or an option is not possible.
    """
    source.check_filled()
    with translate_spark_errors(str(source)):
        with refusing_paths(spark, source):
            if source.format in TEXT_FORMATS and source.table is None:
                scan = _open_text(spark, source, needed, reading)
            else:
                scan = _open_typed(spark, source, needed, split_bytes, searches and source.on_corrupt == "skip")
        if source.where is not None:
            scan = replace(scan, table=scan.table.where(source.where))
    return scan


def _open_text(
    spark: SparkSession, source: "Source", needed: Callable[[pa.Schema], Iterable[str]], reading: Reading | None
) -> Scan:
    reason = _explain_spark(spark, source, None) or ""
    try:
        text = open_text_table(spark, source, needed, reading)
    except (IllegalArgumentException, SparkRuntimeException) as error:
        if isinstance(error, SparkRuntimeException) and "OPTION_VALUE" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"source.options: Spark refuses one of them: {reason}") from error
    _warn_of_skipped(source, text.skipped)
    if text.bad_rows:
        log.warning("rows of %s that do not fit the columns, and are left out: %s", source, f"{text.bad_rows:,}")
    if text.has_long_rows:
        reason += "; line breaks are inside quotes, so each such file is read in one task"
    return Scan(
        table=text.table,
        method="spark",
        reason=reason,
        splits=(),
        schema=to_arrow_schema(text.table),
        skipped=tuple(sorted(map(uri_to_path, text.skipped))),
        bad_rows=text.bad_rows,
        reading=text.reading,
        listed=text.files,
        partitioning=read_partitioning(spark, source),
        files=None,
    )


def _open_typed(
    spark: SparkSession,
    source: "Source",
    needed: Callable[[pa.Schema], Iterable[str]],
    split_bytes: int | None,
    searches: bool,
) -> Scan:
    """Open a table whose source has types; files that are Parquet are read in tasks."""
    try:
        raw, skipped = load_readable(spark, source)
    except (PySparkException, Py4JJavaError) as error:
        if (explained := explain_types(spark, source, error)) is not None:
            raise explained from error
        raise
    refuse_files(spark, source, raw, raw.inputFiles())
    uris = list_uris(source, raw)
    schema = to_arrow_schema(raw)
    relation = find_parquet_relation(raw, uris)
    names = needed_columns(needed, schema, relation)
    if source.on_corrupt == "skip":
        file_path_column(source, raw)  # fails early if files cannot be left out of this table
    why_spark = _explain_spark(spark, source, relation)
    skipped |= find_empty_files(source, relation)
    uris = [uri for uri in uris if uri not in skipped]
    files, splits, unreadable, table = None, tuple[Split, ...](), dict[str, str](), None
    if relation is not None and why_spark is None:
        files, listed = list_files(spark, source, relation, uris)
        uris = list(listed) or uris
        splits, unreadable = split_files(spark, files.select(names), listed, split_bytes, searches)
    elif relation is not None and (mixed := open_mixed(spark, source, relation, names, uris)) is not None:
        mixed_splits, unreadable = split_files(spark, *mixed, split_bytes, searches)
        table = read_mixed(spark, mixed[0], mixed_splits)
    elif searches:
        unreadable = find_unreadable_by_spark(source, raw, names, uris)
    skipped |= unreadable
    check_any_readable(source, [*uris, *skipped], skipped)
    _warn_of_skipped(source, skipped)
    set_by_user = "set by source.scan" if source.scan == "parquet" else None
    partitioning = None if files is not None else read_partitioning(spark, source)
    return Scan(
        table=exclude_files(source, raw, skipped) if table is None else table,
        method="spark" if files is None else "parquet",
        reason=why_spark or set_by_user or "its files are Parquet, and tasks can read them",
        splits=splits,
        schema=schema,
        skipped=tuple(sorted(map(uri_to_path, skipped))),
        bad_rows=0,
        reading=LATEST,
        listed=() if partitioning is None else tuple(stat_by_spark(spark, set(uris) - set(skipped))),
        partitioning=partitioning,
        files=files,
    )


def _warn_of_skipped(source: "Source", skipped: Mapping[str, str]) -> None:
    for uri, reason in sorted(skipped.items()):
        log.warning("%s is left out of %s: it cannot be read (%s)", uri_to_path(uri), source, reason)


def _explain_spark(spark: SparkSession, source: "Source", relation: Relation | None) -> str | None:
    """Return why Spark must read the table, as a clause; None if tasks can read its files."""
    why = "set by source.scan" if source.scan == "spark" else find_obstacle(spark, source, relation)
    if why is not None and source.scan == "parquet":
        raise ConfigError(
            f"source.scan: 'parquet' given, but tasks cannot read {source} directly: {why}. Set source.scan: auto or "
            "spark."
        )
    return why
