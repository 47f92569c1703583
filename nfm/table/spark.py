"""Load raw tables with Spark, and write and read scratch files."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_type
from pyspark.sql.types import StructType

if TYPE_CHECKING:  # workers import this module, and need no settings
    from nfm.config.settings import Source


def load(spark: SparkSession, source: "Source", schema: StructType | str | None = None) -> DataFrame:
    """The raw table of a source as it is.

    Args:
        spark: the session.
        source: the settings; `where` is not looked at.
        schema: columns and types; without it, Spark finds them out, for which it opens a file or all of them.
    """
    if source.table is not None:
        return spark.read.options(**source.options).table(source.table)
    reader = spark.read.format(source.format).options(**source.options)
    if schema is not None:
        reader = reader.schema(schema)
    return reader.load(source.path if isinstance(source.path, str) else list(source.paths))


def arrow_schema(table: DataFrame) -> pa.Schema:
    """The types in which the table's columns reach a worker; null where Arrow has none for it."""
    fields = []
    for field in table.schema.fields:
        try:
            type_ = to_arrow_type(field.dataType, timezone="UTC")
        except PySparkException:
            type_ = pa.struct([])  # no category, no number: the encoder's check refuses it by name where it is used
        fields.append(pa.field(field.name, type_))
    return pa.schema(fields)


def write_scratch(writer: DataFrameWriter, folder: Path) -> None:
    """Write Parquet files into a folder that every machine sees, whatever file system is Spark's default.

    They are written as we read them again, whatever the session's settings say of files' sizes and compression.
    """
    writer.option("maxRecordsPerFile", 0).option("compression", "snappy").parquet(f"file://{folder}")


def read_scratch(spark: SparkSession, folder: Path, schema: pa.Schema) -> DataFrame:
    """Read what `write_scratch` has written; brackets and stars in the folder's name are just that."""
    return spark.read.schema(from_arrow_schema(schema)).option("__globPaths__", "false").parquet(f"file://{folder}")


def column(name: str) -> Column:
    """A column by its exact name, whatever dots or spaces it has."""
    return F.col(f"`{name.replace('`', '``')}`")
