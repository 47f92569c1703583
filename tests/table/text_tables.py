"""Helpers that write and scan text files."""

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.config.source import Source
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.reading import LATEST, Reading
from nfm.table.scan import Scan, open_scan
from tests.table.reading import all_columns, read_rows

LEARNED = Reading("csv", {"header": "true", "escape": '"'}, {"id": "int", "zip": "string", "price": "double"})


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / f"{name}.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def scan(spark: SparkSession, path: Path, *names: str, reading: Reading | None = LATEST, **settings: Any) -> Scan:
    source = Source(**{"format": "csv", "path": str(path), **settings})
    return open_scan(spark, source, (lambda _: names) if names else all_columns, reading)


def rows(spark: SparkSession, path: Path, *names: str, **settings: Any) -> list[str]:
    return read_rows(scan(spark, path, *names, **settings), *names)


def refused(spark: SparkSession, path: Path, *names: str, **settings: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        scan(spark, path, *names, **settings)
    return str(caught.value)
