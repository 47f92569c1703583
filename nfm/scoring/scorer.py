"""What runs on an executor: batches of raw rows → scores, and counts of what the rows were like."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract.artifact import Artifact
from nfm.contract.encoder import inputs
from nfm.contract.schema import MISSING, Field, Spec
from nfm.contract.values import numbers
from nfm.scoring.forward import score

VALUES = "values"  # what the missing and the unseen ones of a bag are among; all other columns have one a row


def count_names(spec: Spec) -> list[tuple[str, str]]:
    """What `score_batch` counts: (what, name of the field or number)."""
    per_field = [(what, field.name) for field in spec.fields for what in _what(field)]
    return per_field + [("missing", number.name) for number in spec.numbers]


def _what(field: Field) -> list[str]:
    """A hashed field has no vocabulary that a value could be out of."""
    return [VALUES] * (field.bag is not None) + ["missing"] + ["out_of_vocabulary"] * (not field.hashed)


def score_batch(artifact: Artifact, batch: pa.RecordBatch) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Score N raw rows.

    Returns:
        (N, C) scores, one column but for multiclass; and how many values of the batch are missing or out-of-vocabulary,
        as `count_names` lists them.
    """
    spec = artifact.encoding.spec
    columns = artifact.encoding.encode(batch)
    scores = score(spec, artifact.network, artifact.weights, inputs(spec, columns, by_column=True))
    return scores.reshape(batch.num_rows, artifact.network.outputs), _counts(spec, batch, columns)


def _counts(spec: Spec, batch: pa.RecordBatch, columns: Mapping[str, Any]) -> NDArray[np.int64]:
    """Of a bag, its members are counted; a bag that is null has one, which is missing."""
    counts: list[Any] = []
    for field in spec.fields:
        ids = columns[field.name]
        if field.bag is not None:
            ids = ids.flatten().to_numpy()
            counts.append(len(ids))
        missing = np.count_nonzero(ids == MISSING)
        counts.append(missing)
        if not field.hashed:
            counts.append(np.count_nonzero(ids < field.first_value) - missing)
    counts += [np.count_nonzero(np.isnan(numbers(batch.column(n.column), n.column))) for n in spec.numbers]
    return np.array(counts, np.int64)


def scored_type(outputs: int) -> pa.StructType:
    """What a row becomes: `score_0` … one for each output, and `counts`."""
    scores = [(f"score_{i}", pa.float32()) for i in range(outputs)]
    return pa.struct([*scores, ("counts", pa.list_(pa.int64()))])


def score_batches(batches: Iterable[pa.StructArray], artifact: Artifact) -> Iterator[pa.StructArray]:
    """Structs of raw columns → structs like `scored_type`, one for one; needs no Spark.

    The counts of a batch stand in its first row and are null in the others: Spark sums them up beside the scores, in
    the same pass, and a task that is tried twice counts once.
    """
    fields = list(scored_type(artifact.network.outputs))
    for rows in batches:
        scores, counts = score_batch(artifact, pa.RecordBatch.from_struct_array(rows))
        first = [counts.tolist()] * (len(scores) > 0)
        of_type = fields[-1].type
        counts_column = pa.concat_arrays([pa.array(first, of_type), pa.nulls(len(scores) - len(first), of_type)])
        yield pa.StructArray.from_arrays([*map(pa.array, scores.T), counts_column], fields=fields)
