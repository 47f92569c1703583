"""Raw rows → scores, and counts of what the rows were like; needs no Spark."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract import dataset
from nfm.contract.artifact import Artifact, Network
from nfm.contract.columns import Rows
from nfm.contract.encoder import inputs
from nfm.contract.schema import MISSING, Field, Spec
from nfm.scoring.explain import reason_arrays, reason_columns, score_and_effects
from nfm.scoring.forward import one_thread_a_product, score

_ARRANGED = 1 << 14  # rows whose columns are put beside each other at once: they stay in the cache, and take no room
VALUES = "values"  # what the missing and the unseen ones of a bag are among; all other columns have one a row


def score_columns(network: Network) -> list[str]:
    """`score`; of the multiclass task, one column for each class."""
    return [f"score_{name}" for name in network.classes] if network.task == "multiclass" else ["score"]


def count_names(spec: Spec, encoded: bool = False) -> list[tuple[str, str]]:
    """What `score_batch` counts: (what, name of the field or number)."""
    per_field = [(what, field.name) for field in spec.fields for what in _what(field)]
    return per_field + [("missing", number.name) for number in spec.numbers if not encoded]


def _what(field: Field) -> list[str]:
    """A hashed field has no vocabulary that a value could be out of."""
    return [VALUES] * (field.bag is not None) + ["missing"] + ["out_of_vocabulary"] * (not field.hashed)


def score_batch(artifact: Artifact, rows: Rows, encoded: bool = False) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Score N rows, with as many threads as Arrow may take.

    Args:
        artifact: the model.
        rows: hold at least the columns that the encoding reads.
        encoded: they are the dataset's columns instead, which the encoding wrote.

    Returns:
        (N, C) scores, one column but for multiclass; and how many values of the batch are missing or out-of-vocabulary,
        as `count_names` lists them. (What a number was before it was encoded is not known any more.)
    """
    scores_NC, counts, _ = explain_batch(artifact, rows, 0, encoded)
    return scores_NC, counts


def explain_batch(
    artifact: Artifact, rows: Rows, count: int, encoded: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.int64], list[pa.Array]]:
    """`score_batch`, and so many reasons a row: arrays as `explain.reason_columns` names them."""
    spec, missing = artifact.encoding.spec, dict[str, int]()
    if encoded:
        columns = {name: dataset.column(name, rows.column(name), "the table") for name in spec.outputs}
    else:
        columns = artifact.encoding.encode(rows, missing=missing)
    pa.default_memory_pool().release_unused()  # what reading took, before the layers take theirs
    scores_NC = np.empty((rows.num_rows, artifact.network.outputs), np.float32)
    reasons = list[list[pa.Array]]()
    with one_thread_a_product():
        for start in range(0, rows.num_rows, _ARRANGED):
            stop = start + _ARRANGED
            part = {name: values[start:stop] for name, values in columns.items()}
            arranged = dataset.checked_inputs(spec, part, "the table") if encoded else inputs(spec, part)
            model = spec, artifact.network, artifact.weights, arranged, pa.cpu_count()
            if count:
                scored, effects_BR = score_and_effects(*model)
                reasons.append(reason_arrays(spec, effects_BR, count))
            else:
                scored = score(*model)
            scores_NC[start:stop] = scored.reshape(-1, artifact.network.outputs)
    counts = [count for field in spec.fields for count in _counts(field, columns[field.name])]
    counts += [missing[number.name] for number in spec.numbers if not encoded]
    reasons = reasons or [[pa.nulls(0, type_) for _, type_ in reason_columns(count)]]
    return scores_NC, np.array(counts, np.int64), [pa.concat_arrays(parts) for parts in zip(*reasons, strict=True)]


def _counts(field: Field, ids: Any) -> list[int]:
    """As `_what` names them. Of a bag, its members are counted; a bag that is null has one, which is missing."""
    counts = []
    if field.bag is not None:
        ids = ids.flatten().to_numpy()
        counts.append(len(ids))
    missing = int(np.count_nonzero(ids == MISSING))
    counts.append(missing)
    if not field.hashed:
        counts.append(int(np.count_nonzero(ids < field.first_value)) - missing)
    return counts
