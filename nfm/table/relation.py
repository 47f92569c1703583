"""Inspect a table in Spark: its files, whether tasks can read them directly, and the values in the folders' names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession

from nfm.table.store import find_access_problem

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source

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
_FILE_FORMATS = ("avro", "csv", "json", "orc", "parquet", "text")  # Spark formats whose tables are plain files
_PARTITION_SETTINGS = (
    "spark.sql.files.maxPartitionBytes",
    "spark.sql.files.openCostInBytes",
    "spark.sql.files.minPartitionNum",
    "spark.sql.files.maxPartitionNum",
    "spark.sql.leafNodeDefaultParallelism",
)
_DECRYPTION = "parquet.crypto.factory.class"


@dataclass(frozen=True)
class Relation:
    """Parquet files that Spark reads as one table."""

    raw: DataFrame  # the table, with all its rows and columns
    uris: Sequence[str]  # of its files
    partitions: Sequence[str]  # columns whose values are in the folders' names, such as country=DE
    location: Any  # Spark's index of the files and of the folders' values


def find_parquet_relation(raw: DataFrame, uris: Sequence[str]) -> Relation | None:
    """Return the files of a table; None if they are not Parquet, or if it is not made of plain files only."""
    relation = file_relation(raw)
    # Formats based on Parquet have other classes, and so have tables whose folders are listed in the catalog.
    if relation is None or (class_name(relation.fileFormat()), class_name(relation.location())) != (
        "ParquetFileFormat",
        "InMemoryFileIndex",
    ):
        return None
    if any("EXISTS_DEFAULT" in f.metadata for f in raw.schema.fields):  # a value for files without the column
        return None
    return Relation(raw, uris, list(relation.partitionSchema().fieldNames()), relation.location())


def file_relation(raw: DataFrame) -> Any:
    """Return Spark's relation of a table that is made of plain files only; None for other tables."""
    plan = analyzed_plan(raw)
    while class_name(plan) == "SubqueryAlias":  # a table of the catalog
        plan = plan.child()
    if class_name(plan) != "LogicalRelation" or class_name(plan.relation()) != "HadoopFsRelation":
        return None
    return plan.relation()


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
        others = columns_outside_folders(relation, source.where)
        if others is None or others:
            return f"source.where uses more than the folders' names: {', '.join(others or []) or source.where}"
    return None


def read_partitioning(spark: SparkSession, source: "Source") -> dict[str, str] | None:
    """Return the settings that, with the files, determine the rows of each partition; None if not plain files."""
    if source.format not in _FILE_FORMATS or source.table is not None:
        return None
    settings = {key: str(spark.conf.get(key, None)) for key in _PARTITION_SETTINGS}
    return settings | {"cores": str(spark.sparkContext.defaultParallelism)}


def count_partitions(table: DataFrame, even_if_costly: bool = False) -> int | None:
    """Return how many tasks Spark needs to read a table.

    A table that must be shuffled first gives None, or with `even_if_costly` the number after the shuffle.
    """
    frame: Any = table
    execution = frame._jdf.queryExecution()
    if class_name(execution.executedPlan()) == "AdaptiveSparkPlanExec" and not even_if_costly:
        return None
    return int(execution.toRdd().getNumPartitions())


def columns_outside_folders(relation: Relation, where: str) -> list[str] | None:
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
