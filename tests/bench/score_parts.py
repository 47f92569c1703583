"""Scoring with Spark's own parts: StringIndexer, and Keras in `predict_batch_udf`; and a function that ignores its
rows, as a lower bound."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.ml.feature import StringIndexerModel
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import FloatType

from tests.bench.score_model import HOME, PARTS_MODEL
from tests.bench.table import FIELDS, NUMBERS

BATCHES = (1024, 8192, 32768)  # sizes to try


def keras_function(batch: int) -> Any:
    """Return a Spark function that scores with Keras; each worker loads the model once, and uses one thread."""
    model_path = str(PARTS_MODEL.resolve())

    def make() -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        import keras
        import tensorflow as tf

        with suppress(RuntimeError):  # TensorFlow was started by an earlier function in this worker
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        model = keras.models.load_model(model_path, compile=False)
        signature = [tf.TensorSpec((None, model.input_shape[1]), tf.float32)]
        graph = tf.function(lambda x: model(x, training=False), input_signature=signature, autograph=False)

        def predict(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            scores: NDArray[np.float32] = graph(inputs).numpy()[:, 0]
            return scores

        return predict

    # The input is one matrix; a struct of floats needs less copying than an array.
    return predict_batch_udf(make, return_type=FloatType(), batch_size=batch)


def indexed(raw: DataFrame, indexer: StringIndexerModel) -> DataFrame:
    """Return ids and numbers as a struct of floats, which represent every id exactly; missing numbers are 0."""
    ids = [F.col(f"{name}_id").cast("float") for name in FIELDS]
    numbers = [F.coalesce(F.col(name), F.lit(0.0)).cast("float").alias(name) for name in NUMBERS]
    return indexer.transform(raw).select("id", F.struct(*ids, *numbers).alias("row"))


def encoded(dataset: DataFrame, names: Sequence[str]) -> DataFrame:
    """Return the columns of the feature job as a struct of floats."""
    return dataset.select("id", F.struct(*(F.col(name).cast("float") for name in names)).alias("row"))


def write(table: DataFrame, score: Column) -> None:
    """Write key and score as Parquet."""
    table.select("id", score.alias("score")).write.mode("overwrite").parquet(str(HOME / "out-parts"))


def write_zeros(spark: SparkSession, raw: Path) -> None:
    """Send all columns to a Python function that returns zeros."""

    @pandas_udf("float")  # type: ignore[call-overload,untyped-decorator]
    def zeros(rows: pd.DataFrame) -> pd.Series:
        return pd.Series(np.zeros(len(rows), np.float32))

    write(spark.read.parquet(str(raw)), zeros(F.struct(*FIELDS, *NUMBERS)))
