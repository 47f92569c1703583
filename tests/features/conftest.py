"""Fixtures of the feature job's tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from nfm.features.dataset import build
from tests.features.examples import ROWS, SCHEMA, config

Built = tuple[Path, Mapping[str, Any]]


@pytest.fixture(scope="session")
def table(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw table of a small shop; tests must not change it."""
    path = tmp_path_factory.mktemp("raw") / "shop"
    spark.createDataFrame(ROWS, SCHEMA).repartition(3).write.parquet(str(path))
    return path


@pytest.fixture(scope="session")
def _built(
    spark: SparkSession, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("built")
    return folder, build(spark, config(folder, table))


@pytest.fixture(scope="session")
def built(_built: Built) -> Path:
    """Working folder with the dataset of `table`; tests must not change it."""
    return _built[0]


@pytest.fixture(scope="session")
def statistics(_built: Built) -> Mapping[str, Any]:
    """What the feature job returned for `built`."""
    return _built[1]
