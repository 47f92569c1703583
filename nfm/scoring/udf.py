"""Create a Spark function from a model, for SQL and data frames."""

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
from nfm.contract.paths import without_loop
from nfm.scoring.scorer import score_batch, score_columns
from nfm.table.jobs.hosts import open_model, place
from nfm.table.tasks import limit_arrow_threads


def score_udf(model: str | Path) -> Any:
    """Return the function that `nfm.scoring.score_udf` documents."""
    spark = SparkSession.getActiveSession()
    if spark is None:
        raise NfmError("score_udf needs a running Spark session: call SparkSession.builder.getOrCreate() before it.")
    artifact = Artifact.load(without_loop(Path(model)).resolve())  # workers may have another working folder
    names, placed = score_columns(artifact.network), place(spark, artifact)
    is_multiclass = artifact.network.task == "multiclass"
    type_ = pa.struct([(name, pa.float32()) for name in names]) if is_multiclass else pa.float32()

    # Capture only small values and broadcast handles; capturing settings would import nfm.config in workers.
    def score(batches: Iterator[pa.Array]) -> Iterator[pa.Array]:
        limit_arrow_threads()
        model, checked_schema = open_model(placed), None
        for rows in batches:
            batch = pa.RecordBatch.from_struct_array(rows)
            if batch.schema != checked_schema:
                model.encoding.check(batch.schema, "the struct")
                checked_schema = batch.schema
            scores_NC = score_batch(model, batch)
            arrays = [to_arrow(scores) for scores in scores_NC.T]
            yield pa.StructArray.from_arrays(arrays, names=names) if is_multiclass else arrays[0]

    return arrow_udf(from_arrow_type(type_))(score)  # type: ignore[call-overload]
