"""Fixtures of the feature job's tests."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.features.examples import ROWS, SCHEMA


@pytest.fixture(scope="session")
def table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw table of a small shop; tests must not change it."""
    path = tmp_path_factory.mktemp("raw") / "shop"
    spark.createDataFrame(ROWS, SCHEMA).repartition(3).write.parquet(str(path))
    return path
