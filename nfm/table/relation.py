"""Inspect a table in Spark: its files, whether tasks can read them directly, and the values in the folders' names."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from nfm.contract.errors import ConfigError, DataError
from nfm.table.casts import is_text
from nfm.table.parquet import Files, translate_file_errors
from nfm.table.spark import column, to_arrow_schema
from nfm.table.splits import File, file_at
from nfm.table.store import find_access_problem, is_in_store, open_file, read_file_states

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.settings import Source

# Options that select files and columns. Spark has applied them before it reports the files and columns.
_OPTIONS = {"mergeschema", "recursivefilelookup", "pathglobfilter", "basepath", "modifiedbefore", "modifiedafter"}
# Settings under which Spark reads a file differently than pyarrow, or reads a file that pyarrow cannot read.
_SETTINGS = {
    "spark.sql.files.ignoreCorruptFiles": "true",
    "spark.sql.files.ignoreMissingFiles": "true",
    "spark.sql.parquet.int96TimestampConversion": "true",
    "spark.sql.parquet.fieldId.read.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "legacy",
    "spark.sql.parquet.int96RebaseModeInRead": "legacy",
}
_DECRYPTION = "parquet.crypto.factory.class"
_SUMMARIES = ("_metadata", "_common_metadata")  # Spark lists these files, but reads no rows from them


@dataclass(frozen=True)
class Relation:
    """Parquet files that Spark reads as one table."""

    raw: DataFrame  # the table, with all its rows and columns
    uris: Sequence[str]  # of its files
    partitions: Sequence[str]  # columns whose values are in the folders' names, such as country=DE
    location: Any  # Spark's index of the files and of the folders' values


def list_uris(source: "Source", raw: DataFrame) -> list[str]:
    """Return the URIs of a table's files, sorted; empty where Spark reports no files.

    Raises:
        ConfigError: Spark would read a file twice, because two paths of the source contain it.
        DataError: Spark would leave out a file, because it is not in a partition folder.
    """
    relation = _file_relation(raw)
    if relation is None:
        return sorted(raw.inputFiles())
    location = relation.location()
    uris = sorted(uri for uri in location.inputFiles() if uri.rpartition("/")[2] not in _SUMMARIES)
    twice = next((uri for uri, following in pairwise(uris) if uri == following), None)
    if twice is not None:
        raise ConfigError(
            f"source.path: several paths contain {uri_to_path(twice)}, so Spark would read its rows more than once. "
            "Remove all but one of these paths."
        )
    partitions = list(relation.partitionSchema().fieldNames())
    for path in map(uri_to_path, uris if partitions else ()):
        if not _has_folders(path, partitions):
            raise _stray_file(path, partitions)
    return uris


def _has_folders(path: str, partitions: Sequence[str]) -> bool:
    """Return whether a file is in folders such as country=DE for all partition columns."""
    folders = {folder.partition("=")[0] for folder in path.split("/")[:-1] if "=" in folder}
    names = {unquote(name, encoding="latin-1").lower() for name in folders}  # Spark escapes characters, not bytes
    return names.issuperset(name.lower() for name in partitions)


def _stray_file(path: str, partitions: Sequence[str]) -> DataError:
    folders = "/".join(f"{name}=…" for name in partitions)
    return DataError(
        f"{path} is not in a folder {folders} as the table's other files are, so Spark would leave out its rows. Move "
        "it into such a folder, or delete it."
    )


def find_parquet_relation(raw: DataFrame, uris: Sequence[str]) -> Relation | None:
    """Return the files of a table; None if they are not Parquet, or if it is not made of plain files only."""
    relation = _file_relation(raw)
    # Formats based on Parquet have other classes, and so have tables whose folders are listed in the catalog.
    if relation is None or (class_name(relation.fileFormat()), class_name(relation.location())) != (
        "ParquetFileFormat",
        "InMemoryFileIndex",
    ):
        return None
    if any("EXISTS_DEFAULT" in f.metadata for f in raw.schema.fields):  # a value for files without the column
        return None
    return Relation(raw, uris, list(relation.partitionSchema().fieldNames()), relation.location())


def _file_relation(raw: DataFrame) -> Any:
    """Return Spark's relation of a table that is made of plain files only; None for other tables."""
    plan = analyzed_plan(raw)
    while class_name(plan) == "SubqueryAlias":  # a table of the catalog
        plan = plan.child()
    if class_name(plan) != "LogicalRelation" or class_name(plan.relation()) != "HadoopFsRelation":
        return None
    return plan.relation()


