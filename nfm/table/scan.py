"""How tasks read the raw table: the files of Parquet by themselves, or rows of any table from Spark.

Both ways deliver the same values to the same work, and Spark decides in both what the table is: its files, columns and
types, and what the names of its folders say.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from nfm.contract.columns import Rows
from nfm.contract.errors import ConfigError, DataError
from nfm.table.corrupt import check_any, empty_files, file_path, load_readable, unreadable_by_spark, without
from nfm.table.errors import translate_spark_errors
from nfm.table.parquet import Files
from nfm.table.relation import files_of, hindrance, parquet_relation, path_of, with_empty_columns
from nfm.table.spark import arrow_schema
from nfm.table.splits import File, Split, cut
from nfm.table.tasks import limit_arrow_threads, map_rows

if TYPE_CHECKING:  # workers import this module, and need no settings
    from nfm.config.settings import Source

log = logging.getLogger(__name__)

_FORMATS = ("avro", "csv", "json", "orc", "parquet", "text")  # of Spark's that are plain files
_CUT_BY = (
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.files.openCostInBytes",
    "spark.sql.files.minPartitionNum",
    "spark.sql.files.maxPartitionNum",
    "spark.sql.leafNodeDefaultParallelism",
)

Work = Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Scan:
    """A raw table, and how tasks read it."""

    table: DataFrame  # Spark's view: the rows that meet `where`, without those of skipped files
    method: Literal["parquet", "spark"]
    reason: str  # why this method, one clause
    splits: tuple[Split, ...]  # of parquet: what each task reads
    schema: pa.Schema  # the columns' types as they reach a task; a text may come as a dictionary
    skipped: tuple[str, ...]  # files left out because they cannot be read
    uris: tuple[str, ...]  # of the files that are read; none where Spark tells of no files
    cut_by: Mapping[str, str] | None  # of spark: what its reader cuts files by; None: the table is more than files
    files: Files | None = field(repr=False)  # of parquet: how they are read

    def map(self, names: Iterable[str], work: Work, schema: StructType | str) -> DataFrame:
        """What `work` makes of the table, a row group or a batch at a time.

        Args:
            names: the columns that the work may ask for.
            work: called once a task, on a worker, with the rows there.
            schema: of what it returns.

        Raises:
            DataError: when the result is used within `translate_spark_errors`, if a file cannot be read.
        """
        return self.map_parts(names, lambda _, rows: work(rows), schema)

    def map_parts(
        self,
        names: Iterable[str],
        work: Callable[[int, Iterator[Rows]], Iterator[pa.RecordBatch]],
        schema: StructType | str,
        done: Collection[int] = (),
        observed: Observation | None = None,
    ) -> DataFrame:
        """The same, of the parts that are not done yet.

        Args:
            names: the columns that the work may ask for.
            work: called once a part, on a worker, with the part's number and the rows there. A part is a split; where
                the method is spark, what Spark's reader makes a partition of.
            schema: of what it returns.
            done: numbers of parts that are left out.
            observed: is told how many `rows` Spark has handed over; of use where the method is spark.

        Raises:
            DataError: as `map` does.
        """
        if self.files is not None:
            left = [i for i in range(len(self.splits)) if i not in set(done)]
            return _map_files(self.table.sparkSession, self.files.only(names), self.splits, left, work, schema)

        def worked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            limit_arrow_threads()
            context = TaskContext.get()
            return work(context.partitionId() if context else 0, batches)

        table = self.table
        if done:
            table = table.where(~F.spark_partition_id().isin(sorted(done)))
        if observed is not None:
            table = table.observe(observed, F.count(F.lit(1)).alias("rows"))
        return map_rows(table, names, worked, schema)

    @property
    def read_files(self) -> set[File]:
        """Of parquet: the files that tasks read, as they were when the scan was opened."""
        return {piece.file for split in self.splits for piece in split}

    def is_resumable(self) -> bool:
        """Whether another session would cut the same table into the same parts."""
        return self.files is not None or self.cut_by is not None

    def check_complete(self, read: Mapping[str, tuple[int, int]]) -> None:
        """Of parquet: every row of every file has been read, once.

        Args:
            read: by file, how many rows tasks have read, and how many they have seen that it has.

        Raises:
            DataError: rows were passed over or read twice, or the file was replaced meanwhile.
        """
        assert self.files is not None
        for path in dict.fromkeys(piece.file.path for split in self.splits for piece in split):
            rows, has = read.get(path) or (0, self.files.count(path))
            if rows != has:
                raise DataError(
                    f"{rows} rows of {path} were read, and it has {has}: somebody writes to the table while it is "
                    "read. Run the job again when that is done."
                )


def _map_files(
    spark: SparkSession,
    files: Files,
    splits: tuple[Split, ...],
    numbers: Sequence[int],
    work: Callable[[int, Iterator[Rows]], Iterator[pa.RecordBatch]],
    schema: StructType | str,
) -> DataFrame:
    def worked(places: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_arrow_threads()
        for batch in places:
            for place in batch.column(0).to_pylist():
                yield from work(numbers[place], files.rows(splits[numbers[place]]))

    return _tasks(spark, numbers).mapInArrow(worked, schema)


def _tasks(spark: SparkSession, parts: Sequence[object]) -> DataFrame:
    """The parts' places, each in a partition and so a task of its own."""
    return spark.range(0, len(parts), 1, max(len(parts), 1))


