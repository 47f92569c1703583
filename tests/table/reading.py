"""Helpers that write a table, and read it with both scan methods."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.columns import Rows
from nfm.table.errors import translate_spark_errors
from nfm.table.scan import Scan, open_scan

Method = Literal["parquet", "spark"]
ROW = pa.schema([("row", pa.string())])
METHODS: tuple[Method, ...] = ("parquet", "spark")


def all_columns(schema: pa.Schema) -> list[str]:
    return list(schema.names)


def to_text(names: list[str]) -> Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]:
    def work(groups: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for rows in groups:
            columns = [rows.column(name).to_pylist() for name in names]
            assert all(len(column) == rows.num_rows for column in columns)
            yield pa.RecordBatch.from_pydict({"row": [repr(row) for row in zip(*columns, strict=True)]})

    return work


def read_rows(scan: Scan, *names: str) -> list[str]:
    """Return the rows that reach the tasks, as sorted texts."""
    columns = list(names) or scan.schema.names
    with translate_spark_errors("the table"):
        return sorted(row.row for row in scan.map(columns, to_text(columns), ROW).collect())


def to_texts(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, rows))


def read_by_both(spark: SparkSession, path: Path | tuple[str, ...], **settings: Any) -> list[str]:
    """Read a table with both scan methods, check that they agree, and return its rows as sorted texts."""
    source_path = str(path) if isinstance(path, Path) else path
    by_parquet, by_spark = (
        open_scan(spark, Source(path=source_path, scan=method, **settings), all_columns) for method in METHODS
    )
    assert (by_parquet.method, by_spark.method) == METHODS
    assert by_parquet.schema == by_spark.schema
    rows = read_rows(by_parquet)
    assert rows == read_rows(by_spark)
    return rows


def write(path: Path, row_group_size: Any = None, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path