def mark_empty_columns(schema: pa.Schema, relation: Relation | None) -> pa.Schema:
    """Return the schema, with type null for the columns that have type null in every file.

    A writer that cannot infer a type, such as pandas for a column of None, annotates the column as integers, and Spark
    reads it as integers.
    """
    empty = set(schema.names)
    for uri in relation.uris if relation is not None else ():
        path = uri_to_path(uri)
        with suppress(OSError, ValueError, pa.ArrowException):  # the scan reports files that cannot be read
            file = pq.read_schema(open_file(path) if is_in_store(path) else path)
            empty &= {field.name for field in file if pa.types.is_null(field.type)}
        if not empty:  # most tables, after one file
            return schema
    if relation is None or empty == set(schema.names):
        return schema
    return pa.schema([field.with_type(pa.null()) if field.name in empty else field for field in schema])


def find_obstacle(spark: SparkSession, source: "Source", relation: Relation | None) -> str | None:
    """Return why tasks cannot read the files directly, as a clause; None if they can."""
    if relation is None:
        if source.table:
            return "it is not a plain table of Parquet files"
        return f"its format is {source.format}" if source.format != "parquet" else "it is not only plain Parquet files"
    remote = [uri for uri in relation.uris if not uri.startswith("file:")]
    if remote and source.on_corrupt == "skip":
        return f"on_corrupt: skip cannot distinguish a damaged file from a failed connection to {remote[0]}"
    if remote and (why := find_access_problem(remote)) is not None:
        return why
    options = [option for option in source.options if option.lower() not in _OPTIONS]
    if options:
        return f"source.options has {', '.join(options)}, which only Spark's reader supports"
    for setting, value in _SETTINGS.items():
        if str(spark.conf.get(setting)).lower() == value:
            return f"{setting} is {value}"
    context: Any = spark.sparkContext
    if context._jsc.hadoopConfiguration().get(_DECRYPTION):
        return f"{_DECRYPTION} is set, and only Spark can decrypt the files"
    if source.where is not None:
        others = _columns_outside_folders(relation, source.where)
        if others is None or others:
            return f"source.where uses more than the folders' names: {', '.join(others or []) or source.where}"
    return None


def count_partitions(table: DataFrame, even_if_costly: bool = False) -> int | None:
    """Return how many tasks Spark needs to read a table.

    A table that must be shuffled first gives None, or with `even_if_costly` the number after the shuffle.
    """
    frame: Any = table
    execution = frame._jdf.queryExecution()
    if class_name(execution.executedPlan()) == "AdaptiveSparkPlanExec" and not even_if_costly:
        return None
    return int(execution.toRdd().getNumPartitions())


def uri_to_path(uri: str) -> str:
    """Return the path of a `file:` URI; other URIs are returned unchanged."""
    return "/" + unquote(uri.removeprefix("file:").lstrip("/")) if uri.startswith("file:") else uri


def list_files(
    spark: SparkSession, source: "Source", relation: Relation, uris: Iterable[str]
) -> tuple[Files, dict[str, File]]:
    """Return the reader of the files, and by URI the files whose folders satisfy `where`."""
    types = to_arrow_schema(relation.raw)
    case_sensitive = str(spark.conf.get("spark.sql.caseSensitive")).lower() == "true"
    if not relation.partitions and source.where is None:  # most tables need no query
        no_partitions = pa.RecordBatch.from_arrays([], names=[])
        return Files(str(source), types, no_partitions, case_sensitive), stat_files(
            source, dict.fromkeys(sorted(uris), 0)
        )
    partitions, row_of_folder = _read_partitions(relation, types)
    kept = set(range(len(partitions)) if source.where is None else _filter_partitions(spark, partitions, source.where))
    folders = {uri: uri_to_path(uri.rpartition("/")[0]) for uri in sorted(uris)}
    stray = next((uri for uri, folder in folders.items() if folder not in row_of_folder), None)
    if stray is not None:
        raise _stray_file(uri_to_path(stray), relation.partitions)
    rows = {uri: row_of_folder[folder] for uri, folder in folders.items()}
    files = Files(str(source), types, partitions, case_sensitive)
    return files, stat_files(source, {uri: row for uri, row in rows.items() if row in kept})


