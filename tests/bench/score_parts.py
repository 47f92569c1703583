"""Alternatives to the score job: Spark's own parts, a hand-written script, and a function that does nothing.

Spark's parts are StringIndexer and Keras in `predict_batch_udf`. The script is `score_script.py`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.ml.feature import StringIndexerModel
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import FloatType

from tests.bench.score_model import HOME, PARTS_MODEL
from tests.bench.table import FIELDS, NUMBERS

SCRIPT = HOME / "out-script"
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


@contextmanager
def torch_script(raw: Path) -> Iterator[Callable[[], None]]:
    """Start the hand-written script in an environment with torch; the function that is returned scores the table."""
    uv = shutil.which("uv") or "build/uv/bin/uv"
    command = [uv, "run", "-q", "--no-project", "--python", sys.executable]
    command += [word for package in ("torch", "pyarrow", "numpy") for word in ("--with", package)]
    command += ["python", str(Path(__file__).with_name("score_script.py")), str(HOME / "model"), str(raw), str(SCRIPT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        to_script, from_script = process.stdin, process.stdout

        def answer() -> str:
            line = from_script.readline()
            if not line:
                raise RuntimeError("the script has ended: its error is above")
            return line

        def score() -> None:
            to_script.write("go\n")
            to_script.flush()
            answer()

        answer()  # the model is loaded
        yield score
        to_script.close()


def script_difference() -> float:
    """Return the largest difference between the scores of the script and of the job."""
    ours, theirs = (
        pq.read_table(folder, columns=["id", "score"]).sort_by("id") for folder in (HOME / "scores", SCRIPT)
    )
    assert ours["id"].equals(theirs["id"]), "the script and the job have scored different rows"
    return float(np.abs(ours["score"].to_numpy() - theirs["score"].to_numpy()).max())
