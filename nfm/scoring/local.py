"""Score tables in memory, in one process, without Spark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nfm.contract.artifact import Artifact
from nfm.contract.errors import ConfigError
from nfm.scoring.reasons import reason_columns
from nfm.scoring.scorer import explain_batch, score_columns
from nfm.scoring.tables import convert_result, read_table

_BATCH = 1 << 16  # rows that are encoded and scored at a time


@dataclass(frozen=True)
class Scorer:
    """A model that scores tables in memory, in this process."""

    artifact: Artifact

    def __repr__(self) -> str:
        """Return a short description of the model, such as `Scorer('build/orders/model', binary, 7 fields, …)`."""
        return f"Scorer({self.artifact.description})"

    def score(self, table: Any, explain: int = 0) -> Any:
        """Score the rows of a raw table, in their order.

        Args:
            table: table of pandas, polars, pyarrow, DuckDB or another library with Arrow's PyCapsule interface. It has
                the columns that the model was trained with, and may have others.
            explain: number of reason codes per row: the fields that changed its score most, as `score.explain`.

        Returns:
            N scores: for pandas and polars a Series `score` of that library (pandas: with the table's index), otherwise
            a float32 array of Arrow. For the multiclass task, a DataFrame or an Arrow table with a column for each
            class; with `explain`, a DataFrame or an Arrow table with the reasons after the score.

        Raises:
            DataError: a column is missing, or of a type that cannot represent its values.
            ConfigError: `explain` is not an integer of at least 0.

        Example:
            >>> model = nfm.load_model("build/titanic/model")
            >>> passengers = polars.read_csv("tests/data/titanic.csv")
            >>> model.score(passengers, explain=2).columns
            ['score', 'reason_1', 'reason_1_effect', 'reason_2', 'reason_2_effect']
        """
        if isinstance(explain, bool) or not isinstance(explain, int) or explain < 0:
            raise ConfigError(
                f"explain is {explain!r}, but the number of reasons per row must be 0 or a positive integer"
            )
        names = [*score_columns(self.artifact.network), *(name for name, _ in reason_columns(explain))]
        rows = read_table(table, self.artifact.encoding.spec)
        self.artifact.encoding.check(rows.schema, "the table")
        rows = rows.combine_chunks()
        batches = rows.to_batches(max_chunksize=_BATCH) or [pa.RecordBatch.from_pylist([], rows.schema)]
        results = [explain_batch(self.artifact, batch, explain) for batch in batches]
        scores_NC = np.concatenate([scores for scores, _ in results])
        reasons = [pa.chunked_array(arrays) for arrays in zip(*(arrays for _, arrays in results), strict=True)]
        columns = pa.table([*map(pa.array, scores_NC.T), *reasons], names)
        return convert_result(table, columns, as_series=len(names) == 1 and self.artifact.network.task != "multiclass")

    def recommend(self, users: Any, k: int = 20, exclude: Any = None) -> Any:
        """Return each user's list of the best items, with a ranking model.

        Args:
            users: table with the columns of the user's side; without the columns of the history, it is empty.
            k: maximum length of a list.
            exclude: table with the columns of the user and the item: pairs that are left out.

        Returns:
            Table (pandas, polars, otherwise Arrow) with the columns user, rank, item, score, in the order of `users`. A
            user of whom nothing is known gets the most popular items, without a score.

        Raises:
            DataError: the model is not a ranking model, or a column is missing or of another type.
            ConfigError: `k` is not a positive integer.
        """
        from nfm.scoring.lists import recommend

        return recommend(self.artifact, users, k, exclude)

    def similar_items(self, items: Any, k: int = 10) -> pa.Table:
        """Return the items most similar to each of some items, with a ranking model.

        Args:
            items: sequence of items.
            k: maximum number of similar items for each, without the item itself.

        Returns:
            Arrow table with the columns item, rank, similar_item, similarity: the cosine of the items' sums Σ x v.
        """
        from nfm.scoring.lists import similar_items

        return similar_items(self.artifact, items, k)


def load(model: str | Path) -> Scorer:
    """Open the model of a `model/` folder for scoring in this process."""
    return Scorer(Artifact.load(Path(model)))
