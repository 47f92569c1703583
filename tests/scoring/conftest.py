"""Fixtures of the score job's tests."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from nfm.features.dataset import build
from tests.scoring.examples import ROWS, SCHEMA, config, save_model


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with the raw table, its encoding, and a model with random weights."""
    folder = tmp_path_factory.mktemp("shop")
    spark.createDataFrame(ROWS, SCHEMA).repartition(3).write.parquet(str(folder / "raw"))
    build(spark, config(folder, folder / "raw"))
    save_model(folder, 1)
    return folder
