"""Score tables in memory, in one process, without Spark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from nfm.contract.artifact import Artifact
from nfm.contract.columns import check_columns
from nfm.contract.encoder import MODEL_NEEDS_COLUMNS
from nfm.contract.errors import ConfigError, DataError
from nfm.contract.schema import Spec
from nfm.scoring.reasons import reason_columns
from nfm.scoring.scorer import explain_batch, score_columns

_BATCH = 1 << 16  # rows that are encoded at a time


@dataclass(frozen=True)
class Scorer:
    """A model that scores tables in memory, in this process."""

    artifact: Artifact

    def score(self, table: "pd.DataFrame | pa.Table | pa.RecordBatch", explain: int = 0) -> Any:
        """Score the rows of a raw table, in their order.

        Args:
            table: has the columns that the model was trained with, and may have others.
            explain: number of reasons a row: the fields that moved its score most, as with `score.explain`.

        Returns:
            For pandas a Series `score` with the table's index, for Arrow a float32 array. For the multiclass task a
            DataFrame or a Table with a column for each class; with reasons also one, with these after the score.

        Raises:
            DataError: a column is missing, or of a type under which its values would be lost.
            ConfigError: `explain` is not a number of reasons.
        """
        if isinstance(explain, bool) or not isinstance(explain, int) or explain < 0:
            raise ConfigError(f"explain: {explain!r} given; it is the number of reasons a row, 0 for none")
        spec, names = self.artifact.encoding.spec, score_columns(self.artifact.network)
        given = _to_arrow(table, spec) if isinstance(table, pd.DataFrame) else table
        self.artifact.encoding.check(given.schema, "the table")
        if isinstance(given, pa.RecordBatch):
            given = pa.Table.from_batches([given])
        chosen = given.select(list(spec.columns)).combine_chunks()
        batches = chosen.to_batches(max_chunksize=_BATCH) or [pa.RecordBatch.from_pylist([], chosen.schema)]
        parts = [explain_batch(self.artifact, batch, explain) for batch in batches]
        scores_NC = np.concatenate([scores for scores, _ in parts])
        reasons = [pa.chunked_array(arrays) for arrays in zip(*(arrays for _, arrays in parts), strict=True)]
        reason_names = [name for name, _ in reason_columns(explain)]
        several = explain > 0 or self.artifact.network.task == "multiclass"
        if isinstance(table, pd.DataFrame):
            frame = pd.DataFrame(scores_NC, index=table.index, columns=names)
            for name, values in zip(reason_names, reasons, strict=True):
                frame[name] = values.to_numpy()
            return frame if several else frame["score"]
        arrays = [pa.array(scores) for scores in scores_NC.T]
        return pa.table([*arrays, *reasons], [*names, *reason_names]) if several else arrays[0]


def _to_arrow(frame: pd.DataFrame, spec: Spec) -> pa.Table:
    names = pa.schema([(str(name), pa.null()) for name in frame.columns])
    check_columns(spec.columns, names, "the table", MODEL_NEEDS_COLUMNS)
    try:
        return pa.Table.from_pandas(frame[list(spec.columns)], preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"The table's columns cannot be read: {str(error).splitlines()[0]}. Each column must have values of one "
            "type; convert the one that does not, for example with astype(str)."
        ) from error


def load(model: str | Path) -> Scorer:
    """Open the model of a `model/` folder for scoring in this process."""
    return Scorer(Artifact.load(Path(model)))
