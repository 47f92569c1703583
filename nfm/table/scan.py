"""Read a raw table in tasks: Parquet files directly, or rows of any table through Spark.

Both methods deliver the same values to the same work. In both, Spark decides what the table is: its files, its columns
with their types, and the values in the names of its folders.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from nfm.contract.columns import Rows
from nfm.contract.errors import ConfigError, DataError
from nfm.table.corrupt import check_any, empty_files, file_path, load_readable, unreadable_by_spark, without
from nfm.table.errors import translate_spark_errors
from nfm.table.parquet import Files
from nfm.table.relation import Relation, files_of, hindrance, parquet_relation, path_of, with_empty_columns
from nfm.table.spark import arrow_schema
from nfm.table.splits import File, Split, cut
from nfm.table.tasks import map_rows, run_tasks

if TYPE_CHECKING:  # workers import this module and need no settings
    from nfm.config.settings import Source

log = logging.getLogger(__name__)

_FILE_FORMATS = ("avro", "csv", "json", "orc", "parquet", "text")  # Spark's formats that are plain files
_PARTITION_SETTINGS = (
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.files.openCostInBytes",
    "spark.sql.files.minPartitionNum",
    "spark.sql.files.maxPartitionNum",
    "spark.sql.leafNodeDefaultParallelism",
)
_UNREADABLE = pa.schema([("path", pa.string()), ("reason", pa.string())])

Work = Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Scan:
    """A raw table, and how tasks read it."""

    table: DataFrame  # Spark's view: the rows that meet `where`, without those of skipped files
    method: Literal["parquet", "spark"]
    reason: str  # why this method, one clause
    splits: tuple[Split, ...]  # parquet only: what each task reads
    schema: pa.Schema  # the columns' types as they reach a task; a text may come as a dictionary
    skipped: tuple[str, ...]  # files left out because they cannot be read
    uris: tuple[str, ...]  # of the files that are read; empty where Spark reports no files
    # Spark only: the settings by which its reader makes partitions; None if the table is more than files.
    partitioning: Mapping[str, str] | None
    files: Files | None = field(repr=False)  # parquet only: how they are read

    def map(self, names: Iterable[str], work: Work, schema: pa.Schema) -> DataFrame:
        """Call `work` once a task, on a worker, with these columns of its rows: a row group or a batch at a time.

        `schema` is of what it yields. Use the result within `translate_spark_errors`.
        """
        return self.map_parts(names, lambda _, rows: work(rows), schema)

    def map_parts(
        self,
        names: Iterable[str],
        work: Callable[[int, Iterator[Rows]], Iterator[pa.RecordBatch]],
        schema: pa.Schema,
        done: Collection[int] = (),
        observed: Observation | None = None,
    ) -> DataFrame:
        """Call `work` with each part's number and rows. A part is a split, or one of Spark's partitions.

        The parts in `done` are left out. `observed` receives the number of `rows` that Spark delivers; spark only.
        """
        if self.files is not None:
            files, splits = self.files.only(names), self.splits
            left = sorted(set(range(len(splits))) - set(done))
            return run_tasks(self.table.sparkSession, left, lambda i: work(i, files.rows(splits[i])), schema)

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
        """The files that tasks read, as they were when the scan was opened; parquet only."""
        return list(dict.fromkeys(piece.file for split in self.splits for piece in split))

    @property
    def is_resumable(self) -> bool:
        """Return whether another session divides the same table into the same parts."""
        return self.files is not None or self.partitioning is not None

    def check_complete(self, read: Mapping[str, tuple[int, int]]) -> None:
        """Raise a DataError unless every row of every file has been read once; parquet only.

        `read` contains for each file the rows that tasks have read, and the rows that the file had then.
        """
        assert self.files is not None
        for file in self.read_files:
            rows, expected = read.get(file.path) or (0, sum(self.files.counts(file.path)))
            if rows != expected:
                raise DataError(
                    f"{rows} rows of {file.path} were read, but it has {expected}: another process writes to the table "
                    "while it is read. Run the job again when that is done."
                )


def open_scan(
    spark: SparkSession,
    source: "Source",
    needed: Callable[[pa.Schema], Iterable[str]],
    split_bytes: int | None = None,
) -> Scan:
    """Inspect a table and choose how its rows are read.

    This reads only what Spark needs to know the columns; with `on_corrupt: skip`, all needed columns once. `needed`
    chooses the columns that will be read, and may refuse the table. A task reads at most `split_bytes` of Parquet, by
    default as much as with Spark's own reader (spark.sql.files.maxPartitionBytes, 128 MB).

    Raises:
        DataError: the table cannot be read, a file of Parquet is empty, no file can be read, or `needed` says so.
        ConfigError: the table does not allow `scan: parquet` or `on_corrupt: skip`.
    """
    source.check_filled()
    with translate_spark_errors(str(source)):
        raw, broken = load_readable(spark, source)
        schema = arrow_schema(raw)
        names = _needed_columns(needed, schema, raw)
        if source.on_corrupt == "skip":
            file_path(source, raw)
        uris = sorted(raw.inputFiles())
        relation = parquet_relation(raw, uris)
        why_spark = _why_spark(spark, source, relation)
        broken |= empty_files(source, relation)
        uris = [uri for uri in uris if uri not in broken]
        files, splits, unreadable = None, tuple[Split, ...](), dict[str, str]()
        if relation is not None and why_spark is None:
            files, listed = files_of(spark, source, relation, uris)
            uris = list(listed) or uris
            splits, unreadable = _split_files(spark, source, files.only(names), listed, split_bytes)
        elif source.on_corrupt == "skip":
            unreadable = unreadable_by_spark(source, raw, names, uris)
        broken |= unreadable
        check_any(source, [*uris, *broken], broken)
        table = without(source, raw, broken)
        table = table if source.where is None else table.where(source.where)
    for uri, reason in sorted(broken.items()):
        log.warning("%s is left out of %s: it cannot be read (%s)", path_of(uri), source, reason)
    set_by_user = "source.scan says so" if source.scan == "parquet" else None
    return Scan(
        table=table,
        method="spark" if files is None else "parquet",
        reason=why_spark or set_by_user or "its files are Parquet, and tasks can reach them",
        splits=splits,
        schema=schema,
        skipped=tuple(sorted(map(path_of, broken))),
        uris=tuple(uri for uri in uris if uri not in broken),
        partitioning=None if files is not None else _partitioning(spark, source),
        files=files,
    )


def _needed_columns(needed: Callable[[pa.Schema], Iterable[str]], schema: pa.Schema, raw: DataFrame) -> list[str]:
    """Return the columns that will be read. A refused table is checked again without the types of empty columns."""
    try:
        return list(dict.fromkeys(needed(schema)))
    except DataError:
        better = with_empty_columns(schema, parquet_relation(raw, sorted(raw.inputFiles())))
        if better == schema:
            raise
        return list(dict.fromkeys(needed(better)))


def _why_spark(spark: SparkSession, source: "Source", relation: Relation | None) -> str | None:
    """Return why Spark must read the table, as a clause; None if tasks can read its files."""
    why = "source.scan says so" if source.scan == "spark" else hindrance(spark, source, relation)
    if why is not None and source.scan == "parquet":
        raise ConfigError(
            f"source.scan: 'parquet' given, but tasks cannot read {source} themselves: {why}. Take auto or spark."
        )
    return why


def _partitioning(spark: SparkSession, source: "Source") -> dict[str, str] | None:
    """Return the settings that decide, besides the files, which rows make a partition; None if not plain files."""
    if source.format not in _FILE_FORMATS or source.table is not None:
        return None
    settings = {key: str(spark.conf.get(key, None)) for key in _PARTITION_SETTINGS}
    return settings | {"cores": str(spark.sparkContext.defaultParallelism)}


def _split_files(
    spark: SparkSession, source: "Source", files: Files, listed: Mapping[str, File], split_bytes: int | None
) -> tuple[tuple[Split, ...], dict[str, str]]:
    """Return the splits of the files, and with `on_corrupt: skip` the files that cannot be read, with the reasons."""
    session: Any = spark  # only the JVM knows a size such as 64m as a number
    most = split_bytes or int(session._jsparkSession.sessionState().conf().filesMaxPartitionBytes())
    cores = spark.sparkContext.defaultParallelism
    splits = cut(list(listed.values()), cores, most)
    if source.on_corrupt != "skip":
        return splits, {}

    def check(split: Split) -> Iterator[pa.RecordBatch]:
        found = [{"path": path, "reason": reason} for path, reason in files.unreadable(split)]
        yield pa.RecordBatch.from_pylist(found, _UNREADABLE)

    reasons = {row.path: row.reason for row in run_tasks(spark, splits, check, _UNREADABLE).collect()}
    broken = {uri: reasons[file.path] for uri, file in listed.items() if file.path in reasons}
    return cut([file for uri, file in listed.items() if uri not in broken], cores, most), broken
