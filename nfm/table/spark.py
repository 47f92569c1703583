"""Load raw tables with Spark, and store a table in temporary files."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import StructType

if TYPE_CHECKING:  # workers import this module, and do not need the settings classes
    from nfm.config.source import Source


def load(spark: SparkSession, source: "Source", schema: StructType | str | None = None) -> DataFrame:
    """Load the table of a source, ignoring `where`. Without a schema, Spark opens one or all files to infer it."""
    if source.table is not None:
        return spark.read.options(**source.options).table(source.table)
    reader = spark.read.format(source.format).options(**source.options)
    if schema is not None:
        reader = reader.schema(schema)
    return reader.load(source.path if isinstance(source.path, str) else list(source.paths))


def to_arrow_schema(table: DataFrame) -> pa.Schema:
    """Return the Arrow types of the table's columns on a worker; an empty struct for types that Arrow lacks."""
    fields = []
    for field in table.schema.fields:
        try:
            type_ = to_arrow_type(field.dataType, timezone="UTC")
        except PySparkException:
            type_ = pa.struct([])  # not a category or a number: the encoder's check refuses the column if it is used
        fields.append(pa.field(field.name, type_))
    return pa.schema(fields)


def save_and_reload(table: DataFrame, folder: Path) -> DataFrame:
    """Write a table as Parquet files into a new folder that every machine can access, and return it read from there.

    The session's settings do not change the files. Brackets and stars in the folder's name are not a pattern.
    """
    table.write.option("maxRecordsPerFile", 0).option("compression", "snappy").parquet(f"file://{folder}")
    return table.sparkSession.read.schema(table.schema).option("__globPaths__", "false").parquet(f"file://{folder}")


def column(name: str) -> Column:
    """Return a column by its exact name, which may contain dots and spaces."""
    return F.col(quote_name(name))


def quote_name(name: str) -> str:
    """Return a column's exact name as Spark's SQL writes it."""
    return f"`{name.replace('`', '``')}`"
