"""What Spark knows of a table of files: whether tasks can read them without it, and what the folders' names say."""

import os
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

if TYPE_CHECKING:  # workers import this module, and need no settings
    from nfm.config.settings import Source

# They say which files there are, and which columns: Spark has applied them before we ask it for both.
_OPTIONS = {"mergeschema", "recursivefilelookup", "pathglobfilter", "basepath", "modifiedbefore", "modifiedafter"}
# Settings under which Spark reads a file otherwise than we do, or one that we cannot read at all.
_SETTINGS = {
    "spark.sql.files.ignoreCorruptFiles": "true",
    "spark.sql.files.ignoreMissingFiles": "true",
    "spark.sql.parquet.int96TimestampConversion": "true",
    "spark.sql.parquet.fieldId.read.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "legacy",
    "spark.sql.parquet.int96RebaseModeInRead": "legacy",
}
_DECRYPTION = "parquet.crypto.factory.class"
_NUMBER = "_nfm_number"  # of a combination of folders' names; no folder of a user's is called so


@dataclass(frozen=True)
class Relation:
    """Files of Parquet that Spark reads as one table."""

    raw: DataFrame  # the table as it is
    uris: Sequence[str]  # of its files
    partitions: Sequence[str]  # columns that stand in folders' names: country=DE

    @property
    def local(self) -> bool:
        """Whether all files are on a disk, and not in a store."""
        return all(uri.startswith("file:") for uri in self.uris)


def parquet_relation(raw: DataFrame, uris: Sequence[str]) -> Relation | None:
    """The files behind a table; None if it is anything else, or files are not all that makes it."""
    plan = _analyzed(raw)
    while _class(plan) == "SubqueryAlias":  # the name of a table in the catalog
        plan = plan.child()
    if _class(plan) != "LogicalRelation" or _class(plan.relation()) != "HadoopFsRelation":
        return None
    relation = plan.relation()
    # Formats built upon Parquet have classes of their own, and so has a list of folders that the catalog keeps.
    if (_class(relation.fileFormat()), _class(relation.location())) != ("ParquetFileFormat", "InMemoryFileIndex"):
        return None
    if any("EXISTS_DEFAULT" in f.metadata for f in raw.schema.fields):  # what stands in for a column a file lacks
        return None
    return Relation(raw, uris, list(relation.partitionSchema().fieldNames()))


def with_empty_columns(schema: pa.Schema, relation: Relation | None) -> pa.Schema:
    """The table's columns, of type null where no file holds a value and each says so.

    A writer that cannot tell what the values would be, such as pandas of a column of None, calls them integers besides:
    Spark takes them for such.
    """
    empty = set(schema.names)
    for uri in relation.uris if relation is not None else ():
        path = path_of(uri)
        with suppress(OSError, ValueError, pa.ArrowException):  # what cannot be read, others tell of
            file = pq.read_schema(open_file(path) if in_store(path) else path)
            empty &= {field.name for field in file if pa.types.is_null(field.type)}
        if not empty:  # most tables, after one file
            return schema
    if relation is None or empty == set(schema.names):
        return schema
    return pa.schema([field.with_type(pa.null()) if field.name in empty else field for field in schema])


def hindrance(spark: SparkSession, source: "Source", relation: Relation | None) -> str | None:
    """Why tasks cannot read the files themselves, as a clause; None if they can."""
    if relation is None:
        kind = "it is no plain table of files of Parquet" if source.table else f"its format is {source.format}"
        return kind if source.table or source.format != "parquet" else "Spark reads it in a way of its own"
    remote = [uri for uri in relation.uris if not uri.startswith("file:")]
    if remote and source.on_corrupt == "skip":
        return f"a file that is broken cannot be told from a line that is, at {remote[0]}"
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
            return f"source.where speaks of more than the folders' names: {', '.join(others or []) or source.where}"
    if any(_texts(path_of(uri), relation.partitions) is None for uri in relation.uris):
        return "the folders' names do not hold all the columns that Spark finds there"
    return None


def partitions_of(table: DataFrame, even_if_costly: bool = False) -> int | None:
    """How many tasks Spark will read a table with.

    Args:
        table: any.
        even_if_costly: where a table has to be shuffled first, do so. Otherwise the answer is None there.
    """
    frame: Any = table
    execution = frame._jdf.queryExecution()
    if _class(execution.executedPlan()) == "AdaptiveSparkPlanExec" and not even_if_costly:
        return None
    return int(execution.toRdd().getNumPartitions())


