"""Inspect a table of files in Spark: can tasks read them directly, and what are the values in the folders' names?"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import IntegerType, StringType, StructField, StructType

from nfm.table.parquet import Files, reading
from nfm.table.spark import arrow_schema, column
from nfm.table.splits import File, file_at
from nfm.table.store import in_store, open_file, states, unreachable

if TYPE_CHECKING:  # workers import this module and need no settings
    from nfm.config.settings import Source

# Options that select files and columns: Spark has applied them before we ask it for both.
_OPTIONS = {"mergeschema", "recursivefilelookup", "pathglobfilter", "basepath", "modifiedbefore", "modifiedafter"}
# Settings under which Spark reads a file differently from us, or reads one that we cannot read.
_SETTINGS = {
    "spark.sql.files.ignoreCorruptFiles": "true",
    "spark.sql.files.ignoreMissingFiles": "true",
    "spark.sql.parquet.int96TimestampConversion": "true",
    "spark.sql.parquet.fieldId.read.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "legacy",
    "spark.sql.parquet.int96RebaseModeInRead": "legacy",
}
_DECRYPTION = "parquet.crypto.factory.class"
_NUMBER = "_nfm_number"  # of a combination of folders' names; a name that no folder of a user has


@dataclass(frozen=True)
class Relation:
    """Files of Parquet that Spark reads as one table."""

    raw: DataFrame  # the table as it is
    uris: Sequence[str]  # of its files
    partitions: Sequence[str]  # columns in folders' names: country=DE


def parquet_relation(raw: DataFrame, uris: Sequence[str]) -> Relation | None:
    """Return the files of a table; None if it is not Parquet, or consists of more than files."""
    plan = _analyzed(raw)
    while _class(plan) == "SubqueryAlias":  # the name of a table in the catalog
        plan = plan.child()
    if _class(plan) != "LogicalRelation" or _class(plan.relation()) != "HadoopFsRelation":
        return None
    relation = plan.relation()
    # Formats based on Parquet have classes of their own, and so has a list of folders in the catalog.
    if (_class(relation.fileFormat()), _class(relation.location())) != ("ParquetFileFormat", "InMemoryFileIndex"):
        return None
    if any("EXISTS_DEFAULT" in f.metadata for f in raw.schema.fields):  # the default of a column that a file lacks
        return None
    return Relation(raw, uris, list(relation.partitionSchema().fieldNames()))


def with_empty_columns(schema: pa.Schema, relation: Relation | None) -> pa.Schema:
    """Return the schema with type null for the columns that have this type in every file.

    A writer that does not know a type, such as pandas for a column of None, also labels the column as integers, and
    Spark reads it as integers.
    """
    empty = set(schema.names)
    for uri in relation.uris if relation is not None else ():
        path = path_of(uri)
        with suppress(OSError, ValueError, pa.ArrowException):  # files that cannot be read are reported elsewhere
            file = pq.read_schema(open_file(path) if in_store(path) else path)
            empty &= {field.name for field in file if pa.types.is_null(field.type)}
        if not empty:  # most tables, after one file
            return schema
    if relation is None or empty == set(schema.names):
        return schema
    return pa.schema([field.with_type(pa.null()) if field.name in empty else field for field in schema])


def hindrance(spark: SparkSession, source: "Source", relation: Relation | None) -> str | None:
    """Return why tasks cannot read the files directly, as a clause; None if they can."""
    if relation is None:
        if source.table:
            return "it is not a plain table of Parquet files"
        return f"its format is {source.format}" if source.format != "parquet" else "Spark reads it in a special way"
    remote = [uri for uri in relation.uris if not uri.startswith("file:")]
    if remote and source.on_corrupt == "skip":
        return f"a damaged file looks like a failing connection, at {remote[0]}"
    if remote and (why := unreachable(remote)) is not None:
        return why
    options = [option for option in source.options if option.lower() not in _OPTIONS]
    if options:
        return f"source.options has {', '.join(options)}, which only Spark's reader knows"
    for setting, value in _SETTINGS.items():
        if str(spark.conf.get(setting)).lower() == value:
            return f"{setting} is {value}"
    context: Any = spark.sparkContext
    if context._jsc.hadoopConfiguration().get(_DECRYPTION):
        return f"{_DECRYPTION} is set, and only Spark decrypts"
    if source.where is not None:
        others = _other_columns(relation, source.where)
        if others is None or others:
            return f"source.where uses more than the folders' names: {', '.join(others or []) or source.where}"
    if any(_texts(path_of(uri), relation.partitions) is None for uri in relation.uris):
        return "the folders' names lack columns that Spark finds there"
    return None


def partitions_of(table: DataFrame, even_if_costly: bool = False) -> int | None:
    """Return how many tasks read a table in Spark; None if it must be shuffled first, unless `even_if_costly`."""
    frame: Any = table
    execution = frame._jdf.queryExecution()
    if _class(execution.executedPlan()) == "AdaptiveSparkPlanExec" and not even_if_costly:
        return None
    return int(execution.toRdd().getNumPartitions())


def path_of(uri: str) -> str:
    """Return the path of a `file:` URI; other URIs as they are."""
    return "/" + unquote(uri.removeprefix("file:").lstrip("/")) if uri.startswith("file:") else uri


def files_of(
    spark: SparkSession, source: "Source", relation: Relation, uris: Iterable[str]
) -> tuple[Files, dict[str, File]]:
    """Return how the files are read, and by URI those whose folders' names meet `where`."""
    types = arrow_schema(relation.raw)
    exact_case = spark.conf.get("spark.sql.caseSensitive") == "true"
    if not relation.partitions and source.where is None:  # most tables: no need to ask Spark
        nothing = pa.RecordBatch.from_arrays([], names=[])
        return Files(str(source), types, nothing, exact_case), _sized(source, dict.fromkeys(sorted(uris), 0))
    texts = {uri: _texts(path_of(uri), relation.partitions) or () for uri in sorted(uris)}
    combinations = sorted(set(texts.values()), key=repr)
    named = StructType([StructField(name, StringType()) for name in relation.partitions])
    rows = [(*combination, i) for i, combination in enumerate(combinations)]
    # Spark converts the texts to values and evaluates the condition, both as in the table itself.
    table = spark.createDataFrame(rows, StructType([*named.fields, StructField(_NUMBER, IntegerType())]))
    schema = relation.raw.schema
    values = table.select(*(column(name).cast(schema[name].dataType) for name in relation.partitions), _NUMBER)
    kept = (values if source.where is None else values.where(source.where)).toArrow()
    columns = [kept[name].cast(types.field(name).type).combine_chunks() for name in relation.partitions]
    partitions = pa.RecordBatch.from_arrays(columns, names=list(relation.partitions))
    row_of = {combinations[number]: i for i, number in enumerate(kept[_NUMBER].to_pylist())}
    files = Files(str(source), types, partitions, exact_case)
    return files, _sized(source, {uri: row_of[text] for uri, text in texts.items() if text in row_of})


