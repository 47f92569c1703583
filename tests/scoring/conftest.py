"""Fixtures of the score job's tests."""

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from nfm.features.dataset import build
from tests.scoring.examples import ROWS, SCHEMA, config, save_model


@pytest.fixture(scope="session")
def _made_once(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop") / "made"
    spark.createDataFrame(ROWS, SCHEMA).repartition(3).write.parquet(str(folder / "raw"))
    build(spark, config(folder, folder / "raw"))
    save_model(folder, 1)
    return folder


@pytest.fixture(scope="module")
def made(_made_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder with the raw table, its encoding, and a model with random weights; tests of a file share it."""
    return Path(shutil.copytree(_made_once, tmp_path_factory.mktemp("shop") / "made"))
