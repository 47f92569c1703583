"""Scoring in one process, without Spark: tables in memory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from nfm.contract.artifact import Artifact
from nfm.contract.encoder import check_columns
from nfm.contract.errors import DataError
from nfm.contract.schema import Spec
from nfm.scoring.scorer import score_batch, score_columns

_BATCH = 1 << 16  # rows that are encoded at once


@dataclass(frozen=True)
class Scorer:
    """A model that scores tables in memory, in this process."""

    artifact: Artifact

    def score(self, table: "pd.DataFrame | pa.Table | pa.RecordBatch") -> Any:
        """Score the rows of a raw table, in their order.

        Args:
            table: has the columns that the model was trained with, and may have others.

        Returns:
            Of pandas a Series `score` with the table's index, of Arrow a float32 array; of the multiclass task a
            DataFrame or a Table with a column for each class.

        Raises:
            DataError: a column is missing, or of a type under which its values would be lost.
        """
        spec, names = self.artifact.encoding.spec, score_columns(self.artifact.network)
        arrow = _as_arrow(table, spec) if isinstance(table, pd.DataFrame) else table
        self.artifact.encoding.check(arrow.schema, "the table")
        if isinstance(arrow, pa.RecordBatch):
            arrow = pa.Table.from_batches([arrow])
        chosen = arrow.select(list(spec.columns)).combine_chunks()
        parts = [score_batch(self.artifact, batch) for batch in chosen.to_batches(max_chunksize=_BATCH)]
        scores_NC = np.concatenate(parts) if parts else np.empty((0, len(names)), np.float32)
        if isinstance(table, pd.DataFrame):
            frame = pd.DataFrame(scores_NC, index=table.index, columns=names)
            return frame if self.artifact.network.task == "multiclass" else frame["score"]
        arrays = [pa.array(scores) for scores in scores_NC.T]
        return pa.table(arrays, names) if self.artifact.network.task == "multiclass" else arrays[0]


def _as_arrow(frame: pd.DataFrame, spec: Spec) -> pa.Table:
    names = pa.schema([(str(name), pa.null()) for name in frame.columns])
    check_columns(spec.columns, names, "the table", "The model's fields come from its encoding/spec.json.")
    try:
        return pa.Table.from_pandas(frame[list(spec.columns)], preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"The table's columns cannot be read: {str(error).splitlines()[0]}. Each column holds values of one type; "
            "convert the one that does not, for example with astype(str)."
        ) from error


def load(model: str | Path) -> Scorer:
    """Open a model for scoring in this process.

    Args:
        model: the `model/` folder.

    Raises:
        DataError: there is none, or it is not as it was written.
    """
    return Scorer(Artifact.load(Path(model)))
