"""Write the Parquet, ORC and JSON files of a recipe with different libraries."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc
from pyspark.sql import SparkSession

from tests.fuzz.recipe import File, Recipe
from tests.fuzz.values import draw_value


def write_files(recipe: Recipe, folder: Path, spark: SparkSession) -> None:
    """Write the table's files below a folder. A writer that refuses a table is replaced by pyarrow."""
    if recipe.layout == "summary":  # as dask writes them
        (folder / "raw").mkdir(parents=True)
        schema = pa.schema(list(recipe.files[0].types.items()))
        with suppress(pa.ArrowException):
            pq.write_metadata(schema, folder / "raw/_metadata")
            pq.write_metadata(schema, folder / "raw/_common_metadata")
    for file in recipe.files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = list(zip(*file.rows, strict=True)) if file.rows else [()] * len(file.types)
        arrays = [_array(list(values), type_) for values, type_ in zip(columns, file.types.values(), strict=True)]
        table = pa.Table.from_arrays(arrays, names=list(file.types))
        if recipe.format != "parquet":
            _write(table, path, file, spark)
            continue
        try:
            _write(table, path, file, spark)
        except BaseException as error:  # a panic of polars is not an Exception
            file.writer, file.options = f"pyarrow, as {file.writer} refused: {str(error)[:60]!r}", {}
            _drop_unwritable(file, table)
            pq.write_table(table.select(list(file.types)), path)


def _drop_unwritable(file: File, table: pa.Table) -> None:
    """Remove the columns that pyarrow cannot write from a file's recipe."""
    for i, name in reversed(list(enumerate(table.schema.names))):
        try:
            pq.write_table(table.select([name]), pa.BufferOutputStream())
        except pa.ArrowException:
            del file.types[name]
            for row in file.rows:
                del row[i]


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, pa.array(values, type_.storage_type))
    if pa.types.is_dictionary(type_):
        # The dictionary has repeated entries, and an entry that is not used.
        entries = [value for value in values if value is not None]
        places = iter(range(1, len(values) + 1))
        indices = pa.array([None if value is None else next(places) for value in values], type_.index_type)
        unused = entries[:1] or [draw_value(Random(0), type_.value_type, True)]
        return pa.DictionaryArray.from_arrays(indices, pa.array([*unused, *entries], type_.value_type))
    return pa.array(values, type_)


def _write(table: pa.Table, path: Path, file: File, spark: SparkSession) -> None:
    if file.writer == "orc":
        orc.write_table(table, str(path))
    elif file.writer == "json":
        rows = ({n: v for n, v in zip(file.types, row, strict=True) if v is not None} for row in file.rows)
        path.write_text("".join(f"{json.dumps(row, ensure_ascii=len(row) % 2 == 0)}\n" for row in rows))
    elif file.writer == "pyarrow":
        pq.write_table(table, path, **file.options)
    elif file.writer == "pandas":
        table.to_pandas(types_mapper=pd.ArrowDtype).to_parquet(path)
    elif file.writer == "polars":
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        frame.write_parquet(path)
    elif file.writer == "duckdb":
        duckdb.from_arrow(table).write_parquet(str(path))
    else:
        folder = path.with_name(f"{path.name}.tmp")
        spark.createDataFrame(table).coalesce(1).write.parquet(f"file://{folder}")
        next(folder.glob("*.parquet")).rename(path)
        shutil.rmtree(folder)