def _read_partitions(relation: Relation, types: pa.Schema) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Return the values in the folders' names as Spark converts them, and the row of each folder among them."""
    spec = relation.location.partitionSpec()
    columns: list[list[Any]] = [[] for _ in relation.partitions]
    spark_types = [field.dataType() for field in spec.partitionColumns().fields()]
    row_of_folder: dict[str, int] = {}
    partitions = spec.partitions().iterator()
    while partitions.hasNext():
        partition = partitions.next()
        row_of_folder[uri_to_path(partition.path().toUri().toString())] = len(row_of_folder)
        values = partition.values()
        for i, column_values in enumerate(columns):
            column_values.append(values.get(i, spark_types[i]))
    fields = [types.field(name) for name in relation.partitions]
    arrays = [_to_array(values, field.type) for values, field in zip(columns, fields, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(relation.partitions)), row_of_folder


def _to_array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    """Convert Spark's internal values, in which a date is a number of days, and a text a Java object."""
    if is_text(type_):
        return pa.array([None if value is None else value.toString() for value in values], type_)
    if pa.types.is_decimal(type_):
        return pa.array([None if value is None else Decimal(value.toString()) for value in values], type_)
    if pa.types.is_temporal(type_):
        return pa.array(values, pa.int32() if type_.bit_width == 32 else pa.int64()).cast(type_)
    return pa.array(values, type_)


def _filter_partitions(spark: SparkSession, partitions: pa.RecordBatch, where: str) -> list[int]:
    """Return the rows of the partitions that satisfy a condition."""
    number = "_".join(["row", *partitions.schema.names])  # longer than each of these names
    numbered = pa.Table.from_batches([partitions]).append_column(number, pa.array(range(len(partitions))))
    kept = spark.createDataFrame(numbered).where(where).select(column(number))
    return [row[0] for row in kept.collect()]


def stat_files(source: "Source", partitions: Mapping[str, int]) -> dict[str, File]:
    """Return the files with size and time of change, from their URIs and their rows in the partitions."""
    remote = [uri for uri in partitions if is_in_store(uri_to_path(uri))]
    if not remote:
        return {uri: file_at(uri_to_path(uri), partition) for uri, partition in partitions.items()}
    with translate_file_errors(str(source), remote[0]):
        states = read_file_states(remote)
    return {uri: File(uri, size, partitions[uri], changed) for uri, (size, changed) in zip(remote, states, strict=True)}


def read_file_versions(spark: SparkSession, uris: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return URI, size and time of the last change of each file, which together identify its version."""
    context: Any = spark.sparkContext
    versions = []
    for uri in uris:
        if uri.startswith("file:"):
            file = file_at(uri_to_path(uri))
            versions.append((uri, file.size, file.changed))
        else:
            path = context._jvm.org.apache.hadoop.fs.Path(uri)
            status = path.getFileSystem(context._jsc.hadoopConfiguration()).getFileStatus(path)
            versions.append((uri, int(status.getLen()), int(status.getModificationTime())))
    return versions


def _columns_outside_folders(relation: Relation, where: str) -> list[str] | None:
    """Return a condition's columns that are not in the folders' names; None if it depends on more than columns."""
    plan = analyzed_plan(relation.raw.where(where))
    if class_name(plan) != "Filter" or not plan.condition().deterministic():
        return None
    references = plan.condition().references().toSeq()
    names = [references.apply(i).name() for i in range(references.size())]
    if relation.raw.sparkSession.conf.get("spark.sql.caseSensitive") == "true":
        return [name for name in names if name not in relation.partitions]
    return [name for name in names if name.lower() not in map(str.lower, relation.partitions)]


def analyzed_plan(table: DataFrame) -> Any:
    """Return Spark's analyzed plan of a table, which PySpark does not expose."""
    frame: Any = table
    return frame._jdf.queryExecution().analyzed()


def class_name(jvm_object: Any) -> str:
    """Return the class of an object in Spark's JVM, without its package."""
    return str(jvm_object.getClass().getSimpleName())
