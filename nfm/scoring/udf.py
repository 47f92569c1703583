"""Use a model as a function in SQL and in data frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.pandas.types import from_arrow_type

from nfm.contract.arrays import to_arrow
from nfm.contract.artifact import Artifact
from nfm.contract.errors import NfmError
from nfm.scoring.hosts import open_model, place
from nfm.scoring.scorer import score_batch, score_columns
from nfm.table.tasks import limit_arrow_threads


def score_udf(model: str | Path) -> Any:
    """Return a user-defined function: a struct of raw columns → the score.

        scores = df.select("id", score_udf("build/titanic/model")(struct("*")))
        spark.udf.register("nfm_score", score_udf("build/titanic/model"))
        spark.sql("select id, nfm_score(struct(*)) from passengers")

    Spark delivers rows as Arrow batches: pandas would turn an integer column with nulls into floats and lose digits of
    large ids. The struct may have more columns than the model reads; leave wide ones out.

    Returns:
        A function whose value is a float; for the multiclass task a struct with a float for each class. It belongs to
        the session that is active now.

    Raises:
        DataError: the folder has no model, or the model is damaged; in the tasks, a column is missing or of a type
            under which its values would be lost.
        NfmError: no session is active.
    """
    spark = SparkSession.getActiveSession()
    if spark is None:
        raise NfmError("score_udf needs a running Spark session: call SparkSession.builder.getOrCreate() before it.")
    artifact = Artifact.load(Path(model))
    names, placed = score_columns(artifact.network), place(spark, artifact)
    several = artifact.network.task == "multiclass"
    type_ = pa.struct([(name, pa.float32()) for name in names]) if several else pa.float32()

    # The closure takes small values or handles of broadcasts.
    def score(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        limit_arrow_threads()
        model, checked = open_model(placed), None
        for rows in batches:
            batch = pa.RecordBatch.from_struct_array(rows)
            if batch.schema != checked:
                model.encoding.check(batch.schema, "the struct")
                checked = batch.schema
            scores_NC = score_batch(model, batch)
            arrays = [to_arrow(scores) for scores in scores_NC.T]
            yield pa.StructArray.from_arrays(arrays, names=names) if several else arrays[0]

    return arrow_udf(from_arrow_type(type_))(score)  # type: ignore[call-overload]