def _sized(source: "Source", partitions: Mapping[str, int]) -> dict[str, File]:
    """Look up the files of these URIs, in these rows of the partitions."""
    remote = [uri for uri in partitions if in_store(path_of(uri))]
    if not remote:
        return {uri: file_at(path_of(uri), partition) for uri, partition in partitions.items()}
    with reading(str(source), remote[0]):
        found = states(remote)
    return {uri: File(uri, size, partitions[uri], changed) for uri, (size, changed) in zip(remote, found, strict=True)}


def versions(spark: SparkSession, uris: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return what identifies a file's version: URI, size, and the time of its last change in its file system."""
    context: Any = spark.sparkContext
    found = []
    for uri in uris:
        if uri.startswith("file:"):
            file = file_at(path_of(uri))
            found.append((uri, file.size, file.changed))
        else:
            path = context._jvm.org.apache.hadoop.fs.Path(uri)
            status = path.getFileSystem(context._jsc.hadoopConfiguration()).getFileStatus(path)
            found.append((uri, int(status.getLen()), int(status.getModificationTime())))
    return found


def _texts(path: str, names: Sequence[str]) -> tuple[str | None, ...] | None:
    """Return the values of these columns in the names of a file's folders; None if one is not there."""
    found: dict[str, str] = {}
    for folder in reversed(PurePosixPath(path).parent.parts):
        name, equals, text = folder.partition("=")
        if equals:  # Spark escapes characters, not bytes
            found.setdefault(unquote(name, encoding="latin-1").lower(), unquote(text, encoding="latin-1"))
    if not all(name.lower() in found for name in names):
        return None
    return tuple(None if found[n.lower()] == "__HIVE_DEFAULT_PARTITION__" else found[n.lower()] for n in names)


def _other_columns(relation: Relation, where: str) -> list[str] | None:
    """Return a condition's columns that are not in folders' names; None if it depends on more than columns."""
    plan = _analyzed(relation.raw.where(where))
    if _class(plan) != "Filter" or not plan.condition().deterministic():
        return None
    references = plan.condition().references().toSeq()
    names = [references.apply(i).name() for i in range(references.size())]
    return [name for name in names if name not in relation.partitions]


def _analyzed(table: DataFrame) -> Any:
    """Return Spark's plan of a table, to which PySpark itself gives no access."""
    frame: Any = table
    return frame._jdf.queryExecution().analyzed()


def _class(jvm_object: Any) -> str:
    return str(jvm_object.getClass().getSimpleName())