def _names(needed: Callable[[pa.Schema], Iterable[str]], schema: pa.Schema, raw: DataFrame) -> list[str]:
    try:
        return list(dict.fromkeys(needed(schema)))
    except DataError:
        better = with_empty_columns(schema, parquet_relation(raw, sorted(raw.inputFiles())))
        if better == schema:
            raise
        return list(dict.fromkeys(needed(better)))


def open_scan(
    spark: SparkSession,
    source: "Source",
    needed: Callable[[pa.Schema], Iterable[str]],
    split_bytes: int | None = None,
) -> Scan:
    """Find out what the table is, and how its rows are to be read.

    Nothing is read but what Spark reads to know the columns; with `on_corrupt: skip` everything that is needed, once.

    Args:
        spark: the session.
        source: the settings.
        needed: from the table's columns to those that will be read; may refuse the table.
        split_bytes: what a task reads of Parquet at most; what Spark's own reader would take unless given
            (spark.sql.files.maxPartitionBytes, 128 MB).

    Raises:
        DataError: the table cannot be read, a file of Parquet is empty, no file can be read, or `needed` says so.
        ConfigError: `scan: parquet` or `on_corrupt: skip` is asked for where it cannot be.
    """
    source.check_filled()
    skip = source.on_corrupt == "skip"
    split_bytes = split_bytes or _partition_bytes(spark)
    with translate_spark_errors(str(source)):
        raw, broken = load_readable(spark, source)
        schema = arrow_schema(raw)
        names = _names(needed, schema, raw)
        if skip:
            file_path(source, raw)
        uris = sorted(raw.inputFiles())
        relation = parquet_relation(raw, uris)
        why_spark = "source.scan says so" if source.scan == "spark" else hindrance(spark, source, relation)
        if why_spark is not None and source.scan == "parquet":
            raise ConfigError(
                f"source.scan: 'parquet' given, but tasks cannot read {source} themselves: {why_spark}. Take auto or "
                "spark."
            )
        broken |= empty_files(source, relation)
        uris = [uri for uri in uris if uri not in broken]
        files, listed = None, dict[str, File]()
        splits: tuple[Split, ...] = ()
        if relation is not None and why_spark is None:
            files, listed = files_of(spark, source, relation, uris)
            cores = spark.sparkContext.defaultParallelism
            if skip:
                checked = cut(list(listed.values()), cores, split_bytes)
                reasons = _unreadable(spark, files.only(names), checked)
                broken |= {uri: reasons[file.path] for uri, file in listed.items() if file.path in reasons}
            splits = cut([file for uri, file in listed.items() if uri not in broken], cores, split_bytes)
        elif skip:
            broken |= unreadable_by_spark(source, raw, names, uris)
        check_any(source, (listed or dict.fromkeys(uris)) | broken, broken)
        table = without(source, raw, broken)
        table = table if source.where is None else table.where(source.where)
    for uri, reason in sorted(broken.items()):
        log.warning("%s is left out of %s: it cannot be read (%s)", path_of(uri), source, reason)
    why_parquet = (
        "source.scan says so" if source.scan == "parquet" else "its files are Parquet, and tasks can reach them"
    )
    return Scan(
        table=table,
        method="spark" if files is None else "parquet",
        reason=why_spark or why_parquet,
        splits=splits,
        schema=schema,
        skipped=tuple(sorted(map(path_of, broken))),
        uris=tuple(uri for uri in (listed or uris) if uri not in broken),
        cut_by=None if files is not None else _cut_by(spark, source),
        files=files,
    )


def _partition_bytes(spark: SparkSession) -> int:
    session: Any = spark  # as a number only the JVM's side knows a size such as 64m
    return int(session._jsparkSession.sessionState().conf().filesMaxPartitionBytes())


def _cut_by(spark: SparkSession, source: "Source") -> dict[str, str] | None:
    """Where Spark reads plain files: what decides, besides the files, which rows make a partition."""
    if source.format not in _FORMATS or source.table is not None:
        return None
    cut_by = {key: str(spark.conf.get(key, None)) for key in _CUT_BY}
    return cut_by | {"cores": str(spark.sparkContext.defaultParallelism)}


def _unreadable(spark: SparkSession, files: Files, splits: Sequence[Split]) -> dict[str, str]:
    """Read everything once; path and reason of the files where that fails."""

    def checked(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        limit_arrow_threads()
        for batch in numbers:
            for i in batch.column(0).to_pylist():
                found = list(files.unreadable(splits[i]))
                yield pa.RecordBatch.from_pydict(
                    {"path": [path for path, _ in found], "reason": [reason for _, reason in found]},
                    schema=pa.schema([("path", pa.string()), ("reason", pa.string())]),
                )

    found = _tasks(spark, splits).mapInArrow(checked, "path string, reason string").collect()
    return {row.path: row.reason for row in found}