def path_of(uri: str) -> str:
    """Where the file of a `file:` URI lies; any other URI as it is."""
    return "/" + unquote(uri.removeprefix("file:").lstrip("/")) if uri.startswith("file:") else uri


def files_of(
    spark: SparkSession, source: "Source", relation: Relation, uris: Iterable[str]
) -> tuple[Files, dict[str, File]]:
    """How the files are read, and those whose folders' names meet `where`, by URI."""
    types = arrow_schema(relation.raw)
    exact_case = spark.conf.get("spark.sql.caseSensitive") == "true"
    if not relation.partitions and source.where is None:  # most tables: nothing to ask Spark for
        nothing = pa.RecordBatch.from_arrays([], names=[])
        return Files(str(source), types, nothing, exact_case), _sized(source, dict.fromkeys(sorted(uris), 0))
    texts = {uri: _texts(path_of(uri), relation.partitions) or () for uri in sorted(uris)}
    combinations = sorted(set(texts.values()), key=repr)
    named = StructType([StructField(name, StringType()) for name in relation.partitions])
    rows = [(*combination, i) for i, combination in enumerate(combinations)]
    # Spark turns the texts into values, and weighs the condition: both as in the table itself.
    table = spark.createDataFrame(rows, StructType([*named.fields, StructField(_NUMBER, IntegerType())]))
    schema = relation.raw.schema
    values = table.select(*(column(name).cast(schema[name].dataType) for name in relation.partitions), _NUMBER)
    kept = (values if source.where is None else values.where(source.where)).toArrow()
    columns = [kept[name].cast(types.field(name).type).combine_chunks() for name in relation.partitions]
    partitions = pa.RecordBatch.from_arrays(columns, names=list(relation.partitions))
    place = {combinations[number]: i for i, number in enumerate(kept[_NUMBER].to_pylist())}
    files = Files(str(source), types, partitions, exact_case)
    return files, _sized(source, {uri: place[of] for uri, of in texts.items() if of in place})


def _sized(source: "Source", partitions: Mapping[str, int]) -> dict[str, File]:
    """The files of these URIs, and of these combinations of folders' names."""
    remote = [uri for uri in partitions if in_store(path_of(uri))]
    if not remote:
        return {uri: file_at(path_of(uri), partition) for uri, partition in partitions.items()}
    with reading(str(source), remote[0]):
        found = states(remote)
    return {uri: File(uri, size, partitions[uri], changed) for uri, (size, changed) in zip(remote, found, strict=True)}


def versions(spark: SparkSession, uris: Iterable[str]) -> list[tuple[str, int, int]]:
    """What tells a file that was replaced: URI, size, and when it was changed, as finely as its file system knows."""
    context: Any = spark.sparkContext
    found = []
    for uri in uris:
        if uri.startswith("file:"):
            status = os.stat(path_of(uri))  # noqa: PTH116 (thousands of them, and no Path needed)
            found.append((uri, status.st_size, status.st_mtime_ns))
        else:
            path = context._jvm.org.apache.hadoop.fs.Path(uri)
            told = path.getFileSystem(context._jsc.hadoopConfiguration()).getFileStatus(path)
            found.append((uri, int(told.getLen()), int(told.getModificationTime())))
    return found


def _texts(path: str, names: Sequence[str]) -> tuple[str | None, ...] | None:
    """What the folders above a file say of these columns; None if one of them is not there."""
    found: dict[str, str] = {}
    for folder in reversed(PurePosixPath(path).parent.parts):
        name, equals, text = folder.partition("=")
        if equals:
            found.setdefault(_unescaped(name).lower(), _unescaped(text))
    if not all(name.lower() in found for name in names):
        return None
    return tuple(None if found[n.lower()] == "__HIVE_DEFAULT_PARTITION__" else found[n.lower()] for n in names)


def _unescaped(text: str) -> str:
    return unquote(text, encoding="latin-1")  # Spark escapes characters, not bytes


def _other_columns(relation: Relation, where: str) -> list[str] | None:
    """Columns of a condition that do not stand in folders' names; None if it depends on more than columns."""
    plan = _analyzed(relation.raw.where(where))
    if _class(plan) != "Filter" or not plan.condition().deterministic():
        return None
    references = plan.condition().references().toSeq()
    names = [references.apply(i).name() for i in range(references.size())]
    return [name for name in names if name not in relation.partitions]


def _analyzed(table: DataFrame) -> Any:
    """Spark's plan of a table. PySpark itself has no other way to ask what a table is made of."""
    frame: Any = table
    return frame._jdf.queryExecution().analyzed()


def _class(jvm_object: Any) -> str:
    return str(jvm_object.getClass().getSimpleName())
