"""Readers of a folder that another process replaces: they get the old content, the new, or an error.

They never get rows of two publications, or a part of one.
"""

import glob
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from nfm.contract.artifact import Artifact
from tests.fuzz.conftest import FULL
from tests.fuzz.publishing import Swap, publishing

COLUMNS = ["version", "rows"]
Rows = list[tuple[int, int]]  # version of a row, and rows of the whole table
Reader = Callable[[Path], Rows]
REFUSALS = (OSError, pa.ArrowException, duckdb.Error, pl.exceptions.PolarsError, Py4JJavaError, PySparkException)


def to_rows(table: Any) -> Rows:
    return list(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True))


def read_files(paths: Iterable[str]) -> Rows:
    return [row for path in paths for row in to_rows(pq.ParquetFile(path).read())]


def read_through_descriptor(folder: Path) -> Rows:
    """Open the folder once, and its files relative to it, as tar and cp -r do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        rows = []
        for name in os.listdir(descriptor):  # noqa: PTH208
            if name.endswith(".parquet"):
                with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=descriptor), "rb") as file:
                    rows += to_rows(pq.ParquetFile(file).read())
        return rows
    finally:
        os.close(descriptor)


def read_listed_files(folder: Path) -> Rows:
    """Read the files that `_files.json` lists, as docs/scoring.md recommends."""
    files = [folder / name for name in json.loads((folder / "_files.json").read_text()) if name.endswith(".parquet")]
    return to_rows(pa.dataset.dataset([str(file) for file in files], partitioning="hive").to_table(COLUMNS))


READERS: dict[str, Reader] = {
    "pyarrow": lambda folder: to_rows(pa.dataset.dataset(folder, partitioning="hive").to_table(COLUMNS)),
    "pandas": lambda folder: to_rows(pa.Table.from_pandas(pd.read_parquet(folder, columns=COLUMNS))),
    "glob": lambda folder: read_files(glob.glob(f"{folder}/*.parquet")),  # noqa: PTH207
    "descriptor": read_through_descriptor,
    "polars": lambda folder: pl.read_parquet(f"{folder}/*.parquet", columns=COLUMNS).rows(),
    "DuckDB": lambda folder: duckdb.connect().read_parquet(f"{folder}/*.parquet").project("version, rows").fetchall(),
    "_files.json": read_listed_files,
}


def judge(rows: Rows) -> str:
    """Return whether rows are a whole publication."""
    if len({version for version, _ in rows}) > 1:
        return "rows of two publications"
    return "whole" if rows and len(rows) == rows[0][1] else "a part"


def read_repeatedly(folder: Path, readers: Mapping[str, Reader], reads: int) -> None:
    """Read in turn with each reader, and check that each gets whole publications or errors.

    Reads at least `reads` times, until each reader has succeeded and three publications have been seen.
    """
    results, seen = Counter[tuple[str, str]](), set[int]()
    for i, name in enumerate(itertools.cycle(readers)):
        succeeded = {name for name, result in results if result == "whole"}
        if i >= reads and len(succeeded) == len(readers) and len(seen) >= 3:
            break
        try:
            rows = readers[name](folder)
            results[name, judge(rows)] += 1
            seen |= {version for version, _ in rows}
        except REFUSALS:
            results[name, "an error"] += 1
    print(dict(results))
    assert {result for _, result in results} <= {"whole", "an error"}


def test_a_reader_never_mixes_publications(tmp_path: Path) -> None:
    with publishing("table", tmp_path / "scores"):
        read_repeatedly(tmp_path / "scores", READERS, 1000 if FULL else 140)


@pytest.mark.parametrize("swap", ["exchange", "renames"])
def test_the_listed_files_of_partitioned_output_are_one_publication(tmp_path: Path, swap: Swap) -> None:
    readers = {"_files.json": read_listed_files}
    with publishing("folders", tmp_path / "scores", swap):
        read_repeatedly(tmp_path / "scores", readers, 1000 if FULL else 60)


def test_spark_never_mixes_publications(spark: SparkSession, tmp_path: Path) -> None:
    readers: Mapping[str, Reader] = {
        "Spark": lambda folder: [tuple(row) for row in spark.read.parquet(str(folder)).select(*COLUMNS).collect()]
    }
    with publishing("table", tmp_path / "scores", pause=3):
        read_repeatedly(tmp_path / "scores", readers, 200 if FULL else 6)


def version_of(model: Artifact) -> set[float]:
    """Return all versions that a model's weights, vocabularies and metadata contain."""
    weights = {float(value) for array in model.weights.values() for value in np.unique(array)}
    texts = {text for index in model.encoding.vocabulary.fields.values() for text in index.texts.to_pylist()}
    return weights | {float(text.partition("/")[2]) for text in texts} | {float(model.metadata["name"][-1])}


@pytest.mark.parametrize("swap", ["exchange", "renames"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_model_is_loaded_whole_while_it_is_published(tmp_path: Path, verify: bool, swap: Swap) -> None:
    with publishing("model", tmp_path / "model", swap):
        versions = list[set[float]]()
        while len(versions) < (1000 if FULL else 60) or set.union(*versions) < {0, 1}:
            versions.append(version_of(Artifact.load(tmp_path / "model", verify)))
    assert all(len(version) == 1 for version in versions)
