"""Tables written, and read in both ways."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from nfm.config.settings import Source
from nfm.contract.columns import Rows
from nfm.table.errors import translate_spark_errors
from nfm.table.scan import Scan, open_scan

Method = Literal["parquet", "spark"]
ROW = pa.schema([("row", pa.string())])
METHODS: tuple[Method, ...] = ("parquet", "spark")


def everything(schema: pa.Schema) -> list[str]:
    return list(schema.names)


def as_text(names: list[str]) -> Callable[[Iterator[Rows]], Iterator[pa.RecordBatch]]:
    def work(groups: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
        for rows in groups:
            columns = [rows.column(name).to_pylist() for name in names]
            assert all(len(column) == rows.num_rows for column in columns)
            yield pa.RecordBatch.from_pydict({"row": [repr(row) for row in zip(*columns, strict=True)]})

    return work


def rows_of(scan: Scan, *names: str) -> list[str]:
    """What reaches the tasks, as texts, sorted."""
    chosen = list(names) or scan.schema.names
    with translate_spark_errors("the table"):
        return sorted(row.row for row in scan.map(chosen, as_text(chosen), ROW).collect())


def texts(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, rows))


def both(spark: SparkSession, path: Path | tuple[str, ...], **settings: Any) -> list[str]:
    """The rows of a table, which both ways of reading must agree on."""
    where = str(path) if isinstance(path, Path) else path
    parquet, through_spark = (
        open_scan(spark, Source(path=where, scan=method, **settings), everything) for method in METHODS
    )
    assert (parquet.method, through_spark.method) == METHODS
    assert parquet.schema == through_spark.schema
    rows = rows_of(parquet)
    assert rows == rows_of(through_spark)
    return rows


def write(path: Path, row_group_size: Any = None, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path
