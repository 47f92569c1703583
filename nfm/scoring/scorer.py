"""Raw rows → scores; needs no Spark."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract import dataset
from nfm.contract.artifact import Artifact, Network
from nfm.contract.columns import Rows
from nfm.contract.encoder import Noticed, inputs
from nfm.scoring.forward import score
from nfm.scoring.health.tally import Tally
from nfm.scoring.reasons import reason_arrays, reason_columns, score_and_effects

_ARRANGED = 1 << 14  # rows whose columns are put beside each other at once: they stay in the cache, and take no room


def score_columns(network: Network) -> list[str]:
    """`score`; of the multiclass task, one column for each class."""
    return [f"score_{name}" for name in network.classes] if network.task == "multiclass" else ["score"]


def score_batch(
    artifact: Artifact, rows: Rows, encoded: bool = False, tally: Tally | None = None
) -> NDArray[np.float32]:
    """Score N rows, with as many threads as Arrow may take.

    Args:
        artifact: the model.
        rows: hold at least the columns that the encoding reads.
        encoded: they are the dataset's columns instead, which the encoding wrote.
        tally: is told of the rows and their scores.

    Returns:
        (N, C) scores, one column but for multiclass.
    """
    return explain_batch(artifact, rows, 0, encoded, tally)[0]


def explain_batch(
    artifact: Artifact, rows: Rows, count: int, encoded: bool = False, tally: Tally | None = None
) -> tuple[NDArray[np.float32], list[pa.Array]]:
    """`score_batch`, and so many reasons a row: arrays as `explain.reason_columns` names them."""
    spec, noticed = artifact.encoding.spec, None if tally is None else Noticed()
    if encoded:
        columns = {name: dataset.column(name, rows.column(name), "the table") for name in spec.outputs}
    else:
        columns = artifact.encoding.encode(rows, noticed=noticed)
    pa.default_memory_pool().release_unused()  # what reading took, before the layers take theirs
    scores_NC = np.empty((rows.num_rows, artifact.network.outputs), np.float32)
    reasons = list[list[pa.Array]]()
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
    if tally is not None and noticed is not None:
        tally.add(artifact, columns, noticed, scores_NC)
    reasons = reasons or [[pa.nulls(0, type_) for _, type_ in reason_columns(count)]]
    return scores_NC, [pa.concat_arrays(parts) for parts in zip(*reasons, strict=True)]
