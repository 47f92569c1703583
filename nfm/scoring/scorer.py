"""Score batches of rows, without Spark."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfm.contract import dataset
from nfm.contract.artifact import Artifact, Network
from nfm.contract.columns import Rows
from nfm.contract.dataset import arrange_inputs
from nfm.contract.encoder import BatchCounts
from nfm.forward.rows import score
from nfm.scoring.health.tally import Tally
from nfm.scoring.reasons import reason_arrays, reason_columns, score_and_effects

_STEP = 1 << 14  # rows that are arranged as matrices and scored at a time: the matrices stay in the cache


def score_columns(network: Network) -> list[str]:
    """Return the names of the score columns: `score`, or one for each class of the multiclass task."""
    return [f"score_{name}" for name in network.classes] if network.task == "multiclass" else ["score"]


def score_batch(
    artifact: Artifact, rows: Rows, encoded: bool = False, tally: Tally | None = None
) -> NDArray[np.float32]:
    """Return (N, C) scores of N raw or encoded rows, using as many threads as Arrow may; count the rows in `tally`."""
    return explain_batch(artifact, rows, 0, encoded, tally)[0]


def explain_batch(
    artifact: Artifact, rows: Rows, count: int, encoded: bool = False, tally: Tally | None = None
) -> tuple[NDArray[np.float32], list[pa.Array]]:
    """Score like `score_batch`, and also return `count` reasons for each row: the arrays of `reason_columns`."""
    spec, batch_counts = artifact.encoding.spec, None if tally is None else BatchCounts()
    if encoded:
        columns = {name: dataset.read_column(name, rows.column(name), "the table") for name in spec.outputs}
    else:
        columns = artifact.encoding.encode(rows, counts=batch_counts)
    pa.default_memory_pool().release_unused()  # scoring can use the memory that reading used
    scores_NC = np.empty((rows.num_rows, artifact.network.outputs), np.float32)
    reasons = list[list[pa.Array]]()
    for start in range(0, rows.num_rows, _STEP):
        stop = start + _STEP
        step = {name: values[start:stop] for name, values in columns.items()}
        arranged = dataset.check_and_arrange(spec, step, "the table") if encoded else arrange_inputs(spec, step)
        model = spec, artifact.network, artifact.weights, arranged, pa.cpu_count()
        if count:
            scored, effects_BR = score_and_effects(*model)
            reasons.append(reason_arrays(spec, effects_BR, count))
        else:
            scored = score(*model)
        scores_NC[start:stop] = scored.reshape(-1, artifact.network.outputs)
    if tally is not None and batch_counts is not None:
        tally.add(artifact, columns, batch_counts, scores_NC)
    reasons = reasons or [[pa.nulls(0, type_) for _, type_ in reason_columns(count)]]
    return scores_NC, [pa.concat_arrays(parts) for parts in zip(*reasons, strict=True)]
