"""Load raw tables with Spark, and keep a table in scratch files."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_type
from pyspark.sql.types import StructType

if TYPE_CHECKING:  # workers import this module and need no settings
    from nfm.config.settings import Source


def load(spark: SparkSession, source: "Source", schema: StructType | str | None = None) -> DataFrame:
    """Load the table of a source, without its `where`; without a schema, Spark opens one or all files to infer it."""
    if source.table is not None:
        return spark.read.options(**source.options).table(source.table)
    reader = spark.read.format(source.format).options(**source.options)
    if schema is not None:
        reader = reader.schema(schema)
    return reader.load(source.path if isinstance(source.path, str) else list(source.paths))


def arrow_schema(table: DataFrame) -> pa.Schema:
    """Return the types in which the table's columns reach a worker; an empty struct where Arrow has no such type."""
    fields = []
    for field in table.schema.fields:
        try:
            type_ = to_arrow_type(field.dataType, timezone="UTC")
        except PySparkException:
            type_ = pa.struct([])  # neither category nor number: the encoder's check refuses the column if it is used
        fields.append(pa.field(field.name, type_))
    return pa.schema(fields)


def through_files(table: DataFrame, folder: Path) -> DataFrame:
    """Write a table as Parquet files into a new folder that every machine sees, and return the table of these files.

    Settings of the session do not change the files. Brackets and stars in the folder's name are not a pattern.
    """
    table.write.option("maxRecordsPerFile", 0).option("compression", "snappy").parquet(f"file://{folder}")
    return table.sparkSession.read.schema(table.schema).option("__globPaths__", "false").parquet(f"file://{folder}")


def column(name: str) -> Column:
    """Return a column by its exact name, which may have dots and spaces."""
    return F.col(f"`{name.replace('`', '``')}`")
